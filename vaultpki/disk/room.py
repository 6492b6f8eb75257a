"""Prove that a folder takes new files now: that it is writable, on a disk with free space and free inodes."""

from __future__ import annotations

import errno
import os

from vaultpki.disk import files
from vaultpki.errors import StoreError
from vaultpki.values.permissions import PASSING


def prove(path: str, size: int, entries: int) -> None:
    """Prove that `size` bytes and `entries` more names can be written in the folder, or where it will be made.

    Nothing is left there. StoreError says what is wrong: a read-only or full disk, no free inode, a folder that takes
    no new files.
    """
    files.refuse_unsafe_way(path)
    while not files.exists(path):
        path = os.path.dirname(path)
    with files.storage_errors(path), files.closing(os.open(path, PASSING)) as fd:
        try:
            files.prove_writable(f".probe.{files.random_suffix()}", fd, size, entries)
        except PermissionError as error:
            if error.errno == errno.EPERM:
                # chattr(1): nobody, not even root, makes or removes a name in such a folder.
                raise StoreError(
                    f"{path}: the folder takes no new files, not even from root; if `lsattr -d {path}` shows an i or "
                    f"a, `chattr -ia {path}` ends that"
                ) from None
            raise
        except OSError as error:
            # A file system without a table of inodes, such as btrfs, says 0 of 0.
            disk = os.fstatvfs(fd)
            if error.errno == errno.ENOSPC and disk.f_files and disk.f_favail <= entries:
                raise StoreError(
                    f"{path}: the disk has no free inodes ({disk.f_favail} left); remove files that nobody needs "
                    "(`df -i` shows them)"
                ) from None
            raise
