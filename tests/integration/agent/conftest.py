"""The cluster that most tests of the agent have, and a node of a pool that joins."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AppliedCluster:
    """One worker, "worker-1"."""
    return clusters.applied()


@pytest.fixture
def node(tmp_path: Path) -> NodeFolder:
    """An empty folder for the pooled node w-1."""
    return NodeFolder("w-1", tmp_path / "node")


@pytest.fixture
def file(applier: Enroller, tmp_path: Path) -> Path:
    """A join file of the pooled node w-1, which has no other credential."""
    enrolled_nodes.vacate(applier.cluster, "w-1")
    return applier.join_file("w-1", tmp_path / "join.json", pool="autoscaled")
