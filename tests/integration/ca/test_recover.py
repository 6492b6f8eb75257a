"""`vaultpki ca recover`, and every other command beside it, where nodes lie or a server was set back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from helpers.node.reporting_nodes import Reporter, record_of
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.rotations import SPEC, Rotation, rotation_of
from vaultpki.ca import commands
from vaultpki.errors import Attention
from vaultpki.records import node_report
from vaultpki.records.node_report import Seen
from vaultpki.records.rotation import Kept, Method, State

# What nodes say decides.
pytestmark = pytest.mark.on_node


@pytest.fixture
def rotation(clusters: ClusterFactory) -> Rotation:
    """Three listed nodes, and a pooled one, have reported."""
    rotation = rotation_of(clusters)
    rotation.cluster.write(
        SPEC.replace("pools:", "- {name: cp-3, roles: [control-plane, etcd], addresses: [10.0.0.13]}\npools:")
    )
    rotation.cluster.apply()
    rotation.cluster.equip("cp-3")
    rotation.nodes.append(Reporter(rotation.cluster, "cp-3", "etcd"))
    rotation.reported()
    return rotation


def claims(rotation: Rotation, *liars: int, more: int = 5) -> None:
    for index in liars:
        record = record_of(rotation.cluster, "etcd")
        rotation.nodes[index].highest = (record.revision if record is not None else 0) + more
    rotation.reported()


def test_no_claim_moves_a_rotation_forward_or_begins_one(rotation: Rotation) -> None:
    """One of three, and most of them, say that they have read a newer record."""
    rotation.begin()
    rotation.moved()
    for liars in ((2,), (1, 2)):
        claims(rotation, *liars)
        start, before = rotation.cluster.server.audit_position(), rotation.record
        acts: tuple[Callable[[], object], ...] = (rotation.advance, rotation.abort)
        for act in acts:
            with pytest.raises(Attention, match=r"read a newer record of etcd.*vaultpki ca recover etcd"):
                act()
        dangers = {each["name"]: each["reason"] for each in rotation.cluster.plan()["dangers"]}
        assert "vaultpki ca recover etcd" in dangers[f"config {rotation.cluster.prefix}/config/rotation/etcd"]
        assert rotation.record == before and rotation.cluster.server.writes(start) == []
    # Left out by name, they hold up nothing; a member of etcd still has to report what is so.
    names = tuple(rotation.nodes[index].name for index in (1, 2))
    step = rotation.advance(without=names)
    assert step.record.state is State.PUBLISHED and step.gate is not None
    assert {each.node for each in step.gate.waiting} == set(names)
    # Who believes them is led back, and nobody is sent to the other CA.
    record = rotation.recover()
    assert (record.state, record.kept) == (State.RETRUSTING, Kept.OLD)
    leaves = [node.leaf for node in rotation.nodes]
    rotation.reported()
    assert [node.leaf for node in rotation.nodes] == leaves and rotation.names()[2] == "etcd-1"
    while rotation.record.active:
        rotation.moved(rotation.abort)
    assert rotation.record.state is State.STEADY
    rotation.settled()


def test_rotate_leaves_a_liar_out_by_name_and_an_emergency_begins_at_once(rotation: Rotation) -> None:
    claims(rotation, 2)
    cluster, env = rotation.cluster, rotation.cluster.environment()
    ran = cluster.ca("rotate", "etcd", expect=3)
    assert "cp-3 says" in ran.stderr and "vaultpki ca recover etcd" in ran.stderr, ran
    assert cluster.ca("rotate", "etcd", "--without", "cp-9", expect=1)
    cluster.ca("rotate", "etcd", "--without", "cp-3")
    assert rotation.record.state is State.PREPARED and rotation.record.excused == ("cp-3",)
    rotation.abort()
    # Whatever nodes say, and although somebody can log in whom cluster.yaml does not name.
    claims(rotation, 0, more=7)
    claims(rotation, 1, 2, more=10**6)
    cluster.write(SPEC)
    ran = vaultpki("ca", "rotate", "etcd", "--emergency", "--yes", "-f", cluster.file, env=env)
    assert "cp-3" in ran.stderr and "not in" in ran.stderr
    assert "etcd-2 says" in ran.stderr and "vaultpki ca recover etcd" in ran.stderr
    record = rotation.record
    assert record.state is State.RETIRED and record.method is Method.EMERGENCY
    assert 7 < record.revision < 1000


def test_the_command_shows_what_nodes_say_and_asks(rotation: Rotation) -> None:
    """With the printed policy: an older record comes back, one node lies, and the rotation goes on to its end."""
    cluster, place = rotation.cluster, f"{rotation.cluster.prefix}/config/data/rotation/etcd"
    assert "Nothing is to be recovered" in cluster.ca("recover", "etcd").stdout
    rotation.reach(State.PUBLISHED)
    older = cluster.read(place)["data"]
    rotation.moved()
    rotation.reported()
    assert cluster.server.api("POST", place, {"data": older}).status == 200
    rotation.nodes[2].highest = 10**9
    rotation.reported()
    assert "--without cp-3" in cluster.ca("recover", "etcd", "--yes", expect=1).stderr
    words = ("recover", "etcd", "--without", "cp-3")
    ran = cluster.ca(*words, expect=1)
    assert "pass --yes" in ran.stderr and "left out" in ran.stdout, ran
    assert cluster.read(place)["data"] == older
    ran = cluster.ca(*words, "--yes", "--json")
    found = json.loads(ran.stdout)
    assert found["recovered"]["state"] == "re-trusting" and len(found["nodes"]) == 3, ran
    assert [each["counts"] for each in found["nodes"]] == [True, False, True]
    assert rotation.record.kept is Kept.NEW and rotation.record.revision < 1000
    # It is joined anew, and has no memory of what it was told.
    rotation.nodes[2].highest = 0
    rotation.reach_on(State.DONE)
    rotation.settled()


@pytest.mark.conformance
def test_a_pooled_node_is_only_named(rotation: Rotation) -> None:
    rotation.begin()
    rotation.moved()
    cluster = rotation.cluster
    cluster.equip("w-1", pool="autoscaled")
    ahead = rotation.record.revision + 5
    report = rotation.nodes[0].report(rotation.now, ahead)
    report = replace(report, seen={**report.seen, "etcd": Seen(ahead, ahead)})
    assert cluster.server.api("POST", cluster.report_path("w-1"), {"data": node_report.to_json(report)}).status == 200
    found = rotation.proposed()
    assert not found.why and [each.node for each in found.claims if not each.counts] == ["w-1"]
    # Its own gate waits for it, as for any node that does not follow, until a person leaves it out.
    rotation.reported()
    gate = rotation.advance().gate
    assert gate is not None and [each.node for each in gate.waiting] == ["w-1"]
    assert rotation.moved(lambda: rotation.advance(without=("w-1",))) is State.SWITCHED
    assert not any(each.problem for each in commands.status(cluster.model, rotation.vault, rotation.now))
