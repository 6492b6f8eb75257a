"""The install, killed at and failed in each system call that changes a file: never a torn, short or missing pair.

The calls are taken from a recorded trace of the same program, not from a list kept here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509 as c
from cryptography.hazmat.primitives import hashes, serialization

from vaultpki import x509
from vaultpki.model import KeyType, Subject

DRIVER = Path(__file__).with_name("install_driver.py")
ROOT = Path(__file__).parents[2]
CHANGING = (
    "openat,creat,write,writev,pwrite64,ftruncate,truncate,fallocate,chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,"
    "fsync,fdatasync,sync,mkdir,mkdirat,symlink,symlinkat,link,linkat,rename,renameat,renameat2,unlink,unlinkat,rmdir,flock"
)
NAMES = ("pair.crt", "pair.key", "pair.pem")
Point = tuple[str, int]


def make_pair(folder: Path) -> Path:
    """A key and a self-signed certificate; what is looked at is that the one is the other's."""
    key = x509.generate_key(KeyType.EC_P256)
    csr = c.load_pem_x509_csr(x509.request(key, Subject("pair")).encode())
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    signed = (
        c.CertificateBuilder(csr.subject, csr.subject, csr.public_key(), c.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    crt = signed.public_bytes(serialization.Encoding.PEM)
    folder.mkdir()
    for name, data in zip(NAMES, (crt, x509.key_pem(key), x509.key_pem(key) + crt), strict=True):
        (folder / name).write_bytes(data)
    return folder


def command(target: Path, source: Path) -> list[str]:
    # -S: site-packages are not needed, and their start-up files would add calls of their own.
    return [sys.executable, "-S", "-X", "frozen_modules", str(DRIVER), str(target), str(source)]


def run(target: Path, source: Path, *strace: str) -> subprocess.CompletedProcess[str]:
    # Not --seccomp-bpf: strace 6.1 then traces, and injects nothing.
    prefix = ["strace", "-f", "-y", *strace] if strace else []
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        # A cache of its own, filled by the first run: the calls are counted, so start-up must always make the same.
        "PYTHONPYCACHEPREFIX": str(source.parent / "cache"),
    }
    return subprocess.run(
        prefix + command(target, source), env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def record(target: Path, source: Path, log: Path) -> list[Point]:
    """Every call of the install that changes something, as strace counts them: its name and its number."""
    done = run(target, source, "-o", str(log), "-e", f"trace={CHANGING}")
    assert done.stdout == "done\n", done.stderr
    counted: Counter[str] = Counter()
    points = []
    begun = False
    for line in log.read_text().splitlines():
        match = re.match(r"\d+\s+(\w+)\(", line)
        if match is None:
            continue
        name = match[1]
        counted[name] += 1
        begun = begun or (str(target.parent) in line and str(source) not in line)
        if begun and (name != "openat" or "O_CREAT" in line):
            points.append((name, counted[name]))
    return points


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


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pairs")
    pair = make_pair(folder / "old"), make_pair(folder / "new")
    assert run(folder / "warm-up", pair[0]).stdout == "done\n"
    return pair


def in_parallel(points: list[tuple[Point, str]], base: Path | None, new: Path, old: Path, tmp: Path) -> None:
    """Injects each fault into a run of its own on a fresh copy, looks, runs again, and looks again."""
    allowed = [content(old)] if base is not None else [{}]
    allowed.append(content(new))

    def one(number: int) -> None:
        (call, count), fault = points[number]
        what = f"{fault} at {call} {count}"
        target = tmp / f"case-{number}" / "pki"
        target.parent.mkdir(mode=0o755)
        if base is not None:
            shutil.copytree(base, target, symlinks=True)
        log = target.parent / "log"
        done = run(target, new, "-o", str(log), "-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={count}")
        traced = log.read_text()
        if fault.startswith("signal"):
            assert done.returncode in (-9, 137) and "done" not in done.stdout, f"{what}: not killed"
        else:
            assert "(INJECTED)" in traced, f"{what}: nothing injected"
            if done.stdout != "done\n":
                told = done.stderr.strip().splitlines()[-1]
                assert told.startswith("vaultpki.errors.StoreError: /"), f"{what}: {done.stderr}"
        found = content(target)
        assert found in allowed, f"{what}: {sorted(found)}"
        assert not found or matching(found), f"{what}: torn"
        if done.stdout == "done\n":
            assert found == content(new), f"{what}: told a success that was none"
        elif not fault.startswith("signal"):
            assert found == (content(old) if base is not None else {}), f"{what}: failed, and yet changed"
        again = run(target, new)
        assert again.stdout == "done\n", f"{what}, then run again: {again.stderr}"
        assert content(target) == content(new), what
        clean(target)
        shutil.rmtree(target.parent)

    with ThreadPoolExecutor(max_workers=4) as pool:
        for _ in pool.map(one, range(len(points))):
            pass


def installed(folder: Path, source: Path) -> Path:
    target = folder / "base" / "pki"
    target.parent.mkdir(mode=0o755)
    assert run(target, source).stdout == "done\n"
    clean(target)
    return target


@pytest.mark.parametrize("first", [True, False], ids=["first-install", "swap"])
def test_killed_at_every_changing_call(first: bool, pairs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pairs
    base = None if first else installed(tmp_path, old)
    (tmp_path / "trial").mkdir()
    trial = tmp_path / "trial" / "pki"
    if base is not None:
        shutil.copytree(base, trial, symlinks=True)
    points = record(trial, new, tmp_path / "log")
    clean(trial)
    names = {name for name, _ in points}
    assert {"write", "fsync"} <= names and any(name.startswith("rename") for name in names), names
    assert len(points) > 20, points
    in_parallel([(point, "signal=SIGKILL") for point in points], base, new, old, tmp_path)


@pytest.mark.parametrize("first", [True, False], ids=["first-install", "swap"])
def test_every_failing_call_leaves_what_was_there(first: bool, pairs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pairs
    base = None if first else installed(tmp_path, old)
    (tmp_path / "trial").mkdir()
    trial = tmp_path / "trial" / "pki"
    if base is not None:
        shutil.copytree(base, trial, symlinks=True)
    points = record(trial, new, tmp_path / "log")
    # What comes after the swap's own fsync is the old generation's removal, and `done` itself.
    flip = max(index for index, (name, _) in enumerate(points) if name.startswith("rename"))
    failing = [(point, fault) for index, point in enumerate(points[: flip + 2]) for fault in _faults(point[0], index)]
    in_parallel(failing, base, new, old, tmp_path)


def _faults(call: str, index: int) -> list[str]:
    if call == "write":
        return ["error=ENOSPC", "error=EIO"]
    if call == "fsync":
        return ["error=EIO"]
    if call.startswith(("rename", "openat", "mkdir", "symlink")):
        return [f"error={('ENOSPC', 'EROFS', 'EDQUOT', 'EACCES')[index % 4]}"]
    return []
