"""What is promised of files beside their content: whose folders are made, what they may, and what a power cut keeps."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vaultpki.disk import exchange
from vaultpki.disk.files import write_private
from vaultpki.disk.generations import File, StoredFile
from vaultpki.disk.store import Directory
from vaultpki.errors import StoreError


def test_a_secret_makes_no_folder(tmp_path: Path) -> None:
    """Made here, it would have neither the owner nor the mode that a person gave to it."""
    path = tmp_path / "missing/secret-id"
    with pytest.raises(StoreError, match="it does not exist"):
        write_private(str(path), b"secret")
    assert not path.parent.exists()


@pytest.mark.parametrize("mode", [0o700, 0o775, 0o755])
def test_the_folder_of_generations_gets_its_mode_back(tmp_path: Path, mode: int) -> None:
    """With less, components of other users read no certificate; with more, what lies there is not trusted any more."""
    hidden = tmp_path / ".vaultpki"
    with Directory.open(str(tmp_path)) as directory:
        directory.install("ca", {"ca.crt": File(b"crt")})
    hidden.chmod(mode)
    with Directory.open(str(tmp_path)) as directory:
        assert stat.S_IMODE(hidden.stat().st_mode) == 0o755
        assert directory.suspect == (mode == 0o775)


def test_an_exchange_outlives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two folders in different ones, either may be the one whose entry is lost."""
    one, other = tmp_path / "a/pki", tmp_path / "b/pki.new"
    for each in (one, other):
        each.mkdir(parents=True)
        (each / "name").write_text(each.name)
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    exchange.exchange(str(one), str(other))
    assert (one / "name").read_text() == "pki.new" and (other / "name").read_text() == "pki"
    assert set(synced) == {str(one.parent), str(other.parent)}


@pytest.mark.parametrize(
    ("stored", "wanted", "shown"),
    [
        ((0o600, 0, 0), File(b""), False),
        ((0o640, 0, 0), File(b"", 0o600), True),
        ((0o604, 0, 0), File(b"", 0o600), True),
        # Its owner may read it, and whoever is wanted as its owner is none of the others.
        ((0o600, 4711, 0), File(b"", 0o600), True),
        ((0o600, 4711, 0), File(b"", 0o600, uid=4711), False),
        ((0o640, 0, 4711), File(b"", 0o640), True),
        ((0o640, 0, 4711), File(b"", 0o640, gid=4711), False),
        # Nobody else is in root's group.
        ((0o640, 0, 0), File(b"", 0o640, gid=4711), False),
    ],
)
def test_whom_a_file_was_shown_to(stored: tuple[int, int, int], wanted: File, shown: bool) -> None:
    """A key that others could read is replaced, and one that its own reader reads is not."""
    assert StoredFile(b"", *stored).shown_to_others(wanted) == shown
