"""Text for people, and JSON for programs, on where a move stands; pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from vaultpki.model import Cluster
from vaultpki.move.gates import next_of
from vaultpki.move.run import MoveStep
from vaultpki.places import file_option
from vaultpki.procedure.gate import Gate
from vaultpki.procedure.standing import gate_lines, waiting_json
from vaultpki.records.move import MoveRecord, ServerPlace
from vaultpki.records.rotation import State
from vaultpki.redact import printable, stamp, stamped
from vaultpki.values.durations import format_duration

_WHOLE: Final = "vaultpki move status --json"
# What holds in a state. `{old}` and `{new}` are the two servers, `{spread}` says how fast.
_IS: Final = {
    State.STEADY: "nodes get all from {old}, and nothing of the cluster is left at {new}",
    State.PREPARED: "{new} has CAs and roles of the cluster; nothing has changed for nodes",
    State.PUBLISHED: "nodes learn to trust the CAs of both servers, and log in at {new} too; certificates still come "
    "from {old}",
    State.SWITCHED: "certificates come from {new}; nodes trust the CAs of both servers, and replace theirs {spread}",
    State.RETIRED: "nodes drop the CAs of {old}, which sign no more",
    State.DONE: "nodes get all from {new}",
    State.RETRUSTING: "nodes learn to trust the CAs of {old} again; certificates still come from {new}",
    State.RETURNING: "certificates come from {old} again; nodes trust the CAs of both servers, and replace theirs "
    "{spread}",
}
# While the root is rotated at the new server.
_IS_LAST: Final = "nodes trust the CAs of {new} alone, and get a root whose key is there"
# What a step does, as the rest of a sentence.
_DOES: Final = {
    State.STEADY: "removes the cluster from {new}, and nodes get all from {old}",
    State.PUBLISHED: "has nodes trust the CAs of both servers, and log in at {new} too",
    State.SWITCHED: "has certificates come from {new}; nodes replace theirs {spread}",
    State.RETIRED: "ends the trust in the CAs of {old}",
    State.DONE: "begins the rotation of the root at {new}, with which the move ends",
    State.RETRUSTING: "has nodes trust the CAs of {old} again",
    State.RETURNING: "has certificates come from {old} again; nodes replace theirs {spread}",
}
_DOES_LAST: Final = "takes the next step of the root's rotation at {new}"
_BACK_LAST: Final = "leads the root's rotation back, and then has nodes trust the CAs of {old} again"


def lines(cluster: Cluster, step: MoveStep, now: datetime) -> Iterator[str]:
    """Yield where a move stands: what holds, what it waits for, what comes next, and the rollback."""
    record, file = step.record, file_option(cluster.file)
    last = step.root is not None
    since = "" if record.state.resting else f" since {stamp(record.since)}"
    holds = _filled(record, _IS_LAST if last else _IS[record.state])
    yield printable(f"The move of {cluster.name} is {record.state.value}{since}: {holds}.")
    if step.root is not None:
        yield f"The root there is {step.root.state.value}."
    if step.note:
        yield printable(f"{step.note[0].upper()}{step.note[1:]}.")
    if step.gate is not None:
        yield from gate_lines(step.gate, now, _WHOLE)
        yield from _turn_lines(record.turn if step.root is None else step.root.turn, step.gate)
    to, home = next_of(record, back=False), next_of(record, back=True)
    if to is not None:
        when = "" if step.gate is None or step.gate.open(now) else "once nothing is waited for, "
        yield printable(
            f"Next: {when}`vaultpki move continue{file}` {_filled(record, _DOES_LAST if last else _DOES[to])}."
        )
    if home is not None and home is not to:
        yield printable(f"Back: `vaultpki move abort{file}` {_filled(record, _BACK_LAST if last else _DOES[home])}.")


def done_lines(cluster: Cluster, record: MoveRecord, *, emptied: bool) -> Iterator[str]:
    """Yield what is left to do once a move is done: the old server, and the lines of cluster.yaml."""
    if not emptied:
        yield (
            f"The old server still has the cluster's identities, policies and keys: `vaultpki move continue"
            f"{file_option(cluster.file)}` asks, and removes them."
        )
    new = record.new
    yield f"Write into {cluster.file} where the cluster is now, and leave out `move`:"
    where = [f"addresses: [{', '.join(new.addresses)}]"]
    if new.ca_pem:
        where.append("ca_file: the one below `move`")
    if new.namespace:
        where.append(f"namespace: {new.namespace}")
    yield printable(f"  vault: {{{', '.join(where)}}}")
    yield printable(f"  prefix: {new.prefix}")


def progress(step: MoveStep) -> str:
    """Return where a move stands, as the beginning of a line."""
    root = f", root {step.root.state.value}" if step.root is not None else ""
    return f"move is {step.record.state.value}{root}"


def to_json(step: MoveStep) -> dict[str, Any]:
    """Return what the commands of a move print with `--json`."""
    record, gate = step.record, step.gate or Gate()
    to, home = next_of(record, back=False), next_of(record, back=True)
    return {
        "moved": step.moved,
        "note": step.note or None,
        "move": {
            "state": record.state.value,
            "revision": record.revision,
            "since": stamp(record.since),
            "number": record.number,
            "from": _place_json(record.old),
            "to": _place_json(record.new),
            "cas": {domain: {"old": ca.old, "new": ca.new} for domain, ca in record.cas.items()},
            "root": None if step.root is None else step.root.state.value,
            "waiting_for": waiting_json(gate.waiting),
            "left_out": waiting_json(gate.excused),
            "opens": stamped(gate.opens),
            "turn": record.turn or None,
            "next": None if to is None else to.value,
            "back": None if home is None else home.value,
        },
    }


def _place_json(place: ServerPlace) -> dict[str, Any]:
    return {"addresses": list(place.addresses), "namespace": place.namespace or None, "prefix": place.prefix}


def _turn_lines(turn: str, gate: Gate) -> Iterator[str]:
    """Yield that restarts take turns, and that no turn moves on by itself."""
    if not gate.turn:
        return
    if gate.turn == turn:
        yield "Turns move on to the next node only while the command runs: run it again, or with `--wait`."
    else:
        yield f"The turn goes to {gate.turn} only when the command runs: run it again, or with `--wait`."


def _filled(record: MoveRecord, text: str) -> str:
    spread = f"within {format_duration(record.spread)}" if record.spread else "at once"
    return text.format(old=_server(record.old), new=_server(record.new), spread=spread)


def _server(place: ServerPlace) -> str:
    return f"{place.addresses[0]} ({place.prefix})"
