"""What listeners' answers mean for a step and for a turn, where no listener is needed to tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.example_cluster import WITH_POOL, load
from helpers.sentences import Way, every_sentence, saying, walked
from vaultpki.model import Cluster
from vaultpki.procedure.gate import Gate
from vaultpki.records.rotation import CaRef, Method, RotationRecord, State
from vaultpki.rotation import listener_trust
from vaultpki.rotation.confirmations import Confirmations
from vaultpki.rotation.listener_trust import Listener, Looked, Said, confirmed, listeners, looked
from vaultpki.rotation.reasons import LEAF_STEPS, TRUST_STEPS, command

NOW = datetime(2027, 1, 1, tzinfo=UTC)
OLD, NEW = "CN=prod etcd CA", "CN=prod etcd CA 2"
OPEN = Gate(opens=NOW)
BOTH = Said((OLD, NEW))
NODES = ("cp-1", "cp-2", "worker-1")


def record(state: State, **changes: object) -> RotationRecord:
    made = RotationRecord("etcd", state, 9, NOW, CaRef("etcd-1", sha256="a" * 64), CaRef("etcd-2", sha256="b" * 64))
    return replace(made, **changes)  # type: ignore[arg-type]


def asked(
    cluster: Cluster, now: RotationRecord, to: State, said: Mapping[str, Said], others: Said = BOTH, gate: Gate = OPEN
) -> Looked:
    """A look in which components such as `cp-1/etcd` answer like this."""

    def look(_: Cluster, record: RotationRecord) -> Mapping[Listener, Said]:
        return {each: said.get(f"{each.node}/{each.component}", others) for each in listeners(cluster, record)}

    return looked(cluster, now, to, gate, NOW, nodes=NODES, look=look, kept=lambda turn: replace(gate, turn=turn))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return load(tmp_path, WITH_POOL)


@pytest.mark.parametrize(
    ("state", "to", "needs"),
    [
        (State.PUBLISHED, State.SWITCHED, {OLD, NEW}),
        (State.RETRUSTING, State.SWITCHED, {OLD, NEW}),
        (State.RETRUSTING, State.RETURNING, {OLD}),
        (State.RETURNING, State.SWITCHED, {NEW}),
    ],
)
def test_listeners_must_accept_the_cas_that_the_step_waits_for(
    cluster: Cluster, state: State, to: State, needs: set[str]
) -> None:
    for only in (OLD, NEW):
        found = asked(cluster, record(state), to, {"cp-2/etcd": Said((only,))})
        assert found.gate.open(NOW) == (needs == {only})
        assert {each.node for each in found.gate.waiting} == (set() if needs == {only} else {"cp-2"})


def test_what_is_no_component_of_the_cluster_or_is_away_is_counted_and_told(cluster: Cluster) -> None:
    for odd in (Said(("CN=proxy",)), Said(), Said(asked=False)):
        found = asked(cluster, record(State.PUBLISHED), State.SWITCHED, {"cp-2/etcd": odd})
        assert found.gate.open(NOW) and found.note.startswith(
            "Could not connect to 2 of 4 servers to test that they accept the new CA"
        )
    assert asked(cluster, record(State.PUBLISHED), State.SWITCHED, {}).note == ""


def test_of_a_ca_that_the_server_does_not_have_every_other_name_of_the_domain_counts(cluster: Cluster) -> None:
    now, leaves = record(State.RETIRED, drops=True), record(State.SWITCHED, drops=True)
    assert asked(cluster, now, State.DONE, {}, Said((NEW,))).gate.open(NOW)
    for name in (OLD, "CN=prod etcd CA 7"):
        found = asked(cluster, now, State.DONE, {"cp-2/etcd": Said((name, NEW))}, Said((NEW,)))
        assert {each.node for each in found.gate.waiting} == {"cp-2"} and found.record.accepting == ("cp-2/etcd",)
        found = asked(cluster, leaves, State.RETIRED, {"cp-2/etcd": Said(BOTH.accepts, issuer=name)}, Said(issuer=NEW))
        assert {each.node for each in found.gate.waiting} == {"cp-2"}


def test_a_renewed_certificate_is_the_same_ca_for_whoever_accepts_it(cluster: Cluster) -> None:
    now = record(State.RETIRED, method=Method.SAME_KEY)
    assert asked(cluster, now, State.DONE, {}).gate.open(NOW)


def test_a_component_refuses_only_if_all_its_listeners_do(cluster: Cluster) -> None:
    now = record(State.RETIRED, accepting=("cp-1/etcd", "cp-9/etcd"))

    def look(_: Cluster, record: RotationRecord) -> Mapping[Listener, Said]:
        peers = Said((NEW,))
        return {each: Said() if each.port == 2379 else peers for each in listeners(cluster, record)}

    found = looked(cluster, now, State.DONE, OPEN, NOW, nodes=NODES, look=look, kept=lambda _: OPEN)
    # One that is no node any more keeps nothing.
    assert [each.node for each in found.gate.waiting] == ["cp-1"] and "cp-1/etcd" in found.record.accepting
    whole = asked(cluster, now, State.DONE, {}, Said((NEW,)))
    assert whole.gate.open(NOW) and whole.record.accepting == ("cp-9/etcd",)


def test_a_persons_word_counts_after_what_was_seen_and_no_longer_than_that(cluster: Cluster) -> None:
    now = record(State.RETIRED, accepting=("cp-1/etcd",), restarted=("cp-2/etcd",))
    assert confirmed(now, ["cp-1/kube-apiserver"]).accepting == ("cp-1/etcd",)
    said = confirmed(now, ["cp-1/etcd"])
    assert said.accepting == ()
    seen = asked(cluster, replace(said, restarted=("cp-1/etcd", "cp-2/etcd")), State.DONE, {"cp-1/etcd": BOTH}, Said())
    assert (seen.record.accepting, seen.record.restarted) == (("cp-1/etcd",), ("cp-2/etcd",))


def test_a_turn_stays_only_where_others_of_the_kind_answer(cluster: Cluster) -> None:
    now, on = record(State.PUBLISHED, turn="cp-1"), Gate(turn="cp-2")
    for component in ("etcd", "kube-apiserver"):
        found = asked(cluster, now, State.SWITCHED, {f"cp-1/{component}": Said()}, gate=on)
        (waits,) = found.gate.waiting
        assert found.gate.turn == "cp-1" and f"its {component} does not answer" in waits.reason
        assert f"`vaultpki ca continue --restarted cp-1/{component}`" in waits.reason
        # A person's word, a node that is gone, and a machine from which nothing answers.
        word = replace(now, restarted=(f"cp-1/{component}",))
        assert asked(cluster, word, State.SWITCHED, {f"cp-1/{component}": Said()}, gate=on).gate == on
        gone = replace(now, turn="cp-9")
        assert asked(cluster, gone, State.SWITCHED, {f"cp-1/{component}": Said()}, gate=on).gate == on
    assert asked(cluster, now, State.SWITCHED, {}, Said(), gate=on).gate == on
    # A proxy that answers at any address is none of the components.
    proxy = asked(cluster, now, State.SWITCHED, {"cp-1/etcd": Said(("CN=proxy",))}, Said(("CN=proxy",)), gate=on)
    assert proxy.gate == on
    # Nor does the step come before the last turn has ended.
    last = asked(cluster, now, State.SWITCHED, {"cp-1/etcd": Said()})
    assert last.gate.turn == "cp-1" and not last.gate.open(NOW)


@pytest.mark.parametrize(
    ("state", "to", "wanted", "leaving"),
    [(State.SWITCHED, State.RETIRED, NEW, OLD), (State.RETURNING, State.STEADY, OLD, NEW)],
)
def test_a_listener_that_presents_a_leaf_of_the_ca_that_leaves_is_waited_for(
    cluster: Cluster, state: State, to: State, wanted: str, leaving: str
) -> None:
    """Whatever its node reports: a component may go on with the pair of its start."""
    right, wrong = Said((OLD, NEW), issuer=wanted), Said((OLD, NEW), issuer=leaving)
    assert asked(cluster, record(state), to, {}, right) == Looked(record(state), OPEN)
    found = asked(cluster, record(state), to, {"cp-2/etcd": wrong}, right)
    assert not found.gate.open(NOW)
    assert {(each.node, each.reason.partition(":")[0].partition(" port ")[0]) for each in found.gate.waiting} == {
        ("cp-2", "its etcd at")
    }
    assert all("still presents a certificate of the" in each.reason for each in found.gate.waiting)


def test_only_listeners_of_the_ca_that_answer_with_its_leaves_count(cluster: Cluster) -> None:
    now, to = record(State.SWITCHED), State.RETIRED
    # kube-apiserver presents a certificate of another CA, whatever it is called.
    assert asked(cluster, now, to, {"cp-1/kube-apiserver": Said(issuer=OLD)}, Said(issuer=NEW)).gate == OPEN
    for odd in (Said(), Said(asked=False), Said(issuer="CN=proxy")):
        found = asked(cluster, now, to, {"cp-2/etcd": odd}, Said(issuer=NEW))
        assert found.gate == OPEN
        assert found.note.startswith(
            "Could not connect to 2 of 4 servers to test that they present a certificate of the new CA"
        )
    kubelets = RotationRecord("kubelet", State.SWITCHED, 9, NOW, CaRef("kubelet-1"), CaRef("kubelet-2"))
    stale = asked(cluster, kubelets, to, {"worker-1/kubelet": Said(issuer="CN=prod kubelet CA")}, Said())
    (told,) = stale.gate.waiting
    assert told.reason.startswith("its kubelet at port 10250 still presents a certificate of the old CA. Restart it ")
    renewed = replace(kubelets, method=Method.SAME_KEY)
    assert asked(cluster, renewed, to, {"worker-1/kubelet": Said(issuer="CN=prod kubelet CA")}, Said()).gate == OPEN


RIGHT = {
    State.DONE: Said((NEW,), issuer=NEW),
    State.STEADY: Said((OLD,), issuer=OLD),
    State.RETIRED: Said((OLD, NEW), issuer=NEW),
    State.SWITCHED: BOTH,
    State.RETURNING: BOTH,
}
Step = tuple[RotationRecord, State, Mapping[str, Said]]


def test_every_reason_of_a_listener_names_a_command_that_ends_it(cluster: Cluster) -> None:
    """Once what the sentence says was done there, or with the word of a person for what cannot be reached."""

    def waits(step: Step) -> list[str]:
        now, to, said = step
        return [each.reason for each in asked(cluster, now, to, said, RIGHT[to]).gate.waiting]

    def after(step: Step, way: Way) -> Step:
        ((name, options),) = way
        now, to, said = step
        assert command(to) == f"vaultpki {name}"
        if options["restarted"]:
            return Confirmations(restarted=options["restarted"]).noted(now), to, said
        return now, to, {}

    met = set[str]()
    with every_sentence(saying(listener_trust)):
        for state, to in sorted(TRUST_STEPS | LEAF_STEPS, key=str):
            for turn in ("", "cp-1"):
                for odd in (Said(), *RIGHT.values(), replace(BOTH, issuer=OLD)):
                    first: Step = (record(state, turn=turn), to, {"cp-1/etcd": odd})
                    met |= walked(first, waits, after)
    assert len(met) >= 8
