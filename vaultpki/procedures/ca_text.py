"""Text for people, and JSON for programs, on the state of a cluster's CAs; pure."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from vaultpki import readers
from vaultpki.ca.run import Step
from vaultpki.certificates import ROOT, SERVICE_ACCOUNT
from vaultpki.places import file_option
from vaultpki.procedure.gate import Gate
from vaultpki.procedure.standing import gate_lines, listed, waiting_json, ways
from vaultpki.provision.cluster_facts import CaStatus, under_way
from vaultpki.records.gaps import left_over_sentence
from vaultpki.records.rotation import Method, RotationRecord, State
from vaultpki.redact import first_few, printable, stamp, stamped
from vaultpki.rotation import root_words
from vaultpki.rotation.reasons import TRUST_STEPS
from vaultpki.rotation.states import next_state
from vaultpki.show import table
from vaultpki.values.durations import format_duration

_COLUMNS: Final = (
    table.Column("CA"),
    table.Column("NAME", least=8),
    table.Column("KEY", optional=3),
    table.Column("EXPIRES"),
    table.Column("DAYS LEFT", optional=1),
    table.Column("STATE"),
    # The text below the table says it too.
    table.Column("SINCE", optional=2),
)
# What holds in a state. `{old}` and `{new}` are the two CAs, `{spread}` says how fast.
_IS: Final = {
    State.STEADY: "{old} signs, and nodes trust it alone",
    State.PREPARED: "{new} has no certificate yet; nothing has changed for nodes",
    State.PUBLISHED: "nodes learn to trust {new} beside {old}; their certificates are still of {old}",
    State.SWITCHED: "{new} signs; nodes trust both, and replace their certificates of {old} {spread}",
    State.RETIRED: "nodes drop {old}, which signs no more, and trust {new} alone",
    State.DONE: "{new} signs, and nodes trust it alone; {old} is deleted",
    State.RETRUSTING: "nodes learn to trust {old} again beside {new}; their certificates are still of {new}",
    State.RETURNING: "{old} signs again; nodes trust both, and replace their certificates of {new} {spread}",
}
_IS_SAME_KEY: Final = {
    State.PREPARED: "nothing has changed for nodes; {new} will be signed",
    State.PUBLISHED: "nodes learn to trust {new} beside {old}",
    State.SWITCHED: "{new} signs; nodes serve it behind their certificates, which stay as they are",
    State.DONE: "{new} signs, and nodes trust it alone; {old} is deleted",
    State.RETURNING: "{old} signs again; nodes serve it behind their certificates",
}
_BUNDLES_CHANGE: Final = frozenset(state for state, _ in TRUST_STEPS) - {State.RETURNING, State.STEADY}
# The same after a recovery.
_IS_KEPT: Final = (
    "nodes learn to trust {old} and {new}; each keeps its certificate, and renews it if it is of {leaf}, which signs"
)
# The same at rest, if it left what the server does not have where it is.
_IS_WITH_OTHERS: Final = "{old} signs, and nodes trust it, and what they hold of {also}"
# And once that has left.
_IS_DROPPED: Final = "{new} signs, and nodes trust it alone"
_DOES_DROP: Final = "ends it. This cannot be undone"
# What a step does, as the rest of a sentence.
_DOES: Final = {
    State.STEADY: "deletes {new}, and nodes trust {old} alone",
    State.PUBLISHED: "has the root sign {new}, and nodes learn to trust it",
    State.SWITCHED: "makes {new} the CA that signs; nodes replace their certificates {spread}",
    State.RETIRED: "ends the trust in {old}",
    State.DONE: "deletes {old}. This cannot be undone",
    State.RETRUSTING: "has nodes trust {old} again",
    State.RETURNING: "makes {old} the CA that signs again; nodes replace their certificates {spread}",
}
# From re-trusting, where the new CA signs already.
_DOES_AGAIN: Final = "goes forward again: {new} signs already, and nodes replace what they have left of {old} {spread}"
_DOES_AGAIN_ROOT: Final = "goes forward again: the issuing CAs are of {new} already, and nodes go on serving them"
_DOES_AGAIN_SAME_KEY: Final = "goes forward again: {new} signs already, and nodes go on serving it"
_DOES_SAME_KEY: Final = {
    State.SWITCHED: "makes {new} the CA that signs; nodes serve it behind their certificates",
    State.DONE: "deletes {old}. This cannot be undone",
    State.RETURNING: "makes {old} the CA that signs again; nodes serve it behind their certificates",
}


def status_lines(
    cas: tuple[CaStatus, ...],
    now: datetime,
    file: str,
    *,
    pin: str = "",
    width: int | None = None,
    writers: tuple[str, ...] = (),
    moves: str = "",
) -> Iterator[str]:
    """Yield what `ca status` prints: every CA, and for a rotation that is under way what to do next.

    `pin` is as for `record_lines`, `width` is how wide a line may be; None for any width. `writers` are lines on who
    wrote the records, and `moves` says that the cluster moves to another server.
    """
    yield from table.lines(_COLUMNS, (_row(ca, now) for ca in cas), width=width)
    yield from table.fitted(("", *writers) if writers else (), width)
    yield from table.fitted(_below_table(cas, now, file, pin, moves), width)


def _below_table(cas: tuple[CaStatus, ...], now: datetime, file: str, pin: str, moves: str) -> Iterator[str]:
    for ca in cas:
        if ca.problem:
            yield ""
            yield printable(f"{ca.domain}: {ca.problem}")
        if ca.advice:
            yield ""
            yield printable(f"{ca.domain}: {ca.advice}.")
        for each in ca.left_over:
            yield ""
            yield f"{left_over_sentence(ca.domain, each.sha256, each.nodes)}."
        if ca.apart:
            yield ""
            yield from listed(f"These nodes do not follow the record of {ca.domain}:", ca.apart)
        if ca.behind:
            yield ""
            yield from listed(f"These nodes do not use the bundle of {ca.domain} as it is:", ca.behind)
    active = under_way(cas)
    if active is None or active.record is None:
        for ca in cas:
            if ca.gate is not None and ca.record is not None:
                yield ""
                yield from record_lines(ca.record, ca.gate, now, file)
        yield ""
        if moves:
            yield f"{moves}."
            return
        yield f"No CA is being rotated. `vaultpki ca rotate DOMAIN{file_option(file)}` begins."
        return
    yield ""
    stands = any(each.recover for each in cas)
    yield from record_lines(active.record, active.gate, now, file, pin=pin, stands=stands)


def record_lines(
    record: RotationRecord, gate: Gate | None, now: datetime, file: str, *, pin: str = "", stands: bool = False
) -> Iterator[str]:
    """Yield where a rotation stands: what holds, what it waits for, what comes next, and the rollback.

    `pin` says what to do with `ca.root_sha256` in cluster.yaml; see `root_pin.advice`. `stands` says that a CA must be
    recovered before any step.
    """
    if record.state.resting:
        yield f"{record.domain} is {record.state.value}: {_filled(record, record.state, _IS, _IS_SAME_KEY)}."
        if pin:
            yield printable(f"{pin}.")
        if gate is not None:
            yield from _lingering_lines(record, gate, now, file)
        return
    since = f"since {stamp(record.since)}"
    yield f"{record.domain} is {record.state.value} {since}: {_filled(record, record.state, _IS, _IS_SAME_KEY)}."
    if gate is not None:
        yield from gate_lines(gate, now)
        yield from _turn_lines(record, gate)
    if record.state in _BUNDLES_CHANGE:
        yield from _older_lines(record.domain, gate)
    to, back = next_state(record), next_state(record, back=True)
    if not stands:
        yield from ways(gate, now, file, to, back, functools.partial(_step_to, record))
    if pin:
        yield printable(f"{pin}.")


def _lingering_lines(record: RotationRecord, gate: Gate, now: datetime, file: str) -> Iterator[str]:
    """Yield what may still accept the CA that a rollback deleted, and what goes on."""
    deleted = record.new.title if record.new is not None else ""
    yield f"What reads bundles only when it starts may still accept certificates of {deleted}, which is deleted."
    yield from gate_lines(gate, now)
    yield from _turn_lines(record, gate)
    command = f"vaultpki ca abort{file_option(file)} --wait"
    yield f"Next: `{command}` goes on until each was restarted; `ca rotate` may come before."


def _turn_lines(record: RotationRecord, gate: Gate) -> Iterator[str]:
    """Yield that restarts take turns, and that no turn moves on by itself."""
    if not gate.turn:
        return
    both = {
        State.RETRUSTING: "`vaultpki ca continue` or `vaultpki ca abort`",
        State.STEADY: "`vaultpki ca abort`",
    }.get(record.state, "`vaultpki ca continue`")
    if gate.turn == record.turn:
        yield f"Turns move on to the next node only while {both} runs: run it again, or with `--wait`."
    else:
        yield f"The turn goes to {gate.turn} only when {both} runs: run it again, or with `--wait`."


def spread_sentence(record: RotationRecord, seconds: int) -> str:
    """Return that a rotation keeps the spread that it was begun with; "" if that is the one asked for."""
    if record.method is Method.EMERGENCY or record.spread in (0, seconds):
        return ""
    spread = format_duration(record.spread)
    return (
        f"the rotation of {record.domain} has begun already, with `--spread {spread}`, and that stays; for another one "
        "go back with `vaultpki ca abort` and begin again"
    )


def state_sentence(record: RotationRecord) -> str:
    """Return what holds in the state of a record, as the rest of a sentence."""
    return _filled(record, record.state, _IS, _IS_SAME_KEY)


def _older_lines(domain: str, gate: Gate | None) -> Iterator[str]:
    """Yield what a person must restart on an older Kubernetes, on the nodes that do not report their versions."""
    readers_there = [each for each in readers.READERS if each.ca == domain]
    # The gate waits for those whatever their version is.
    waited = {each.component for each in readers_there if each.follows is None}
    nodes = ""
    if gate is not None:
        shown = {component for each in gate.unversioned.values() for component in each}
        readers_there = [each for each in readers_there if each.component in shown]
        nodes = f" ({first_few(sorted(gate.unversioned))})"
    version, components = readers.once_start_only(each for each in readers_there if each.component not in waited)
    if components:
        yield (
            f"Before Kubernetes 1.{version}, restart {', '.join(components)} first, node by node: no step waits for "
            f"that on nodes that do not report the version{nodes}."
        )


def emergency_lines(domain: str, *, joined: bool = False) -> Iterator[str]:
    """Yield what an emergency rotation does to a cluster, for a person to confirm.

    `joined` is whether nodes join by token and have no agent.
    """
    yield f"An emergency rotation of {domain} is for a stolen key. It does not wait for any node:"
    if domain == SERVICE_ACCOUNT:
        yield "- At once nodes take no key in that this CA certifies, and it signs no more."
        yield "- No token is refused: unions keep the keys that they hold, until these are certified by the new CA."
        return
    yield f"- At once nodes stop trusting the CA that {domain} has now, and it signs no more."
    yield "- Every component refuses its peers until both have certificates of the new CA. This outage ends once every"
    yield "  agent has passed, and what reads the CA only at its start was restarted."
    if joined and domain == "kubernetes":
        yield "- Nodes that joined by token lose the API at once: let them join anew with a token. Until the root is"
        yield "  rotated they go on trusting the stolen CA."
    elif joined and domain == "kubelet":
        yield "- Logs and exec fail on nodes that joined by token until their kubelets renew, or join anew."
    yield "- Operators' certificates of this CA end too: issue them again with `vaultpki issue`."
    yield "- Whoever trusts the root alone (pods, kubeconfigs outside) goes on trusting the stolen CA until it expires."
    yield "  Only a rotation of the root ends that, too."


def status_json(cas: tuple[CaStatus, ...], now: datetime) -> dict[str, Any]:
    """Return what `ca status --json` prints."""
    active = under_way(cas)
    rotation = None
    if active is not None and active.record is not None:
        rotation = record_json(active.record, active.gate)
    return {"cas": [_ca_json(ca, now) for ca in cas], "rotation": rotation}


def step_json(step: Step) -> dict[str, Any]:
    """Return what the commands that take a step print with `--json`."""
    return {
        "moved": step.moved,
        "stopped": step.stopped,
        "note": step.note or None,
        "advice": step.advice or None,
        "rotation": record_json(step.record, step.gate),
    }


def record_json(record: RotationRecord, gate: Gate | None) -> dict[str, Any]:
    """Return a rotation and what it waits for."""
    to, back, gate = next_state(record), next_state(record, back=True), gate or Gate()
    return {
        "domain": record.domain,
        "state": record.state.value,
        "since": stamp(record.since),
        "method": record.method.value,
        "old": record.old.name,
        "new": None if record.new is None else record.new.name,
        "waiting_for": waiting_json(gate.waiting),
        "left_out": waiting_json(gate.excused),
        "opens": stamped(gate.opens),
        "turn": record.turn or None,
        "accepting": list(record.accepting),
        "next": None if to is None else to.value,
        "back": None if back is None else back.value,
    }


def _ca_json(ca: CaStatus, now: datetime) -> dict[str, Any]:
    record = ca.record
    return {
        "domain": ca.domain,
        "name": ca.name,
        "sha256": ca.sha256 or None,
        "key": ca.key or None,
        "not_after": stamped(ca.not_after),
        "days_left": None if ca.not_after is None else (ca.not_after - now).days,
        "state": State.STEADY.value if record is None else record.state.value,
        "since": None if record is None else stamp(record.since),
        "problem": printable(ca.problem) or None,
        "advice": printable(ca.advice) or None,
        "apart": waiting_json(ca.apart),
        "left_over": [{"sha256": each.sha256, "nodes": list(each.nodes)} for each in ca.left_over],
        "waiting_for": waiting_json((*(ca.gate.waiting if ca.gate is not None else ()), *ca.behind)),
    }


def _row(ca: CaStatus, now: datetime) -> tuple[str, ...]:
    ends = "-" if ca.not_after is None else f"{ca.not_after:%Y-%m-%d}"
    left = "-" if ca.not_after is None else str((ca.not_after - now).days)
    record = ca.record
    state = State.STEADY.value if record is None else record.state.value
    since = "" if record is None else stamp(record.since)
    return ca.domain, ca.name, ca.key or "-", ends, left, state, since


def _step_to(record: RotationRecord, to: State) -> str:
    """Return what the step to a state does."""
    if (record.state, to) != (State.RETRUSTING, State.SWITCHED) or record.leaf is not record.new:
        return _filled(record, to, _DOES, _DOES_SAME_KEY)
    if record.domain == ROOT:
        return _with_names(record, _DOES_AGAIN_ROOT)
    return _with_names(record, _DOES_AGAIN_SAME_KEY if record.method is Method.SAME_KEY else _DOES_AGAIN)


def _filled(record: RotationRecord, state: State, words: dict[State, str], same_key: dict[State, str]) -> str:
    text = words[state]
    if words is _IS and record.kept is not None and state is record.state:
        text = _IS_KEPT
    elif words is _IS and state is State.STEADY and record.also and record.domain != ROOT:
        text = _IS_WITH_OTHERS
    elif record.drops and state is State.DONE:
        text = _IS_DROPPED if words is _IS else _DOES_DROP
    elif record.domain == ROOT:
        text = (root_words.holds if words is _IS else root_words.does)(record).get(state, text)
    elif record.method is Method.SAME_KEY:
        text = same_key.get(state, text)
    return _with_names(record, text)


def _with_names(record: RotationRecord, text: str) -> str:
    new = record.new.title if record.new is not None else "no other CA"
    spread = f"within {format_duration(record.spread)}" if record.spread else "at once"
    old = f"the CA with the SHA-256 {record.old.sha256}" if record.drops else record.old.title
    if record.method is Method.SAME_KEY and not old.endswith(")"):
        old += " (certificate 1)"
    also = f"{len(record.also)} further CA{'s' if len(record.also) > 1 else ''} ({first_few(record.also, 2)})"
    said = text.format(old=old, new=new, spread=spread, leaf=record.leaf.title, also=also)
    # The domain once is enough.
    head, of, rest = said.partition(f" of the CA {record.domain}")
    return f"{head}{of}{rest.replace(of, '')}" if of else head
