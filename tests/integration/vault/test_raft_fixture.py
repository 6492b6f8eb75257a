"""The three-node fixture: a cluster that cannot lose its leader would prove nothing about one that did."""

from __future__ import annotations

import pytest

from helpers.vault.raft_cluster import Cluster


@pytest.mark.conformance
def test_it_outlives_its_leader(cluster3: Cluster) -> None:
    leader = cluster3.leader()
    assert leader.api("POST", "sys/mounts/kept", {"type": "pki"}).status == 204
    assert len(cluster3.standbys()) == 2
    leader.stop()
    successor = cluster3.leader()
    assert successor is not leader
    assert "kept/" in successor.api("GET", "sys/mounts").data
