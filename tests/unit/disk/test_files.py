"""Reading a secret that another program swaps, proving that a folder can be written, and the walk down to a folder."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from vaultpki.disk import files
from vaultpki.disk.files import LARGEST_FILE, probe_folder, read_swapped
from vaultpki.errors import StoreError
from vaultpki.values import permissions


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """A folder that everybody may reach, which pytest's own are not."""
    folder = tmp_path / "open"
    folder.mkdir()
    for each in (folder, *folder.parents):
        if each.stat().st_uid == os.getuid() and each != Path("/"):
            each.chmod(each.stat().st_mode | 0o011)
    return folder


def token(folder: Path, mode: int) -> Path:
    path = folder / "token"
    path.write_bytes(b"secret\n")
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_file(mode: int, open_folder: Path) -> None:
    assert read_swapped(str(token(open_folder, mode))) == b"secret\n"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602])
def test_what_others_may_read_is_refused_unless_a_folder_keeps_them_out(mode: int, open_folder: Path) -> None:
    path = token(open_folder, mode)
    with pytest.raises(StoreError, match="chmod 600"):
        read_swapped(str(path))
    open_folder.chmod(0o700)
    assert read_swapped(str(path)) == b"secret\n"


def test_a_projected_volume_is_links_to_links(open_folder: Path) -> None:
    for day in ("..1", "..2"):
        (open_folder / day).mkdir()
        (open_folder / day / "token").write_text(day)
        (open_folder / day / "token").chmod(0o400)
    (open_folder / "..data").symlink_to("..1")
    (open_folder / "token").symlink_to("..data/token")
    assert read_swapped(str(open_folder / "token")) == b"..1"
    (open_folder / "..new").symlink_to("..2")
    (open_folder / "..new").rename(open_folder / "..data")
    assert read_swapped(str(open_folder / "token")) == b"..2"


def test_a_projected_volume_is_writable_for_all_and_sticky(open_folder: Path) -> None:
    """The kubelet's is a tmpfs of its own (pkg/volume/emptydir), and only root puts links into it."""
    open_folder.chmod(0o1777)
    (open_folder / "..1").mkdir()
    token(open_folder / "..1", 0o400)
    (open_folder / "..data").symlink_to("..1")
    (open_folder / "token").symlink_to("..data/token")
    assert read_swapped(str(open_folder / "token")) == b"secret\n"


def test_a_link_out_of_a_private_folder_hides_nothing(open_folder: Path, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "token").symlink_to(token(open_folder, 0o644))
    with pytest.raises(StoreError, match="others may read it"):
        read_swapped(str(private / "token"))


def test_what_is_no_file(tmp_path: Path) -> None:
    assert read_swapped(str(tmp_path / "token")) is None
    (tmp_path / "dangling").symlink_to("nowhere")
    assert read_swapped(str(tmp_path / "dangling")) is None
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"x" * (LARGEST_FILE + 1))
    for name in ("loop", "fifo", "large", ""):
        with pytest.raises(StoreError):
            read_swapped(str(tmp_path / name))


def test_a_probe_makes_the_folder_and_leaves_it_empty(tmp_path: Path) -> None:
    state = tmp_path / "state"
    probe_folder(str(state))
    assert state.stat().st_mode & 0o7777 == 0o700 and list(state.iterdir()) == []
    (state / ".probe.0123456789abcdef").mkdir()
    (state / ".probe.0123456789abcdef/data").write_bytes(b"left by a kill")
    (state / ".probe.txt").write_text("theirs")
    probe_folder(str(state))
    assert [path.name for path in state.iterdir()] == [".probe.txt"]
    (tmp_path / "link").symlink_to("state")
    with pytest.raises(StoreError, match="symbolic link"):
        probe_folder(str(tmp_path / "link"))


def through_links(place: Path) -> Callable[[], int]:
    """The walk to a file, through a relative link and an absolute one."""
    (place / "below").mkdir()
    (place / "below" / "file").write_bytes(b"")
    (place / "absolute").symlink_to(place / "below")
    (place / "relative").symlink_to("absolute")
    return lambda: permissions.open_file(str(place / "relative" / ".." / "below" / "file"))


def to_a_folder(place: Path) -> Callable[[], int]:
    return lambda: files.open_folder(str(place), create=False)


def to_an_inherited_file(place: Path) -> Callable[[], int]:
    # Standard input, which every process has.
    return lambda: permissions.open_file("/proc/self/fd/0")


@pytest.mark.parametrize("walk", [through_links, to_a_folder, to_an_inherited_file])
def test_a_ctrl_c_at_any_moment_closes_no_descriptor_twice(
    walk: Callable[[Path], Callable[[], int]], tmp_path: Path
) -> None:
    """Closed twice it would be an OSError, told as a fault, or another file's descriptor."""
    walked = walk(tmp_path)
    moments = itertools.takewhile(lambda moment: interrupted(walked, moment), itertools.count())
    assert len(list(moments)) > 100


def interrupted(walk: Callable[[], int], moment: int) -> bool:
    """Walk, with a Ctrl-C before this instruction of the way down; whether the walk came so far."""
    left = itertools.count(moment, -1)
    ways = {each.__code__ for each in (files._reach, permissions._reach, permissions.Way.to, permissions.Way.__exit__)}

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if frame.f_code not in ways:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and next(left) == 0:
            raise KeyboardInterrupt
        return trace

    traced, descriptors = sys.gettrace(), set(os.listdir("/proc/self/fd"))
    sys.settrace(trace)
    try:
        os.close(walk())
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(traced)
        # One that was opened in that very moment stays open, and would until the process ends.
        for left_open in set(os.listdir("/proc/self/fd")) - descriptors:
            with contextlib.suppress(OSError):
                os.close(int(left_open))
    return False
