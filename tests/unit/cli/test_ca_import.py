"""`ca import --dry-run --csr`: what a person reads of files that are wrong in several ways; no server is asked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from click.testing import CliRunner

from helpers.corporate_certificates import Ca, name
from helpers.example_cluster import BASE
from helpers.outside_signers import csr, key
from vaultpki.certificates import ca_subject
from vaultpki.cli import vaultpki

SPEC = f"{BASE}ca: {{root: external, root_file: root.pem}}\n"
CAS = ("kubernetes", "kubelet", "etcd", "front-proxy")


def test_all_faults_are_told_at_once_and_each_once(tmp_path: Path) -> None:
    """The CA above has expired and is not in root_file, and ours begin now without path length."""
    now = datetime.now(UTC).replace(microsecond=0)
    root = Ca("Corp Root", begins=now - timedelta(days=900), ends=now + timedelta(days=9000))
    above = Ca("Corp Policy CA", root, begins=now - timedelta(days=800), ends=now - timedelta(days=1))
    (tmp_path / "cluster.yaml").write_text(SPEC)
    (tmp_path / "root.pem").write_text(root.pem)
    (tmp_path / "above.pem").write_text(above.pem)
    (tmp_path / "requests").mkdir()
    for ca in CAS:
        subject = name(ca_subject("prod", ca))
        request = csr(subject, key(f"import {ca}"))
        (tmp_path / "requests" / f"prod-{ca}-1.csr").write_text(request)
        made = above.sign(request, path_length=None, begins=now, ends=now + timedelta(days=1800))
        (tmp_path / f"{ca}.crt").write_text(made)
    files = [str(tmp_path / f"{ca}.crt") for ca in CAS]
    words = ["ca", "import", "-f", str(tmp_path / "cluster.yaml"), "--dry-run", "--csr", str(tmp_path / "requests")]
    ran = CliRunner().invoke(vaultpki, [*words, *files, str(tmp_path / "above.pem")])
    told = [line for line in ran.output.splitlines() if line.startswith("! ")]
    for ca, file in zip(CAS, files, strict=True):
        own = [line for line in told if line.startswith(f"! {file}: the certificate for {ca} ")]
        assert len(own) == 2 and "so Vault signs none until" in own[0] and "has no path length" in own[1], ran.output
    of_above = [line for line in told if line.startswith("! CN=Corp Policy CA,O=Corp,C=DE above the issuing CAs ")]
    assert "is not in ca.root_file" in of_above[0] and "expired at" in of_above[1], ran.output
    assert len(told) == 4 * 2 + 2 and ran.exit_code == 1
    asked = [line for line in ran.output.splitlines() if line.startswith("    ")]
    assert len(asked) == len({*asked}) == 4
    assert "4 certificates or files were refused" in str(ran.exception) + ran.output
