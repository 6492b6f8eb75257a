"""A root CA from outside: `apply` makes keys and all else, exits 3 with what is missing; a second run adds nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_signer import SPEC, OutsideSigner
from helpers.vault.server_contents import listing

CAS = ("kubernetes", "kubelet", "etcd", "front-proxy")


@pytest.fixture
def signer(tmp_path: Path) -> OutsideSigner:
    return OutsideSigner.made(tmp_path / "offline")


def test_apply_makes_keys_and_says_what_is_missing(clusters: ClusterFactory, signer: OutsideSigner) -> None:
    cluster = clusters.written(SPEC, {"corp-root.pem": signer.chain})
    planned = vaultpki("plan", "-f", cluster.file, "--json", env=cluster.environment())
    assert json.loads(planned.stdout)["waiting"] == list(CAS)
    ran = cluster.apply(expect=3)
    assert "the issuing CAs kubernetes, kubelet, etcd, front-proxy wait" in ran.stderr, ran.stderr
    assert f"`vaultpki ca csr -f {cluster.file} -o DIR`" in ran.stderr
    there = listing(cluster.server, cluster.name)
    for ca in CAS:
        assert len(there[f"vaultpki/CLUSTER/{ca}/keys"]) == 1
        assert len(there[f"vaultpki/CLUSTER/{ca}/issuers"]) == 0
    assert there["vaultpki/CLUSTER/root/keys"] == []
    assert set(there["auth/vaultpki/CLUSTER/listed/role"]) == {"cp-1", "worker-1"}
    assert cluster.root_sha256 == signer.root_sha256
    root = cluster.read(f"{cluster.prefix}/root/issuer/root-1")
    assert (root["key_id"], root["usage"]) == ("", "read-only")
    since = cluster.server.audit_position()
    again = cluster.apply(expect=3)
    assert cluster.server.writes(since) == []
    assert again.stderr == ran.stderr
    assert listing(cluster.server, cluster.name) == there
