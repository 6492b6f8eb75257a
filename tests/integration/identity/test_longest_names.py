"""Listed nodes with the longest names that cluster.yaml takes: applied, enrolled, and with certificates."""

from __future__ import annotations

from pathlib import Path

from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.vault.applied_cluster import NodeFolder
from helpers.vault.cluster_factory import ClusterFactory

# A label of a DNS name has at most 63 characters.
LONGEST = {
    "worker": "w" * 52,
    "etcd": f"{'e' * 31}.{'e' * 32}",
    "control-plane": ".".join([*["c" * 49] * 3, "c" * 50]),
}


def test_nodes_with_the_longest_names_have_certificates(clusters: ClusterFactory, tmp_path: Path) -> None:
    assert {role: len(name) for role, name in LONGEST.items()} == {"worker": 52, "etcd": 64, "control-plane": 200}
    nodes = [
        f"- {{name: {name}, roles: [{role}], addresses: [10.0.0.{number}]}}\n"
        for number, (role, name) in enumerate(LONGEST.items(), 1)
    ]
    cluster = clusters.applied(f"nodes:\n{''.join(nodes)}")
    applier = Enroller(cluster, cluster.token())
    for role, name in LONGEST.items():
        node = NodeFolder(name, tmp_path / role)
        enrolled_nodes.join(node, applier.join_file(name, tmp_path / f"{role}.json"))
        assert list(node.pki.glob("*.crt"))
