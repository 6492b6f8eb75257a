"""Read certificate files from their directory: always all of one generation, even while they are swapped.

    DIR/kubelet.crt -> .vaultpki/kubelet/kubelet.crt              one stable link for each file
    DIR/.vaultpki/kubelet -> kubelet.5f0c9a1b2c3d4e5f             the one link that a swap renames
    DIR/.vaultpki/kubelet.5f0c9a1b2c3d4e5f/kubelet.{crt,key,pem}  a generation: written once, then only read
    DIR/.vaultpki/lock                                            held while a process writes
    DIR/.vaultpki/owner.json                                      whose the directory is (see `owner_mark.py`)

Files that change together are a file set: a pair, or all bundles and kubeconfigs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Self

from vaultpki.disk import files
from vaultpki.disk.files import storage_errors
from vaultpki.errors import StoreError
from vaultpki.places import HIDDEN_FOLDER

LOCK: Final = "lock"
OWNER_MARK: Final = "owner.json"
FILE_SET: Final = r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,199}"
GENERATION: Final = re.compile(rf"({FILE_SET})\.[0-9a-f]{{16}}")

_STABLE = re.compile(rf"{re.escape(HIDDEN_FOLDER)}/({FILE_SET})/({NAME_PATTERN})")


@dataclass(frozen=True, slots=True)
class File:
    """What a file must be. None as `uid` or `gid` means the writing process's own."""

    data: bytes
    mode: int = 0o644
    uid: int | None = None
    gid: int | None = None

    def __repr__(self) -> str:
        # The data may be a private key, and tracebacks with locals print this.
        return f"File({len(self.data)} bytes, {self.mode:04o})"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What a file on disk is.

    `problem` is empty, or one of missing, foreign, not-a-file, too-large, denied and unreadable; `data` is then None.
    """

    data: bytes | None
    mode: int = 0
    uid: int = 0
    gid: int = 0
    problem: str = ""

    def __repr__(self) -> str:
        return f"Stored({self.problem or len(self.data or b'')}, {self.mode:04o})"

    def same_owner(self, wanted: File) -> bool:
        """Return whether the file belongs to the user and group that `wanted` names."""
        return self.uid == (os.geteuid() if wanted.uid is None else wanted.uid) and self.gid == (
            os.getegid() if wanted.gid is None else wanted.gid
        )

    def open_to_others(self, wanted: File) -> bool:
        """Return whether somebody may have it open for writing whom `wanted` does not let write.

        That outlives every change of its mode and owner: only another inode in its place ends it.
        """
        return bool(self.mode & ~wanted.mode & 0o022) or not self.same_owner(wanted)

    def shown_to_others(self, wanted: File) -> bool:
        """Return whether somebody could read it whom `wanted` does not let read."""
        more = self.mode & ~wanted.mode & 0o044
        group = self.mode & 0o040 and self.gid != (os.getegid() if wanted.gid is None else wanted.gid)
        owner = self.uid not in {0, os.geteuid(), os.geteuid() if wanted.uid is None else wanted.uid}
        # The group of root has no other members on any usual machine.
        return bool(more or owner or (group and self.gid != 0))


class Generations:
    """The file sets in the directory that is open as `fd`; leaving the `with` block closes it."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._trusted = {0, os.geteuid()}
        self._hidden: int | None = None
        self._lock: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the directory, and release its lock if this process holds it."""
        for fd in (self._lock, self._hidden, self._fd):
            if fd is not None:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._lock = self._hidden = None
        self._fd = -1

    def file_sets(self) -> dict[str, tuple[str, ...]]:
        """Return the installed file sets, each with the names of its files."""
        if self._hidden is None:
            return {}
        found = {}
        with storage_errors(f"{self.path}/{HIDDEN_FOLDER}"):
            for file_set in sorted(os.listdir(self._hidden)):
                if self._is_file_set(file_set):
                    with self._opened(file_set) as generation:
                        found[file_set] = tuple(sorted(os.listdir(generation)) if generation is not None else ())
        return found

    def read(self, file_set: str, names: Iterable[str]) -> dict[str, StoredFile]:
        """Read the files `names` of a file set, all of one generation; what is wrong with one is its `problem`."""
        valid(file_set, names := tuple(names))
        with storage_errors(f"{self.path}/{HIDDEN_FOLDER}/{file_set}"), self._opened(file_set) as generation:
            return {name: self._stored(file_set, name, generation) for name in names}

    def read_foreign(self, name: str) -> StoredFile:
        """Read a file of the directory that no file set has, such as one that another program has made there."""
        with storage_errors(f"{self.path}/{name}"):
            if self._owner_of(name) != "":
                return StoredFile(None, problem="missing")
            return stored_at(name, self._fd)

    def mark(self) -> bytes | None:
        """Return the owner mark; None if there is none, or if others could have written it."""
        if self._hidden is None:
            return None
        with storage_errors(f"{self.path}/{HIDDEN_FOLDER}/{OWNER_MARK}"):
            try:
                data, about = files.read_at(OWNER_MARK, self._hidden)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EIO):
                    raise
                return None
        return data if about.st_uid in self._trusted and not about.st_mode & 0o022 else None

    def _stored(self, file_set: str, name: str, generation: int | None) -> StoredFile:
        owner = self._owner_of(name)
        if owner != file_set:
            return StoredFile(None, problem="foreign" if owner == "" else "missing")
        if generation is None:
            return StoredFile(None, problem="missing")
        return stored_at(name, generation)

    def _owner_of(self, name: str) -> str | None:
        """Return the file set whose stable link `name` is; None if nothing is there, "" if it is not ours."""
        try:
            target = os.readlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return ""
        return _linked(target, name)

    def _generation(self, file_set: str) -> str | None:
        """Return the name of the live generation of a file set."""
        if self._hidden is None:
            return None
        try:
            target = os.readlink(file_set, dir_fd=self._hidden)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise StoreError(
                f"{self.path}/{HIDDEN_FOLDER}/{file_set}: it was not made by vaultpki; move it away"
            ) from None
        match = GENERATION.fullmatch(target)
        if match is None or match[1] != file_set:
            raise StoreError(f"{self.path}/{HIDDEN_FOLDER}/{file_set}: the link was not made by vaultpki; move it away")
        return target

    def _is_file_set(self, entry: str) -> bool:
        with contextlib.suppress(StoreError):
            return bool(re.fullmatch(FILE_SET, entry)) and self._generation(entry) is not None
        return False

    @contextlib.contextmanager
    def _opened(self, file_set: str) -> Iterator[int | None]:
        fd = None
        # A reader without the lock may lose the generation to a swap between readlink and open: it looks again.
        for _ in range(100):
            generation = self._generation(file_set)
            if self._hidden is None or generation is None:
                break
            with contextlib.suppress(FileNotFoundError):
                # Anything else in its place counts as nothing: a new generation replaces it.
                with contextlib.suppress(NotADirectoryError):
                    fd = os.open(generation, files.OPEN_FOLDER, dir_fd=self._hidden)
                break
        if fd is not None:
            about = os.fstat(fd)
            # A folder that others may write to, or could until now, proves nothing either.
            if about.st_uid not in self._trusted or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                os.close(fd)
                fd = None
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)


def stored_at(name: str, folder: int) -> StoredFile:
    """Read a file of the folder that is open as `folder`; what is wrong with it is its `problem`."""
    try:
        data, about = files.read_at(name, folder)
    except OSError as error:
        kinds = {errno.ENOENT: "missing", errno.EFBIG: "too-large", errno.EACCES: "denied"}
        kinds |= dict.fromkeys((errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENXIO), "not-a-file")
        return StoredFile(None, problem=kinds.get(error.errno or 0, "unreadable"))
    return StoredFile(data, stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid)


def link_of(path: str) -> str:
    """Return the file set whose stable link is at `path`; "" if something else is there, or nothing."""
    try:
        return _linked(os.readlink(path), os.path.basename(path))
    except OSError:
        return ""


def _linked(target: str, name: str) -> str:
    link = _STABLE.fullmatch(target)
    return link[1] if link and link[2] == name else ""


def valid(file_set: str, names: Iterable[str]) -> None:
    """Raise StoreError if these cannot be the names of a file set and its files."""
    if not re.fullmatch(FILE_SET, file_set) or file_set == LOCK:
        raise StoreError(f"{file_set!r} cannot name a set of files: letters, digits, - and _ are possible; rename it")
    for name in names:
        if not re.fullmatch(NAME_PATTERN, name):
            raise StoreError(
                f"{name!r} cannot be a file of the certificate directory: "
                "letters, digits, dots, @, - and _ are possible; rename it"
            )
