"""The rotation of an issuing CA on a real server, with nodes that only report what agents would hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.node.reporting_nodes import shown
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.rotations import SPEC, Rotation, rotation_of
from helpers.vault.servers import wait_for
from vaultpki.ca import commands
from vaultpki.certificates import ISSUING_CAS
from vaultpki.errors import ArgumentError, SpecError, StateConflict
from vaultpki.identity import enrol
from vaultpki.pki import x509
from vaultpki.records.rotation import Method, State
from vaultpki.rotation.states import next_state

conformance = pytest.mark.conformance


def test_a_whole_rotation(rotation: Rotation) -> None:
    cluster = rotation.cluster
    (first,) = shown(cluster, "etcd").values()
    assert "rotations" not in cluster.plan()
    record = rotation.begin()
    assert record.state is State.PREPARED and record.new is not None and record.new.key
    assert rotation.names() == ({"etcd-1"}, {"etcd-1", "etcd-2"}, "etcd-1")
    rotation.settled()
    a_plan_says_where_it_stands(rotation)

    assert rotation.moved() is State.PUBLISHED
    a_status_says_where_it_stands(rotation)
    assert rotation.names() == ({"etcd-1", "etcd-2"}, {"etcd-1", "etcd-2"}, "etcd-1")
    second = shown(cluster, "etcd")["etcd-2"]
    assert second.subject.common_name == f"{cluster.name} etcd CA 2" and second.path_length == 0
    assert rotation.record.trust == {first.fingerprint, second.fingerprint}
    assert abs((second.not_after - first.not_after).total_seconds()) < 3600
    rotation.settled()
    # Nobody has read the record yet.
    assert not rotation.advance().moved

    assert rotation.moved() is State.SWITCHED
    assert rotation.names()[2] == "etcd-2" and rotation.signs("etcd-1")
    rotation.settled()

    assert rotation.moved() is State.RETIRED
    assert rotation.names()[2] == "etcd-2" and not rotation.signs("etcd-1")
    assert rotation.record.trust == {second.fingerprint}
    rotation.settled()

    assert rotation.moved() is State.DONE
    assert rotation.names() == ({"etcd-2"}, {"etcd-2"}, "etcd-2")
    assert (
        cluster.read(f"{cluster.prefix}/etcd/config/keys")["default"]
        == cluster.read(f"{cluster.prefix}/etcd/key/etcd-2")["key_id"]
    )
    rotation.settled()
    with pytest.raises(StateConflict, match="no CA of"):
        rotation.advance()
    # And once more, from there: an emergency distrusts first.
    record = rotation.begin(Method.EMERGENCY)
    assert record.state is State.RETIRED and record.spread == 0
    assert record.new is not None and record.trust == {record.new.sha256}
    assert rotation.names()[2] == "etcd-3" and not rotation.signs("etcd-2")
    rotation.settled()
    assert not rotation.advance().moved
    assert rotation.moved() is State.DONE
    assert rotation.names() == ({"etcd-3"}, {"etcd-3"}, "etcd-3")
    rotation.settled()
    cluster.destroy()


def a_plan_says_where_it_stands(rotation: Rotation) -> None:
    cluster = rotation.cluster
    (shown_,) = cluster.plan()["rotations"]
    assert {"domain": "etcd", "state": "prepared", "old": "etcd-1", "new": "etcd-2"}.items() <= shown_.items()
    text = vaultpki("plan", "-f", cluster.file, env=cluster.environment("viewer")).stdout
    assert "etcd CA: being rotated from key 1 of the CA etcd to key 2 of the CA etcd, prepared since" in text
    assert "`vaultpki ca status`" in text.replace("\n    ", " ") and text.endswith("Nothing to change.\n")


def a_status_says_where_it_stands(rotation: Rotation) -> None:
    cluster = rotation.cluster
    cas = {each.domain: each for each in commands.status(cluster.model, rotation.vault, rotation.now)}
    assert list(cas) == ["root", *ISSUING_CAS]
    one, other = cas["etcd"], cas["kubelet"]
    assert (other.record, other.gate, other.name) == (None, None, "kubelet-1")
    assert (one.problem, one.name) == ("", "etcd-1")
    assert (next_state(one.record), next_state(one.record, back=True)) == (State.SWITCHED, State.STEADY)
    assert one.gate is not None and {each.node for each in one.gate.waiting} == {"cp-1", "etcd-2"}
    # Another one begins after this one.
    with pytest.raises(StateConflict, match="the CA etcd is being rotated"):
        commands.rotate(cluster.model, rotation.vault, "kubelet", Method.NEW_KEY, 60, rotation.now)
    with pytest.raises(ArgumentError, match="there is no CA etcdd"):
        commands.rotate(cluster.model, rotation.vault, "etcdd", Method.NEW_KEY, 60, rotation.now)


WAYS = {
    State.PREPARED: [State.STEADY],
    State.PUBLISHED: [State.STEADY],
    State.SWITCHED: [State.RETURNING, State.STEADY],
    State.RETIRED: [State.RETRUSTING, State.RETURNING, State.STEADY],
}


@pytest.mark.parametrize(
    "states",
    [
        pytest.param([State.RETIRED], id="sample", marks=pytest.mark.sample),
        pytest.param([*WAYS], id="each", marks=conformance),
    ],
)
def test_the_way_back_from_each_state(rotation: Rotation, states: list[State]) -> None:
    for number, state in enumerate(states, start=2):
        # The number is not used again.
        new = f"etcd-{number}"
        record = rotation.begin()
        assert record.new is not None and record.new.name == new
        rotation.reach_on(state)
        for wanted in WAYS[state]:
            # A step back takes nobody's trust away, so the first one waits for no report.
            assert rotation.moved(rotation.abort) is wanted
            both = {"etcd-1", new} if wanted is not State.STEADY else {"etcd-1"}
            default = new if wanted is State.RETRUSTING else "etcd-1"
            assert rotation.names() == (both, both, default)
            assert rotation.signs("etcd-1")
            if wanted is State.RETRUSTING:
                # Until nodes trust the old CA again.
                rotation.later()
                blocked = rotation.abort()
                assert not blocked.moved and blocked.gate is not None
                assert {each.node for each in blocked.gate.waiting} == {"cp-1", "etcd-2"}
            if wanted is State.RETURNING:
                assert not rotation.signs(new)
            rotation.settled()
    again = rotation.begin()
    assert again.new is not None and again.new.name == f"etcd-{len(states) + 2}"


@pytest.mark.on_node
@conformance
def test_a_node_that_is_away_is_left_out_by_its_name(clusters: ClusterFactory) -> None:
    rotation = rotation_of(clusters, "kubernetes")
    away = rotation.nodes.pop(0)
    rotation.reach(State.PUBLISHED)
    rotation.reported()
    step = rotation.advance()
    assert not step.moved and step.gate is not None and [each.node for each in step.gate.waiting] == [away.name]
    with pytest.raises(ArgumentError, match="w-17 takes no part in the rotation of kubernetes"):
        rotation.advance(without=("w-17",))
    with pytest.raises(ArgumentError, match="admin takes no part"):
        rotation.advance(restarted=("admin",))
    step = rotation.advance(without=(away.name, "admin"))
    assert step.moved and step.record.excused == ("admin", away.name)
    rotation.reach_on(State.DONE)


@pytest.mark.on_node
@conformance
def test_a_node_that_cluster_yaml_does_not_name_is_not_forgotten(rotation: Rotation) -> None:
    cluster = rotation.cluster
    before = cluster.model
    cluster.write(SPEC.replace("- {name: etcd-2, roles: [etcd], addresses: [10.0.0.12]}\n", ""))
    with pytest.raises(SpecError, match="etcd-2 can log in and is not in"):
        rotation.begin()
    assert before != cluster.model


@conformance
def test_a_renewal_with_the_same_key(rotation: Rotation) -> None:
    cluster = rotation.cluster
    (first,) = shown(cluster, "etcd").values()
    record = rotation.begin(Method.SAME_KEY)
    assert record.new is not None and record.new.name == "etcd-1r2" and record.new.key == record.old.key
    rotation.settled()
    assert rotation.moved() is State.PUBLISHED
    second = shown(cluster, "etcd")["etcd-1r2"]
    assert (second.public_key, second.subject) == (first.public_key, first.subject)
    assert second.fingerprint != first.fingerprint
    rotation.settled()
    for state in (State.SWITCHED, State.RETIRED, State.DONE):
        assert rotation.moved() is state
    rotation.settled()
    assert rotation.names() == ({"etcd-1r2"}, {"etcd-1"}, "etcd-1r2")
    # The next one begins from there.
    rotation.reach(State.DONE)
    assert rotation.names() == ({"etcd-2"}, {"etcd-2"}, "etcd-2")
    rotation.settled()


def waited_for(rotation: Rotation) -> list[tuple[str, str]]:
    """Whom a command that goes on waits for, and why."""
    step = rotation.advance()
    assert not step.moved and step.gate is not None
    return [(each.node, each.reason) for each in step.gate.waiting]


def test_join_files_and_operators_certificates_hold_the_gate(clusters: ClusterFactory, tmp_path: Path) -> None:
    """A join file that nobody has used until it expires, a certificate until it is replaced or revoked."""
    rotation = rotation_of(clusters, "kubernetes")
    cluster, model = rotation.cluster, rotation.cluster.model
    for folder in ("admin", "colleague"):
        cluster.issue("admin", tmp_path / folder)
    who, where = enrol.holder(model, "w-1", "autoscaled"), enrol.place(model, rotation.vault)
    enrol.enroll(model, rotation.vault, "w-1", who, where, wrap_ttl=600)
    enrol.enroll(model, cluster.client("enroller"), "w-2", who, where, wrap_ttl=1)
    rotation.reach(State.PUBLISHED)
    rotation.reported()
    # The server's clock is known to a second, and to less on a busy machine.
    wait_for(lambda: len(waited_for(rotation)) == 1, 60, lambda: str(waited_for(rotation)), pause=0.5)
    step = rotation.advance()
    assert not step.moved and step.gate is not None
    (waiting,) = step.gate.waiting
    assert waiting.node == "w-1" and "has a join file that nobody has used, until 20" in waiting.reason
    assert "end the file: `vaultpki unenroll w-1`" in waiting.reason and "--without w-1" in waiting.reason
    (gate,) = [
        each.gate
        for each in commands.status(model, cluster.client("viewer"), rotation.now)
        if each.domain == "kubernetes"
    ]
    assert gate is not None and gate.waiting == step.gate.waiting
    enrol.unenroll(model, rotation.vault, "w-1", wait=0)
    assert rotation.advance().record.state is State.SWITCHED
    rotation.reported()
    rotation.later(600)
    step = rotation.advance()
    assert not step.moved and step.gate is not None
    (waiting,) = step.gate.waiting
    assert waiting.node == "admin" and "--without admin" in waiting.reason and "2 certificates" in waiting.reason
    cluster.issue("admin", tmp_path / "colleague")
    step = rotation.advance()
    assert not step.moved and step.gate is not None
    assert [(each.node, "2 certificates" in each.reason) for each in step.gate.waiting] == [("admin", False)]
    leaf = x509.read_certificates((tmp_path / "admin" / "admin.crt").read_bytes())[0]
    serial = ":".join(f"{leaf.serial:040x}"[index : index + 2] for index in range(0, 40, 2))
    revoked = cluster.server.api("POST", f"{cluster.prefix}/kubernetes/revoke", {"serial_number": serial})
    assert revoked.status == 200, revoked
    assert rotation.moved() is State.RETIRED
