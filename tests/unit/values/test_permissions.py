"""Whom a file's owner, mode and ACL let in, and what each folder and link on its way adds to that."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.node.posix_acls import ACCESS, GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, acl, give
from vaultpki.disk.files import open_folder, private_folder, write_private
from vaultpki.errors import StoreError
from vaultpki.values.input_file import NotRegular
from vaultpki.values.permissions import acl_lets_others_write, open_file, refuse_file

ROOT = Path(__file__).parents[3]
STRANGER = 1234
R, W, RW = 4, 2, 6


@pytest.mark.parametrize(
    ("entries", "let"),
    [
        ([(USER_OBJ, RW, -1), (GROUP_OBJ, R, -1), (OTHER, R, -1)], False),
        ([(USER_OBJ, RW, -1), (GROUP_OBJ, R, -1), (OTHER, RW, -1)], True),
        ([(USER_OBJ, RW, -1), (GROUP_OBJ, RW, -1), (OTHER, R, -1)], True),
        ([(USER_OBJ, RW, -1), (USER, RW, STRANGER), (GROUP_OBJ, R, -1), (MASK, RW, -1), (OTHER, R, -1)], True),
        ([(USER_OBJ, RW, -1), (USER, W, STRANGER), (GROUP_OBJ, R, -1), (MASK, RW, -1), (OTHER, R, -1)], True),
        ([(USER_OBJ, RW, -1), (USER, RW, STRANGER), (GROUP_OBJ, R, -1), (MASK, R, -1), (OTHER, R, -1)], False),
        ([(USER_OBJ, RW, -1), (USER, R, STRANGER), (GROUP_OBJ, R, -1), (MASK, RW, -1), (OTHER, R, -1)], False),
        ([(USER_OBJ, RW, -1), (USER, RW, 0), (GROUP_OBJ, R, -1), (MASK, RW, -1), (OTHER, R, -1)], False),
        ([(USER_OBJ, RW, -1), (GROUP_OBJ, R, -1), (GROUP, RW, 0), (MASK, RW, -1), (OTHER, R, -1)], True),
        ([(USER_OBJ, RW, -1), (GROUP_OBJ, R, -1), (GROUP, R, 7), (MASK, RW, -1), (OTHER, R, -1)], False),
    ],
)
def test_an_acl(entries: list[tuple[int, int, int]], let: bool, file: Path) -> None:
    os.setxattr(file, ACCESS, acl(entries))
    if let:
        with pytest.raises(StoreError, match="others may write to the file"):
            open_file(str(file))
    else:
        os.close(open_file(str(file)))


def test_an_acl_may_name_the_user_who_runs_this() -> None:
    entries = [(USER_OBJ, RW, -1), (USER, RW, 0), (USER, RW, 7), (GROUP_OBJ, R, -1), (MASK, RW, -1), (OTHER, R, -1)]
    assert not acl_lets_others_write(acl(entries), {7})
    assert acl_lets_others_write(acl(entries), {8})


@pytest.mark.parametrize("raw", [b"", b"\2\0\0", struct.pack("<I", 3), acl([(OTHER, R, -1)])[:-1]])
def test_what_is_no_acl_that_we_know(raw: bytes) -> None:
    assert acl_lets_others_write(raw, ())


def read(path: Path | str) -> bytes:
    fd = open_file(str(path))
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "a/b"
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"good")
    assert read(folder / "file") == b"good"
    return folder / "file"


def lend(path: Path) -> None:
    give(path, USER, STRANGER, 7 if path.is_dir() else RW)


def lend_to_its_group(path: Path) -> None:
    os.chown(path, 0, 4321)
    path.chmod(path.stat().st_mode | 0o020)


def lend_to_a_group(path: Path) -> None:
    give(path, GROUP, 0, 7 if path.is_dir() else RW)


SPOIL: dict[str, tuple[Callable[[Path], object], str]] = {
    "everybody": (lambda path: path.chmod(path.stat().st_mode | 0o002), "chmod go-w"),
    "group 0": (lambda path: path.chmod(path.stat().st_mode | 0o020), "chmod go-w"),
    "a group": (lend_to_its_group, "chmod go-w"),
    "a stranger": (lambda path: os.chown(path, STRANGER, 0), f"belongs to the user {STRANGER}"),
    "an ACL's user": (lend, "setfacl -b"),
    "an ACL's group": (lend_to_a_group, "setfacl -b"),
}


@pytest.mark.parametrize("what", ["file", "b", "a"])
@pytest.mark.parametrize("spoil", SPOIL)
def test_whoever_else_could_write(spoil: str, what: str, file: Path) -> None:
    act, said = SPOIL[spoil]
    path = {"file": file, "b": file.parent, "a": file.parents[1]}[what]
    mode = stat.S_IMODE(path.stat().st_mode)
    act(path)
    for refuse in (read, lambda each: refuse_file(str(each))):
        with pytest.raises(StoreError) as told:
            refuse(file)
        text = str(told.value)
        assert text.startswith(f"{path}: ") and said in text and f" {path}`" in text and "\n" not in text, text
    if path != file:
        with pytest.raises(StoreError, match=said):
            os.close(open_folder(str(file.parent), create=False))
    # What the sentence says does mend it.
    for name in os.listxattr(path):
        if name == ACCESS:
            os.removexattr(path, name)
    os.chown(path, 0, 0)
    path.chmod(mode)
    assert read(file) == b"good"


def test_a_sticky_folder_holds_what_is_ours(file: Path) -> None:
    file.parent.chmod(0o1777)
    assert read(file) == b"good"
    os.chown(file, STRANGER, 0)
    with pytest.raises(StoreError, match=f"belongs to the user {STRANGER}"):
        read(file)


def test_links_are_followed_and_their_way_is_looked_at(file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "folder").symlink_to("a/../a/b")
    (tmp_path / "over").symlink_to("folder/../b/file")
    for name in ("link", "folder/file", "over", "./folder/.././b//file"):
        assert read(tmp_path / name) == b"good", name
        assert read(f"{tmp_path}/{name}") == b"good", name
    file.parent.chmod(0o777)
    for name in ("link", "folder/file", "over"):
        with pytest.raises(StoreError, match=str(file.parent)):
            read(tmp_path / name)
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(OSError, match="symbolic links"):
        read(tmp_path / "one")


def test_a_strangers_link_in_a_sticky_folder(file: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "link").symlink_to(file)
    os.chown(shared / "link", STRANGER, 0, follow_symlinks=False)
    assert read(shared / "link") == b"good"
    shared.chmod(0o1777)
    with pytest.raises(StoreError, match=f"symbolic link belongs to the user {STRANGER}"):
        read(shared / "link")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotRegular):
        read(tmp_path / "fifo")
    with pytest.raises(NotRegular):
        read("/dev/zero")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")


def test_what_a_shell_passes(file: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from vaultpki.values import yaml_tree; "
        "print(yaml_tree.read_text(Path(sys.argv[1])))"
    )
    for script in ('exec "$0" -c "$1" <(sleep 0.2; echo good)', 'echo good | "$0" -c "$1" /dev/stdin'):
        done = subprocess.run(
            ["bash", "-c", script, sys.executable, program],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.split() == ["good"], done.stderr


# What it needs is loaded before it becomes the user, who may not be let into the checkout.
PRIVATE_GROUP = """
import os, shlex, sys
from vaultpki.values.permissions import open_file
os.setgroups([]), os.setresgid(1000, 1000, 1000), os.setresuid(1000, 1000, 1000)
try:
    os.close(open_file(sys.argv[1]))
    print("read")
except Exception as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("passwd", "group", "said"),
    [
        ("me:x:1000:1000::/:/bin/sh\n", "me:x:1000:\n", "read"),
        ("me:x:1000:1000::/:/bin/sh\n", "me:x:1000:me\n", "read"),
        ("me:x:1000:1000::/:/bin/sh\n", "me:x:1000:eve\n", "others may write"),
        ("me:x:1000:1000::/:/bin/sh\neve:x:1001:1000::/:/bin/sh\n", "me:x:1000:\n", "others may write"),
        ("me:x:1000:1000::/:/bin/sh\n", "users:x:1000:\n", "others may write"),
        ("me:x:1000:1000::/:/bin/sh\n", "", "others may write"),
    ],
)
def test_the_private_group_of_a_user(passwd: str, group: str, said: str, tmp_path: Path) -> None:
    """Users of the test's own, in a mount namespace."""
    for name, text in (("passwd", passwd), ("group", group)):
        (tmp_path / name).write_text(f"root:x:0:0::/:/bin/sh\n{text}" if name == "passwd" else f"root:x:0:\n{text}")
    file = tmp_path / "open/file"
    file.parent.mkdir()
    file.write_bytes(b"good")
    for path in (file.parent, file):
        os.chown(path, 1000, 1000)
        path.chmod(path.stat().st_mode | 0o020)
    for each in (tmp_path, *tmp_path.parents):
        if each.stat().st_mode & stat.S_ISVTX:
            break
        each.chmod(each.stat().st_mode | 0o011)
    script = f'cd {tmp_path} && mount --bind passwd /etc/passwd && mount --bind group /etc/group && cd / && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", PRIVATE_GROUP, str(file)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said in done.stdout, (done.stdout, done.stderr)


def test_what_is_made_inherits_no_acl(tmp_path: Path) -> None:
    give(tmp_path, USER, STRANGER, 7, default=True)
    write_private(str(tmp_path / "key"), b"key", 0o640)
    private_folder(str(tmp_path / "state"))
    (tmp_path / "theirs").write_text("")
    assert os.listxattr(tmp_path / "theirs") == [ACCESS]
    assert os.listxattr(tmp_path / "key") == os.listxattr(tmp_path / "state") == []
