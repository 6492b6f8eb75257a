"""The clusters that most tests of the agent have, and a node of a pool that joins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.node import enrolled_nodes
from helpers.node.enrolled_machine import EnrolledMachine, Ground
from helpers.node.enrolled_nodes import Enroller
from helpers.vault import handmade_keys, handmade_rotation
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.handmade_keys import KeysAsApplied
from helpers.vault.handmade_rotation import as_applied


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AppliedCluster:
    """One worker, "worker-1", for one test that changes the cluster."""
    return clusters.applied()


@pytest.fixture(scope="module")
def shared(shared_clusters: ClusterFactory) -> AppliedCluster:
    """The same for all tests of a module that leave it as it was; each has its own folder for the node."""
    return shared_clusters.applied()


@pytest.fixture
def node(tmp_path: Path) -> NodeFolder:
    """An empty folder for the pooled node w-1."""
    return NodeFolder("w-1", tmp_path / "node")


@pytest.fixture
def file(applier: Enroller, tmp_path: Path) -> Path:
    """A join file of the pooled node w-1, which has no other credential."""
    enrolled_nodes.vacate(applier.cluster, "w-1")
    return applier.join_file("w-1", tmp_path / "join.json", pool="autoscaled")


@pytest.fixture(scope="module")
def spare() -> list[AppliedCluster]:
    return []


@pytest.fixture
def handed_on(
    request: pytest.FixtureRequest, spare: list[AppliedCluster], shared_clusters: ClusterFactory
) -> Iterator[AppliedCluster]:
    """One by SPEC of its module, if any, handed on from test to test as `apply` made it, until one deletes a CA."""
    if not spare:
        spare.append(shared_clusters.applied(getattr(request.module, "SPEC", handmade_rotation.SPEC)))
    yield spare[0]
    if not as_applied(spare[0], "etcd", "kubernetes"):
        spare.clear()


@pytest.fixture(scope="module")
def keys_as_applied(shared_clusters: ClusterFactory) -> KeysAsApplied:
    return KeysAsApplied.of(shared_clusters.applied(handmade_keys.SPEC))


@pytest.fixture
def with_keys(keys_as_applied: KeysAsApplied) -> Iterator[AppliedCluster]:
    """A cluster with service-account keys that is handed on from test to test as `apply` made it."""
    yield keys_as_applied.cluster
    keys_as_applied.put_back()


@pytest.fixture
def planes(with_keys: AppliedCluster, tmp_path: Path) -> tuple[NodeFolder, NodeFolder]:
    """Its two control-plane nodes, before their first pass."""
    one, two = (with_keys.equip(name, folder=tmp_path / name) for name in ("cp-1", "cp-2"))
    return one, two


@pytest.fixture(scope="module")
def ground(shared_clusters: ClusterFactory) -> Ground:
    return Ground.of(shared_clusters)


@pytest.fixture
def enrolled(ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EnrolledMachine]:
    """A control plane of kubeadm's with a join file, on the cluster of the machines of earlier tests."""
    yield EnrolledMachine(ground, tmp_path, monkeypatch)
    ground.leave()
