"""Plain files beside those of other programs: whole, once where a container mounts them, and nothing else touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vaultpki.disk.generations import File
from vaultpki.disk.plain_files import PlainFolder
from vaultpki.errors import StoreError

OLD, NEW = File(b"old\n", 0o600), File(b"new\n", 0o600)


@pytest.fixture
def folder(tmp_path: Path) -> PlainFolder:
    (tmp_path / "kubernetes").mkdir(0o755)
    return PlainFolder(str(tmp_path / "kubernetes"))


def test_written_read_and_replaced(folder: PlainFolder) -> None:
    assert folder.read("kubelet.conf").problem == "missing"
    folder.write("kubelet.conf", OLD, replace=True)
    folder.write("kubelet.conf", NEW, replace=True)
    stored = folder.read("kubelet.conf")
    assert (stored.data, stored.mode, stored.problem) == (b"new\n", 0o600, "")
    assert os.listdir(folder.path) == ["kubelet.conf"]


def test_written_once(folder: PlainFolder) -> None:
    folder.write("scheduler.conf", OLD, replace=False)
    inode = os.stat(f"{folder.path}/scheduler.conf").st_ino
    with pytest.raises(StoreError, match=r"scheduler\.conf: something is there already"):
        folder.write("scheduler.conf", NEW, replace=False)
    assert folder.read("scheduler.conf").data == b"old\n" and os.listdir(folder.path) == ["scheduler.conf"]
    folder.mend("scheduler.conf", File(b"", 0o640))
    about = os.stat(f"{folder.path}/scheduler.conf")
    assert (about.st_ino, about.st_mode & 0o7777, about.st_nlink) == (inode, 0o640, 1)


def test_a_link_is_neither_followed_nor_replaced(folder: PlainFolder, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("theirs\n")
    os.symlink(tmp_path / "target", f"{folder.path}/scheduler.conf")
    assert folder.read("scheduler.conf").problem == "not-a-file"
    with pytest.raises(StoreError):
        folder.write("scheduler.conf", NEW, replace=False)
    assert (tmp_path / "target").read_text() == "theirs\n"


def test_only_leftovers_of_our_names_are_swept(folder: PlainFolder) -> None:
    ours, theirs = ".scheduler.conf.0123456789abcdef", ".bootstrap.conf.0123456789abcdef"
    for name in (ours, theirs, ".scheduler.conf.swp", "scheduler.conf.0123456789abcdef"):
        Path(folder.path, name).write_text("x")
    assert folder.sweep(["scheduler.conf", "kubelet.conf"]) == 1
    assert sorted(os.listdir(folder.path)) == sorted([theirs, ".scheduler.conf.swp", "scheduler.conf.0123456789abcdef"])


def test_a_folder_that_is_not_there_is_made_by_a_write_only(tmp_path: Path) -> None:
    folder = PlainFolder(str(tmp_path / "a" / "b"))
    assert folder.read("x.conf").problem == "missing" and folder.sweep(["x.conf"]) == 0
    assert not (tmp_path / "a").exists()
    folder.write("x.conf", NEW, replace=False)
    assert folder.read("x.conf").data == b"new\n"


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "a\n"])
def test_no_other_name(folder: PlainFolder, name: str) -> None:
    for act in (folder.read, lambda name: folder.write(name, NEW, replace=True)):
        with pytest.raises(StoreError):
            act(name)
