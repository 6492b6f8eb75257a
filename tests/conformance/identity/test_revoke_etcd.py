"""A real etcd that reads the CRL refuses a revoked node at its next connection, and without it lets it in."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import free_ports, wait_for

pytestmark = [pytest.mark.conformance, pytest.mark.on_both]

SPEC = """\
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: cp-2, roles: [control-plane], addresses: [10.0.0.12]}
"""


@pytest.fixture
def etcd(request: pytest.FixtureRequest) -> Path:
    folder: Path | None = request.config.getoption("--etcd")
    assert folder is not None, "this test needs --etcd; `make conformance` builds it"
    return folder


def write_crl(cluster: AppliedCluster, file: Path) -> None:
    """What an operator's cron job does: fetch the CRL in DER, which needs no token."""
    url = f"{cluster.server.address}/v1/{cluster.prefix}/etcd/issuer/default/crl/der"
    context = ssl.create_default_context(cafile=cluster.server.ca_file)
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:  # noqa: S310 - the test's own server
        new = file.with_suffix(".new")
        new.write_bytes(answer.read())
        new.rename(file)


@contextlib.contextmanager
def member(binaries: Path, node: NodeFolder, folder: Path, *further: str) -> Iterator[int]:
    """An etcd on loopback with the node's files; yields its port."""
    port, peers = free_ports(2)
    pki = node.pki
    command = [
        *(binaries / "etcd", "--name", "cp-1", "--data-dir", folder),
        *("--listen-client-urls", f"https://127.0.0.1:{port}", "--advertise-client-urls", f"https://127.0.0.1:{port}"),
        *("--listen-peer-urls", f"https://127.0.0.1:{peers}"),
        *("--initial-advertise-peer-urls", f"https://127.0.0.1:{peers}"),
        *("--initial-cluster", f"cp-1=https://127.0.0.1:{peers}"),
        *("--cert-file", pki / "etcdserver.crt", "--key-file", pki / "etcdserver.key"),
        *("--client-cert-auth", "--trusted-ca-file", pki / "etcd-ca.crt", "--peer-auto-tls", *further),
    ]
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def lets_in(binaries: Path, port: int, node: NodeFolder) -> bool:
    pki = node.pki
    command = [
        *(binaries / "etcdctl", f"--endpoints=https://127.0.0.1:{port}", "--dial-timeout=5s", "--command-timeout=10s"),
        *(f"--cacert={pki / 'etcd-ca.crt'}", f"--cert={pki / 'kube-apiserver-etcd.crt'}"),
        *(f"--key={pki / 'kube-apiserver-etcd.key'}", "put", "key", "value"),
    ]
    return subprocess.run(list(map(str, command)), capture_output=True, check=False, timeout=60).returncode == 0


def test_etcd_with_the_crl_refuses_it(clusters: ClusterFactory, tmp_path: Path, etcd: Path) -> None:
    cluster = clusters.applied(SPEC)
    nodes = [cluster.equip(name) for name in ("cp-1", "cp-2")]
    for node in nodes:
        node.run()
    crl = tmp_path / "etcd.crl"
    write_crl(cluster, crl)
    with (
        member(etcd, nodes[0], tmp_path / "reads", "--client-crl-file", str(crl)) as reads,
        member(etcd, nodes[0], tmp_path / "ignores") as ignores,
    ):
        for port in (reads, ignores):
            wait_for(lambda port=port: lets_in(etcd, port, nodes[1]), 30, lambda: "etcd lets nobody in")  # type: ignore[misc]
        # Certificates of names that several control planes share are another's by its report, and named.
        vaultpki("revoke", "-f", cluster.file, "cp-2", "--yes", env=cluster.environment(), expect=3)
        write_crl(cluster, crl)
        assert not lets_in(etcd, reads, nodes[1]) and lets_in(etcd, reads, nodes[0])
        assert lets_in(etcd, ignores, nodes[1])
