"""Exchange two folders in one step, and copy one whole: nobody who opens a path sees half of either.

A process that has a folder open, or a container that mounts it, keeps the one that it had (renameat2(2)).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from typing import Final

from vaultpki.disk import files
from vaultpki.disk.files import closing, open_folder, storage_errors
from vaultpki.errors import StoreError
from vaultpki.values import permissions

_EXCHANGE: Final = 2  # RENAME_EXCHANGE (linux/fs.h)


def exchange(one: str, other: str) -> None:
    """Put the folder `one` in the place of `other`, and the other way round, in one step.

    Raises StoreError if either is missing or a mount point, if they lie on two file systems, or if theirs cannot do it.
    """
    with (
        closing(open_folder(os.path.dirname(one), create=False)) as first,
        closing(open_folder(os.path.dirname(other), create=False)) as second,
        storage_errors(one),
    ):
        try:
            swap_names(os.path.basename(one), first, os.path.basename(other), second)
        except OSError as error:
            why = {
                errno.EXDEV: f"it lies on another file system than {other}, so the two cannot be exchanged in one step",
                errno.EBUSY: "a file system is mounted there, so it cannot be exchanged; mount the folder above it",
                errno.EINVAL: "its file system cannot exchange two folders in one step",
            }.get(error.errno or 0)
            if why is None:
                raise
            raise StoreError(f"{one}: {why}") from None
        os.fsync(first)
        os.fsync(second)


def swap_names(one: str, first: int, other: str, second: int) -> None:
    """Exchange the entry `one` of the folder `first` and the entry `other` of `second`. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        call = libc.renameat2
    except AttributeError:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None
    if call(first, os.fsencode(one), second, os.fsencode(other), _EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def move(path: str, to: str) -> None:
    """Move a file or folder to a place of the same file system where nothing is, or an empty folder."""
    with (
        closing(open_folder(os.path.dirname(path), create=False)) as first,
        closing(open_folder(os.path.dirname(to), create=False)) as second,
        storage_errors(to),
    ):
        os.rename(os.path.basename(path), os.path.basename(to), src_dir_fd=first, dst_dir_fd=second)
        os.fsync(first)
        os.fsync(second)


def remove(path: str) -> None:
    """Remove a file or folder with its content, if it is there; follow no link."""
    if not files.exists(path):
        return
    with closing(open_folder(os.path.dirname(path), create=False)) as folder, storage_errors(path):
        files.remove_tree(os.path.basename(path), folder)
        os.fsync(folder)


def exchangeable(one: str, other: str) -> None:
    """Raise StoreError if two folders could not be exchanged, as far as that can be told without doing it.

    `other` need not exist yet: the nearest folder above it counts.
    """
    while not files.exists(other):
        other = os.path.dirname(other)
    with storage_errors(one):
        if os.stat(one).st_dev != os.stat(other).st_dev:
            raise StoreError(f"{one}: it lies on another file system than {other}, or a file system is mounted there")
        if os.path.ismount(one):
            raise StoreError(
                f"{one}: a file system is mounted there, so it cannot be exchanged; mount the one above it"
            )


def copy_tree(source: str, to: str) -> None:
    """Copy a folder whole into the folder `to`, which is made: contents, modes, owners, times and links.

    It is on the disk when this returns. Raises StoreError for what is neither a file, a folder nor a link, and for a
    file of more than 1 MiB.
    """
    with closing(open_folder(source, create=False)) as old, storage_errors(to):
        with closing(open_folder(os.path.dirname(to), create=False)) as above:
            new = files.make_folder(os.path.basename(to), above, 0o700)
        with closing(new):
            _copy(old, new, source)


def _copy(old: int, new: int, path: str) -> None:
    for name in sorted(os.listdir(old)):
        about = os.stat(name, dir_fd=old, follow_symlinks=False)
        if stat.S_ISLNK(about.st_mode):
            os.symlink(os.readlink(name, dir_fd=old), name, dir_fd=new)
        elif stat.S_ISDIR(about.st_mode):
            with (
                closing(os.open(name, files.OPEN_FOLDER, dir_fd=old)) as inner,
                closing(files.make_folder(name, new, 0o700)) as made,
            ):
                _copy(inner, made, f"{path}/{name}")
        elif stat.S_ISREG(about.st_mode):
            data, about = files.read_at(name, old)
            files.write_new(name, new, data, stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid)
            os.utime(name, ns=(about.st_atime_ns, about.st_mtime_ns), dir_fd=new, follow_symlinks=False)
        else:
            raise StoreError(f"{path}/{name}: it is neither a file, a folder nor a link; move it away")
    about = os.fstat(old)
    permissions.remove_acls(new)
    files.set_mode_and_owner(new, stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid)
    os.utime(new, ns=(about.st_atime_ns, about.st_mtime_ns))
    os.fsync(new)
