"""Reading a file that a person names: a regular one of bounded size, so that no FIFO or device holds a command up."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

# O_NONBLOCK: the opening of a FIFO must not wait for a writer. O_NOCTTY: that of a terminal must not take it over.
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class NotRegular(OSError):
    """A FIFO, a socket or a device is in the file's place."""

    def __init__(self) -> None:
        super().__init__(errno.ENXIO, "it is a FIFO, a socket or a device")


class TooLarge(OSError):
    """The file is larger than allowed."""

    def __init__(self, limit: int) -> None:
        super().__init__(errno.EFBIG, f"it is larger than {limit // 1024} KiB")


def read(path: Path | str, limit: int, *, follow: bool = True) -> tuple[bytes, os.stat_result]:
    """The content of the regular file at `path`, at most `limit` bytes, and what fstat(2) says of it.

    Raises IsADirectoryError, NotRegular, TooLarge or another OSError, and ValueError for what can be no path. Without
    `follow` a symbolic link in the file's own place is an OSError, too.
    """
    # Looked at first: to open some devices is to use them.
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
    """All that can be read from `fd`, which is closed; TooLarge for more than `limit` bytes, or another OSError."""
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
    # A link is met only by who follows none, and the opening refuses it.
    if not stat.S_ISREG(about.st_mode) and not stat.S_ISLNK(about.st_mode):
        raise NotRegular
