"""Every reason for which service-account keys, or their CA, wait names commands, and each of them ends the wait."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from helpers.ca_certificates import ca
from helpers.node.imagined_planes import ISSUING, ImaginedCluster, everybody, steady, until
from helpers.sentences import Way, commands, every_sentence, walked
from vaultpki.kube.token_flags import LegacyToken
from vaultpki.procedure import words
from vaultpki.procedure.gate import Gate
from vaultpki.records.node_report import BundleReport, NodeReport, Seen, TokenKeysReport
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.records.service_account import DepartedKey, Departure, KeyRecord, KeyState, NodeKeys
from vaultpki.token_keys import certificates, gates, starts
from vaultpki.token_keys import course as key_course
from vaultpki.token_keys.gates import KeyTransition, key_gate
from vaultpki.token_keys.holders import KeyHolder, certificates_of
from vaultpki.token_keys.issuer import PublishedKeys
from vaultpki.token_keys.life import TokenLife
from vaultpki.token_keys.states import FREE_KEY_STEPS, KEYS_HOMEWARD, KEYS_ONWARD
from vaultpki.token_keys.words import check_refused, restart_refused

STEPS = sorted(
    {*KEYS_ONWARD.items(), *KEYS_HOMEWARD.items()} - FREE_KEY_STEPS,
    key=lambda step: [each.value for each in step],
)
NEXT = ca("prod service-account CA 2", key="the next one", signer="prod root CA", serial=3)


def reached(state: KeyState) -> ImaginedCluster:
    """Two nodes, all of which have done their part of this state."""
    cluster = steady("cp-1", "cp-2")
    cluster.rotate()
    back = state in (KeyState.RETRUSTING, KeyState.RETURNING)
    until(cluster, KeyState.RETIRED if back else state)
    while cluster.record is not None and cluster.record.state is not state:
        everybody(cluster)
        cluster.operate(back=True)
    for _ in range(9):
        everybody(cluster)
        record = key_course.taken_in(cluster.record, cluster.scene).record
        assert record is not None
        record = key_course.with_turn(record, cluster.scene)
        cluster.write(cluster.record if record == cluster.record else record.changed())
    return cluster


Change = Callable[[KeyHolder, datetime], KeyHolder]


def _keys(**changes: Any) -> Change:
    def change(holder: KeyHolder, _: datetime) -> KeyHolder:
        assert holder.report is not None and holder.keys is not None
        return replace(holder, report=replace(holder.report, token_keys=replace(holder.keys, **changes)))

    return change


def _reader(**changes: Any) -> Change:
    return lambda holder, now: _keys(reader=replace(_known(holder).reader, **changes))(holder, now)


def _known(holder: KeyHolder) -> TokenKeysReport:
    assert holder.keys is not None
    return holder.keys


def _failing(holder: KeyHolder) -> KeyHolder:
    assert holder.report is not None
    return replace(holder, report=replace(holder.report, failures=("service-account keys",)))


GONE = {"started": None, "running": False, "healthy": False, "problem": "no process was seen"}
NOTHING = {"loaded_union": frozenset[str](), "loaded_signing": ""}
CHANGES: Mapping[str, Change] = {
    "silent": lambda holder, _: replace(holder, report=None),
    "a join file is open": lambda holder, now: replace(holder, report=None, join_until=now),
    "locked": lambda holder, _: replace(holder, report=None, locked=True),
    "no keys": lambda holder, now: replace(holder, report=NodeReport(now)),
    "has read a later record": _keys(seen=Seen(1, 999)),
    "has read an older record": _keys(seen=Seen(1, 1)),
    "nothing in sa.pub": _keys(union=frozenset()),
    "it could not write sa.pub": lambda holder, now: _failing(_keys(union=frozenset())(holder, now)),
    "another sa.key": _keys(signing="0" * 64),
    "runs since before": _keys(**NOTHING),
    "not seen to run": lambda holder, now: _reader(**GONE)(_keys(**NOTHING)(holder, now), now),
    "stopped in its turn": lambda holder, now: _reader(**GONE, stopped=now)(_keys(**NOTHING)(holder, now), now),
    "restarted and ill": _reader(healthy=False, problem="/readyz answers 500"),
}


def _records(cluster: ImaginedCluster, to: KeyState) -> Iterator[tuple[KeyRecord, Mapping[str, KeyHolder]]]:
    """What the record may be, and the nodes as they report then: one joins, one has left, one has not made its key."""
    record, holders = cluster.record, dict(cluster.scene.holders)
    assert record is not None
    own = record.nodes["cp-2"]
    for name in ("cp-1", "cp-2"):
        yield replace(record, turn=name), holders
    yield record, {name: each for name, each in holders.items() if name != "cp-2"}
    yield replace(record, nodes={"cp-1": record.nodes["cp-1"]}), holders
    waits = replace(record, nodes={**record.nodes, "cp-2": replace(own, admitted=False)})
    yield waits, holders
    yield waits, {**holders, "cp-1": _keys(**NOTHING)(holders["cp-1"], cluster.now)}
    unmade = replace(record, nodes={**record.nodes, "cp-2": replace(own, certificates={})})
    yield unmade, holders
    yield unmade, {**holders, "cp-2": _keys(own={})(holders["cp-2"], cluster.now)}
    if to is KeyState.DONE:
        more = _known(holders["cp-2"]).union | certificates_of(own, {own.old})
        yield record, {**holders, "cp-2": _keys(union=more)(holders["cp-2"], cluster.now)}
    if to in (KeyState.STEADY, KeyState.RETURNING):
        shared = replace(record, shared="ab" * 32)
        yield (
            replace(shared, nodes={**record.nodes, "cp-2": NodeKeys(own.new, own.new, True, own.certificates)}),
            holders,
        )


def test_every_reason_of_a_node_names_commands_each_of_which_ends_it() -> None:
    met = set()
    with every_sentence((*gates.KEY_GATE_CHECKS, starts.to_start, words.never_reported)):
        for state, to in STEPS:
            cluster = reached(state)
            assert cluster.record is not None
            whole = cluster.record, dict(cluster.scene.holders)
            for record, holders in _records(cluster, to):
                met |= _ended(record, to, holders, cluster, whole)
                for change in CHANGES.values() if "cp-2" in holders and record.nodes == whole[0].nodes else ():
                    changed = {**holders, "cp-2": change(holders["cp-2"], cluster.now)}
                    met |= _ended(record, to, changed, cluster, whole)
    assert len(met) > 20


def _ended(
    record: KeyRecord, to: KeyState, holders: Mapping[str, KeyHolder], cluster: ImaginedCluster, whole: Any
) -> set[str]:
    def after(step: KeyTransition, way: Way) -> KeyTransition:
        for name, options in way:
            if name in ("ca continue", "ca abort") and options["restarted"]:
                (word,) = options["restarted"]
                who = word.partition("/")[0]
                assert restart_refused(step.record, step.holders[who], word) == ""
                step = replace(step, record=replace(step.record, restarted=(*step.record.restarted, who)))
            else:
                assert name in ("admit", "agent", "enroll", "lock", "apply", "ca continue", "ca abort"), name
                step = replace(step, record=whole[0], holders=whole[1])
        return step

    step = KeyTransition(record, to, holders, cluster.now)
    nodes = {each.node for each in key_gate(step).waiting if each.node.startswith("cp-")}
    return set[str]().union(*(walked(step, functools.partial(_told, node), after) for node in nodes))


def _told(node: str, step: KeyTransition) -> list[str]:
    found = (each.reason for each in key_gate(step).waiting if each.node == node)
    return [each for each in found if not each.endswith("whose turn it is")]


OUTSIDE = "https://keys.example.com/jwks"
SHOWN: Mapping[str, Mapping[str, Any]] = {
    "a key set outside was not seen": {"published": (PublishedKeys(OUTSIDE, unseen="timed out"),)},
    "a key set outside lacks keys": {"published": (PublishedKeys(OUTSIDE, ("cp-2",)),)},
    "nobody knows how long tokens live": {"life": TokenLife(None, ("cp-2",))},
    "nobody has looked for tokens that never expire": {"legacy": None},
    "tokens that never expire": {"legacy": (LegacyToken("app/robot", None),)},
}


def test_every_reason_beside_the_nodes_names_commands_each_of_which_ends_it() -> None:
    """Key sets outside of the cluster, tokens that outlive the step, and keys of nodes that have left."""
    met = set()
    with every_sentence((gates._published, gates._home, gates._legacy, gates._life_unknown)):
        # From published the way home is free, and waits for keys of nodes that are gone.
        for state, to in (*STEPS, (KeyState.PUBLISHED, KeyState.STEADY)):
            cluster = reached(state)
            assert cluster.record is not None
            whole = KeyTransition(cluster.record, to, cluster.scene.holders, cluster.now, TokenLife(3600), ())
            gone = DepartedKey("cp-9", "ab" * 32, Departure.REMOVED, cluster.now, NEXT.pem)
            shared = replace(whole, record=replace(cluster.record, shared="ab" * 32, departed=(gone,)))
            dated, own = replace(gone, until=cluster.now), cluster.record.nodes["cp-2"]
            guest = {**cluster.record.nodes, "cp-2": replace(own, old=own.new)}
            for step in (
                *(replace(whole, **changes) for changes in SHOWN.values()),
                shared,
                replace(shared, record=replace(shared.record, departed=(dated,))),
                replace(shared, record=replace(shared.record, nodes=guest)),
            ):
                for node in {each.node for each in key_gate(step).waiting} - {"cp-1", "cp-2"}:
                    met |= walked(step, functools.partial(_told, node), _beside)
    assert len(met) >= 7


def _beside(step: KeyTransition, way: Way) -> KeyTransition:
    for name, options in way:
        if name == "ca jwks":
            step = replace(step, published=tuple(replace(each, lacking=()) for each in step.published))
        elif name == "ca continue" and step.to is KeyState.STEADY and not (options["checked"] or options["without"]):
            if options["kubeconfig"] or options["token_life"]:
                step = _answered(step, options)
            else:
                # It leads onward, where the old keys may go.
                step = replace(step, to=KEYS_ONWARD[step.record.state])
        else:
            assert name in ("ca continue", "ca abort"), name
            step = _answered(step, options)
    return step


def _answered(step: KeyTransition, options: Mapping[str, Any]) -> KeyTransition:
    for word in options["checked"]:
        assert check_refused(step, word) == ""
    record = replace(step.record, checked=(*step.record.checked, *options["checked"]))
    if options["kubeconfig"]:
        step = replace(step, life=TokenLife(3600), legacy=())
    if options["token_life"]:
        record = replace(record, life=3600, stated=True)
    return replace(step, record=record, without_legacy=step.without_legacy or gates.LEGACY in options["without"])


@pytest.mark.parametrize("state", [State.SWITCHED, State.RETIRED, State.RETURNING])
def test_every_reason_of_their_ca_names_commands_each_of_which_ends_it(state: State) -> None:
    """Also where no kube-apiserver was started yet, or its agent cannot see it; forward and on the way back."""
    cluster = steady("cp-1", "cp-2")
    record, known = cluster.record, BundleReport(frozenset({ISSUING.fingerprint, NEXT.fingerprint}), cluster.now)
    assert record is not None
    domain, to = "service-account", {State.SWITCHED: State.RETIRED, State.RETIRED: State.DONE}.get(state, State.STEADY)
    old, new = (CaRef(f"{domain}-{number}", sha256=each.fingerprint) for number, each in ((1, NEXT), (2, ISSUING)))
    rotation = RotationRecord(domain, state, 5, cluster.now, old, new, highest=2)
    signer = ISSUING

    def holder(change: Change | None = None, **seen: int) -> KeyHolder:
        made = cluster.scene.holders["cp-2"] if change is None else change(cluster.scene.holders["cp-2"], cluster.now)
        if made.report is None:
            return made
        revision = Seen(seen.get("revision", 5), seen.get("revision", 5))
        return replace(made, report=replace(made.report, seen={domain: revision}, bundles={domain: known}))

    def waits(keys: KeyRecord, two: KeyHolder, signed: Any = signer) -> list[str]:
        whole = Gate(opens=cluster.now)
        found = certificates.with_unions(rotation, to, whole, signed, keys, {"cp-2": two})
        return [each.reason for each in found.waiting if each.node == "cp-2"]

    only = replace(record, nodes={"cp-2": record.nodes["cp-2"]}, turn="cp-2")
    only = replace(only, revision=record.revision)
    union = frozenset(certificates_of(only.nodes["cp-2"], {1}))
    as_is = _keys(union=union, loaded_union=union)
    assert waits(only, holder(as_is)) == []
    told = [*waits(only, holder(as_is, revision=4)), *waits(only, holder(as_is), NEXT)]
    told += waits(only, holder(_keys(union=frozenset())))
    for name in ("runs since before", "not seen to run", "stopped in its turn", "restarted and ill"):

        def changed(each: KeyHolder, now: datetime, name: str = name) -> KeyHolder:
            return CHANGES[name](as_is(each, now), now)

        two = holder(changed)
        (reason,) = waits(only, two)
        told.append(reason)
        for _, options in commands(reason):
            for word in options.get("restarted", ()):
                assert restart_refused(only, two, word) == ""
                assert waits(replace(only, restarted=("cp-2",)), two) == []
    # One that was stopped before holds nothing, and nobody waits for it.
    before = holder(
        lambda each, now: _reader(**GONE, stopped=now - timedelta(days=9))(_keys(union=union)(each, now), now)
    )
    assert waits(replace(only, turn=""), before) == []
    assert all(commands(reason) for reason in told) and len(told) >= 7
