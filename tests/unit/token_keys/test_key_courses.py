"""Courses of service-account keys, step by step: joins, rotations and back, removed and stolen nodes, emergencies."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from helpers.node.imagined_planes import (
    NAME,
    SHARED,
    ImaginedCluster,
    ImaginedPlane,
    everybody,
    join,
    of_kubeadm,
    settle,
    steady,
    unborn,
    until,
)
from helpers.token_key_certificates import certified
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.records.service_account import Departure, KeyMethod, KeyState
from vaultpki.token_keys import beginning
from vaultpki.token_keys import course as key_course
from vaultpki.token_keys import gates as key_gates
from vaultpki.token_keys import turns as key_turns
from vaultpki.token_keys.holders import refused_at
from vaultpki.token_keys.steps import KeysSaid, next_record


def test_from_nothing_to_two() -> None:
    cluster = steady("cp-1", "cp-2")
    assert cluster.at_rest(KeyState.STEADY)
    assert cluster.record is not None and all(keys.admitted for keys in cluster.record.nodes.values())


def test_all_nodes_of_an_empty_cluster_start_at_once() -> None:
    cluster = unborn("cp-1", "cp-2", "cp-3")
    assert all(plane.held.signing is None for plane in cluster.planes.values())
    cluster.operate()
    assert cluster.record is not None and all(keys.admitted for keys in cluster.record.nodes.values())
    # In any order, and with time between.
    for name in ("cp-3", "cp-1", "cp-2"):
        plane = cluster.planes[name]
        plane.passed(cluster.record, cluster.now, reports=True)
        assert plane.may and len(plane.held.union) == 3
        plane.start(cluster.now)
        cluster.check()
        cluster.later(70)
    everybody(cluster)
    assert not cluster.operate() and cluster.at_rest(KeyState.STEADY)


def test_where_a_node_has_sa_key_only_one_begins() -> None:
    """As where the record was lost: what that node runs with is not known."""
    cluster = steady("cp-1", "cp-2")
    cluster.record = None
    for plane in cluster.planes.values():
        plane.highest = 0
    everybody(cluster)
    cluster.operate()
    assert cluster.record is not None
    assert [name for name, keys in cluster.record.nodes.items() if keys.admitted] == ["cp-1"]
    settle(cluster, KeyState.STEADY, back=False)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_on_and_back(count: int) -> None:
    cluster = steady(*(f"cp-{number + 1}" for number in range(count)))
    for state in (KeyState.PUBLISHED, KeyState.SWITCHED, KeyState.RETIRED):
        cluster.rotate()
        until(cluster, state)
        settle(cluster, KeyState.STEADY, back=True)
    cluster.rotate()
    settle(cluster, KeyState.DONE, back=False)


def test_from_the_key_of_all_and_back_and_on() -> None:
    cluster = of_kubeadm("cp-1", "cp-2")
    everybody(cluster)
    # Nobody's own key is taken in while the others run with another one.
    cluster.operate()
    assert cluster.record is None
    for state in (KeyState.PUBLISHED, KeyState.SWITCHED, KeyState.RETIRED):
        everybody(cluster)
        cluster.rotate()
        assert cluster.record is not None and cluster.record.shared
        until(cluster, state)
        settle(cluster, KeyState.STEADY, back=True)
    cluster.rotate()
    settle(cluster, KeyState.DONE, back=False)
    everybody(cluster)
    assert cluster.record is not None and not cluster.record.shared
    assert all(SHARED not in plane.private.values() for plane in cluster.planes.values())


@pytest.mark.parametrize("on", [False, True])
def test_one_that_joins_without_the_key_of_all_bars_the_way_back(on: bool) -> None:
    cluster = of_kubeadm("cp-1", "cp-2")
    everybody(cluster)
    cluster.rotate()
    cluster.planes["cp-3"] = ImaginedPlane("cp-3")
    join(cluster, cluster.planes["cp-3"])
    until(cluster, KeyState.SWITCHED)
    assert cluster.operate(back=True) and cluster.record is not None
    for _ in range(12):
        everybody(cluster)
        cluster.operate(back=True)
        cluster.later(600)
    assert cluster.record.state is KeyState.RETURNING
    if on:
        settle(cluster, KeyState.DONE, back=False)
        return
    # It is removed, and its tokens end.
    cluster.planes["cp-3"].gone = True
    everybody(cluster)
    cluster.operate(back=True)
    assert [each.node for each in cluster.record.departed] == ["cp-3"]
    settle(cluster, KeyState.STEADY, back=True)
    assert not cluster.record.departed


@pytest.mark.parametrize("state", [KeyState.STEADY, KeyState.PUBLISHED, KeyState.SWITCHED, KeyState.RETIRED])
def test_the_key_of_a_removed_node_counts_for_the_life_of_its_tokens(state: KeyState) -> None:
    cluster = steady("cp-1", "cp-2", "cp-3")
    if state is not KeyState.STEADY:
        cluster.rotate()
        until(cluster, state)
    everybody(cluster)
    gone = cluster.planes["cp-3"]
    gone.gone = True
    last = cluster.now
    cluster.operate()
    assert cluster.record is not None and "cp-3" not in cluster.record.nodes
    mine = {facts.public_key for facts in gone.held.own.values()}
    while cluster.now < last + timedelta(seconds=3600):
        everybody(cluster)
        cluster.operate()
        assert gone.signs is not None and gone.signs.public_key in {each.public_key for each in offered(cluster)}
        cluster.later(500)
    for _ in range(9):
        everybody(cluster)
        cluster.operate()
        cluster.later(200)
    assert not mine & {each.public_key for each in offered(cluster)}
    # Whoever writes records does not bring it back.
    everybody(cluster)
    assert gone.held.signing is not None
    assert all(cluster.planes[name].held.lowest["cp-3"] > gone.held.signing for name in ("cp-1", "cp-2"))
    # A node of that name which joins again gets a number that was never given.
    cluster.planes["cp-3"] = again = ImaginedPlane("cp-3", locked=True)
    assert cluster.record.numbers("cp-3") == (cluster.record.highest["cp-3"] + 1,)
    again.locked = False
    join(cluster, again)


@pytest.mark.parametrize("state", [KeyState.STEADY, KeyState.PUBLISHED, KeyState.SWITCHED, KeyState.RETIRED])
def test_the_key_of_a_stolen_node_leaves_at_once_by_turns(state: KeyState) -> None:
    cluster = steady("cp-1", "cp-2", "cp-3")
    if state is not KeyState.STEADY:
        cluster.rotate()
        until(cluster, state)
    everybody(cluster)
    stolen = cluster.planes["cp-3"]
    keys = {facts.public_key for facts in stolen.held.own.values()}
    cluster.stolen |= keys
    stolen.locked, stolen.running = True, False
    assert cluster.record is not None
    cluster.write(beginning.stolen(cluster.record, "cp-3", cluster.now))
    assert not keys & {each.public_key for each in offered(cluster)}
    (one, *_) = [each for each in cluster.record.departed if each.why is Departure.STOLEN]
    assert key_turns.still_accepted_by(cluster.record, cluster.scene.holders, one.sha256) == ("cp-1", "cp-2")
    seen = set()
    for _ in range(12):
        for name in ("cp-1", "cp-2"):
            cluster.planes[name].passed(cluster.record, cluster.now, reports=True)
        cluster.operate(back=state is KeyState.PUBLISHED and cluster.record.active)
        seen.add(cluster.record.turn)
        cluster.later(70)
    for name in ("cp-1", "cp-2"):
        assert not keys & {facts.public_key for facts in cluster.planes[name].memory}
    assert {"cp-1", "cp-2"} <= seen
    assert not [each for each in cluster.record.departed if each.why is Departure.STOLEN]
    assert cluster.record.lowest["cp-3"] == cluster.record.highest["cp-3"] + 1


def ends_without(cluster: ImaginedCluster, old: set[bytes]) -> None:
    """It comes to its end, and nobody accepts tokens of the old keys."""
    for _ in range(30):
        for plane in cluster.planes.values():
            plane.passed(cluster.record, cluster.now, reports=True)
        cluster.operate()
        cluster.now += timedelta(seconds=70)
    assert cluster.at_rest(KeyState.DONE)
    assert all(not old & {facts.public_key for facts in plane.memory} for plane in cluster.planes.values())


def test_an_emergency_distrusts_first_and_has_no_way_back() -> None:
    cluster = steady("cp-1", "cp-2")
    old = {facts.public_key for plane in cluster.planes.values() for facts in plane.held.own.values()}
    cluster.stolen |= old
    cluster.write(beginning.begun(cluster.record, cluster.scene, KeyMethod.EMERGENCY))
    assert cluster.record is not None and cluster.record.state is KeyState.RETIRED
    assert not old & {each.public_key for each in offered(cluster)}
    assert not cluster.operate(back=True) and cluster.record.state is KeyState.RETIRED
    # New keys are known nowhere yet: this is the outage that a person has confirmed.
    cluster.alive = {}
    ends_without(cluster, old)


@pytest.mark.parametrize("state", [KeyState.STEADY, *(each for each in KeyState if not each.resting)])
def test_an_emergency_begins_in_every_state_and_is_remembered(state: KeyState) -> None:
    """The keys of nodes that have left go too, and nobody brings an old key back by another record."""
    cluster = steady("cp-1", "cp-2", "cp-3")
    if state is not KeyState.STEADY:
        cluster.rotate()
        for wanted in WAYS.get(state, (state,)):
            if wanted in (KeyState.RETRUSTING, KeyState.RETURNING):
                while cluster.record is not None and cluster.record.state is not wanted:
                    everybody(cluster)
                    cluster.operate(back=True)
            else:
                until(cluster, wanted)
    cluster.planes["cp-3"].gone = True
    cluster.operate()
    assert cluster.record is not None and cluster.record.state is state and cluster.record.departed
    everybody(cluster)
    old = {each.public_key for each in offered(cluster)}
    cluster.stolen |= old
    cluster.write(beginning.begun(cluster.record, cluster.scene, KeyMethod.EMERGENCY))
    assert cluster.record.state is KeyState.RETIRED and not cluster.record.offered
    distrusted, cluster.alive = cluster.record, {}
    for _ in range(30):
        for plane in cluster.planes.values():
            if not plane.gone:
                plane.passed(cluster.record, cluster.now, reports=True)
        cluster.operate()
        if cluster.record.state is KeyState.RETIRED:
            assert {name: keys.new for name, keys in distrusted.nodes.items()}.items() <= cluster.record.lowest.items()
            assert cluster.record.lowest["cp-3"] == cluster.record.highest["cp-3"] + 1
        cluster.now += timedelta(seconds=70)
    assert cluster.at_rest(KeyState.DONE) and not cluster.record.departed
    for name in ("cp-1", "cp-2"):
        assert not old & {each.public_key for each in cluster.planes[name].memory}
        lowest = cluster.planes[name].held.lowest
        assert all(number >= lowest[name] for number in cluster.planes[name].held.own) and lowest["cp-3"] > 1


WAYS = {
    KeyState.RETRUSTING: (KeyState.RETIRED, KeyState.RETRUSTING),
    KeyState.RETURNING: (KeyState.SWITCHED, KeyState.RETURNING),
}


def test_an_emergency_begins_where_the_record_was_lost() -> None:
    """Whoever writes records can delete it, and keeps no stolen key in use by that."""
    cluster = steady("cp-1", "cp-2")
    cluster.rotate()
    settle(cluster, KeyState.DONE, back=False)
    assert cluster.record is not None
    highest = cluster.record.revision
    old = {facts.public_key for plane in cluster.planes.values() for facts in plane.held.own.values()}
    cluster.record, cluster.alive = None, {}
    cluster.stolen |= old
    given = replace(cluster.scene, given={"cp-1": (2,), "cp-2": (2,)})
    begun = beginning.begun(None, given, KeyMethod.EMERGENCY)
    assert {name: (keys.old, keys.new) for name, keys in begun.nodes.items()} == {"cp-1": (2, 3), "cp-2": (2, 3)}
    cluster.record = replace(begun, revision=highest + 1)
    ends_without(cluster, old)


@pytest.mark.parametrize("rotating", [False, True])
def test_a_key_that_another_node_takes_for_retired_is_replaced_alone(rotating: bool) -> None:
    """At rest nobody waits for it, and a rotation waits for ever: a person says it, and all comes to rest."""
    cluster = steady("cp-1", "cp-2", "cp-3")
    if rotating:
        cluster.rotate()
        everybody(cluster)
    two, signs = cluster.planes["cp-2"], cluster.planes["cp-1"].signs
    assert cluster.record is not None and signs is not None
    two.held = replace(two.held, lowest={**two.held.lowest, "cp-1": 2})
    cluster.operate()
    everybody(cluster)
    assert refused_at(cluster.record, two.holder) == ("cp-1",)
    if rotating:
        step = key_gates.KeyTransition(cluster.record, KeyState.SWITCHED, cluster.scene.holders, cluster.now)
        reasons = {each.node: each for each in key_gates.key_gate(step).waiting}
        assert "`vaultpki ca continue --replaced cp-1`" in reasons["cp-2"].reason and not reasons["cp-2"].itself
    # Who restarts refuses it from now on, whatever is done.
    cluster.stolen.add(signs.public_key)
    others = {name: keys for name, keys in cluster.record.nodes.items() if name != "cp-1"}
    cluster.write(next_record(cluster.record, cluster.scene, KeysSaid(replaced=["cp-1", "cp-3"])).record)
    assert {name: keys for name, keys in cluster.record.nodes.items() if name != "cp-1"} == others
    settle(cluster, KeyState.DONE if rotating else KeyState.STEADY, back=False)
    assert not refused_at(cluster.record, two.holder)


def test_it_is_said_that_others_have_the_key_that_is_taken_out() -> None:
    cluster = of_kubeadm("cp-1", "cp-2")
    everybody(cluster)
    cluster.rotate()
    until(cluster, KeyState.SWITCHED)
    assert cluster.record is not None
    assert beginning.counts_elsewhere(cluster.record, "cp-2").startswith("cp-1 has the same key as cp-2")
    assert not beginning.counts_elsewhere(cluster.record, "cp-9")
    cluster.write(beginning.begun(cluster.record, cluster.scene, KeyMethod.EMERGENCY))
    assert not beginning.counts_elsewhere(cluster.record, "cp-2")


def test_a_key_that_another_node_has_is_not_taken_in() -> None:
    cluster = steady("cp-1")
    cluster.planes["cp-2"] = clone = ImaginedPlane("cp-2")
    clone.passed(cluster.record, cluster.now, reports=True)
    key = cluster.planes["cp-1"].private[1]
    clone.held = replace(clone.held, own={1: certified("sa:cp-2:1", key, signer=NAME)})
    clone.passed(cluster.record, cluster.now, reports=True)
    found = key_course.taken_in(cluster.record, cluster.scene)
    assert found.record is not None and "cp-2" not in found.record.nodes
    assert found.notes == (
        "cp-2 reports a key that does not count: cp-1 has the same private key, which no two machines may have",
    )


def offered(cluster: ImaginedCluster) -> list[Facts]:
    assert cluster.record is not None
    return [facts for pem in cluster.record.offered for facts in x509.readable(pem)]


@pytest.mark.parametrize("echo", [True, False])
def test_a_report_of_an_earlier_record_opens_no_gate(echo: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """cp-2 has dropped the old keys in RETIRED and could not say so; on the way back its report of before says both."""
    if not echo:
        for module in (key_gates, key_turns):
            monkeypatch.setattr(module, "fresh", lambda record, holder: holder.keys is not None)
    cluster = steady("cp-1", "cp-2")
    cluster.rotate()
    while cluster.record is not None and cluster.record.state is not KeyState.RETIRED:
        everybody(cluster)
        cluster.operate()
        cluster.later(600)
    two = cluster.planes["cp-2"]
    two.passed(cluster.record, cluster.now, reports=False)
    two.start(cluster.now)
    assert cluster.operate(back=True)
    cluster.planes["cp-1"].passed(cluster.record, cluster.now, reports=True)
    cluster.later(600)
    # The next step would have cp-1 sign with its old key.
    assert cluster.operate(back=True) is not echo
    if not echo:
        one = cluster.planes["cp-1"]
        one.passed(cluster.record, cluster.now, reports=True)
        one.start(cluster.now)
        with pytest.raises(AssertionError, match="cp-2 refuses"):
            cluster.check()
