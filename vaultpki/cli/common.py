"""What commands share: options, and the way to the spec and its server."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from vaultpki.cli.progress import tell_waits
from vaultpki.errors import VaultpkiError
from vaultpki.places import AGENT_FILE, CLUSTER_FILE

if TYPE_CHECKING:
    from datetime import datetime

    from vaultpki.model import Cluster
    from vaultpki.records.server_facts import ServerFacts
    from vaultpki.show.node_table import Screen
    from vaultpki.vault import Settings, Vault

DEFAULT_AGENT: Final = Path(AGENT_FILE)
# By whose policy a command works; all others are the applier's. `enroll` of a node of a pool is the enroller's.
_POLICY_OF: Final = {
    "plan": "viewer",
    "nodes": "viewer",
    "show": "viewer",
    "report": "viewer",
    "graph": "viewer",
    "ca status": "viewer",
    "ca jwks": "viewer",
    "issue": "operator",
    "adopt start": "adopter",
    "adopt status": "adopter",
    "adopt continue": "adopter",
    "adopt abort": "adopter",
    "move start": "mover",
    "move status": "mover",
    "move continue": "mover",
    "move abort": "mover",
    "lock": "locker",
}
# Cells of a terminal.
_NARROWEST: Final = 40

_F = TypeVar("_F", bound=Callable[..., Any])


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")

allow_http_option = click.option(
    "--allow-http",
    is_flag=True,
    help="Use plain http to a Vault that is not on this machine. Everybody on the way can read tokens.",
)

log_format_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How events are written.",
)


class TellingCommand(click.Command):
    """A command that tells an error that ends it in the form that `--log-format` asks for."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except VaultpkiError as error:
            if ctx.params["log_format"] == "text":
                raise
            from vaultpki.host.log import Event, writer

            writer("json", sys.stderr)(Event("failed", str(error), "error"))
            return error.exit_code


def path_option(*names: str, **settings: Any) -> Callable[[_F], _F]:
    """Return an option whose value is a path."""
    # Whoever reads the file says why it cannot be read, and what to do.
    return click.option(*names, type=click.Path(path_type=Path, readable=False), **settings)


config_option = path_option(
    "-c", "--config", "file", default=DEFAULT_AGENT, show_default=True, help="The node's agent.yaml."
)


def watch_options(function: _F) -> _F:
    """Add `--watch` and `--every`."""
    every = click.option("--every", metavar="DURATION", help="With --watch: how often.  [default: 10s]")
    again = click.option("--watch", "watching", is_flag=True, help="Show it again and again, until Ctrl-C.")
    return again(every(function))


def yes_option(before: str = "") -> Callable[[_F], _F]:
    """Return `--yes`, which has one meaning; `before` says when the command asks at all, if not always."""
    text = f"{before}: do not ask" if before else "Do not ask"
    return click.option("--yes", is_flag=True, help=f"{text}; needed where there is no terminal.")


def spec_option(function: _F) -> _F:
    """Add `-f cluster.yaml` and `--allow-http`."""
    return spec_file_option("The cluster's spec.")(allow_http_option(function))


def spec_file_option(text: str, *names: str) -> Callable[[_F], _F]:
    """Return `-f cluster.yaml`, which `VAULTPKI_FILE` can name too; `names` is the parameter's own, if it has one."""
    settings = {"envvar": "VAULTPKI_FILE", "show_envvar": True, "show_default": True, "callback": _named_whole}
    return path_option("-f", "--file", *names, default=CLUSTER_FILE, help=text, **settings)


def _named_whole(_context: click.Context, _option: click.Parameter, given: Path) -> Path:
    # Commands are printed without -f for the default, and whoever runs one would get the file of the variable.
    other = os.environ.get("VAULTPKI_FILE") not in (None, "", CLUSTER_FILE)
    return given.absolute() if other and str(given) == CLUSTER_FILE else given


def environment_kubeconfig() -> Path | None:
    """Return the file that `KUBECONFIG` names; raises UsageError for several, of which kubectl makes one."""
    named = os.environ.get("KUBECONFIG")
    if named and ":" in named:
        raise click.UsageError("KUBECONFIG names several files; pass one of them by --kubeconfig FILE")
    return Path(named) if named else None


# `default` would be asked for its help too, which must not fail.
kubeconfig_option = path_option(
    "--kubeconfig",
    metavar="FILE",
    callback=lambda _context, option, given: given or environment_kubeconfig() or _missing(option),
    help="How to reach the cluster, such as admin.conf.  [env var: KUBECONFIG; required]",
)


def _missing(option: click.Parameter) -> NoReturn:
    raise click.MissingParameter(param=option)


def load_spec(file: Path, *, allow_http: bool) -> Cluster:
    """Return the cluster that a cluster.yaml describes; raises SpecError as `load_cluster`, and for a foreign CA."""
    from vaultpki.config.cluster import load_cluster

    cluster = load_cluster(file, allow_http=allow_http)
    if cluster.authority.also_trust:
        from vaultpki.pki import foreign_cas

        foreign_cas.read(cluster)
    return cluster


@contextmanager
def opened(
    file: Path, *, allow_http: bool, patience: float | None = None, applied: bool = False
) -> Iterator[tuple[Cluster, Vault, ServerFacts]]:
    """Load the spec and open its server; a refusal for want of rights is explained. As `open_vault`.

    With `applied` a server that has nothing of the cluster is refused.
    """
    from vaultpki.identity import asked_server
    from vaultpki.vault import explained

    cluster = load_spec(file, allow_http=allow_http)
    vault, where = open_vault(cluster, allow_http=allow_http, patience=patience)
    with asked_server.told(cluster, vault), explained(vault, needed_policy(cluster)):
        if cluster.authority.outside is not None:
            from vaultpki.identity import outside_signer

            cluster = outside_signer.complete(cluster, vault)
        if applied:
            from vaultpki.identity import anchor

            anchor.refuse_missing(cluster, vault)
        yield cluster, vault, where


def needed_policy(cluster: Cluster) -> str:
    """Return the sentence that names the policy which the command that runs needs; "" outside of a command."""
    context = click.get_current_context(silent=True)
    if context is None:
        return ""
    # Without the program's own name.
    command = context.command_path.partition(" ")[2]
    who = _POLICY_OF.get(command, "applier")
    if command == "enroll" and context.params.get("pool") and not context.params.get("replace"):
        who = "enroller"
    if command == "ca import" and (context.params.get("key") or context.params.get("remove")):
        who = "importer"
    return f"`vaultpki {command}` needs the policy that `vaultpki policy{cluster.file_option} {who}` prints"


def open_vault(cluster: Cluster, *, allow_http: bool, patience: float | None = None) -> tuple[Vault, ServerFacts]:
    """Return the server of the environment (as with `bao` and `vault`), else of the spec; and where nodes find it.

    `patience` is for how many seconds a request goes on trying while the server is away, if not for the usual time.
    """
    from vaultpki.records.server_facts import ServerFacts
    from vaultpki.vault import Vault
    from vaultpki.vault.settings import namespace_path

    tell_waits()
    settings = _settings(cluster, allow_http=allow_http)
    vault = Vault(settings) if patience is None else Vault(settings, patience=patience)
    return vault, ServerFacts(settings.addresses, settings.ca_pem, namespace_path(settings.namespace))


def _settings(cluster: Cluster, *, allow_http: bool) -> Settings:
    from dataclasses import replace

    from vaultpki.vault import from_environment

    settings = from_environment(allow_http=allow_http)
    settings = replace(settings, namespace=_namespace(cluster, settings.namespace))
    if not settings.addresses:
        # VAULT_CACERT belongs to another server then.
        ca_file = None if cluster.vault.ca_pem else settings.ca_file
        settings = replace(settings, addresses=cluster.vault.addresses, ca_file=ca_file)
    addresses = tuple(_address(address, allow_http=allow_http) for address in settings.addresses)
    settings = replace(settings, addresses=addresses)
    if settings.ca_file:
        return replace(settings, ca_pem=_certificates(settings.ca_file))
    return replace(settings, ca_pem=settings.ca_pem or cluster.vault.ca_pem)


def _namespace(cluster: Cluster, named: str | None) -> str | None:
    """Return the namespace of VAULT_NAMESPACE, as Vault's CLI has it, else of the spec; SpecError if they differ."""
    from vaultpki.errors import ArgumentError, SpecError
    from vaultpki.values import names

    if named is None:
        return cluster.vault.namespace
    try:
        name = names.vault_namespace(named.strip("/") or "root")
    except SpecError as error:
        raise ArgumentError(f"VAULT_NAMESPACE: {error.problem}") from None
    if cluster.vault.namespace not in (None, name):
        raise SpecError(
            f"vault.namespace is {cluster.vault.namespace}, and VAULT_NAMESPACE is {name}: unset the variable, or make "
            "the two alike",
            file=cluster.file,
            field="vault.namespace",
        )
    return name


def _address(address: str, *, allow_http: bool) -> str:
    """Return the normal form of VAULT_ADDR, which goes into every agent.yaml."""
    from vaultpki.errors import ArgumentError, SpecError
    from vaultpki.values.hosts import parse_origin

    try:
        return parse_origin(address, allow_http=allow_http)
    except SpecError as error:
        raise ArgumentError(f"VAULT_ADDR: {error.problem}") from None


def _certificates(ca_file: str) -> str:
    """Return the certificates of VAULT_CACERT. They go into every join file, so nothing else of the file is kept."""
    from vaultpki.errors import SpecError
    from vaultpki.values import pem, yaml_tree

    try:
        return pem.pem_certificates(yaml_tree.read_text(Path(ca_file), pem.MOST_CA_BYTES))
    except SpecError as error:
        raise SpecError(error.problem, file=yaml_tree.shown(Path(ca_file)), field="VAULT_CACERT") from None


def server_now(vault: Vault) -> datetime:
    """Return the server's time, by the clock of its last answer."""
    from datetime import UTC, datetime, timedelta

    from vaultpki.vault import HEALTH

    if vault.clock_offset is None:
        vault.call(HEALTH)
    return datetime.now(UTC) + timedelta(seconds=vault.clock_offset or 0.0)


def screen() -> Screen:
    """Return how tables are shown on standard output: bars, and lines that fit, only on a terminal."""
    import shutil

    from vaultpki.show.node_table import Screen

    if not sys.stdout.isatty():
        return Screen()
    # click leaves colours out where there is no terminal, and with NO_COLOR.
    return Screen(max(shutil.get_terminal_size().columns, _NARROWEST), painted, bars=True)


def painted(text: str, colour: str | None) -> str:
    """Return a text in a colour for the terminal; as it is for None."""
    return click.style(text, fg=colour) if colour else text


def terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def print_lines(lines: Iterable[str]) -> None:
    """Print sentences for people, broken where the terminal ends."""
    from vaultpki.show.table import fitted

    for line in fitted(lines, screen().width):
        click.echo(line)


def print_json(document: Mapping[str, Any]) -> None:
    """Print a document as programs read it."""
    import json

    click.echo(json.dumps(document, indent=2))
