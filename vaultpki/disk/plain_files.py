"""Write plain files in a folder that other programs use too, such as /etc/kubernetes: no links, no hidden folder.

A file is replaced in one step, or written only where there is none: a container that mounts it as a single file never
sees another one in its place. The lock of the node's certificate directory allows one writer only.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from typing import Final

from vaultpki.disk import files
from vaultpki.disk.files import storage_errors
from vaultpki.disk.generations import NAME_PATTERN, File, StoredFile, stored_at
from vaultpki.errors import StoreError

_RANDOM: Final = r"[0-9a-f]{16}"


class PlainFolder:
    """The folder at `path`, opened anew for each step: a program such as `kubeadm reset` may replace it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.suspect = False
        """Whether others could write to the folder, so that they may have any of its files open for writing."""
        self.rewritten: list[str] = []
        """Sentences on files that got another inode for that reason, or for one of their own."""

    def read(self, name: str) -> StoredFile:
        """Read a file; what is wrong with it is its `problem`, as in `Generations.read`."""
        _valid(name)
        if not files.exists(self.path):
            return StoredFile(None, problem="missing")
        with files.closing(files.open_folder(self.path, create=False)) as folder:
            return stored_at(name, folder)

    @contextlib.contextmanager
    def _opened(self, name: str, *, create: bool = False) -> Iterator[int]:
        """Open the folder to change the file `name` in it."""
        _valid(name)
        opened = files.open_folder(self.path, create=create)
        with files.closing(opened) as folder, storage_errors(f"{self.path}/{name}"):
            yield folder

    def write(self, name: str, wanted: File, *, replace: bool) -> None:
        """Write a file so that a reader sees it whole; without `replace` StoreError if something is there already."""
        with self._opened(name, create=True) as folder:
            if replace:
                files.swap(name, folder, wanted.data, wanted.mode, wanted.uid, wanted.gid)
            else:
                _write_once(name, folder, wanted)

    def unsafe(self, stored: StoredFile, wanted: File) -> bool:
        """Return whether somebody may have the file open for writing who should not: then only `rewrite` helps."""
        return self.suspect or stored.open_to_others(wanted)

    def rewrite(self, name: str, wanted: File) -> None:
        """Replace a file that others may have open for writing by another one; a container that mounts it must restart.

        A container that mounts the folder sees the new one.
        """
        self.write(name, wanted, replace=True)
        text = f"{self.path}: another user owned or could write to {name}; written anew, as another file"
        self.rewritten.append(text)

    def mend(self, name: str, wanted: File) -> None:
        """Give a file its mode; a container that mounts it sees the same file."""
        with self._opened(name) as folder, files.closing(os.open(name, files.OLD_FILE, dir_fd=folder)) as fd:
            files.set_mode_and_owner(fd, wanted.mode, wanted.uid, wanted.gid)
            os.fsync(fd)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with self._opened(name) as folder:
            os.unlink(name, dir_fd=folder)
            os.fsync(folder)

    def sweep(self, names: Iterable[str]) -> int:
        """Remove what a killed run left beside these files; return how many files that were."""
        if not files.exists(self.path):
            return 0
        leftover = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.{_RANDOM}")
        with files.closing(files.open_folder(self.path, create=False)) as folder, storage_errors(self.path):
            found = [entry for entry in os.listdir(folder) if leftover.fullmatch(entry)]
            for entry in found:
                os.unlink(entry, dir_fd=folder)
            if found:
                os.fsync(folder)
        return len(found)


def _write_once(name: str, folder: int, wanted: File) -> None:
    temporary = f".{name}.{files.random_suffix()}"
    try:
        files.write_new(temporary, folder, wanted.data, wanted.mode, wanted.uid, wanted.gid)
        # Not a rename, which would replace what another program has put there meanwhile.
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
    os.fsync(folder)


def _valid(name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise StoreError(f"{name!r} cannot be a kubeconfig: letters, digits, dots, @, - and _ are possible; rename it")
