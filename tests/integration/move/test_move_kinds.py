"""A cluster moves from OpenBao to HashiCorp Vault, and from there to OpenBao, and back from half of the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.node.moving_cluster import MovingCluster
from helpers.vault import servers
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.records.rotation import State

pytestmark = pytest.mark.conformance


def test_to_a_server_of_the_other_kind(
    clusters: ClusterFactory, server_kind: str, vault_binary: Path, tmp_path: Path
) -> None:
    other = "vault" if server_kind == "bao" else "bao"
    with (
        servers.running(other, tmp_path / "other", vault_binary) as to,
        MovingCluster.standing(clusters, to) as moving,
    ):
        moving.begin()
        moving.moved(State.PUBLISHED)
        moving.moved(State.SWITCHED)
        moving.moved(State.RETURNING, back=True)
        moving.moved(State.STEADY, back=True)
        moving.passes()
        moving.of("old")
        moving.begin()
        for state in (State.PUBLISHED, State.SWITCHED, State.RETIRED):
            moving.moved(state)
        moving.of("new")
        moving.moved(State.DONE)
        moving.passes()
        assert not any(moving.failures.values())
        assert moving.roots() == {moving.new_root()}
