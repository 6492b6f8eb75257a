"""`vaultpki status` and `vaultpki renew`, for a person on the node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaultpki.cli.common import (
    allow_http_option,
    config_option,
    json_option,
    path_option,
    print_json,
    screen,
    watch_options,
)
from vaultpki.cli.old_spellings import told_new
from vaultpki.cli.progress import progress, tell_waits
from vaultpki.redact import printable, stamp

if TYPE_CHECKING:
    from vaultpki.agent.context import Outcome
    from vaultpki.agent.status import Status
    from vaultpki.cli.shown import Shown
    from vaultpki.findings.nodes import NodeRow

# Seconds: the longest pass of a resident agent if Vault answers every request.
_LOCK_WAIT = 30.0
# Nodes; fewer are read in a moment.
_MANY = 50


@click.command("status")
@config_option
@path_option(
    "--dir",
    "directory",
    help="A folder of certificate files, checked without agent.yaml; or of nodes: NODE/agent.yaml or "
    "nodes/NODE/agent.yaml.",
)
@click.option("--offline", is_flag=True, help="Ask Vault neither whether it is reachable nor what was revoked.")
@watch_options
@allow_http_option
@json_option
def status_command(
    file: Path,
    directory: Path | None,
    offline: bool,
    watching: bool,
    every: str | None,
    allow_http: bool,
    as_json: bool,
) -> None:
    """Show the certificates on this node, when they expire and what is wrong. Exit 3 if something needs attention.

    For a folder of nodes it shows a line for each node, what needs attention first, as `vaultpki nodes` does. With
    --dir Vault is not asked. --watch exits with 0 when it is ended.

    \b
    Example:
      vaultpki status
      vaultpki status --watch
      vaultpki status --dir /etc/kubernetes/pki --json
      vaultpki status --dir vaultpki-demo
    """
    from vaultpki.cli.shown import show
    from vaultpki.cli.watch import interval

    seconds = interval(every, watching=watching, as_json=as_json)

    def look() -> Shown:
        if directory is not None:
            return _of_directory(directory.absolute(), allow_http=allow_http, bar=not watching)
        return _of_node(file, offline=offline, allow_http=allow_http)

    show(look, seconds, watching=watching, as_json=as_json)


def _of_node(file: Path, *, offline: bool, allow_http: bool) -> Shown:
    from vaultpki.agent import status
    from vaultpki.config.agent import load_agent
    from vaultpki.procedures import ON_NODES

    now = datetime.now(UTC)
    config = load_agent(file, allow_http=allow_http)
    return _of_one(status.of_node(config, now, ON_NODES, ask=not offline, allow_http=allow_http), now, config.node)


def _of_directory(directory: Path, *, allow_http: bool, bar: bool) -> Shown:
    from vaultpki.agent import node_folders, status
    from vaultpki.cli.shown import Shown
    from vaultpki.findings import nodes
    from vaultpki.procedures import ON_NODES
    from vaultpki.show import node_table

    now = datetime.now(UTC)
    folders = node_folders.find_all(directory)
    if not folders:
        return _of_one(status.of_folder(str(directory), now), now, directory.name)
    found = []
    with progress("Reading nodes") as counter:
        for folder in folders:
            one = node_folders.read(folder, now, ON_NODES, allow_http=allow_http)
            found.append((nodes.of_status(one, now, name=folder.path.name), one))
            if bar and len(folders) > _MANY:
                counter.step(len(folders))
    found.sort(key=lambda each: nodes.order(each[0]))
    rows = [row for row, _ in found]
    ok = not any(row.attention for row in rows)
    return Shown(
        ok,
        lambda: node_table.node_lines(rows, now, screen(), files=True),
        lambda: {
            "nodes": [{**nodes.to_json(row), "status": _to_json(one, row)} for row, one in found],
            "ok": ok,
        },
    )


def _of_one(seen: Status, now: datetime, name: str) -> Shown:
    from vaultpki.cli.shown import Shown
    from vaultpki.findings import nodes

    row = nodes.of_status(seen, now, name=name)
    return Shown(not row.attention, lambda: _text(seen, row, now), lambda: _to_json(seen, row))


def _to_json(seen: Status, row: NodeRow) -> dict[str, Any]:
    from vaultpki.agent import status
    from vaultpki.findings import nodes

    return {**status.to_json(seen), "ok": not row.attention, "summary": nodes.to_json(row)}


@click.command("renew")
@config_option
@click.option("--all", "everything", is_flag=True, help="Without a name: renew every certificate of this node.")
# Its name until 0.4; elsewhere --force overwrites a file.
@click.option("--force", is_flag=True, hidden=True)
@allow_http_option
@json_option
@click.argument("names", nargs=-1, metavar="[NAME]...")
def renew_command(
    file: Path, everything: bool, force: bool, allow_http: bool, as_json: bool, names: tuple[str, ...]
) -> int:
    """Renew the named certificates now, even if they are not due; with --all and no name, all of this node.

    Exit 3 if a hook has not succeeded.

    \b
    Example:
      vaultpki renew kubelet kubelet-client
      vaultpki renew --all
    """
    from vaultpki.agent import pairs, run
    from vaultpki.cli.one_pass import tell_outcome
    from vaultpki.config.agent import load_agent
    from vaultpki.errors import ArgumentError
    from vaultpki.node import assignment
    from vaultpki.procedures import ON_NODES

    if force:
        told_new("renew --force", "vaultpki renew --all" if not names else "vaultpki renew NAME")
    if not names and not (everything or force):
        raise click.UsageError("name the certificates to renew, or pass --all to renew all of this node")
    config = load_agent(file, allow_http=allow_http)
    spec = assignment.copy(config)
    held = [] if spec is None else [want.name for want in spec.certificates]
    for name in names:
        if spec is not None and name not in held:
            raise ArgumentError(f"{config.node} holds no certificate {name}; it holds {', '.join(held)}")
    tell_waits()
    every = frozenset(names or (pairs.EVERY,))
    options = run.PassOptions(ON_NODES, allow_http=allow_http, force=every, wait=_LOCK_WAIT)
    outcome = run.run(config, options)
    if as_json:
        print_json({"node": config.node, "cluster": config.cluster, **_renewed(outcome)})
        # People read what failed, on standard error.
        events = tuple(event for event in outcome.events if event.level != "info")
        return tell_outcome(replace(outcome, events=events, due=None))
    return tell_outcome(outcome)


def _renewed(outcome: Outcome) -> dict[str, Any]:
    """Return what a renewal did as programs read it."""
    leaves = {one.want.name: one.leaf for one in outcome.items if one.leaf is not None}
    return {
        "renewed": [
            {
                "name": name,
                # A service-account key has no certificate that a server presents.
                "serial": f"{leaves[name].serial:x}" if name in leaves else None,
                "not_after": stamp(leaves[name].not_after) if name in leaves else None,
            }
            for name in outcome.renewed
        ],
        "failed": [{"name": name, "message": printable(str(error))} for name, error in outcome.failures.items()],
        "hooks_owed": sorted(outcome.state.owed),
        "ok": not outcome.failures and not outcome.state.owed,
    }


def _text(status: Status, row: NodeRow, now: datetime) -> Iterator[str]:
    from vaultpki.agent import surplus
    from vaultpki.show import node_table

    yield from node_table.certificate_lines(status.seen, now, screen())
    yield from (printable(surplus.sentence(pair)) for pair in status.surplus.values())
    silent = any(found.name == "silent" for found in row.findings)
    if status.agent is not None:
        yield f"agent: silent ({status.agent} at its last pass)" if silent else f"agent: {status.agent}"
    for what, text in status.faults.items():
        yield printable(text if text.startswith(f"{what}: ") else f"{what}: {text}")
    yield from node_table.end_lines(status.ends)
    for ca in status.cas:
        for facts in ca.foreign:
            yield printable(f"{ca.domain} also trusts {facts.subject_text}, until {stamp(facts.not_after)}")
    yield from map(printable, status.foreign)
    yield from map(printable, status.unused)
    for key, owed in status.owed.items():
        why = f": {owed.error}" if owed.error else ""
        times = "1 attempt" if owed.attempts == 1 else f"{owed.attempts} attempts"
        if key in status.by_hand:
            yield printable(f"hook of {key} waits for a person, who restarts one node after the other")
        else:
            yield printable(f"hook of {key} still owed after {times}{why}")
    yield from node_table.key_lines(status)
    yield from map(printable, dict.fromkeys(status.readers.values()))
    yield from map(printable, (*status.bundles, *status.token_keys))
    # The last pass may have failed by just that.
    if status.reachable or (status.reachable is False and status.error != status.faults.get("vault")):
        yield printable("vault: reachable" if status.reachable else f"vault: {status.error}")
    if status.asked is not None:
        last = f"the agent last asked Vault at {stamp(status.asked)}"
        if status.answered != status.asked:
            last += f", and last had an answer at {stamp(status.answered)}" if status.answered else ", in vain"
        yield last
    if not status.seen and not status.faults:
        yield "there is no certificate here"
    yield from map(printable, filter(None, (*status.standings, *status.notes)))
    yield from node_table.command_lines(row)
