"""`vaultpki move`: move a cluster to another server, step by step."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaultpki.cli import offered
from vaultpki.cli.common import (
    json_option,
    opened,
    path_option,
    print_json,
    print_lines,
    server_now,
    spec_option,
    terminal,
    yes_option,
)
from vaultpki.cli.progress import reading
from vaultpki.cli.running_cluster import OWN_CLUSTER, RunningCluster
from vaultpki.cli.wait import PATIENCE, Ahead, Wait, until_open
from vaultpki.errors import ArgumentError, Unavailable, VaultpkiError
from vaultpki.redact import printable

if TYPE_CHECKING:
    from datetime import datetime

    from vaultpki.kube.objects import KubeTrust
    from vaultpki.move.run import MoveStep
    from vaultpki.move.server import MoveServer
    from vaultpki.records.move import LostServer
    from vaultpki.rotation.confirmations import Confirmations

_to_token_option = path_option(
    "--to-token",
    metavar="FILE",
    help="Has the token for the new server, and only you may read it; else VAULTPKI_MOVE_TOKEN has that.",
)
_kubeconfig_option = path_option(
    "--kubeconfig",
    metavar="FILE",
    help="Of the cluster: look at its kubelet-serving-ca, and for the root at kube-root-ca.crt and pods.  "
    f"{OWN_CLUSTER}",
)
_without_option = click.option(
    "--without",
    multiple=True,
    metavar="NODE",
    shell_complete=offered.nodes,
    help="Do not wait for this node, or for certificates of this name (admin). Can be repeated.",
)


@dataclass(frozen=True, slots=True)
class _BothServers:
    """How both servers are opened."""

    file: Path
    allow_http: bool
    to_token: Path | None


def _way_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options that lead to both servers, and pass them on as one value, `way`."""

    @functools.wraps(function)
    def with_way(*, file: Path, allow_http: bool, to_token: Path | None, **options: Any) -> int:
        return function(way=_BothServers(file, allow_http, to_token), **options)

    return spec_option(_to_token_option(with_way))


def _step_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options of the commands that take a step, and pass what a person says as one value, `said`."""

    @functools.wraps(function)
    def with_said(
        *,
        without: tuple[str, ...],
        restarted: tuple[str, ...],
        checked: tuple[str, ...],
        kubeconfig: Path | None,
        **options: Any,
    ) -> int:
        from vaultpki.rotation.confirmations import Confirmations

        said = Confirmations(without, restarted, checked)
        return function(said=said, running=RunningCluster(kubeconfig), **options)

    restarted = click.option(
        "--restarted",
        multiple=True,
        metavar="NODE/COMPONENT",
        help="You have restarted this component, which no agent can see, after `move status` named it. Repeatable.",
    )
    checked = click.option(
        "--checked",
        multiple=True,
        type=click.Choice(["pods", "outside", "kubelet-serving-ca"]),
        help="You have seen to this yourself, as `move status` asks for it. Can be repeated.",
    )
    wait = click.option("--wait", is_flag=True, help="Go on until the move is at rest; show what it waits for.")
    made: Callable[..., int] = with_said
    for option in (json_option, wait, _kubeconfig_option, checked, restarted, _without_option):
        made = option(made)
    return _way_options(made)


@click.group("move")
def move_command() -> None:
    """Move a cluster to another server, or to another prefix, without an outage.

    `move` in cluster.yaml says where it goes. All issuing CAs are replaced together, and the root last. VAULT_TOKEN is
    for the old server.

    \b
    Example:
      vaultpki move start --to-token new.token
      vaultpki move status --to-token new.token
      vaultpki move continue --to-token new.token --wait
    """


@move_command.command("start", short_help="Begin to move to another server.")
@_way_options
@click.option("--spread", default="1h", show_default=True, help="How long nodes take to replace their certificates.")
@_without_option
@json_option
def start_command(way: _BothServers, spread: str, without: tuple[str, ...], as_json: bool) -> int:
    """Begin to move to the server that `move` in cluster.yaml names; `move continue` takes each further step.

    CAs, roles and policies are made at the new server. Nothing changes for nodes, and `move abort` leads back.

    \b
    Example:
      vaultpki move start --to-token new.token
      vaultpki move start --to-token new.token --spread 6h
    """
    from vaultpki.move import commands
    from vaultpki.records.rotation import MOST_SPREAD
    from vaultpki.values.durations import parse_duration

    seconds = parse_duration(spread)
    if seconds > MOST_SPREAD:
        raise click.UsageError(f"--spread is at most {MOST_SPREAD // 86400}d")
    with _both(way) as (old, new):
        done = commands.start(old, new, seconds, server_now(old.vault), without)
        return _tell(old, done, as_json=as_json)


@move_command.command("status", short_help="Show where the move stands, who it waits for.")
@_way_options
@_kubeconfig_option
@json_option
def status_command(way: _BothServers, kubeconfig: Path | None, as_json: bool) -> int:
    """Show where the move stands, which node it waits for and why, and what to do next. Writes nothing.

    While one server is away, it says what the other one knows; exit 3.

    \b
    Example:
      vaultpki move status --to-token new.token
    """
    from vaultpki.move import commands

    with _both(way, either=True) as (old, new):
        with reading(old.vault):
            now = _now(old, new)
            done = commands.status(old, new, now, _pods(RunningCluster(kubeconfig), old))
        if done is not None:
            _tell(old, done, as_json=as_json, now=now)
            return 3 if done.alone else 0
        if as_json:
            print_json({"move": None})
        else:
            click.echo(f"{old.cluster.name} does not move. `vaultpki move start{old.cluster.file_option}` begins.")
        return 0


@move_command.command("continue", short_help="Take the next step of the move.")
@_step_options
@click.option("--old-lost", is_flag=True, help="The old server will not come back: go on without it.")
@click.option("--found", is_flag=True, help="The server that was called lost is there again: go on with both.")
@yes_option("In done")
def continue_command(
    way: _BothServers,
    said: Confirmations,
    running: RunningCluster,
    wait: bool,
    old_lost: bool,
    found: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Take the next step of the move if every node is ready for it. Exit 3 if it waits for something.

    Can be killed and run again at any time. Once the move is done, it asks, and empties the old server. A server that
    is called lost is left alone; nodes ignore it after three passes that do not reach it.

    \b
    Example:
      vaultpki move continue --to-token new.token
      vaultpki move continue --to-token new.token --without w-17 --wait
      vaultpki move continue --to-token new.token --restarted cp-1/kube-apiserver
      vaultpki move continue --to-token new.token --kubeconfig admin.conf
    """
    from vaultpki.move import commands
    from vaultpki.records.move import LostServer

    if old_lost and found:
        raise click.UsageError("a server is lost or found: pass one of --old-lost and --found")
    lost = LostServer.OLD if old_lost else None
    with _both(way, patience=PATIENCE if wait else None, lost=lost) as (old, new):
        if found:
            done = commands.found(old, new, server_now(old.vault), _pods(running, old))
            return _tell(old, done, as_json=as_json)
        done = _go(old, new, said, running, back=False, wait=wait, quiet=as_json, lost=lost)
        if lost is not None:
            return _tell(old, done, as_json=as_json, now=_now(new, old))
        if not done.record.active and done.record.at_new and not done.moved:
            return _empty(old, new, done, yes=yes, as_json=as_json)
        return _tell(old, done, as_json=as_json)


@move_command.command("abort")
@_step_options
@click.option("--new-lost", is_flag=True, help="The new server will not come back: go back without it.")
def abort_command(
    way: _BothServers, said: Confirmations, running: RunningCluster, wait: bool, new_lost: bool, as_json: bool
) -> int:
    """Take the next step of the way back to the old server. Exit 3 if it waits for something.

    \b
    Example:
      vaultpki move abort --to-token new.token
      vaultpki move abort --to-token new.token --wait
    """
    from vaultpki.records.move import LostServer

    lost = LostServer.NEW if new_lost else None
    with _both(way, patience=PATIENCE if wait else None, lost=lost) as (old, new):
        done = _go(old, new, said, running, back=True, wait=wait, quiet=as_json, lost=lost)
        return _tell(old, done, as_json=as_json)


@contextmanager
def _both(
    way: _BothServers, *, patience: float | None = None, lost: LostServer | None = None, either: bool = False
) -> Iterator[tuple[MoveServer, MoveServer]]:
    """Open both servers: the old one as every command does, the new one as cluster.yaml names it.

    The one that is `lost` is not waited for; with `either` one of them may be away.
    """
    from vaultpki.identity import anchor
    from vaultpki.model import at_new
    from vaultpki.move.server import MoveServer
    from vaultpki.records.move import LostServer
    from vaultpki.vault import Settings, Vault, explained

    at_old, at_other = (None if lost is each else patience for each in (LostServer.OLD, LostServer.NEW))
    applied = not either and lost is not LostServer.OLD
    with opened(way.file, allow_http=way.allow_http, applied=applied, patience=at_old) as (cluster, vault, _):
        if either:
            with suppress(Unavailable):
                anchor.refuse_missing(cluster, vault)
        there = at_new(cluster)
        address = there.vault
        settings = Settings(
            address.addresses,
            ca_pem=address.ca_pem,
            token=_token(way.to_token),
            namespace=address.namespace,
            allow_http=way.allow_http,
            ca_hint="give its CA as move.ca_file",
            namespace_hint=f"look at move.namespace in {cluster.file}, or make it first",
        )
        other = Vault(settings) if at_other is None else Vault(settings, patience=at_other)
        needs = f"at the new server it needs what `vaultpki policy{cluster.file_option} mover` prints for that"
        with explained(other, needs):
            yield MoveServer(cluster, vault), MoveServer(there, other)


def _token(file: Path | None) -> str:
    """Return the token for the new server. Raises StoreError for a file that others may read."""
    from vaultpki.disk.files import read_private

    if file is None:
        token = os.environ.get("VAULTPKI_MOVE_TOKEN", "")
        if not token:
            raise ArgumentError("no token for the new server: pass --to-token FILE, or set VAULTPKI_MOVE_TOKEN")
        return token
    data = read_private(str(file))
    if data is None:
        raise ArgumentError(f"{file}: there is no such file")
    return data.decode("ascii", "replace").strip()


def _now(first: MoveServer, second: MoveServer) -> datetime:
    """Return the time of the first server; of the second one if that is away."""
    try:
        return server_now(first.vault)
    except Unavailable:
        return server_now(second.vault)


def _pods(running: RunningCluster, old: MoveServer) -> KubeTrust | None:
    """Return what the running cluster shows; None without a kubeconfig."""
    from vaultpki.kube import api as kube_api

    return running.look(old.cluster, old.vault, kube_api.read_trust)


def _go(
    old: MoveServer,
    new: MoveServer,
    said: Confirmations,
    running: RunningCluster,
    *,
    back: bool,
    wait: bool,
    quiet: bool,
    lost: LostServer | None = None,
) -> MoveStep:
    """Take one step, or with `wait` all of them; `lost` is not asked."""
    from vaultpki.move import commands, text
    from vaultpki.procedure.standing import progress_line
    from vaultpki.records.move import LostServer
    from vaultpki.records.rotation import CA_TABLE

    asked = new if lost is LostServer.OLD else old

    def take() -> MoveStep:
        nonlocal said
        with_pods = replace(said, pods=_pods(running, asked))
        done = commands.advance(old, new, server_now(asked.vault), with_pods, back=back, without=lost)
        # What a person has said counts once.
        said = replace(said, restarted=(), checked=())
        return done

    def ahead(before: MoveStep | None, done: MoveStep) -> Ahead:
        if before is not None and done.record.state not in CA_TABLE.ahead(before.record.state, back=back):
            raise VaultpkiError(
                f"another operator leads the move the other way ({done.record.state.value}); this command has stopped: "
                "agree on the way, and let one of you go on"
            )
        if done.ended:
            return Ahead()
        now = server_now(asked.vault)
        at_once = done.moved and done.gate is not None and done.gate.open(now)
        line = done.note or progress_line(text.progress(done), done.gate, now)
        return Ahead(line, 0.0 if at_once else until_open(done.gate, now))

    return Wait(take=take, ahead=ahead).until_rest(quiet=quiet) if wait else take()


def _empty(old: MoveServer, new: MoveServer, done: MoveStep, *, yes: bool, as_json: bool) -> int:
    """Empty the old server once the move is done, if a person agrees by the cluster's name."""
    from vaultpki.move import commands, emptying

    if emptying.emptied(old):
        return _tell(old, done, as_json=as_json)
    commands.refuse_emptying(old, new, server_now(old.vault))
    name = old.cluster.name
    if not yes:
        if not terminal() or as_json:
            raise VaultpkiError(
                "its identities, policies and keys at the old server go for good, and there is no terminal to ask on; "
                "pass --yes"
            )
        click.echo(f"This removes the identities, policies and keys of {name} at {old.vault.address} for good.")
        if click.prompt("Type the cluster's name to go on", default="", show_default=False) != name:
            raise VaultpkiError(f"that is not the cluster's name ({name}); nothing was removed")
    emptying.empty(old, lambda path: None if as_json else click.echo(printable(f"- {path}")))
    return _tell(old, done, as_json=as_json)


def _tell(old: MoveServer, step: MoveStep, *, as_json: bool, now: datetime | None = None) -> int:
    """Print a step; return the exit code: 3 where it waits for something, or something is unusual.

    With `now` the old server is not asked: it may be away.
    """
    from vaultpki.move import emptying, text

    if as_json:
        print_json(text.to_json(step))
    else:
        print_lines(text.lines(old.cluster, step, now or server_now(old.vault)))
        if not step.record.active and step.record.at_new:
            emptied = now is None and emptying.emptied(old)
            print_lines(text.done_lines(old.cluster, step.record, emptied=emptied))
    return 0 if step.moved or (step.ended and not step.note) else 3
