"""Installs of a pair that the disk's tests disturb, and what of it lies in a directory."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509 as c
from cryptography.hazmat.primitives import hashes, serialization

from helpers.node import install_driver
from helpers.node.install_driver import MODES, install
from vaultpki.model import KeyType, Subject
from vaultpki.pki import keys, x509

NAMES = tuple(MODES)


def make_pair(folder: Path) -> Path:
    """A key and a self-signed certificate; what is looked at is that the one is the other's."""
    key = keys.generate_key(KeyType.EC_P256)
    csr = c.load_pem_x509_csr(keys.request(key, Subject("pair")).encode())
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    signed = (
        c.CertificateBuilder(csr.subject, csr.subject, csr.public_key(), c.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    crt = signed.public_bytes(serialization.Encoding.PEM)
    folder.mkdir()
    for name, data in zip(NAMES, (crt, keys.key_pem(key), keys.key_pem(key) + crt), strict=True):
        (folder / name).write_bytes(data)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in NAMES if (folder / name).exists()}


def clean(target: Path) -> None:
    """The directory holds one whole pair with its modes, and nothing beside it."""
    assert sorted(entry.name for entry in target.iterdir()) == [".vaultpki", *NAMES]
    hidden = target / ".vaultpki"
    generation = os.readlink(hidden / "pair")
    assert sorted(entry.name for entry in hidden.iterdir()) == ["lock", "pair", generation]
    assert sorted(entry.name for entry in (hidden / generation).iterdir()) == sorted(NAMES)
    assert {name: (target / name).stat().st_mode & 0o7777 for name in NAMES} == MODES
    assert hidden.stat().st_mode & 0o7777 == (hidden / generation).stat().st_mode & 0o7777 == 0o755


def matching(found: dict[str, bytes]) -> bool:
    leaf = x509.read_certificates(found["pair.crt"])[0]
    return x509.matches(found["pair.key"], leaf) and found["pair.pem"] == found["pair.key"] + found["pair.crt"]


def converges(target: Path, source: Path) -> None:
    """One more install lays the pair down whole, whatever was there."""
    install(target, source)
    assert content(target) == content(source)
    clean(target)


def installed(folder: Path, source: Path) -> Path:
    target = folder / "base" / "pki"
    target.parent.mkdir(mode=0o755)
    install(target, source)
    return target


def command(target: Path, source: Path, wait: int = 0) -> list[str]:
    """An install as a process of its own, by tests/helpers/node/install_driver.py."""
    # -S: site-packages are not needed, and their start-up files would add calls of their own.
    return [sys.executable, "-S", "-X", "frozen_modules", install_driver.__file__, str(target), str(source), str(wait)]


def environment() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
