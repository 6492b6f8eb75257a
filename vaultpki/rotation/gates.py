"""Decides whether a CA's rotation may take its next step: which nodes it waits for, and why.

Pure. A gate counts every live credential, not only the nodes that have reported. It relies on reports: live handshakes
with every component are not possible from an operator's machine; `vaultpki verify --live` makes those that are.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from vaultpki.certificates import SKEW
from vaultpki.procedure import words
from vaultpki.procedure.gate import Gate, InLine, Waiting, whose_turn
from vaultpki.records.rotation import Method, RotationRecord, State
from vaultpki.redact import stamp
from vaultpki.rotation import reasons
from vaultpki.rotation.reasons import ETCD_MEMBER, LEAF_STEPS, TRUST_STEPS, Participant, Transition

__all__ = [
    "OperatorLeaf",
    "Participant",
    "counts",
    "gate",
    "restart_refused",
    "unreplaced",
    "without_refused",
]


class LeafHolder(enum.Enum):
    """Who has a leaf that no agent reports: an operator, a kubelet without an agent, or a person by a request."""

    OPERATOR = "operator"
    KUBELET = "kubelet"
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class OperatorLeaf:
    """A certificate in date that no agent reports, of the CA that is to leave: of a row such as `admin`.

    That of a kubelet which joined by token has the name of its node, and a person's its common name.
    """

    name: str
    serial: str
    not_after: datetime
    holder: LeafHolder = LeafHolder.OPERATOR


def unreplaced(leaving: Iterable[OperatorLeaf], successors: Iterable[str]) -> tuple[OperatorLeaf, ...]:
    """Return the leaves that no successor replaces, one for one by their names; of several those that expire last.

    `successors` are the names of the certificates that the other CA has signed for operators since it signs.
    """
    replacing = Counter(successors)
    left = []
    for leaf in sorted(leaving, key=lambda each: each.not_after):
        if replacing[leaf.name]:
            replacing[leaf.name] -= 1
        else:
            left.append(leaf)
    return tuple(left)


SIGNER_OUTSIDE: Final = "signer outside"
"""The word for whoever signs below a root from outside, where gates name nodes."""


def gate(step: Transition, nodes: Collection[Participant], operators: Iterable[OperatorLeaf] = ()) -> Gate:
    """Return the gate before a step, by the reports of these nodes.

    `operators` are the leaves of the CA that is to leave: of the old one, and during the rollback of the new one.
    """
    record = step.record
    if step.path == (State.PREPARED, State.PUBLISHED):
        return _signer(step)
    # Other steps wait for nobody: they take nobody's trust away, and sign no leaf that is not trusted.
    if step.path not in TRUST_STEPS | LEAF_STEPS:
        return Gate(opens=record.since, turn=record.turn)
    step = replace(step, turn=step.turn or _turn(step, nodes))
    waiting, excused, opens = [], [], record.since
    unversioned = {}
    for node in sorted(nodes, key=lambda each: each.name):
        counted, why_not = counts(record, node, step.now)
        if counted:
            if (found := reasons.waits_for(step, node)).reason:
                waiting.append(found)
            opens = max(opens, reasons.settled(step, node))
            if node.unversioned and step.path in TRUST_STEPS:
                unversioned[node.name] = node.unversioned
        elif why_not:
            excused.append(Waiting(node.name, why_not))
    if step.path in LEAF_STEPS and record.method is not Method.SAME_KEY:
        held, left_out = _operators(record, operators, step.now)
        waiting += held
        excused += left_out
    return Gate(tuple(waiting), tuple(excused), opens, step.turn, unversioned)


def restart_refused(said: str, steps: Sequence[tuple[Transition, Participant]]) -> str:
    """Return why a person's word that a component was restarted does not count, as a sentence; "" if it does.

    `said` is the word (`cp-1/etcd`), and `steps` are the steps that wait for the node, each with the node as its gate
    counts it: of the root those of the issuing CAs that go along too. The word counts only after a report showed the
    final bundle, since a process that was started before has read another, and not against what the agent sees.
    """
    record, (name, _, component) = steps[0][0].record, said.partition("/")
    if said in record.accepting:
        return ""
    counted = [
        (each, who, reader)
        for each, who in steps
        for reader in who.readers
        if reader.startswith(f"{each.record.domain}/") and each.path in TRUST_STEPS
    ]
    mine = [(each, who, reader) for each, who, reader in counted if reader.rpartition("/")[2] == component]
    if not mine:
        if component and record.turn == name:
            # Its listener does not answer the operator's machine.
            return ""
        owing = {
            reader for each, who, reader in counted if not (who.report and reasons.ready(each, who.report, reader))
        }
        ones = sorted({f"`--restarted {reasons.word(name, reader)}`" for reader in owing})
        what = f"write {' or '.join(ones)}" if ones else f"leave out `--restarted {said}`"
        none = f"no restart of {component} on {name}" if component else f"no restart on {name}" if not ones else ""
        waits = f"{record.domain} is {record.state.value} and waits for {none}" if none else "a word names a component"
        return f"{waits}; {what}"
    for each, who, _ in mine:
        if who.report is None or not reasons.fresh(each, who.report) or not reasons.holds_final(each, who.report):
            return words.too_early(said, "the bundle", "the one")
    found = [(each, who.report, reader) for each, who, reader in mine if who.report is not None]
    for each, report, reader in found:
        seen = report.readers.get(reader)
        if seen is not None and seen.running and seen.started is not None and not reasons.started(each, report, reader):
            bundle = f"the bundle there is of {stamp(report.bundles[each.record.domain].installed)}"
            return words.runs_without(said, f" since {stamp(seen.started)}, and {bundle}")
    if record.turn != name and all(reasons.ready(each, report, reader) for each, report, reader in found):
        return words.seen_already(said)
    return ""


def without_refused(record: RotationRecord, node: Participant, now: datetime) -> str:
    """Return why no gate may leave a node out, as a sentence; "" if it may."""
    if reasons.signs_tokens(record, node) and _live(node, now):
        return (
            f"{node.name} signs tokens with a key that the old CA has certified, which nodes that join later would "
            "not accept. Repair it, or remove it from cluster.yaml and run `vaultpki apply`"
        )
    if _live(node, now) and reasons.in_use(record, node, now):
        return (
            f"{node.name} is a member of etcd, which no gate leaves out; repair it, or remove it from etcd and from "
            "cluster.yaml and run `vaultpki apply`"
        )
    return ""


def counts(record: RotationRecord, node: Participant, now: datetime) -> tuple[bool, str]:
    """Return whether a gate waits for a node, and if not, why not: "" for a node that has nothing of this CA."""
    surplus = node.report is not None and reasons.surplus(node.report, record.domain)
    if not (node.certificates or node.bundle or node.readers or surplus):
        return False, ""
    if not _live(node, now):
        known = node.report is not None or node.last_expiry is not None
        return False, "has no credential and no certificate that is in date" if known else ""
    if node.locked and node.kind == "pooled":
        return False, words.IS_LOCKED
    if node.kind == "pooled" and node.report is not None and _expired(node, now):
        return False, "its certificates have all expired"
    if node.name in record.excused and not without_refused(record, node, now):
        return False, "is left out by `--without`"
    return True, ""


def _live(node: Participant, now: datetime) -> bool:
    """Return whether the node can log in, or has a certificate that is in date."""
    if node.locked:
        return node.last_expiry is not None and node.last_expiry > now
    return node.credentials != 0 or (node.report is not None and reasons.alive(node.report, now))


def _expired(node: Participant, now: datetime) -> bool:
    ends = [one.not_after for one in node.report.held] if node.report is not None else []
    return any(ends) and not any(end is not None and end > now for end in ends)


def _signer(step: Transition) -> Gate:
    record, ends = step.record, step.signer_ends
    needed = step.now + timedelta(seconds=record.spread + step.longest_ttl + SKEW)
    if record.method is Method.EMERGENCY or ends is None or ends > needed:
        return Gate(opens=record.since, turn=record.turn)
    reason = f"expires at {stamp(ends)}, before certificates of the new CA would: run `vaultpki ca rotate root` first"
    return Gate((Waiting("root", reason),), turn=record.turn)


# The gate opens by itself at these times.
_BY_REQUEST: Final = {
    LeafHolder.KUBELET: (
        "has no certificate of the other CA yet. Its kubelet renews before {last}, when the one it has ends. Sooner: "
        "let it join anew. Or if the node is gone, go on without it: `--without {name}`"
    ),
    LeafHolder.PERSON: "has a certificate of this CA until {last}: a new request in that name replaces it",
}


def _operators(
    record: RotationRecord, operators: Iterable[OperatorLeaf], now: datetime
) -> tuple[list[Waiting], list[Waiting]]:
    by_name: dict[tuple[LeafHolder, str], list[datetime]] = {}
    for leaf in operators:
        if leaf.not_after > now:
            by_name.setdefault((leaf.holder, leaf.name), []).append(leaf.not_after)
    held, excused = [], []
    for (holder, name), ends in sorted(by_name.items(), key=lambda one: (one[0][0].value, one[0][1])):
        if name in record.excused and holder is not LeafHolder.PERSON:
            excused.append(Waiting(name, "is left out by `--without`"))
            continue
        if holder in _BY_REQUEST:
            reason = _BY_REQUEST[holder].format(last=stamp(max(ends)), name=name)
            held.append(Waiting(name, reason, itself=True))
            continue
        verb, last = "expires" if len(ends) == 1 else f"has {len(ends)} certificates, which expire", stamp(max(ends))
        held.append(
            Waiting(
                name,
                f"{verb} at {last}: replace it with `vaultpki issue {name} --dir DIR`, or if nobody uses it go on "
                f"without it (`--without {name}`)",
            )
        )
    return held, excused


def _turn(step: Transition, nodes: Collection[Participant]) -> str:
    """Return the node that may restart what reads the bundle only at its start, or whose hooks wait; "" for none."""
    line = [
        InLine(
            node.name,
            done=_healthy_again(step, node),
            ready=_ready(step, node),
            ailing=reasons.ailing(step, node),
            member=ETCD_MEMBER in node.readers,
        )
        for node in nodes
        if counts(step.record, node, step.now)[0]
    ]
    found = whose_turn(step.record.turn, line)
    # An emergency is an outage, and waits for nobody.
    ailing = [each.name for each in line if each.ailing and step.record.method is not Method.EMERGENCY]
    # One that is ailing has it before those that are not, though it has not read this revision: they wait for it.
    return found if found in ("", step.record.turn, *ailing) else min(ailing, default=found)


def _healthy_again(step: Transition, node: Participant) -> bool:
    """Return whether the node with the turn has reported, after it got that, that it owes nothing and is healthy."""
    report = node.report
    if report is None or not reasons.fresh(step, report):
        return False
    if reasons.owes_restart(step, node) or reasons.ailing(step, node):
        return False
    done = reasons.needs_no_restart(step, node)
    return done or not (step.key in report.owed or step.record.domain in report.waiting)


def _ready(step: Transition, node: Participant) -> bool:
    """Return whether a restart of the node would be useful now: it has the bundle, and owes the restart."""
    report = node.report
    if report is None or not reasons.fresh(step, report) or reasons.needs_no_restart(step, node):
        return False
    if step.path in TRUST_STEPS and not reasons.holds_final(step, report):
        return False
    return reasons.owes_restart(step, node) or step.record.domain in report.waiting
