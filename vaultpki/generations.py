"""How certificate files lie in their directory, and the reading of them: always one generation, whatever is swapped.

    DIR/kubelet.crt -> .vaultpki/kubelet/kubelet.crt              one stable link for each file
    DIR/.vaultpki/kubelet -> kubelet.5f0c9a1b2c3d4e5f             the one link that a swap renames
    DIR/.vaultpki/kubelet.5f0c9a1b2c3d4e5f/kubelet.{crt,key,pem}  a generation: written once, then only read
    DIR/.vaultpki/lock                                            held while a process writes
    DIR/.vaultpki/owner.json                                      whose the directory is (see `marks.py`)

A set that changes together is a unit: a pair, or all bundles and kubeconfigs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from types import TracebackType
from typing import Final, Self

from vaultpki import files
from vaultpki.errors import StoreError
from vaultpki.files import told
from vaultpki.values import dataclass

HIDDEN: Final = ".vaultpki"
LOCK: Final = "lock"
MARK: Final = "owner.json"
UNIT: Final = r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,199}"
GENERATION: Final = re.compile(rf"({UNIT})\.[0-9a-f]{{16}}")

_STABLE = re.compile(rf"{re.escape(HIDDEN)}/({UNIT})/({NAME})")


@dataclass(frozen=True, slots=True)
class File:
    """What a file shall be. None as `uid` or `gid` is the writing process's own."""

    data: bytes
    mode: int = 0o644
    uid: int | None = None
    gid: int | None = None

    def __repr__(self) -> str:
        # The data may be a private key, and tracebacks with locals print this.
        return f"File({len(self.data)} bytes, {self.mode:04o})"


@dataclass(frozen=True, slots=True)
class Stored:
    """What a file is.

    `problem` is empty, or missing, foreign, not-a-file, too-large, denied or unreadable; `data` is then None.
    """

    data: bytes | None
    mode: int = 0
    uid: int = 0
    gid: int = 0
    problem: str = ""

    def __repr__(self) -> str:
        return f"Stored({self.problem or len(self.data or b'')}, {self.mode:04o})"

    def same_owner(self, wanted: File) -> bool:
        """Whether the file belongs to whom `wanted` says."""
        return self.uid == (os.geteuid() if wanted.uid is None else wanted.uid) and self.gid == (
            os.getegid() if wanted.gid is None else wanted.gid
        )


class Generations:
    """What lies in the directory that is open as `fd`; closed by leaving the `with` block.

    `trusted` are the ids of the users, beside root and this one, who may own folders here.
    """

    def __init__(self, path: str, fd: int, trusted: Collection[int]) -> None:
        self.path = path
        self._fd = fd
        self._trusted = frozenset({0, os.geteuid(), *trusted})
        self._hidden: int | None = None
        self._lock: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the directory, and gives its lock back where this process holds it."""
        for fd in (self._lock, self._hidden, self._fd):
            if fd is not None:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._lock = self._hidden = None
        self._fd = -1

    def units(self) -> dict[str, tuple[str, ...]]:
        """The units laid down here, each with the names of its files."""
        if self._hidden is None:
            return {}
        found = {}
        with told(f"{self.path}/{HIDDEN}"):
            for unit in sorted(os.listdir(self._hidden)):
                if self._is_unit(unit):
                    with self._opened(unit) as generation:
                        found[unit] = tuple(sorted(os.listdir(generation)) if generation is not None else ())
        return found

    def read(self, unit: str, names: Iterable[str]) -> dict[str, Stored]:
        """The files `names` of a unit, all of one generation; what is wrong with one is told in its `problem`."""
        valid(unit, names := tuple(names))
        with told(f"{self.path}/{HIDDEN}/{unit}"), self._opened(unit) as generation:
            return {name: self._stored(unit, name, generation) for name in names}

    def mark(self) -> bytes | None:
        """What the directory's mark says; None where there is none, or none that only its owner could have written."""
        if self._hidden is None:
            return None
        with told(f"{self.path}/{HIDDEN}/{MARK}"):
            try:
                data, about = files.read_at(MARK, self._hidden)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EIO):
                    raise
                return None
        return data if about.st_uid in self._trusted and not about.st_mode & 0o022 else None

    def _stored(self, unit: str, name: str, generation: int | None) -> Stored:
        owner = self._owner_of(name)
        if owner != unit:
            return Stored(None, problem="foreign" if owner == "" else "missing")
        if generation is None:
            return Stored(None, problem="missing")
        try:
            data, about = files.read_at(name, generation)
        except OSError as error:
            kinds = {errno.ENOENT: "missing", errno.EFBIG: "too-large", errno.EACCES: "denied"}
            kinds |= dict.fromkeys((errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENXIO), "not-a-file")
            return Stored(None, problem=kinds.get(error.errno or 0, "unreadable"))
        return Stored(data, stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid)

    def _owner_of(self, name: str) -> str | None:
        """The unit whose stable link `name` is; None where there is nothing, "" where it is not ours."""
        try:
            target = os.readlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return ""
        link = _STABLE.fullmatch(target)
        return link[1] if link and link[2] == name else ""

    def _generation(self, unit: str) -> str | None:
        """The name of the unit's live generation."""
        if self._hidden is None:
            return None
        try:
            target = os.readlink(unit, dir_fd=self._hidden)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise StoreError(f"{self.path}/{HIDDEN}/{unit}: it was not made by vaultpki; move it away") from None
        match = GENERATION.fullmatch(target)
        if match is None or match[1] != unit:
            raise StoreError(f"{self.path}/{HIDDEN}/{unit}: the link was not made by vaultpki; move it away")
        return target

    def _is_unit(self, entry: str) -> bool:
        with contextlib.suppress(StoreError):
            return bool(re.fullmatch(UNIT, entry)) and self._generation(entry) is not None
        return False

    @contextlib.contextmanager
    def _opened(self, unit: str) -> Iterator[int | None]:
        fd = None
        # A reader without the lock may lose the generation between readlink and open: a swap took place, so look again.
        for _ in range(100):
            generation = self._generation(unit)
            if self._hidden is None or generation is None:
                break
            with contextlib.suppress(FileNotFoundError):
                # Something else in its place is as good as nothing: a new generation replaces it.
                with contextlib.suppress(NotADirectoryError):
                    fd = os.open(generation, files.FOLDER, dir_fd=self._hidden)
                break
        if fd is not None:
            about = os.fstat(fd)
            # What others may write to, or could until a moment ago, proves nothing either.
            if about.st_uid not in self._trusted or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                os.close(fd)
                fd = None
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    def digest(self) -> str:
        """A SHA-256 in hex of all that lies here by this program: links, contents, modes, owners, and leftovers too."""
        from hashlib import sha256

        whole = sha256()

        def add(*parts: object) -> None:
            whole.update(repr(parts).encode())

        with told(f"{self.path}/{HIDDEN}"):
            for name in sorted(os.listdir(self._fd)):
                owner = self._owner_of(name) if re.fullmatch(NAME, name) else None
                if owner:
                    add(name, owner)
            for entry in sorted(os.listdir(self._hidden) if self._hidden is not None else ()):
                add(entry)
                if entry == MARK:
                    add(self.mark())
                if not self._is_unit(entry):
                    continue
                add(self._generation(entry))
                with self._opened(entry) as generation:
                    add(None if generation is None else os.fstat(generation).st_mode)
                    for name in sorted(os.listdir(generation) if generation is not None else ()):
                        stored = self._stored(entry, name, generation)
                        add(name, stored.data, stored.mode, stored.uid, stored.gid, stored.problem)
        return whole.hexdigest()


def valid(unit: str, names: Iterable[str]) -> None:
    """StoreError where these cannot be a unit and its files."""
    if not re.fullmatch(UNIT, unit) or unit == LOCK:
        raise StoreError(f"{unit!r} cannot name a set of files: letters, digits, - and _ are possible; rename it")
    for name in names:
        if not re.fullmatch(NAME, name):
            raise StoreError(
                f"{name!r} cannot be a file of the certificate directory: "
                "letters, digits, dots, @, - and _ are possible; rename it"
            )
