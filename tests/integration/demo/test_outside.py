"""`vaultpki demo --outside` as a whole process: requests go to a corporate root and come back, and all is verified."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from helpers.vault.applied_cluster import Ran, vaultpki
from vaultpki.pki import x509


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Path]:
    folder = tmp_path_factory.mktemp("demo") / "here"
    return vaultpki("demo", "--outside", "--dir", folder), folder


def test_it_tells_the_whole_way(shown: tuple[Ran, Path]) -> None:
    ran, folder = shown
    assert ran.stderr == ""
    heads = [line for line in ran.stdout.splitlines() if line.startswith(("vaultpki ", "openssl "))]
    assert heads == [
        "vaultpki apply",
        "vaultpki ca csr -o requests",
        "openssl ca, in the folder offline",
        "vaultpki ca import requests/*.crt",
    ]
    assert " kept out as they should be, 0 wrong" in ran.stdout
    paths = (line.replace(str(folder), "") for line in ran.stdout.splitlines())
    assert max(map(len, paths)) <= 100
    for library in ("Go", "OpenSSL", "Python from 3.13", "Node", "Java", "GnuTLS"):
        assert library in ran.stdout
    assert "too little: etcd-ca.crt" in ran.stdout


def test_every_certificate_chains_to_the_corporate_root(shown: tuple[Ran, Path]) -> None:
    _, folder = shown
    root = folder / "root.crt"
    root.write_text(x509.read_certificates((folder / "corp-ca.crt").read_bytes())[0].pem)
    pairs = [path for path in folder.glob("nodes/*/pki/*.crt") if not path.stem.endswith(("-ca", "-ca-chain"))]
    pairs += [folder / "operator" / f"{name}.crt" for name in ("admin", "super-admin")]
    assert len(pairs) == 18
    for pair in pairs:
        words = ("openssl", "verify", "-x509_strict", "-CAfile", root, "-untrusted", folder / "corp-ca.crt")
        done = subprocess.run([*words, "-untrusted", pair, pair], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_offline_machine_keeps_its_keys(shown: tuple[Ran, Path]) -> None:
    _, folder = shown
    keys = sorted(path.name for path in (folder / "offline").glob("*.key"))
    assert keys == ["Policy CA.key", "Root.key"]
    assert all((folder / "offline" / name).stat().st_mode & 0o077 == 0 for name in keys)
    assert not list((folder / "requests").glob("*.key"))
    # One demo at a time.
    assert "choose one" in vaultpki("demo", "--rotate", "--outside", expect=2).stderr
