"""Writes the root's SHA-256 into cluster.yaml in one step, for `apply --pin`."""

from __future__ import annotations

import os
import stat

from vaultpki.config import pinned
from vaultpki.disk import files
from vaultpki.errors import StoreError


def write(file: str, sha256: str) -> bool:
    """Write the pin; return whether the file changed. It keeps its mode and its owner.

    Raises SpecError as `pinned.with_pin`, and StoreError if the file cannot be written.
    """
    # A link stays a link.
    folder_path, name = os.path.split(os.path.realpath(file))
    try:
        folder = os.open(folder_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            data, about = files.read_at(name, folder)
            new = pinned.with_pin(data, sha256, file)
            if new == data:
                return False
            own = (about.st_uid, about.st_gid) == (os.geteuid(), os.getegid())
            owner = (None, None) if own else (about.st_uid, about.st_gid)
            files.swap(name, folder, new, stat.S_IMODE(about.st_mode), *owner)
        finally:
            os.close(folder)
    except OSError as error:
        raise StoreError(
            f"{file} cannot be written ({error.strerror}): write `root_sha256: {sha256}` below `ca` yourself"
        ) from None
    return True
