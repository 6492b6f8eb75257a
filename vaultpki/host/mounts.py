"""Finds the containers of this machine that have a file or a folder of it mounted, also one that is replaced since.

A bind mount keeps the file or folder that it was made of: one that was replaced meanwhile is marked as deleted, or is
found under its new name (proc(5), mountinfo; Linux fs/d_path.c). Every user may read this. Nothing here writes.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from vaultpki.host import boot_time
from vaultpki.host.boot_time import Moment
from vaultpki.places import is_below

_LARGEST: Final = 4 * 1024 * 1024
_DELETED: Final = "//deleted"
_ESCAPES: Final = re.compile(r"[ \t\n\\]")
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
# Of /proc/PID/stat, counted from the one after the command's name: starttime is the 22nd field.
_STARTED: Final = 19


@dataclass(frozen=True, slots=True)
class MountHolder:
    """A container that has `path` of this machine mounted; `gone` is whether that file or folder is not there any more.

    `program` and `pid` are its first process, and `started` is when that was started.
    """

    path: str
    gone: bool
    program: str
    pid: int
    started: Moment


class _Mount(NamedTuple):
    """A line of mountinfo: the number of the mount, its device, what of the file system it shows, and where."""

    number: str
    device: str
    root: str
    point: str


def holders(folders: Collection[str], processes: str = "/proc") -> tuple[MountHolder, ...]:
    """Return the containers that have one of these folders, or something below, mounted, the oldest first.

    `folders` are absolute paths. What ends meanwhile, or may not be read, is left out.
    """
    own = list(_lines(_table("self", processes)))
    here = _root(own)
    wanted = [(*place, folder) for folder in folders if (place := _place(folder, own)) is not None]
    # Most processes have none of them mounted, and their tables need not be taken apart.
    named = [os.fsencode(_ESCAPES.sub(lambda match: f"\\{ord(match[0]):03o}", top)) for _, top, _ in wanted]
    boot, ticks = boot_time.boot(processes), os.sysconf("SC_CLK_TCK")
    found: dict[tuple[str, str, bool], MountHolder] = {}
    for pid in sorted(_processes(processes)):
        with contextlib.suppress(OSError, ValueError, IndexError):
            table = _table(f"{pid}", processes)
            if not any(each in table for each in named):
                continue
            mounts = list(_lines(table))
            root = _root(mounts)
            # A service of the machine has its root folder, whatever else is hidden from it.
            if root is None or (here is not None and (root.device, root.root) == (here.device, here.root)):
                continue
            held = set(_held(mounts, wanted))
            program, ticked = _started(pid, processes) if held else ("", 0)
            for path, gone in held:
                one = MountHolder(path, gone, program, pid, Moment(boot, ticked / ticks))
                before = found.get((root.number, path, gone))
                if before is None or one.started.uptime < before.started.uptime:
                    found[root.number, path, gone] = one
    return tuple(sorted(found.values(), key=lambda each: (each.started.uptime, each.pid, each.path)))


def _root(mounts: Collection[_Mount]) -> _Mount | None:
    """Return the mount of the root folder; of several the last one is seen."""
    return next((each for each in reversed(list(mounts)) if each.point == "/"), None)


def changed_since(path: str, moment: Moment) -> bool:
    """Return whether the file at a path was changed after a moment of this boot; a missing one was."""
    now = boot_time.now()
    try:
        age = time.time() - os.stat(path).st_ctime
    except OSError:
        return True
    return moment.boot == now.boot and now.uptime - moment.uptime > age


def _held(mounts: Collection[_Mount], wanted: Collection[tuple[str, str, str]]) -> Iterator[tuple[str, bool]]:
    """Yield the paths on this machine that are mounted there, and whether each is gone."""
    for each in mounts:
        root = each.root.removesuffix(_DELETED)
        for device, top, folder in wanted:
            if each.device == device and is_below(root, top):
                yield f"{folder}{root[len(top) :]}".rstrip("/"), root != each.root
                break


def _place(path: str, own: Collection[_Mount]) -> tuple[str, str] | None:
    """Return the device of a path, and the path inside of its file system; None if no mount shows it."""
    best: _Mount | None = None
    for each in own:
        # Of two mounts at one place the later one is seen.
        if is_below(path, each.point) and (best is None or len(each.point) >= len(best.point)):
            best = each
    if best is None:
        return None
    return best.device, f"{best.root.rstrip('/')}{path[len(best.point.rstrip('/')) :]}" or "/"


def _table(pid: str, processes: str) -> bytes:
    with open(f"{processes}/{pid}/mountinfo", "rb") as file:
        return file.read(_LARGEST)


def remote(processes: str = "/proc") -> tuple[str, ...]:
    """Return where file systems of other machines are mounted: what reads there may be held up for ever."""
    try:
        with open(f"{processes}/self/mounts", encoding="utf-8", errors="replace") as file:
            lines = [line.split(" ") for line in file.read(_LARGEST).splitlines()]
    except OSError:
        return ()
    return tuple(
        _ESCAPED.sub(lambda found: chr(int(found[1], 8)), point)
        for source, point, kind, *_ in (line for line in lines if len(line) > 2)
        if kind == "autofs" or source.startswith("//") or (":" in source and not source.startswith("/dev/"))
    )


def _lines(table: bytes) -> Iterator[_Mount]:
    for line in os.fsdecode(table).splitlines():
        fields = line.split(" ")
        yield _Mount(fields[0], fields[2], _plain(fields[3]), _plain(fields[4]))


def _plain(field: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), field)


def _started(pid: int, processes: str) -> tuple[str, int]:
    """Return the name of a process's program, and when it was started in ticks since the boot."""
    with open(f"{processes}/{pid}/stat", "rb") as file:
        name, _, rest = os.fsdecode(file.read(_LARGEST)).partition("(")[2].rpartition(")")
    with open(f"{processes}/{pid}/cmdline", "rb") as file:
        # The kernel's own name of it is cut.
        first = os.path.basename(os.fsdecode(file.read(_LARGEST).partition(b"\0")[0]))
    return first or name, int(rest.split()[_STARTED])


def _processes(processes: str) -> list[int]:
    try:
        return [int(name) for name in os.listdir(processes) if name.isdecimal()]
    except OSError:
        return []
