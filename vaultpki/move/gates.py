"""Decides whether a move may take its next step: the gates of all issuing CAs together, and what a move asks beside.

A node counts with its newest report, wherever that lies. Before its leaves come from the new server, it must have
logged in there and read the record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from vaultpki.ca.facts import longest_ttl, reload, signed_for_operators
from vaultpki.certificates import ROOT, issuing_cas, rows
from vaultpki.errors import ArgumentError, StateConflict
from vaultpki.kube.objects import KubeTrust
from vaultpki.move import credentials, trial
from vaultpki.move.scene import MoveScene
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.procedure.words import AGENT_DOES, WITHOUT
from vaultpki.records.move import LostServer, MoveRecord, of_domain
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.redact import printable
from vaultpki.rotation import gates, root_gates, serving_copy
from vaultpki.rotation.confirmations import Confirmations
from vaultpki.rotation.gates import LeafHolder, OperatorLeaf
from vaultpki.rotation.reasons import Transition
from vaultpki.rotation.states import BACK, FORWARD

SERVER_THERE: Final = "new server"
"""The word for the server to which a cluster moves, where gates name nodes."""

# Before these every node must have been at the new server: its leaves come from there.
INTERCEPTED: Final = (
    "has not reported at the new server, and its credential for that was used. If its agent does not report within "
    "minutes, somebody else has it: run `vaultpki lock {}` for the new server"
)
"""What is said of a node whose credential somebody has taken."""

_KNOWN: Final = frozenset({(State.PUBLISHED, State.SWITCHED), (State.RETRUSTING, State.SWITCHED)})
# In these steps the leaves of operators are of the CA that leaves.
_LEAVING: Final = {(State.SWITCHED, State.RETIRED): "old", (State.RETURNING, State.STEADY): "new"}


def next_of(record: MoveRecord, *, back: bool) -> State | None:
    """Return the state that `continue`, or with `back` `abort`, leads to; None if there is none."""
    if record.state.resting:
        return None
    if back or record.state is State.RETURNING:
        return BACK.get(record.state)
    return FORWARD[record.state]


def own_record(record: MoveRecord, domain: str) -> RotationRecord:
    """Return the record of a CA's rotation that follows from a move, as far as gates read it."""
    return of_domain(record, domain, CaRef(""), CaRef(""))


def confirmed(scene: MoveScene, record: MoveRecord, to: State, said: Confirmations) -> MoveRecord:
    """Return the record with what a person says; raise StateConflict if that does not count."""
    cluster = scene.old.server.cluster
    names = {each.name for each in scene.members}
    words = {serving_copy.WORD, *(row.name for row in rows(cluster) if row.operator)}
    for name in (*said.without, *(word.partition("/")[0] for word in said.restarted)):
        if name not in names and not (name in words and name in said.without):
            raise ArgumentError(
                f"{printable(name)} takes no part in the move; `vaultpki move status{cluster.file_option}` names "
                "those that it waits for"
            )
    cas = issuing_cas(cluster)
    steps = {ca: Transition(own_record(record, ca), to, scene.now) for ca in cas}
    for word in said.restarted:
        name = word.partition("/")[0]
        mine = [(steps[ca], node) for ca in cas for node in scene.counted[ca] if node.name == name]
        if why := gates.restart_refused(word, mine):
            raise StateConflict(_of_move(why))
    for word in said.checked:
        if why := serving_copy.word_refused(own_record(record, serving_copy.DOMAIN), to, word):
            raise StateConflict(_of_move(why))
    for name in said.without:
        for ca in cas:
            node = next((each for each in scene.counted[ca] if each.name == name), None)
            why = gates.without_refused(own_record(record, ca), node, scene.now) if node is not None else ""
            if why:
                raise StateConflict(_of_move(why))
    return record.noted(excused=said.without, restarted=said.restarted, checked=said.checked)


def gate(
    scene: MoveScene, record: MoveRecord, to: State, pods: KubeTrust | None, *, whole: bool = False, keeps: str = ""
) -> Gate:
    """Return what stands before a step. Unless `whole` is wanted, operators' leaves are read once no node is awaited.

    `pods` is what the Kubernetes cluster shows, None without `--kubeconfig`; `keeps` is the node that keeps the turn.
    """
    if (record.state, to) == (State.PREPARED, State.PUBLISHED):
        problems = trial.problems(scene.old.server, scene.new.server, record)
        waiting = tuple(Waiting(SERVER_THERE, each) for each in problems)
        return Gate(waiting, opens=record.since, turn=record.turn)
    found = {ca: _of_ca(scene, record, ca, to, keeps) for ca in issuing_cas(scene.old.server.cluster)}
    unreached = tuple(_unreached(scene, record)) if (record.state, to) in _KNOWN else ()
    awaited = unreached or any(each.waiting for each in found.values())
    if (record.state, to) in _LEAVING and (whole or not awaited):
        found = {ca: _of_ca(scene, record, ca, to, keeps, _operators(scene, record, ca, to)) for ca in found}
    if serving_copy.DOMAIN in found:
        own = own_record(record, serving_copy.DOMAIN)
        found[serving_copy.DOMAIN] = serving_copy.gate(own, to, found[serving_copy.DOMAIN], pods)
    opens = [each.opens for each in found.values() if each.opens is not None]
    waiting = (*unreached, *_unheeded(scene, record), *root_gates.together(Gate(), found))
    waiting += tuple(_of_lost(scene, record, to))
    unversioned: dict[str, tuple[str, ...]] = {}
    for each in found.values():
        for name, components in each.unversioned.items():
            unversioned[name] = tuple(dict.fromkeys((*unversioned.get(name, ()), *components)))
    return Gate(
        waiting=tuple(replace(each, reason=_of_move(each.reason)) for each in waiting),
        excused=tuple(dict.fromkeys(one for each in found.values() for one in each.excused)),
        opens=max(opens) if len(opens) == len(found) else None,
        turn=root_gates.one_turn(record.turn, found.values()),
        unversioned=unversioned,
    )


def _of_ca(
    scene: MoveScene, record: MoveRecord, ca: str, to: State, keeps: str, operators: tuple[OperatorLeaf, ...] = ()
) -> Gate:
    cluster = scene.old.server.cluster
    keys = {side: facts.subject_key_id or "" for side, facts in scene.cas.get(ca, {}).items()}
    own = own_record(record, ca)
    times = reload(cluster, ca), longest_ttl(cluster, ca)
    return gates.gate(Transition(own, to, scene.now, *times, keys, turn=keeps), scene.counted[ca], operators)


def _unreached(scene: MoveScene, record: MoveRecord) -> Iterator[Waiting]:
    """Yield the nodes that have not read the record at the new server with a credential of their own."""
    own, members = own_record(record, "kubernetes"), {each.name: each for each in scene.at_old}
    for node in sorted(scene.counted[ROOT], key=lambda each: each.name):
        if not gates.counts(own, node, scene.now)[0]:
            continue
        there = scene.at_new.get(node.name)
        seen = there.report.move if there is not None and there.report is not None else None
        if seen is not None and seen.number == record.number and seen.revision >= record.revision:
            continue
        own_one = members.get(node.name)
        if own_one is not None and credentials.intercepted(scene.old.server, scene.new.server, record, own_one):
            yield Waiting(node.name, INTERCEPTED.format(node.name))
            continue
        told = node.report.move if node.report is not None else None
        why = f" ({printable(told.error)})" if told is not None and told.error else ""
        yield Waiting(
            node.name,
            f"has not read the record of the move at the new server yet{why}. {AGENT_DOES}. "
            f"{WITHOUT.format(node.name)}",
            itself=not why,
        )


def _unheeded(scene: MoveScene, record: MoveRecord) -> Iterator[Waiting]:
    """Yield the nodes that do not ignore the server which a person has called lost: they may follow what it says.

    A node that has no credential at the new server cannot follow that one.
    """
    lost = scene.lost
    if lost is None:
        return
    own = own_record(record, "kubernetes")
    for node in sorted(scene.counted[ROOT], key=lambda each: each.name):
        if not gates.counts(own, node, scene.now)[0]:
            continue
        told = node.report.move if node.report is not None else None
        if told is not None and told.revision == record.revision:
            if told.ignores == lost.value or told.number != record.number:
                continue
            why = f"still asks the {lost.value} server, which a person has called lost: it ignores that one after "
            why += "three passes that do not reach it. If it does reach it, run `vaultpki move continue --found`"
        else:
            why = f"has not read yet that the {lost.value} server is lost"
        yield Waiting(node.name, f"{why}. {AGENT_DOES}. {WITHOUT.format(node.name)}", itself=True)


def _of_lost(scene: MoveScene, record: MoveRecord, to: State) -> Iterator[Waiting]:
    """Yield the operators' certificates of the CA that is to leave, where that one's server cannot say which live."""
    if scene.lost is None or (record.state, to) not in _LEAVING:
        return
    stays, at_new = scene.side(scene.asked[0]).server, scene.lost is LostServer.OLD
    for row in (each for each in rows(stays.cluster) if each.operator and each.ca in scene.cas):
        ca = scene.cas[row.ca].get("new" if at_new else "old")
        since = None if at_new else record.since
        signed = signed_for_operators(stays.cluster, stays.vault, ca, row.ca, scene.now, since) if ca else ()
        if row.name in record.excused or any(each.name == row.name for each in signed):
            continue
        yield Waiting(
            row.name,
            f"may have certificates that the {scene.lost.value} server has signed, which cannot be listed any more. "
            f"Issue it anew (`vaultpki issue {row.name}`), or, if nobody uses one, add `--without {row.name}`",
        )


def _operators(scene: MoveScene, record: MoveRecord, ca: str, to: State) -> tuple[OperatorLeaf, ...]:
    """Return the operators' leaves of the CA that is to leave, as far as they were not replaced.

    Each CA's lie on its own server. On the way back only a certificate of this state replaces one.
    """
    leaving = _LEAVING[record.state, to]
    if scene.lost is not None:
        return ()
    of_old, of_new = scene.cas[ca].get("old"), scene.cas[ca].get("new")
    if of_old is None or of_new is None:
        return ()
    since = record.since if leaving == "new" else None
    old, new = scene.old.server, scene.new.server
    by_old = signed_for_operators(old.cluster, old.vault, of_old, ca, scene.now, since)
    by_new = signed_for_operators(new.cluster, new.vault, of_new, ca, scene.now)
    gone, stays = (by_old, by_new) if leaving == "old" else (by_new, by_old)
    names = [each.name for each in stays if each.holder is LeafHolder.OPERATOR]
    return gates.unreplaced((each for each in gone if each.holder is LeafHolder.OPERATOR), names)


def _of_move(sentence: str) -> str:
    """Return a sentence on a CA's rotation with the commands of a move."""
    for word in ("continue", "abort", "status"):
        sentence = sentence.replace(f"`vaultpki ca {word}", f"`vaultpki move {word}")
    return sentence
