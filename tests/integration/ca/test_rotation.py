"""The rotation of an issuing CA on a real server, with nodes that only report what agents would hold."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from helpers.node.reporting_nodes import shown
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.rotations import SPEC, Rotation, rotation_of
from vaultpki.ca import commands
from vaultpki.certificates import ISSUING_CAS
from vaultpki.errors import ArgumentError, SpecError, StateConflict
from vaultpki.identity import access, enrol
from vaultpki.pki import x509
from vaultpki.records.rotation import Method, State


def test_a_whole_rotation(rotation: Rotation) -> None:
    cluster = rotation.cluster
    (first,) = shown(cluster, "etcd").values()
    record = rotation.begin()
    assert record.state is State.PREPARED and record.new is not None and record.new.key
    assert rotation.names() == ({"etcd-1"}, {"etcd-1", "etcd-2"}, "etcd-1")
    rotation.settled()

    assert rotation.moved() is State.PUBLISHED
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
    # And once more, from there.
    rotation.reach(State.DONE)
    assert rotation.names() == ({"etcd-3"}, {"etcd-3"}, "etcd-3")
    rotation.settled()
    cluster.destroy()


@pytest.mark.parametrize(
    "state",
    [
        *(pytest.param(each, marks=pytest.mark.conformance) for each in (State.PREPARED, State.PUBLISHED)),
        pytest.param(State.SWITCHED, marks=pytest.mark.conformance),
        State.RETIRED,
    ],
)
def test_the_way_back_from_each_state(rotation: Rotation, state: State) -> None:
    rotation.reach(state)
    ways = {
        State.PREPARED: [State.STEADY],
        State.PUBLISHED: [State.STEADY],
        State.SWITCHED: [State.RETURNING, State.STEADY],
        State.RETIRED: [State.RETRUSTING, State.RETURNING, State.STEADY],
    }
    for wanted in ways[state]:
        # A step back takes nobody's trust away, so the first one waits for no report.
        assert rotation.moved(rotation.abort) is wanted
        both = {"etcd-1", "etcd-2"} if wanted is not State.STEADY else {"etcd-1"}
        default = "etcd-2" if wanted is State.RETRUSTING else "etcd-1"
        assert rotation.names() == (both, both, default)
        assert rotation.signs("etcd-1")
        if wanted is State.RETURNING:
            assert not rotation.signs("etcd-2")
        rotation.settled()
    # The number is not used again.
    again = rotation.begin()
    assert again.new is not None and again.new.name == "etcd-3"


def test_plan_and_status_say_where_it_stands(rotation: Rotation) -> None:
    cluster = rotation.cluster
    assert "rotations" not in cluster.plan()
    rotation.begin()
    (shown_,) = cluster.plan()["rotations"]
    assert {"domain": "etcd", "state": "prepared", "old": "etcd-1", "new": "etcd-2"}.items() <= shown_.items()
    text = vaultpki("plan", "-f", cluster.file, env=cluster.environment("viewer")).stdout
    assert "etcd CA: being rotated from etcd-1 to etcd-2, prepared since" in text
    assert "`vaultpki ca status`" in text.replace("\n    ", " ") and text.endswith("Nothing to change.\n")
    assert rotation.moved() is State.PUBLISHED
    cas = {each.domain: each for each in commands.status(cluster.model, rotation.vault, rotation.now)}
    assert list(cas) == ["root", *ISSUING_CAS]
    one, other = cas["etcd"], cas["kubelet"]
    assert (other.record, other.next, other.gate, other.name) == (None, None, None, "kubelet-1")
    assert (one.next, one.back, one.problem, one.name) == (State.SWITCHED, State.STEADY, "", "etcd-1")
    assert one.gate is not None and {each.node for each in one.gate.waiting} == {"cp-1", "etcd-2"}
    # Another one begins after this one.
    with pytest.raises(StateConflict, match="the CA etcd is being rotated"):
        commands.rotate(cluster.model, rotation.vault, "kubelet", Method.NEW_KEY, 60, rotation.now)
    with pytest.raises(ArgumentError, match="there is no CA etcdd"):
        commands.rotate(cluster.model, rotation.vault, "etcdd", Method.NEW_KEY, 60, rotation.now)


@pytest.mark.conformance
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


@pytest.mark.conformance
def test_the_applier_suffices(rotation: Rotation) -> None:
    server, cluster = rotation.cluster.server, rotation.cluster
    name = f"applier-{cluster.name}"
    rules = {"path": access.policy("applier.json", {"prefix": cluster.prefix})}
    assert server.api("PUT", f"sys/policies/acl/{name}", {"policy": json.dumps(rules)}).status in (200, 204)
    token = server.api("POST", "auth/token/create", {"policies": [name]}).body["auth"]["client_token"]
    rotation.vault = rotation.vault.as_token(token)
    rotation.reach(State.RETIRED)
    for state in (State.RETRUSTING, State.RETURNING, State.STEADY):
        assert rotation.moved(rotation.abort) is state
    rotation.reach(State.DONE)


@pytest.mark.conformance
def test_a_node_that_cluster_yaml_does_not_name_is_not_forgotten(rotation: Rotation) -> None:
    cluster = rotation.cluster
    before = cluster.model
    cluster.write(SPEC.replace("- {name: etcd-2, roles: [etcd], addresses: [10.0.0.12]}\n", ""))
    with pytest.raises(SpecError, match="etcd-2 can log in and is not in"):
        rotation.begin()
    assert before != cluster.model


def test_operators_certificates_hold_the_gate_until_they_are_replaced_or_revoked(
    clusters: ClusterFactory, tmp_path: Path
) -> None:
    rotation = rotation_of(clusters, "kubernetes")
    cluster = rotation.cluster
    for folder in ("admin", "colleague"):
        cluster.issue("admin", tmp_path / folder)
    rotation.reach(State.SWITCHED)
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


@pytest.mark.conformance
def test_the_way_back_waits_until_nodes_trust_the_old_ca(rotation: Rotation) -> None:
    rotation.reach(State.RETIRED)
    rotation.reported()
    assert rotation.abort().record.state is State.RETRUSTING
    rotation.later()
    blocked = rotation.abort()
    assert not blocked.moved and blocked.gate is not None
    assert {each.node for each in blocked.gate.waiting} == {"cp-1", "etcd-2"}
    # On again, instead of back.
    assert rotation.moved() is State.SWITCHED


def test_an_emergency_distrusts_first(rotation: Rotation) -> None:
    record = rotation.begin(Method.EMERGENCY)
    assert record.state is State.RETIRED and record.spread == 0
    assert record.new is not None and record.trust == {record.new.sha256}
    assert rotation.names()[2] == "etcd-2" and not rotation.signs("etcd-1")
    rotation.settled()
    assert not rotation.advance().moved
    assert rotation.moved() is State.DONE
    assert rotation.names() == ({"etcd-2"}, {"etcd-2"}, "etcd-2")


@pytest.mark.conformance
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


def test_a_join_file_that_nobody_has_used_is_named_until_it_expires(clusters: ClusterFactory) -> None:
    rotation = rotation_of(clusters, "kubernetes")
    cluster, model = rotation.cluster, rotation.cluster.model
    who, where = enrol.holder(model, "w-1", "autoscaled"), enrol.place(model, rotation.vault)
    enrol.enroll(model, rotation.vault, "w-1", who, where, wrap_ttl=600)
    enrol.enroll(model, cluster.client("enroller"), "w-2", who, where, wrap_ttl=1)
    rotation.reach(State.PUBLISHED)
    rotation.reported()
    time.sleep(1.5)
    step = rotation.advance()
    assert not step.moved and step.gate is not None
    (waiting,) = step.gate.waiting
    assert waiting.node == "w-1" and "has a join file that nobody has used, until 20" in waiting.reason
    assert "end the file (`vaultpki unenroll w-1`)" in waiting.reason and "--without w-1" in waiting.reason
    (gate,) = [
        each.gate
        for each in commands.status(model, cluster.client("viewer"), rotation.now)
        if each.domain == "kubernetes"
    ]
    assert gate is not None and gate.waiting == step.gate.waiting
    enrol.unenroll(model, rotation.vault, "w-1", wait=0)
    assert rotation.advance().record.state is State.SWITCHED
