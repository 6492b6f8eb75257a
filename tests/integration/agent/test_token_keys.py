"""The service-account keys of nodes, on a real server: made there, certified, and accepted by the record alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.handmade_keys import SPEC, HandmadeKeys, give_number, reported, told
from vaultpki.agent import run
from vaultpki.agent.context import Outcome
from vaultpki.config.agent import load_agent
from vaultpki.errors import VaultpkiError
from vaultpki.node import state
from vaultpki.pki import keys, x509
from vaultpki.pki.facts import Facts
from vaultpki.records.service_account import KeyState


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AppliedCluster:
    return clusters.applied(SPEC)


@pytest.fixture
def planes(cluster: AppliedCluster) -> tuple[NodeFolder, NodeFolder]:
    return cluster.equip("cp-1"), cluster.equip("cp-2")


def passed(*nodes: NodeFolder) -> Outcome:
    """A pass on each node, which asks Vault for everything."""
    for node in nodes:
        outcome = run.run(load_agent(node.config), run.PassOptions(settle=False, share=0.0))
        assert not outcome.failures, outcome.failures
    return outcome


def failing(node: NodeFolder) -> dict[str, VaultpkiError]:
    return dict(run.run(load_agent(node.config), run.PassOptions(settle=False, share=0.0)).failures)


def union(node: NodeFolder) -> list[str]:
    return [facts.subject.common_name for facts in certificates(node)]


def certificates(node: NodeFolder) -> tuple[Facts, ...]:
    return x509.read_certificates((node.pki / "sa.pub").read_bytes())


def signs_with(node: NodeFolder) -> str:
    """The name in the certificate of the key with which the node signs; it is in the union of its own node."""
    key = (node.pki / "sa.key").read_bytes()
    (facts,) = [facts for facts in certificates(node) if x509.matches(key, facts)]
    return facts.subject.common_name


def private_keys(node: NodeFolder) -> set[bytes]:
    """The public halves of every private key on a node."""
    return {keys.public_der(keys.read_key(path.read_bytes())) for path in node.pki.glob("*.key")}


def test_two_nodes_from_an_empty_machine(cluster: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]) -> None:
    one, two = planes
    outcome = passed(one, two)
    assert "service-account-1" in outcome.renewed
    for node in planes:
        assert union(node) == [f"sa:{node.name}:1"] == [signs_with(node)]
        assert (node.pki / "sa.key").stat().st_mode & 0o777 == 0o600
        assert (node.pki / "sa.pub").stat().st_mode & 0o777 == 0o644
        assert {path.name for path in node.pki.glob("sa*")} == {
            *("sa.key", "sa.pub"),
            *("sa-1.key", "sa-1.crt", "sa-1.pem"),
        }
        told_keys = reported(cluster, node.name)
        assert [*told_keys.own] == [1] and told_keys.signing in told_keys.union
        assert told_keys.seen.revision == 0 and not told_keys.loaded
    HandmadeKeys.of(cluster, "cp-1", "cp-2")
    passed(one, two)
    assert union(one) == union(two) == ["sa:cp-1:1", "sa:cp-2:1"]
    assert (signs_with(one), signs_with(two)) == ("sa:cp-1:1", "sa:cp-2:1")
    assert (one.pki / "sa.pub").read_bytes() == (two.pki / "sa.pub").read_bytes()
    # The same again changes nothing, and no two machines have one private key.
    before = one.snapshot(), (one.pki / "sa.key").stat().st_ino
    assert passed(one).requested == 0
    assert ((one.pki / "sa.key").stat().st_ino, union(one)) == (before[1], ["sa:cp-1:1", "sa:cp-2:1"])
    assert not private_keys(one) & private_keys(two)
    assert all(b"PRIVATE" not in path.read_bytes() for path in one.state.iterdir())


def test_a_worker_has_neither_file_and_no_report_of_them(
    cluster: AppliedCluster, planes: tuple[NodeFolder, ...]
) -> None:
    passed(*planes)
    HandmadeKeys.of(cluster, "cp-1", "cp-2")
    worker = cluster.equip("worker-1")
    passed(worker)
    assert not list(worker.pki.glob("sa*"))
    assert told(cluster, "worker-1").token_keys is None


def test_a_cluster_without_them_is_as_before(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(SPEC.replace("service_account_keys: true\n", ""))
    node = cluster.equip("cp-1")
    passed(node)
    assert not list(node.pki.glob("sa*"))
    assert "lowest" not in (node.state / "agent.json").read_text()


def test_a_whole_rotation(cluster: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]) -> None:
    one, two = planes
    passed(one, two)
    made = HandmadeKeys.of(cluster, "cp-1", "cp-2")
    passed(one, two)
    made.write(KeyState.PUBLISHED, nodes={name: replace(keys, new=2) for name, keys in made.record.nodes.items()})
    give_number(cluster, 2)
    passed(one, two)
    # Each knows its own next key, and the other's once the record has it; nobody signs with it.
    assert union(one) == ["sa:cp-1:1", "sa:cp-1:2", "sa:cp-2:1"] and signs_with(one) == "sa:cp-1:1"
    made.write(nodes=made.taken_in())
    passed(one, two)
    everything = ["sa:cp-1:1", "sa:cp-1:2", "sa:cp-2:1", "sa:cp-2:2"]
    assert union(one) == union(two) == everything and signs_with(two) == "sa:cp-2:1"
    made.write(KeyState.SWITCHED)
    passed(one, two)
    assert union(one) == everything and (signs_with(one), signs_with(two)) == ("sa:cp-1:2", "sa:cp-2:2")
    made.write(KeyState.RETIRED)
    passed(one, two)
    assert union(one) == union(two) == ["sa:cp-1:2", "sa:cp-2:2"]
    assert (one.pki / "sa-1.key").exists()
    # The way back, as far as there is one.
    made.write(KeyState.RETRUSTING)
    passed(one, two)
    assert union(one) == everything and signs_with(one) == "sa:cp-1:2"
    made.write(KeyState.SWITCHED)
    made.write(KeyState.RETIRED)
    at_rest = {
        name: replace(keys, old=2, certificates={2: keys.certificates[2]}) for name, keys in made.record.nodes.items()
    }
    made.write(KeyState.DONE, nodes=at_rest, lowest={"cp-1": 2, "cp-2": 2})
    passed(one, two)
    assert union(one) == union(two) == ["sa:cp-1:2", "sa:cp-2:2"]
    assert {path.name for path in one.pki.glob("sa*.key")} == {"sa.key", "sa-2.key"}
    assert state.load(str(one.state)).lowest == {"cp-1": 2, "cp-2": 2}
    assert [*reported(cluster, "cp-1").own] == [2]
