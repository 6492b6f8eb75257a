"""What commands share: the spec option, the way to the server, and how changes look to a person."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from vaultpki.bootstrap import Where
    from vaultpki.model import Cluster
    from vaultpki.plan import Change, Plan
    from vaultpki.vault import Settings, Vault

DEFAULT_AGENT: Final = Path("/etc/vaultpki/agent.yaml")

_F = TypeVar("_F", bound=Callable[..., Any])


def spec_option(function: _F) -> _F:
    """`-f cluster.yaml` and `--allow-http`."""
    function = click.option(
        "--allow-http",
        is_flag=True,
        help="Talk plain http to a Vault that is not on this machine. Tokens are seen by all.",
    )(function)
    return click.option(
        "-f",
        "--file",
        type=click.Path(path_type=Path),
        default="cluster.yaml",
        show_default=True,
        help="The cluster's spec.",
    )(function)


def json_option(function: _F) -> _F:
    return click.option("--json", "as_json", is_flag=True, help="For programs.")(function)


def open_vault(cluster: Cluster, *, allow_http: bool) -> tuple[Vault, Where]:
    """The server of a person's environment (as with `bao` and `vault`), else of the spec; and what nodes are told."""
    from vaultpki.bootstrap import Where
    from vaultpki.vault import Vault
    from vaultpki.vault.settings import namespace_path

    settings = _settings(cluster, allow_http=allow_http)
    return Vault(settings), Where(settings.addresses, settings.ca_pem, namespace_path(settings.namespace))


def _settings(cluster: Cluster, *, allow_http: bool) -> Settings:
    from dataclasses import replace

    from vaultpki.vault import from_environment

    settings = from_environment(allow_http=allow_http)
    if not settings.addresses:
        settings = from_environment(
            addresses=cluster.vault.addresses, ca_pem=cluster.vault.ca_pem, allow_http=allow_http
        )
    addresses = tuple(_address(address, allow_http=allow_http) for address in settings.addresses)
    settings = replace(settings, addresses=addresses)
    if settings.ca_file:
        return replace(settings, ca_pem=_certificates(settings.ca_file))
    return replace(settings, ca_pem=settings.ca_pem or cluster.vault.ca_pem)


def _address(address: str, *, allow_http: bool) -> str:
    """The normal form of VAULT_ADDR: every node is told it, and agent.yaml must take it."""
    from vaultpki import words
    from vaultpki.errors import SpecError
    from vaultpki.vault.settings import parse_origin

    origin = parse_origin(address, allow_http=allow_http)
    try:
        return words.vault_address(origin)
    except SpecError as error:
        raise SpecError(error.problem, field="VAULT_ADDR") from None


def _certificates(ca_file: str) -> str:
    """The certificates of VAULT_CACERT: every node is told them, so nothing else of the file is kept."""
    from vaultpki import words
    from vaultpki.config import tree
    from vaultpki.errors import SpecError

    try:
        return words.pem_certificates(tree.read_text(Path(ca_file), words.MOST_CA_BYTES))
    except SpecError as error:
        raise SpecError(error.problem, file=tree.shown(Path(ca_file)), field="VAULT_CACERT") from None


def show_plan(plan: Plan) -> None:
    """The changes, field by field; colour on a terminal only."""
    for change in plan.changes:
        show_change(change, fields=True)
    for kind, name in plan.unmanaged:
        click.secho(f"? {kind} {name}  (not made by vaultpki; left alone)", fg="yellow")
    if not plan.changes:
        click.echo("Nothing to change.")
    else:
        counts = {word: sum(c.action == word for c in plan.changes) for word in ("create", "update", "delete")}
        click.echo(f"Plan: {counts['create']} to create, {counts['update']} to update, {counts['delete']} to delete.")


def show_change(change: Change, *, fields: bool) -> None:
    sign, colour = {"create": ("+", "green"), "update": ("~", "yellow"), "delete": ("-", "red")}[change.action]
    click.secho(f"{sign} {change.kind} {change.name}", fg=colour)
    if fields and change.action == "update":
        for name, (old, new) in change.fields.items():
            click.echo(f"    {name}: {_shown(old)} -> {_shown(new)}")


def terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _shown(value: object) -> str:
    import json

    text = json.dumps(value, default=str)
    return text if len(text) <= 200 else text[:197] + "..."
