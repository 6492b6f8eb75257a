"""A real etcd that reads the CRL refuses a revoked node at its next connection, and without it lets it in."""

from __future__ import annotations

import ssl
import urllib.request
from pathlib import Path

import pytest

from helpers.kube.etcd_member import lets_in, member
from helpers.vault.applied_cluster import AppliedCluster, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import wait_for

pytestmark = [pytest.mark.conformance, pytest.mark.on_both]

SPEC = """\
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: cp-2, roles: [control-plane], addresses: [10.0.0.12]}
"""


def write_crl(cluster: AppliedCluster, file: Path) -> None:
    """What an operator's cron job does: fetch the CRL in DER, which needs no token."""
    url = f"{cluster.server.address}/v1/{cluster.prefix}/etcd/issuer/default/crl/der"
    context = ssl.create_default_context(cafile=cluster.server.ca_file)
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:  # noqa: S310 - the test's own server
        new = file.with_suffix(".new")
        new.write_bytes(answer.read())
        new.rename(file)


def test_etcd_with_the_crl_refuses_it(clusters: ClusterFactory, tmp_path: Path, etcd_binaries: Path) -> None:
    cluster = clusters.applied(SPEC)
    nodes = [cluster.equip(name) for name in ("cp-1", "cp-2")]
    for node in nodes:
        node.run()
    crl = tmp_path / "etcd.crl"
    write_crl(cluster, crl)
    with (
        member(etcd_binaries, nodes[0], tmp_path / "reads", "--client-crl-file", str(crl)) as reads,
        member(etcd_binaries, nodes[0], tmp_path / "ignores") as ignores,
    ):
        for port in (reads, ignores):
            wait_for(lambda port=port: lets_in(etcd_binaries, port, nodes[1]), 30, lambda: "etcd lets nobody in")  # type: ignore[misc]
        # Certificates of names that several control planes share are another's by its report, and named.
        vaultpki("revoke", "-f", cluster.file, "cp-2", "--yes", env=cluster.environment(), expect=3)
        write_crl(cluster, crl)
        assert not lets_in(etcd_binaries, reads, nodes[1]) and lets_in(etcd_binaries, reads, nodes[0])
        assert lets_in(etcd_binaries, ignores, nodes[1])
