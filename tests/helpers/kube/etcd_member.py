"""One member of etcd as a process, and whom it lets in."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from helpers.vault.applied_cluster import NodeFolder
from helpers.vault.servers import free_ports


@contextlib.contextmanager
def member(binaries: Path, node: NodeFolder, folder: Path, *further: str, trusted: Path | None = None) -> Iterator[int]:
    """An etcd on loopback with the node's files, or with a file of `trusted` CAs; yields its port."""
    port, peers = free_ports(2)
    pki = node.pki
    command = [
        *(binaries / "etcd", "--name", "cp-1", "--data-dir", folder),
        *("--listen-client-urls", f"https://127.0.0.1:{port}", "--advertise-client-urls", f"https://127.0.0.1:{port}"),
        *("--listen-peer-urls", f"https://127.0.0.1:{peers}"),
        *("--initial-advertise-peer-urls", f"https://127.0.0.1:{peers}"),
        *("--initial-cluster", f"cp-1=https://127.0.0.1:{peers}"),
        *("--cert-file", pki / "etcdserver.crt", "--key-file", pki / "etcdserver.key"),
        *("--client-cert-auth", "--trusted-ca-file", trusted or pki / "etcd-ca.crt", "--peer-auto-tls", *further),
    ]
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def lets_in(binaries: Path, port: int, node: NodeFolder, stem: str = "kube-apiserver-etcd") -> bool:
    """Whether it takes a write from who holds this pair of the node."""
    pki = node.pki
    command = [
        *(binaries / "etcdctl", f"--endpoints=https://127.0.0.1:{port}", "--dial-timeout=5s", "--command-timeout=10s"),
        *(f"--cacert={pki / 'etcd-ca.crt'}", f"--cert={pki / f'{stem}.crt'}"),
        *(f"--key={pki / f'{stem}.key'}", "put", "key", "value"),
    ]
    return subprocess.run(list(map(str, command)), capture_output=True, check=False, timeout=60).returncode == 0
