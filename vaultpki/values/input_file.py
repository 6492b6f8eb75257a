"""Reads a file that a person names: a regular file of bounded size, so that no FIFO or device blocks a command."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

# O_NONBLOCK: opening a FIFO must not wait for a writer. O_NOCTTY: a terminal must not become our controlling terminal.
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class NotRegular(OSError):
    """The path is a FIFO, a socket or a device."""

    def __init__(self) -> None:
        super().__init__(errno.ENXIO, "it is a FIFO, a socket or a device")


class TooLarge(OSError):
    """The file is larger than allowed."""

    def __init__(self, limit: int) -> None:
        super().__init__(errno.EFBIG, f"it is larger than {limit // 1024} KiB")


def read(path: Path | str, limit: int, *, follow: bool = True) -> tuple[bytes, os.stat_result]:
    """Return the content of the regular file at `path` and its fstat(2) result.

    Raises TooLarge above `limit` bytes, IsADirectoryError, NotRegular or another OSError, and ValueError for an
    impossible path. Without `follow`, a symbolic link as the last part of the path is an OSError.
    """
    # Checked before opening: opening some devices has side effects.
    _refuse_other(os.stat(path, follow_symlinks=follow))
    fd = os.open(path, _FLAGS if follow else _FLAGS | os.O_NOFOLLOW)
    about = os.fstat(fd)
    try:
        _refuse_other(about)
    except OSError:
        os.close(fd)
        raise
    return content(fd, limit), about


def content(fd: int, limit: int) -> bytes:
    """Read `fd` to its end, and close it; raise TooLarge above `limit` bytes, or another OSError."""
    try:
        data = b""
        while len(data) <= limit and (more := os.read(fd, limit + 1 - len(data))):
            data += more
    finally:
        os.close(fd)
    if len(data) > limit:
        raise TooLarge(limit)
    return data


def _refuse_other(about: os.stat_result) -> None:
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    # Links are let through here: with O_NOFOLLOW the open refuses them.
    if not stat.S_ISREG(about.st_mode) and not stat.S_ISLNK(about.st_mode):
        raise NotRegular
