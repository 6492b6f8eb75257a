"""A CA that the root signed and whose answer was lost: the next run installs that one, and has no second one signed."""

from __future__ import annotations

import pytest

from helpers.faults.cutting_proxy import proxied
from helpers.vault.applied_cluster import ONE_WORKER
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.rotations import rotation_of
from helpers.vault.servers import Server
from vaultpki.errors import Sealed, Unavailable
from vaultpki.records.rotation import State
from vaultpki.vault import Settings, Vault

ISSUING = 4


def signed(server: Server, prefix: str, since: int = 0) -> int:
    """How many CAs the root of a cluster was asked to sign."""
    return sum("sign-intermediate" in path and path.startswith(f"{prefix}/root/") for _, path in server.requests(since))


@pytest.mark.on_node
def test_a_ca_whose_answer_was_lost_is_not_signed_again(server: Server, clusters: ClusterFactory) -> None:
    with proxied(server) as proxy:
        cluster = clusters.written(ONE_WORKER)
        proxy.arm_at("/root/root/sign-intermediate")
        with pytest.raises((Sealed, Unavailable)):
            cluster.applied_here(Vault(Settings((proxy.address,), ca_pem=proxy.ca_pem, token=cluster.token())))
        before = signed(server, cluster.prefix)
        cluster.applied_here()
        # Other CAs may have been asked for beside the one that was lost.
        assert 1 <= before <= ISSUING and signed(server, cluster.prefix) == ISSUING

        rotation = rotation_of(clusters)
        through = Vault(Settings((proxy.address,), ca_pem=proxy.ca_pem, token=rotation.cluster.token()))
        rotation.begin()
        rotation.reported()
        since = server.audit_position()
        proxy.arm_at("/root/root/sign-intermediate")
        with pytest.raises((Sealed, Unavailable)):
            rotation.advance(vault=through)
        assert signed(server, rotation.cluster.prefix, since) == 1
        rotation.advance()
        assert rotation.record.state is State.PUBLISHED
        assert rotation.names()[0] == {"etcd-1", "etcd-2"} and signed(server, rotation.cluster.prefix, since) == 1
