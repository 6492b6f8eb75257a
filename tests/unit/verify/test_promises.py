"""What `verify` promises of a kubeconfig that holds a pair itself, as the operator's does in kubeadm's layout."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from helpers.example_cluster import BASE, load
from vaultpki import certificates
from vaultpki.certificates import pair_files
from vaultpki.verify.on_disk import Holder, pair_checks

NOW = datetime(2026, 5, 1, tzinfo=UTC)
CRT, KEY = b64encode(b"crt").decode(), b64encode(b"key").decode()
GOOD = {
    "users": [{"user": {"client-certificate-data": CRT, "client-key-data": KEY}}],
    "clusters": [{"cluster": {"certificate-authority-data": CRT, "server": "https://api.example.com:6443"}}],
}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("", "", ""),
        (f"certificate-authority-data: {CRT}", "certificate-authority-data: ''", "holds no CA"),
        (KEY, b64encode(b"other").decode(), "does not hold the pair that lies beside it"),
        ("https://", "http://", "its server is not an https URL"),
        ("server:", "servers:", "is not a kubeconfig with one cluster and one user that holds a certificate"),
    ],
)
def test_a_kubeconfig_that_holds_the_pair(tmp_path: Path, old: str, new: str, problem: str) -> None:
    cluster = load(tmp_path, BASE)
    row = next(row for row in certificates.rows(cluster) if row.name == "admin")
    want = certificates.resolve(row, cluster, None)
    files = zip(pair_files(want.stem), (b"crt", b"key", b"keycrt"), strict=True)
    for name, data in [*files, (str(want.kubeconfig), yaml.safe_dump(GOOD).replace(old, new).encode())]:
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
    holder = Holder("operator", tmp_path, (want,), cluster.name, embedded=True)
    checks = {check.target: check.detail for check in pair_checks(holder, row, want, NOW)[1]}
    assert checks[str(want.kubeconfig)] == problem
