"""Whose a directory is: what a mark keeps out, what it lets in, and what becomes of files that have none."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from vaultpki.disk.generations import File
from vaultpki.disk.owner_mark import DirectoryOwner, claim, refuse_foreign
from vaultpki.disk.store import Directory
from vaultpki.errors import StoreError

MINE = DirectoryOwner("prod", "cp-1", "a" * 64)
OTHERS = {
    "another cluster": replace(MINE, cluster="test"),
    "another node": replace(MINE, node="cp-2"),
    "an operator": replace(MINE, node=None),
    "another root": replace(MINE, root_sha256="b" * 64),
}


def claimed(pki: Path, holder: DirectoryOwner = MINE, *, filled: bool = True) -> Path:
    """The mark of a directory that is `holder`'s."""
    with Directory.open(str(pki)) as directory:
        claim(directory, holder)
        if filled:
            directory.install("kubelet", {"kubelet.crt": File(b"certificate")})
    return pki / ".vaultpki/owner.json"


def test_the_holder_comes_again_and_writes_nothing(tmp_path: Path) -> None:
    mark = claimed(tmp_path / "pki")
    before = mark.stat()
    assert json.loads(mark.read_bytes()) == {
        "version": 1,
        "cluster": "prod",
        "node": "cp-1",
        "root_sha256": "a" * 64,
    }
    claimed(tmp_path / "pki")
    refuse_foreign(str(tmp_path / "pki"), MINE)
    after = mark.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_mode & 0o7777) == (before.st_ino, before.st_mtime_ns, 0o644)


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("first", [True, False])
def test_anybody_else_is_refused_with_both_names(other: DirectoryOwner, first: bool, tmp_path: Path) -> None:
    holder, comer = (MINE, other) if first else (other, MINE)
    mark = claimed(tmp_path / "pki", holder)
    before = mark.read_bytes()
    with pytest.raises(StoreError) as read:
        refuse_foreign(str(tmp_path / "pki"), comer)
    with Directory.open(str(tmp_path / "pki")) as directory, pytest.raises(StoreError) as written:
        claim(directory, comer)
    told = str(read.value)
    assert told == str(written.value) and mark.read_bytes() == before
    assert holder.text(comer) in told and comer.text(holder) in told and holder.text(comer) != comer.text(holder)
    assert "choose another directory" in told and "remove" not in told
    command = f"`vaultpki enroll cp-1 --former-root {holder.root_sha256}`"
    assert (command in told) is (holder.root_sha256 != comer.root_sha256)


def test_a_mark_alone_holds_nothing(tmp_path: Path) -> None:
    claimed(tmp_path / "pki", OTHERS["another root"], filled=False)
    refuse_foreign(str(tmp_path / "pki"), MINE)
    mark = claimed(tmp_path / "pki")
    assert json.loads(mark.read_bytes())["root_sha256"] == MINE.root_sha256


def test_what_does_not_exist_is_nobodys_and_is_not_made(tmp_path: Path) -> None:
    refuse_foreign(str(tmp_path / "not/there"), MINE)
    assert list(tmp_path.iterdir()) == []


def test_what_lies_where_others_can_exchange_it(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for path in ("open", "open/not/there"):
        with pytest.raises(StoreError, match="others may write"):
            refuse_foreign(str(tmp_path / path), MINE)
    (tmp_path / "open").chmod(0o1777)
    refuse_foreign(str(tmp_path / "open/not/there"), MINE)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"version": 1}', b'{"version":1,"cluster":"prod","node":7,"root_sha256":"a"}'],
)
def test_files_without_a_mark_that_can_be_read_need_bundles_that_prove_them(content: bytes, tmp_path: Path) -> None:
    mark = claimed(tmp_path / "pki")
    for break_it in (lambda: mark.write_bytes(content), mark.unlink):
        break_it()
        with pytest.raises(StoreError, match="another root"):
            refuse_foreign(str(tmp_path / "pki"), MINE)


def test_a_newer_mark(tmp_path: Path) -> None:
    mark = claimed(tmp_path / "pki")
    mark.write_text(json.dumps({**json.loads(mark.read_bytes()), "version": 2}))
    with pytest.raises(StoreError, match="install the newer vaultpki"):
        refuse_foreign(str(tmp_path / "pki"), MINE)


def test_a_mark_that_somebody_else_could_have_written_says_nothing(tmp_path: Path) -> None:
    mark = claimed(tmp_path / "pki")
    mark.chmod(0o666)
    with pytest.raises(StoreError, match="another root"):
        refuse_foreign(str(tmp_path / "pki"), MINE)
    mark.chmod(0o644)
    os.chown(mark, 1234, 1234)
    with pytest.raises(StoreError, match="another root"):
        refuse_foreign(str(tmp_path / "pki"), MINE)
