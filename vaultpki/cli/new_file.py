"""Writes a new file for a person to edit, and never over one that is there unless they say so."""

from __future__ import annotations

import os

from vaultpki.errors import StoreError


def refuse_existing(path: str, *, force: bool) -> None:
    """Raise StoreError if there is such a file already, before long work is done for it."""
    if not force and os.path.lexists(path):
        raise _exists(path)


def write_new(path: str, text: str, *, force: bool) -> None:
    """Write the file; one that is there only with `force`. Raises StoreError if it cannot be written."""
    try:
        # A link here could lead to any file that this user may write.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (os.O_TRUNC if force else os.O_EXCL)
        with os.fdopen(os.open(path, flags, 0o644), "w", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise _exists(path) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a usable path"
        raise StoreError(f"{path!r} cannot be written ({reason}): choose another path with -o") from None


def _exists(path: str) -> StoreError:
    return StoreError(f"{path!r} exists already: choose another name with -o, or pass --force")
