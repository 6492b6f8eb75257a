"""What commands share: the spec option, the way to the server, and how changes look to a person."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from vaultpki.bootstrap import Where
    from vaultpki.model import Cluster
    from vaultpki.plan import Change, Plan
    from vaultpki.plan_text import Line
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
    settings = replace(settings, namespace=_namespace(cluster, settings.namespace))
    if not settings.addresses:
        # VAULT_CACERT is of another server then.
        ca_file = None if cluster.vault.ca_pem else settings.ca_file
        settings = replace(settings, addresses=cluster.vault.addresses, ca_file=ca_file)
    addresses = tuple(_address(address, allow_http=allow_http) for address in settings.addresses)
    settings = replace(settings, addresses=addresses)
    if settings.ca_file:
        return replace(settings, ca_pem=_certificates(settings.ca_file))
    return replace(settings, ca_pem=settings.ca_pem or cluster.vault.ca_pem)


def _namespace(cluster: Cluster, named: str | None) -> str | None:
    """The namespace of VAULT_NAMESPACE, as with Vault's CLI, else of the spec; SpecError where the two differ."""
    from vaultpki import words
    from vaultpki.errors import SpecError

    if named is None:
        return cluster.vault.namespace
    try:
        name = words.vault_namespace(named.strip("/") or "root")
    except SpecError as error:
        raise SpecError(error.problem, field="VAULT_NAMESPACE") from None
    if cluster.vault.namespace not in (None, name):
        raise SpecError(
            f"vault.namespace is {cluster.vault.namespace}, and VAULT_NAMESPACE is {name}: unset the variable, or make "
            "the two alike",
            file=cluster.file,
            field="vault.namespace",
        )
    return name


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


def warn_of_templates(cluster: Cluster) -> None:
    """One line on standard error for each template that looks as if it were another program's."""
    if cluster.templates:
        from vaultpki.config import templates

        for warning in templates.warnings(cluster):
            click.echo(f"vaultpki: warning: {warning}", err=True)


def show_plan(cluster: Cluster, plan: Plan, *, verbose: bool = False) -> None:
    """The plan as a person approves it; colour on a terminal only."""
    from vaultpki.plan import UNCHANGED, Plan

    if plan == Plan(()):
        # Most plans are this one, and need none of the words.
        click.echo(UNCHANGED)
        return
    from vaultpki import plan_text

    _show(plan_text.lines(cluster, plan, verbose=verbose))


def show_attention(cluster: Cluster, plan: Plan) -> None:
    """What needs a person, and only that."""
    if plan.attention:
        from vaultpki import plan_text

        _show(plan_text.attention_lines(cluster, plan))


def show_change(change: Change) -> None:
    """One change that is done."""
    from vaultpki import plan_text

    _show(plan_text.change_lines(change))


def _show(lines: Iterable[Line]) -> None:
    for line in lines:
        click.secho(line.text, fg=line.colour)


def terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()
