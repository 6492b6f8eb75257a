"""Decides what the listeners of listed nodes say about a step: whom they accept, and whether they answer; pure.

Reports say what nodes believe; a handshake shows what a process does. What cannot be reached from the operator's
machine is counted and told, and does not keep a step from being taken, unless it was seen accepting the old CA before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from vaultpki.certificates import ISSUING_CAS, ROOT, ca_subject, node_rows, rows
from vaultpki.layout import advertised, listener_cas, listener_port
from vaultpki.model import Cluster, NodeRole
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.readers import start_only
from vaultpki.records.rotation import CaRef, Method, RotationRecord, State
from vaultpki.rotation.reasons import LEAF_STEPS, TRUST_STEPS, command, wanted_cas
from vaultpki.vault.issuer import number


@dataclass(frozen=True, slots=True)
class Listener:
    """A TLS server: the component `component` of the node `node`, at an IP address and a port."""

    node: str
    component: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Said:
    """What a listener said: the subjects of the CAs from which it accepts clients; none if it does not answer.

    `issuer` is the subject of the CA that signed what it presents. `asked` is False if there was no time to ask it, or
    no program.
    """

    accepts: tuple[str, ...] = ()
    asked: bool = True
    issuer: str = ""


Look = Callable[[Cluster, RotationRecord], Mapping[Listener, Said]]
"""What asks the listeners that matter in a rotation; `ca.listeners.probe_listeners` is the one that does it."""


@dataclass(frozen=True, slots=True)
class Looked:
    """A record and the gate before its next step, once listeners were asked; `note` says how many could not be."""

    record: RotationRecord
    gate: Gate
    note: str = ""


def listeners(cluster: Cluster, record: RotationRecord) -> tuple[Listener, ...]:
    """Return the listeners that accept clients of the record's CA, and those of components that restart in turns.

    While leaves of the CA are replaced, those that present one belong to them too.
    """
    replaced = record.state in {state for state, _ in LEAF_STEPS}
    return tuple(
        Listener(node.name, row.source, advertised(cluster, node)[0], port)
        for node in cluster.nodes
        if advertised(cluster, node) and node.name not in record.excused
        for row in node_rows(cluster, node)
        if row.usage.server
        and (
            _accepts(cluster, row.source, record)
            or row.source in _restarting(record)
            or (replaced and row.ca == record.domain)
        )
        if (port := listener_port(cluster, row.name)) is not None
    )


def looked(
    cluster: Cluster,
    record: RotationRecord,
    to: State,
    gate: Gate,
    now: datetime,
    *,
    nodes: Collection[str],
    look: Look | None,
    kept: Callable[[str], Gate],
) -> Looked:
    """Ask the listeners if the step would be taken, or the turn would pass on, and return what that changes.

    `record.turn` is the node that had the turn until now, `gate` what reports say, and `nodes` are those that count.
    `kept` returns the gate if a node keeps the turn.
    """
    # A renewed certificate has the same subject, and is the same CA for whoever accepts it.
    leaves = (record.state, to) in LEAF_STEPS
    compares = (
        (leaves or (record.state, to) in TRUST_STEPS)
        and gate.open(now)
        and record.domain != ROOT
        and record.method is not Method.SAME_KEY
    )
    passes = record.turn in nodes and record.turn not in (gate.turn, *record.excused)
    if look is None or not (compares or passes):
        return Looked(record, held(record, to, gate, nodes))
    said = look(cluster, record)
    if passes and (silent := _silent(cluster.name, record, to, said)):
        gate = kept(record.turn).also([silent])
    elif compares and leaves:
        shown = {each: it for each, it in said.items() if _presents(cluster, each, record.domain)}
        answered = sum(_of_domain(cluster.name, record.domain, it.issuer) for it in shown.values())
        gate = gate.also(_old_leaves(cluster.name, record, to, shown))
        return Looked(record, held(record, to, gate, nodes), _note(_SHOWN[to], len(shown) - answered, len(shown)))
    elif compares:
        trusted = {each: it for each, it in said.items() if _accepts(cluster, each.component, record)}
        answered = sum(_names(cluster.name, record.domain, it) for it in trusted.values())
        gate = gate.also(_wrong(cluster.name, record, to, trusted))
        if to is State.DONE:
            record = _noted(cluster.name, record, trusted)
        return Looked(
            record,
            held(record, to, gate, nodes),
            _note(_ACCEPTED.get(to, "accept the new CA"), len(trusted) - answered, len(trusted)),
        )
    return Looked(record, held(record, to, gate, nodes))


def held(record: RotationRecord, to: State, gate: Gate, nodes: Collection[str]) -> Gate:
    """Return the gate with the nodes that were seen accepting the old CA, and were not seen refusing it since."""
    if (record.state, to) != (State.RETIRED, State.DONE):
        return gate
    seen = [entry.partition("/") for entry in record.accepting]
    more = [
        Waiting(
            node,
            f"its {component} was seen accepting certificates of the old CA, and not refusing them since. Restart it "
            f"there, and look at the file that it reads. If it cannot be reached from here, run then `{command(to)} "
            f"--restarted {node}/{component}`",
        )
        for node, _, component in seen
        if node in nodes and node not in record.excused
    ]
    return gate.also(each for each in more if each.node not in {one.node for one in gate.waiting})


def confirmed(record: RotationRecord, restarted: Collection[str]) -> RotationRecord:
    """Return the record once a person says that components were restarted: what was seen before counts no more."""
    return replace(record, accepting=tuple(entry for entry in record.accepting if entry not in restarted))


def _accepts(cluster: Cluster, component: str, record: RotationRecord) -> bool:
    """Return whether a component accepts clients of the record's CA."""
    everything = rows(cluster)
    servers = (row for row in everything if row.usage.server and row.source == component)
    return any(record.domain in listener_cas(row, everything) for row in servers)


def _presents(cluster: Cluster, listener: Listener, domain: str) -> bool:
    """Return whether a listener presents a certificate of this domain."""
    servers = (row for row in rows(cluster) if row.usage.server and row.source == listener.component)
    return any(row.ca == domain and listener_port(cluster, row.name) == listener.port for row in servers)


def _restarting(record: RotationRecord) -> frozenset[str]:
    """Return the components that read the bundle of this CA, or with the root of any, only when they start."""
    cas = ISSUING_CAS if record.domain == ROOT else (record.domain,)
    return frozenset(each.component for ca in cas for each in start_only(ca, tuple(NodeRole)))


def _silent(cluster: str, record: RotationRecord, to: State, said: Mapping[Listener, Said]) -> Waiting | None:
    """Return that the node with the turn is waited for, since a component there does not answer as others of its kind.

    None if there is none. What names no CA of the cluster is something else, such as a proxy that answers for all.
    """
    components, turn = _restarting(record), record.turn
    here = {each for each, it in said.items() if any(_names(cluster, ca, it) for ca in ISSUING_CAS)}
    for each, it in said.items():
        if each.node != turn or each.component not in components or each in here or not it.asked:
            continue
        if f"{turn}/{each.component}" in record.restarted:
            continue
        for other in (one.node for one in here if (one.component, one.port) == (each.component, each.port)):
            return Waiting(
                turn,
                f"its {each.component} does not answer at port {each.port}, and that of {other} does. Wait until it "
                f"is healthy. Or if only this machine cannot reach it, run `{command(to)} --restarted "
                f"{turn}/{each.component}`",
            )
    return None


def _subject(cluster: str, domain: str, ca: CaRef) -> str:
    return f"CN={ca_subject(cluster, domain, number(ca.name))}"


def _names(cluster: str, domain: str, said: Said) -> bool:
    """Return whether a listener names a CA of this domain of the cluster; if of none, it is not a component of it."""
    return any(_of_domain(cluster, domain, name) for name in said.accepts)


def _of_domain(cluster: str, domain: str, subject: str) -> bool:
    first = f"CN={ca_subject(cluster, domain)}"
    return subject == first or subject.startswith(f"{first} ")


def _old_leaves(cluster: str, record: RotationRecord, to: State, said: Mapping[Listener, Said]) -> Iterator[Waiting]:
    """Yield the nodes with listeners that present a certificate of the CA that is to leave, whatever lies on disk.

    A kubelet before Kubernetes 1.36 does so with the pair of its start, for callers by IP address (PR 133654 there).
    """
    which = "new" if to is State.STEADY else "old"
    for each, it in said.items():
        of_new = record.new is not None and it.issuer == _subject(cluster, record.domain, record.new)
        if of_new if to is State.STEADY else _of_old(cluster, record, (it.issuer,)):
            what = f"its {each.component} at port {each.port} still presents a certificate of the {which} CA"
            yield Waiting(each.node, f"{what}. Restart it there, and run `{command(to)}`")


def _wrong(cluster: str, record: RotationRecord, to: State, said: Mapping[Listener, Said]) -> Iterator[Waiting]:
    """Yield the nodes with listeners whose CAs are not those that the step waits for."""
    for each, it in said.items():
        if not _names(cluster, record.domain, it):
            continue
        found = []
        if to in (State.DONE, State.STEADY):
            which = "old" if to is State.DONE else "deleted"
            gone = record.old if record.new is None else record.new
            deleted = _subject(cluster, record.domain, gone) in it.accepts
            accepts = _of_old(cluster, record, it.accepts) if to is State.DONE else deleted
            found += [f"still accepts certificates of the {which} CA"] * accepts
        else:
            lacks = [ca for ca in wanted_cas(record, to) if _subject(cluster, record.domain, ca) not in it.accepts]
            found += [f"does not accept certificates of the {'new' if ca is record.new else 'old'} CA" for ca in lacks]
        for what in found:
            how = f"Restart it there, look at the file that it reads, and run `{command(to)}`"
            yield Waiting(each.node, f"its {each.component} at port {each.port} {what}. {how}")


def _of_old(cluster: str, record: RotationRecord, subjects: Collection[str]) -> bool:
    """Return whether one of these is the subject of the old CA; of one that the server does not have none is known."""
    if not record.drops or record.new is None:
        return _subject(cluster, record.domain, record.old) in subjects
    new = _subject(cluster, record.domain, record.new)
    return any(each != new and _of_domain(cluster, record.domain, each) for each in subjects)


def _noted(cluster: str, record: RotationRecord, said: Mapping[Listener, Said]) -> RotationRecord:
    """Return the record with the components that were seen accepting the old CA, without those seen refusing it.

    A person's word of before such a sighting counts no more.
    """
    by_component: dict[str, list[Said]] = {}
    for each, it in said.items():
        by_component.setdefault(f"{each.node}/{each.component}", []).append(it)
    accepting = {
        name for name, all_ in by_component.items() if any(_of_old(cluster, record, it.accepts) for it in all_)
    }
    refusing = {
        name for name, all_ in by_component.items() if all(_names(cluster, record.domain, it) for it in all_)
    } - accepting
    return replace(
        record,
        accepting=tuple(sorted((set(record.accepting) | accepting) - refusing)),
        restarted=tuple(name for name in record.restarted if name not in accepting),
    )


_SHOWN: Final = {
    State.RETIRED: "present a certificate of the new CA",
    State.STEADY: "present a certificate of the old CA",
}
_ACCEPTED: Final = {
    State.DONE: "refuse the old CA",
    State.STEADY: "refuse the deleted CA",
    State.RETURNING: "accept the old CA",
}


def _note(must: str, missed: int, all_: int) -> str:
    """Return how much was not looked at, as a sentence without a full stop; "" if nothing."""
    if not missed:
        return ""
    return f"Could not connect to {missed} of {all_} servers to test that they {must}; the nodes' reports are used"
