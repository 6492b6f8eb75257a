"""Installs of a pair by a process of its own, small enough to be stopped at each of its system calls."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509 as c
from cryptography.hazmat.primitives import hashes, serialization

from helpers.faults import system_calls
from helpers.faults.system_calls import Call
from helpers.node import install_driver
from vaultpki.errors import VaultpkiError
from vaultpki.model import KeyType, Subject
from vaultpki.pki import keys, x509

ROOT = Path(__file__).parents[3]
DRIVER = Path(install_driver.__file__)
NAMES = ("pair.crt", "pair.key", "pair.pem")
Ran = subprocess.CompletedProcess[str]


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


def command(target: Path, source: Path) -> list[str]:
    # -S: site-packages are not needed, and their start-up files would add calls of their own.
    return [sys.executable, "-S", "-X", "frozen_modules", str(DRIVER), str(target), str(source)]


def environment(source: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": str(ROOT),
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        # A cache of its own, filled by the first run: the calls are counted, so start-up must always make the same.
        "PYTHONPYCACHEPREFIX": str(source.parent / "cache"),
    }


def run(target: Path, source: Path, *strace: str) -> Ran:
    """The install, under strace where there are options for it."""
    # Stops at no other call; but strace 6.1 then sends no signal.
    faster = [] if any(":signal=" in word for word in strace) else ["--seccomp-bpf"]
    prefix = ["strace", "-f", "-y", *faster, *strace] if strace else []
    return subprocess.run(
        prefix + command(target, source),
        env=environment(source),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def record(target: Path, source: Path, log: Path, *, reading: bool = False) -> list[Call]:
    """Every call of the install that changes something, or also those that look at what lies there."""
    done = run(target, source, "-o", str(log), "-e", f"trace={system_calls.CHANGING},{system_calls.READING}")
    assert done.stdout == "done\n", done.stderr
    found = []
    begun = False
    for call in system_calls.calls(log):
        begun = begun or (str(target.parent) in call.line and str(source) not in call.line)
        if begun and (call.changes or (reading and str(target.parent) in call.line)):
            found.append(call)
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in NAMES if (folder / name).exists()}


def clean(target: Path) -> None:
    """The directory holds one whole pair with its modes, and nothing beside it."""
    assert sorted(entry.name for entry in target.iterdir()) == [".vaultpki", *NAMES]
    hidden = target / ".vaultpki"
    generation = os.readlink(hidden / "pair")
    assert sorted(entry.name for entry in hidden.iterdir()) == ["lock", "pair", generation]
    assert sorted(entry.name for entry in (hidden / generation).iterdir()) == sorted(NAMES)
    modes = [(target / name).stat().st_mode & 0o7777 for name in NAMES]
    assert modes == [0o644, 0o600, 0o600]
    assert hidden.stat().st_mode & 0o7777 == (hidden / generation).stat().st_mode & 0o7777 == 0o755


def matching(found: dict[str, bytes]) -> bool:
    leaf = x509.read_certificates(found["pair.crt"])[0]
    return x509.matches(found["pair.key"], leaf) and found["pair.pem"] == found["pair.key"] + found["pair.crt"]


def two_pairs(folder: Path) -> tuple[Path, Path]:
    """An old and a new pair, and a first run that fills the cache."""
    made = make_pair(folder / "old"), make_pair(folder / "new")
    assert run(folder / "warm-up", made[0]).stdout == "done\n"
    return made


def check_one_more_run(target: Path, new: Path, what: str) -> None:
    """One more run installs the new pair whole, whatever the run before left; then the directory is removed."""
    try:
        install_driver.install(str(target), str(new))
    except VaultpkiError as error:
        pytest.fail(f"{what}, then run again: {error}")
    assert content(target) == content(new), what
    clean(target)
    shutil.rmtree(target.parent)


def installed(folder: Path, source: Path) -> Path:
    target = folder / "base" / "pki"
    target.parent.mkdir(mode=0o755)
    assert run(target, source).stdout == "done\n"
    clean(target)
    return target


def copy(base: Path | None, to: Path) -> Path:
    """A directory like `base`, or none."""
    to.parent.mkdir(mode=0o755)
    if base is not None:
        shutil.copytree(base, to, symlinks=True)
    return to
