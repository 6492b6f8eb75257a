"""Signers of every kind, from the request to leaves that OpenSSL verifies up to their roots, on a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.vault.applied_cluster import AppliedCluster, Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_signer import SPEC, OutsideSigner, openssl
from helpers.vault.server_contents import listing

GENEROUS = "nameConstraints=critical,excluded;DNS:web.example,excluded;IP:192.168.0.0/255.255.0.0\n"
NARROW = "nameConstraints=critical,permitted;DNS:corp.example,permitted;IP:10.0.0.0/255.0.0.0\n"
TWO = ("Corp Policy CA", "Corp Kubernetes CA")


def ca(cluster: AppliedCluster, *words: str | Path, expect: int = 0) -> Ran:
    return vaultpki("ca", words[0], "-f", cluster.file, *words[1:], env=cluster.environment(), expect=expect)


def answers(cluster: AppliedCluster, signer: OutsideSigner) -> list[Path]:
    folder = cluster.folder / "requests"
    ca(cluster, "csr", "-o", folder)
    return [signer.sign(csr, csr.with_suffix(".ext").read_text()) for csr in sorted(folder.glob("*.csr"))]


@pytest.mark.parametrize(
    ("kind", "between", "extra"),
    [
        pytest.param("rsa4096", (), "", id="RSA-4096 with SHA-512"),
        pytest.param("p384", TWO[:1], "", id="P-384 below a root"),
        pytest.param("ed25519", TWO, "", id="Ed25519 with two intermediates"),
        pytest.param("p384", TWO, GENEROUS, id="constraints that forbid other names"),
    ],
)
def test_leaves_chain_to_the_root_of_every_signer(
    clusters: ClusterFactory, tmp_path: Path, kind: str, between: tuple[str, ...], extra: str
) -> None:
    signer = OutsideSigner.made(tmp_path / "offline", between, kind=kind, extra=extra)
    cluster = clusters.written(SPEC, {"corp-root.pem": signer.chain})
    cluster.apply(expect=3)
    files = answers(cluster, signer)
    ca(cluster, "import", *files)
    since = cluster.server.audit_position()
    ca(cluster, "import", *files)
    cluster.apply()
    assert cluster.server.writes(since) == []
    chain = cluster.folder / "chain.pem"
    chain.write_text(signer.chain)
    node = cluster.equip("cp-1")
    node.run()
    for name in ("kube-apiserver", "etcdserver", "front-proxy-client", "kube-apiserver-etcd"):
        leaf = node.pki / f"{name}.crt"
        openssl("verify", "-x509_strict", "-CAfile", chain, "-untrusted", leaf, leaf)
    vaultpki("status", "-c", node.config)


def test_a_signer_with_narrow_constraints_is_told_before_and_refused_after(
    clusters: ClusterFactory, tmp_path: Path
) -> None:
    signer = OutsideSigner.made(tmp_path / "offline", TWO, extra=NARROW)
    cluster = clusters.written(SPEC, {"corp-root.pem": signer.chain})
    planned = vaultpki("plan", "-f", cluster.file, env=cluster.environment()).stdout
    assert "forbid names of this cluster" in " ".join(planned.split())
    cluster.apply(expect=3)
    before = listing(cluster.server, cluster.name)
    ran = ca(cluster, "import", *answers(cluster, signer), expect=1)
    assert ran.stdout.count("forbid names of this cluster") >= 2, ran.stdout
    assert listing(cluster.server, cluster.name) == before
