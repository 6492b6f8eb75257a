"""Writes a file that a command made before, and no other one."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final

from vaultpki.disk.files import OLD_FILE, swap
from vaultpki.errors import StoreError

# Bytes: more than the first line of anything that we mark.
_BEGIN: Final = 100


def replace_own(
    path: Path, text: str, *, marks: Collection[str], what: str, option: str = "-o", for_all: bool = False
) -> None:
    """Write the file in one step, with mode 0644 less the umask; with `for_all` whatever the umask.

    A file that is there is replaced only if its first line is one of `marks`, so that no other file is lost. Raises
    StoreError otherwise: `what` says what it should be (`picture`), and if it cannot be written. `option` is the one
    that names the file.
    """
    os.umask(umask := os.umask(0o077))
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not _replaceable(path.name, folder, marks):
                raise StoreError(f"{str(path)!r} is not a {what} of vaultpki: choose another name with {option}")
            swap(path.name, folder, text.encode(), 0o644 if for_all else 0o644 & ~umask)
        finally:
            os.close(folder)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a usable path"
        raise StoreError(f"{str(path)!r} cannot be written ({reason}): choose another path with {option}") from None


def _replaceable(name: str, folder: int, marks: Collection[str]) -> bool:
    try:
        # A link here could lead to any file that this user may write; a pipe would block.
        fd = os.open(name, OLD_FILE, dir_fd=folder)
    except FileNotFoundError:
        return True
    with os.fdopen(fd, "rb", buffering=0) as stream:
        begins = stream.read(_BEGIN) if stat.S_ISREG(os.fstat(fd).st_mode) else b"not a file"
    return not begins or begins.partition(b"\n")[0].decode("utf-8", "replace") in marks
