"""Listed nodes with the longest names that cluster.yaml takes: applied, enrolled, and with certificates."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory

# A label of a DNS name has at most 63 characters.
LONGEST = {
    "worker": "w" * 52,
    "etcd": f"{'e' * 31}.{'e' * 32}",
    "control-plane": ".".join([*["c" * 49] * 3, "c" * 50]),
}


@pytest.fixture(scope="module")
def long_names(shared_clusters: ClusterFactory) -> AppliedCluster:
    nodes = [
        f"- {{name: {name}, roles: [{role}], addresses: [10.0.0.{number}]}}\n"
        for number, (role, name) in enumerate(LONGEST.items(), 1)
    ]
    return shared_clusters.applied(f"nodes:\n{''.join(nodes)}")


@pytest.mark.parametrize("role", LONGEST)
def test_a_node_with_the_longest_name_has_certificates(long_names: AppliedCluster, tmp_path: Path, role: str) -> None:
    name = LONGEST[role]
    assert len(name) == {"worker": 52, "etcd": 64, "control-plane": 200}[role]
    applier = Enroller(long_names, long_names.token())
    node = NodeFolder(name, tmp_path / "node")
    enrolled_nodes.join(node, applier.join_file(name, tmp_path / "join.json"))
    assert list(node.pki.glob("*.crt"))
