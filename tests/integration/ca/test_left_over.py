"""A CA that nodes trust and the server does not have: every view names it, and `ca recover --drop` takes it out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.node.passes import passed
from helpers.node.resident_agent import figure, metrics_of
from helpers.vault.applied_cluster import second_issuer, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.rotations import Rotation, rotation_of
from vaultpki.ca import recover as recovery
from vaultpki.errors import ArgumentError, StateConflict
from vaultpki.pki import x509
from vaultpki.procedures.ca_text import state_sentence
from vaultpki.records.gaps import left_over_sentence
from vaultpki.records.rotation import State

# What nodes say decides.
pytestmark = pytest.mark.on_node

LOST = "ab" * 32


@pytest.fixture
def rotation(clusters: ClusterFactory) -> Rotation:
    """Two members of etcd that trust a CA of which the server knows nothing."""
    rotation = rotation_of(clusters)
    for node in rotation.nodes:
        node.trust |= {LOST}
    rotation.reported()
    return rotation


def set_back(rotation: Rotation) -> None:
    """The server was restored to before its first rotation, and a person has recovered it."""
    rotation.nodes[0].highest = 5
    rotation.reported()
    assert rotation.recover().state is State.STEADY
    rotation.reported()


def drop(rotation: Rotation, *dropped: str) -> State:
    found = recovery.propose_drop(rotation.cluster.model, rotation.vault, "etcd", dropped or (LOST,), rotation.now)
    return recovery.recover(found).state


def left(rotation: Rotation) -> dict[str, tuple[str, ...]]:
    (etcd,) = (ca for ca in rotation.status() if ca.domain == "etcd")
    return {each.sha256: each.nodes for each in etcd.left_over}


def test_every_view_names_it_and_the_command(rotation: Rotation) -> None:
    set_back(rotation)
    command = f"vaultpki ca recover etcd --drop {LOST}"
    ran = rotation.cluster.ca("status", who="viewer", expect=3)
    said = f"etcd CA: cp-1, etcd-2 trust a CA that the server does not have (SHA-256 {LOST})"
    assert said in ran.stdout and f"`{command}`" in ran.stdout
    assert "nodes trust a CA that the server does not have" in ran.stderr
    found = json.loads(rotation.cluster.ca("status", "--json", who="viewer", expect=3).stdout)
    (finding,) = (each for each in found["findings"] if each["name"] == "ca-left-over")
    assert said in finding["message"] and finding["command"] == f"{command} -f {rotation.cluster.file}"
    env = rotation.cluster.environment("viewer")
    found = json.loads(vaultpki("nodes", "--json", "-f", rotation.cluster.file, env=env, expect=3).stdout)
    assert finding in found["findings"] and not found["ok"]
    # And what the recovery says is true.
    assert (
        state_sentence(rotation.record)
        == f"key 1 of the CA etcd signs, and nodes trust it, and what they hold of 1 further CA ({LOST})"
    )


def test_the_node_itself_says_the_same(clusters: ClusterFactory, tmp_path: Path) -> None:
    cluster = clusters.applied()
    node = cluster.equip("worker-1", folder=tmp_path / "node")
    second_issuer(cluster)
    with metrics_of(node, passed(node)) as port:
        assert figure(port, "finding", finding="ca-left-over") == 0
    lost = {each.fingerprint for each in x509.read_certificates((node.pki / "kubernetes-ca.crt").read_bytes())}
    issuers = cluster.server.api("LIST", f"{cluster.prefix}/kubernetes/issuers").data["key_info"]
    (id_,) = (id_ for id_, each in issuers.items() if each["issuer_name"] != "kubernetes-1")
    assert cluster.server.api("DELETE", f"{cluster.prefix}/kubernetes/issuer/{id_}").status in (200, 204)
    node.age()
    node.run()
    ran = vaultpki("ca", "status", "--json", "-f", cluster.file, env=cluster.environment("viewer"), expect=3)
    (each,) = next(ca["left_over"] for ca in json.loads(ran.stdout)["cas"] if ca["domain"] == "kubernetes")
    assert each["sha256"] in lost and each["nodes"] == ["worker-1"]
    said = left_over_sentence("kubernetes", each["sha256"], ["worker-1"])
    assert said in {one["message"] for one in json.loads(ran.stdout)["findings"]}
    shown = json.loads(vaultpki("status", "-c", node.config, "--json", expect=3).stdout)
    assert said in {one["message"] for one in shown["summary"]["findings"]}
    with metrics_of(node, passed(node)) as port:
        assert figure(port, "finding", finding="ca-left-over") == 1


@pytest.mark.parametrize("recovered", [True, False])
def test_it_leaves_as_the_old_ca_of_a_rotation(rotation: Rotation, recovered: bool) -> None:
    """With the printed policy; whatever else is on the mount stays, and no number is given twice."""
    if recovered:
        set_back(rotation)
    assert left(rotation) == {LOST: ("cp-1", "etcd-2")}
    names, words = rotation.names(), ("recover", "etcd", "--drop", LOST)
    assert "pass --yes" in rotation.cluster.ca(*words, expect=1).stderr
    rotation.cluster.ca(*words, "--yes")
    record = rotation.record
    assert (record.state, record.leaf.name, record.old.sha256) == (State.SWITCHED, "etcd-1", LOST)
    assert record.trust >= {LOST, record.leaf.sha256} and rotation.names() == names
    # The server has none of it, so nothing leads back to it.
    with pytest.raises(StateConflict, match=r"`vaultpki ca continue` goes on to key 1 of the CA etcd"):
        rotation.abort()
    # A leaf of it holds the step, as in every rotation.
    rotation.reported()
    rotation.nodes[1].leaf = "cd" * 20
    rotation.nodes[1].write(rotation.nodes[1].report(rotation.now, rotation.record.revision))
    gate = rotation.advance().gate
    assert gate is not None and [each.node for each in gate.waiting] == ["etcd-2"]
    assert rotation.moved() is State.RETIRED and rotation.record.trust == {record.leaf.sha256}
    # Whose process has it in memory yet is waited for.
    for node in rotation.nodes:
        node.passed(rotation.now, restarts=False)
    rotation.later()
    gate = rotation.advance().gate
    assert gate is not None and "cp-1" in {each.node for each in gate.waiting}
    assert rotation.moved(rotation.abort) is State.RETRUSTING and rotation.moved() is State.SWITCHED
    rotation.reach_on(State.DONE)
    assert rotation.names() == names and left(rotation) == {}
    rotation.settled()
    rotation.reach(State.DONE)
    assert rotation.record.leaf.name == "etcd-3"


def test_nothing_else_leaves_by_it(rotation: Rotation) -> None:
    mount = {ca.domain: ca.sha256 for ca in rotation.status()}
    for wrong in ("cd" * 32, mount["etcd"]):
        with pytest.raises(ArgumentError, match=f"those are {LOST}"):
            drop(rotation, wrong)
    # Each of two is named, since none of both is trusted afterwards.
    rotation.nodes[0].trust |= {"cd" * 32}
    rotation.reported()
    with pytest.raises(StateConflict, match=f"nodes trust {'cd' * 32} beside etcd-1"):
        drop(rotation)
    # A node that does not know the CA that signs would refuse the leaves of the others.
    rotation.nodes[0].trust = frozenset({LOST})
    rotation.nodes[0].write(rotation.nodes[0].report(rotation.now, 0))
    rotation.later()
    with pytest.raises(StateConflict, match="cp-1 may not trust etcd-1, which signs"):
        drop(rotation)
    rotation.reported()
    assert drop(rotation) is State.SWITCHED
