"""Writes a file that a command made before, and no other one."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final

from vaultpki.errors import StoreError

# Bytes: more than the first line of anything that we mark.
_BEGIN: Final = 100


def write(path: Path, text: str, *, marks: Collection[str], what: str) -> None:
    """Write the file in one step, with mode 0644 less the umask.

    A file that is there is replaced only if its first line is one of `marks`, so that no other file is lost. Raises
    StoreError otherwise: `what` says what it should be (`picture`), and if it cannot be written.
    """
    try:
        _refuse_foreign(path, marks, what)
        # In the same folder, since a rename between file systems is none.
        new = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        try:
            with os.fdopen(fd, "wb") as stream:
                stream.write(text.encode())
                stream.flush()
                os.fsync(stream.fileno())
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a usable path"
        raise StoreError(f"{str(path)!r} cannot be written ({reason}): choose another path with -o") from None


def _refuse_foreign(path: Path, marks: Collection[str], what: str) -> None:
    try:
        # A link here could lead to any file that this user may write; a pipe would block.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    with os.fdopen(fd, "rb", buffering=0) as stream:
        begins = stream.read(_BEGIN) if stat.S_ISREG(os.fstat(fd).st_mode) else b"not a file"
    if begins and begins.partition(b"\n")[0].decode("utf-8", "replace") not in marks:
        raise StoreError(f"{str(path)!r} is no {what} of vaultpki: choose another name with -o")
