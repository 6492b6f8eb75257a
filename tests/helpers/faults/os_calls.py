"""The calls by which this process changes files, seen or failed one by one: a hundredth of what strace costs.

What a kill right before a call leaves is what lies there in that moment, so a test that copies it needs no kill.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHANGING = (
    *("open", "write", "pwrite", "ftruncate", "fsync", "mkdir", "rmdir", "symlink", "link", "rename", "unlink"),
    *("chmod", "fchmod", "chown", "fchown", "flock"),
)
READING = ("read", "fstat", "stat", "readlink", "listdir", "scandir")
ERRORS = ("ENOSPC", "EIO", "EROFS", "EDQUOT", "EACCES")

Before = Callable[[int, str], int | None]
"""Called right before a call, with its number and name. What it returns is the result of a call that is not made; what
it raises is how the call fails."""


@contextmanager
def seen(before: Before, names: tuple[str, ...] = CHANGING) -> Iterator[list[str]]:
    """Within the block `before` comes before each of these calls of this thread; yields the names of those made."""
    made: list[str] = []
    thread, places, within = threading.get_ident(), {"flock": fcntl}, False

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal within
            looks = name == "open" and not arguments[1] & os.O_CREAT and "read" not in names
            if within or looks or threading.get_ident() != thread:
                return real(*arguments, **options)
            made.append(name)
            within = True
            try:
                instead = before(len(made) - 1, name)
            finally:
                within = False
            return real(*arguments, **options) if instead is None else instead

        return call

    reals = {name: getattr(places.get(name, os), name) for name in names}
    for name, real in reals.items():
        setattr(places.get(name, os), name, watched(name, real))
    try:
        yield made
    finally:
        for name, real in reals.items():
            setattr(places.get(name, os), name, real)


def moments(work: Callable[[], object], folder: Path, place: Path, wanted: Callable[[int], bool]) -> dict[int, Path]:
    """Copies of a folder as a kill right before each of these calls of `work` leaves it, in folders below `place`.

    The last one is as the whole work leaves it.
    """
    found: dict[int, Path] = {}

    def look(number: int, _: str = "") -> None:
        if wanted(number):
            found[number] = copied(folder, place / f"moment-{number}" / folder.name)

    with seen(look) as made:
        work()
    found[len(made)] = copied(folder, place / f"moment-{len(made)}" / folder.name)
    return found


def copied(folder: Path, to: Path) -> Path:
    """A copy of a folder that need not be there, in a new one."""
    to.parent.mkdir(mode=0o755, parents=True)
    if folder.exists():
        shutil.copytree(folder, to, symlinks=True)
    return to


def failing(at: int, name: str, *, lasting: bool = False) -> Before:
    """A call fails with this error; with `lasting` so do all later ones of its name."""
    number, which = getattr(errno, name), ""

    def before(index: int, call: str) -> None:
        nonlocal which
        which = call if index == at else which
        if index == at or (lasting and index > at and call == which):
            raise OSError(number, os.strerror(number))

    return before


def untrue(at: int, result: int) -> Before:
    """A write does nothing, and says that it has written so many bytes."""
    return lambda index, _: result if index == at else None
