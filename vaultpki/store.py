"""The only writer of certificate files: whole sets of files, swapped in one step that survives a kill and a power cut.

How they lie is drawn in `generations.py`. inotify watches sit on the inode, and a swap of links gives them no event:
the removal of the old generation does. It follows some seconds later, so that who opened a key through the path still
finds its certificate there.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from vaultpki import files
from vaultpki.errors import Busy, StoreError
from vaultpki.files import read_private, told, write_private
from vaultpki.generations import GENERATION, HIDDEN, LOCK, MARK, NAME, UNIT, File, Generations, Stored, valid

__all__ = ["GRACE", "HIDDEN", "Directory", "File", "Stored", "read_private", "write_private"]

GRACE: Final = 5.0
"""Seconds between a swap and the removal of the old generation."""

# A pair of RSA-4096 in blocks of 4 KiB with its folder; the folder, three files, their links, and the one that swaps.
_TYPICAL_BYTES = 32 * 1024
_TYPICAL_ENTRIES = 8

_TEMPORARY = re.compile(rf"{UNIT}\.[0-9a-f]{{16}}\.link")

Check = Callable[[Mapping[str, bytes]], None]


class Directory(Generations):
    """A directory of certificate files, held open; made by `Directory.open`, closed by leaving the `with` block.

    Old generations that are not yet removed then are left to the next `sweep`.
    """

    def __init__(self, path: str, fd: int, trusted: Collection[int]) -> None:
        super().__init__(path, fd, trusted)
        self._retired: list[tuple[float, str]] = []

    @classmethod
    def open(
        cls,
        path: str,
        *,
        create: bool = True,
        write: bool = True,
        trusted: Collection[int] = (),
        wait: float = 0.0,
    ) -> Directory:
        """The directory at `path`, locked for this process where `write` is true.

        Without `write` nothing is made, changed or locked. StoreError where the way there is unsafe (see
        `files.open_folder`), Busy where another process holds it for `wait` more seconds.
        """
        path = os.path.abspath(path)
        fd = files.open_folder(path, create=create and write, trusted=trusted)
        directory = cls(path, fd, trusted)
        try:
            with told(f"{path}/{HIDDEN}"):
                directory._enter(write, wait)
        except BaseException:
            directory.close()
            raise
        return directory

    def _enter(self, write: bool, wait: float) -> None:
        if not write:
            with contextlib.suppress(FileNotFoundError):
                self._hidden = os.open(HIDDEN, files.FOLDER, dir_fd=self._fd)
            return
        self._hidden = files.make_folder(HIDDEN, self._fd, 0o755)
        about = os.fstat(self._hidden)
        if about.st_uid not in self._trusted:
            raise StoreError(
                f"{self.path}/{HIDDEN}: it belongs to the user {about.st_uid}; run as that user or as root"
            )
        if stat.S_IMODE(about.st_mode) != 0o755:
            os.fchmod(self._hidden, 0o755)
        with told(f"{self.path}/{HIDDEN}/{LOCK}"):
            try:
                self._lock = files.lock(LOCK, self._hidden, wait)
            except BlockingIOError:
                raise Busy(
                    f"{self.path}: another vaultpki process is writing here; wait for it to end, or stop it, "
                    "and run again"
                ) from None

    # -- writing -----------------------------------------------------------------------------------------------------

    def probe(self, generations: int = 1) -> None:
        """Proves that so many generations could be written now, and leaves nothing; StoreError where they could not."""
        hidden = self._writable()
        # A name that the next sweep takes, should this process be killed right here.
        name = f"probe.{files.random_suffix()}"
        with told(f"{self.path}/{HIDDEN}"):
            files.prove_writable(name, hidden, generations * _TYPICAL_BYTES, generations * _TYPICAL_ENTRIES)

    def write_mark(self, data: bytes) -> None:
        """Puts `data` in place of the directory's mark in one step that lasts; StoreError where that fails."""
        with told(f"{self.path}/{HIDDEN}/{MARK}"):
            files.swap(MARK, self._writable(), data, 0o644)

    def refuse_taken(self, unit: str, names: Iterable[str]) -> None:
        """StoreError where `install` could not take these names, because one is held by a file that is not ours."""
        valid(unit, names := tuple(names))
        with told(f"{self.path}/{HIDDEN}/{unit}"):
            self._generation(unit)
        for name in names:
            with told(f"{self.path}/{name}"):
                if self._owner_of(name) == "":
                    raise StoreError(
                        f"{self.path}/{name}: this file was not made by vaultpki; move it away and run again"
                    )

    def install(self, unit: str, wanted: Mapping[str, File], *, check: Check | None = None) -> bool:
        """Makes the unit's files exactly `wanted`, all in one step; True where their content changed.

        Nothing is touched where all is so already, and only modes, owners or links where only these differ. `check`
        gets the contents as read back from the disk, and an exception of it stops the swap. StoreError where something
        fails or a name is taken by a file that is not ours: what was live then stays live.
        """
        if not wanted:
            raise ValueError(f"unit {unit} has no files; remove it instead")
        hidden = self._writable()
        self.refuse_taken(unit, wanted)
        with told(f"{self.path}/{HIDDEN}/{unit}"):
            if self._same(unit, wanted):
                self._mend(unit, wanted)
                return False
        generation = f"{unit}.{files.random_suffix()}"
        linked: list[str] = []
        try:
            self._write(hidden, unit, generation, wanted, check)
            with told(self.path):
                self._link(unit, wanted, linked)
            with told(f"{self.path}/{HIDDEN}/{unit}"):
                old = self._flip(hidden, unit, generation)
        except BaseException:
            self._forget(hidden, unit, generation, linked)
            raise
        if old is not None:
            self._retired.append((time.monotonic(), old))
        # The swap is done and lasts: what is left is links that lead nowhere, and the next sweep has them.
        with contextlib.suppress(OSError):
            self._unlink_obsolete(unit, wanted)
        return True

    def _same(self, unit: str, wanted: Mapping[str, File]) -> bool:
        with self._opened(unit) as generation:
            if generation is None or set(os.listdir(generation)) != set(wanted):
                return False
            try:
                return all(files.read_at(name, generation)[0] == file.data for name, file in wanted.items())
            except OSError:
                return False

    def _mend(self, unit: str, wanted: Mapping[str, File]) -> None:
        with self._opened(unit) as generation:
            for name, file in wanted.items():
                fd = os.open(name, files.OLD_FILE, dir_fd=generation)
                try:
                    about = os.fstat(fd)
                    stored = Stored(None, stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid)
                    if stored.mode != file.mode or not stored.same_owner(file):
                        files.own(fd, file.mode, file.uid, file.gid)
                        os.fsync(fd)
                finally:
                    os.close(fd)
        self._link(unit, wanted, [])
        self._unlink_obsolete(unit, wanted)

    def _write(self, hidden: int, unit: str, generation: str, wanted: Mapping[str, File], check: Check | None) -> None:
        path = f"{self.path}/{HIDDEN}/{generation}"
        with told(path):
            folder = files.make_folder(generation, hidden, 0o755)
        try:
            for name, file in wanted.items():
                with told(f"{path}/{name}"):
                    files.write_new(name, folder, file.data, file.mode, file.uid, file.gid)
            if check is not None:
                with told(path):
                    back = {name: files.read_at(name, folder)[0] for name in wanted}
                check(back)
            with told(path):
                os.fsync(folder)
        finally:
            os.close(folder)

    def _link(self, unit: str, names: Collection[str], linked: list[str]) -> None:
        owners = {name: self._owner_of(name) for name in names}
        # A name another unit gives up goes before any new one comes, lest its new certificate stand by its old key.
        for name, owner in owners.items():
            if owner is not None and owner != unit:
                os.unlink(name, dir_fd=self._fd)
        for name, owner in owners.items():
            if owner != unit:
                os.symlink(f"{HIDDEN}/{unit}/{name}", name, dir_fd=self._fd)
                linked.append(name)
        if any(owner != unit for owner in owners.values()):
            os.fsync(self._fd)

    def _flip(self, hidden: int, unit: str, generation: str) -> str | None:
        old = self._generation(unit)
        self._point(hidden, unit, generation)
        try:
            os.fsync(hidden)
        except OSError:
            # Not lasting, so not done: the caller will hear of a failure, and what was live must be live again.
            with contextlib.suppress(OSError):
                if old is None:
                    os.unlink(unit, dir_fd=hidden)
                else:
                    self._point(hidden, unit, old)
            raise
        return old

    def _point(self, hidden: int, unit: str, generation: str) -> None:
        temporary = f"{generation}.link"
        os.symlink(generation, temporary, dir_fd=hidden)
        os.rename(temporary, unit, src_dir_fd=hidden, dst_dir_fd=hidden)

    def _forget(self, hidden: int, unit: str, generation: str, linked: Iterable[str]) -> None:
        with contextlib.suppress(OSError):
            os.unlink(f"{generation}.link", dir_fd=hidden)
        with contextlib.suppress(OSError, StoreError):
            if self._generation(unit) == generation:
                return
            files.remove_tree(generation, hidden)
        for name in linked:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._fd)

    def _unlink_obsolete(self, unit: str, names: Collection[str]) -> None:
        gone = [name for name in os.listdir(self._fd) if name not in names and self._owner_of(name) == unit]
        for name in gone:
            os.unlink(name, dir_fd=self._fd)
        if gone:
            os.fsync(self._fd)

    def remove(self, unit: str) -> bool:
        """Takes the unit's files away, all in one step; False where there are none."""
        valid(unit, ())
        hidden = self._writable()
        with told(f"{self.path}/{HIDDEN}/{unit}"):
            old = self._generation(unit)
            if old is not None:
                os.unlink(unit, dir_fd=hidden)
                os.fsync(hidden)
                self._retired.append((time.monotonic(), old))
            self._unlink_obsolete(unit, ())
        return old is not None

    # -- cleaning up -------------------------------------------------------------------------------------------------

    def retire(self, grace: float = GRACE) -> float:
        """Removes the generations replaced more than `grace` seconds ago; the seconds until more can be, or 0.0."""
        hidden = self._writable()
        now = time.monotonic()
        while self._retired and self._retired[0][0] + grace <= now:
            _, old = self._retired.pop(0)
            with told(f"{self.path}/{HIDDEN}/{old}"):
                files.remove_tree(old, hidden)
        return self._retired[0][0] + grace - now if self._retired else 0.0

    @property
    def unsettled(self) -> bool:
        """Whether a replaced generation still waits for its removal."""
        return bool(self._retired)

    def settle(self, grace: float = GRACE) -> None:
        """Waits until every replaced generation is `grace` seconds old, and removes it."""
        while left := self.retire(grace):
            time.sleep(left)

    def sweep(self) -> int:
        """Removes what a killed or failed run left behind, and never anything live; how many things that were.

        An old generation that resists keeps nobody from his certificate: the next `retire` tries again, and tells.
        """
        hidden = self._writable()
        swept = 0
        with told(f"{self.path}/{HIDDEN}"):
            kept = {name for _, name in self._retired}
            entries = os.listdir(hidden)
            live: dict[str, set[str]] = {}
            for unit in filter(self._is_unit, entries):
                generation = self._generation(unit)
                if generation in entries:
                    kept.add(generation)
                    with self._opened(unit) as folder:
                        if folder is not None:
                            live[unit] = set(os.listdir(folder))
                            if stat.S_IMODE(os.fstat(folder).st_mode) != 0o755:
                                os.fchmod(folder, 0o755)
                else:
                    os.unlink(unit, dir_fd=hidden)
                    live[unit] = set()
                    swept += 1
            for entry in entries:
                if _TEMPORARY.fullmatch(entry) or (GENERATION.fullmatch(entry) and entry not in kept):
                    try:
                        files.remove_tree(entry, hidden)
                        swept += 1
                    except OSError:
                        self._retired.insert(0, (0.0, entry))
            for name in os.listdir(self._fd):
                owner = self._owner_of(name) if re.fullmatch(NAME, name) else None
                # Where something that is not ours stands in the unit's place, its links are for a person to judge.
                if owner and (owner not in entries or name not in live.get(owner, (name,))):
                    os.unlink(name, dir_fd=self._fd)
                    swept += 1
            # A run killed between the swap and its fsync left a live link that would not survive a power cut.
            os.fsync(hidden)
            if swept:
                os.fsync(self._fd)
        return swept

    def _writable(self) -> int:
        if self._hidden is None or self._lock is None:
            raise StoreError(f"{self.path}: the directory was opened for reading only")
        return self._hidden
