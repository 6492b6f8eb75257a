"""Write certificate files: whole file sets, swapped in one step that survives a kill and a power cut.

`generations.py` draws how they lie. inotify watches an inode, so a swap of links gives no event; the removal of the old
generation does. It follows some seconds later, so that a reader who opened the key by its path still finds the
certificate of the same pair.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from vaultpki.disk import files
from vaultpki.disk.files import storage_errors
from vaultpki.disk.generations import (
    FILE_SET,
    GENERATION,
    LOCK,
    NAME_PATTERN,
    OWNER_MARK,
    File,
    Generations,
    stored_at,
    valid,
)
from vaultpki.errors import Busy, StoreError
from vaultpki.places import HIDDEN_FOLDER

OLD_FILES_GRACE: Final = 5.0
"""Seconds between a swap and the removal of the old generation."""

# A pair of RSA-4096 in blocks of 4 KiB with its folder; the folder, three files, their links, and the one that swaps.
_TYPICAL_BYTES = 32 * 1024
_TYPICAL_ENTRIES = 8

_TEMPORARY = re.compile(rf"{FILE_SET}\.[0-9a-f]{{16}}\.link")

Check = Callable[[Mapping[str, bytes]], None]


class Directory(Generations):
    """A directory of certificate files, held open; `Directory.open` makes it, leaving the `with` block closes it.

    Old generations that are not removed by then are left to the next `sweep`.
    """

    def __init__(self, path: str, fd: int) -> None:
        super().__init__(path, fd)
        self._retired: list[tuple[float, str]] = []
        self.suspect = False
        """Whether others could write to the hidden folder until now, so that `refresh` is needed."""
        self.rewritten: list[str] = []
        """Sentences on files that got another inode, since others may have them open for writing."""

    @classmethod
    def open(cls, path: str, *, create: bool = True, write: bool = True, wait: float = 0.0) -> Directory:
        """Open the directory at `path`, locked for this process if `write` is true.

        Without `write` nothing is made, changed or locked. Raises StoreError if the path is unsafe (see
        `files.open_folder`), Busy if another process holds the lock for `wait` more seconds.
        """
        path = os.path.abspath(path)
        fd = files.open_folder(path, create=create and write)
        directory = cls(path, fd)
        try:
            with storage_errors(f"{path}/{HIDDEN_FOLDER}"):
                directory._enter(write, wait)
        except BaseException:
            directory.close()
            raise
        return directory

    def _enter(self, write: bool, wait: float) -> None:
        if not write:
            with contextlib.suppress(FileNotFoundError):
                self._hidden = os.open(HIDDEN_FOLDER, files.OPEN_FOLDER, dir_fd=self._fd)
            return
        self._hidden = files.make_folder(HIDDEN_FOLDER, self._fd, 0o755)
        about = os.fstat(self._hidden)
        if about.st_uid not in self._trusted:
            raise StoreError(
                f"{self.path}/{HIDDEN_FOLDER}: it belongs to the user {about.st_uid}; run as that user or as root"
            )
        if stat.S_IMODE(about.st_mode) != 0o755:
            os.fchmod(self._hidden, 0o755)
            self.suspect = bool(about.st_mode & 0o022)
        with storage_errors(f"{self.path}/{HIDDEN_FOLDER}/{LOCK}"):
            try:
                self._lock = files.lock(LOCK, self._hidden, wait)
            except BlockingIOError:
                raise Busy(
                    f"{self.path}: another vaultpki process is writing here; wait for it to end, or stop it, "
                    "and run again"
                ) from None

    # -- writing -----------------------------------------------------------------------------------------------------

    def probe(self, generations: int = 1) -> None:
        """Prove that so many generations can be written now, and leave nothing; StoreError if they cannot."""
        hidden = self._writable()
        # If this process is killed right here, the next sweep removes a folder of this name.
        name = f"probe.{files.random_suffix()}"
        with storage_errors(f"{self.path}/{HIDDEN_FOLDER}"):
            files.prove_writable(name, hidden, generations * _TYPICAL_BYTES, generations * _TYPICAL_ENTRIES)

    def write_mark(self, data: bytes) -> None:
        """Replace the owner mark by `data` in one step that survives a crash; StoreError if that fails."""
        with storage_errors(f"{self.path}/{HIDDEN_FOLDER}/{OWNER_MARK}"):
            files.swap(OWNER_MARK, self._writable(), data, 0o644)

    def refuse_taken(self, file_set: str, names: Iterable[str]) -> None:
        """Raise StoreError if `install` cannot use these names, because a file that is not ours has one of them."""
        valid(file_set, names := tuple(names))
        with storage_errors(f"{self.path}/{HIDDEN_FOLDER}/{file_set}"):
            self._generation(file_set)
        for name in names:
            with storage_errors(f"{self.path}/{name}"):
                if self._owner_of(name) == "":
                    raise StoreError(
                        f"{self.path}/{name}: this file was not made by vaultpki; move it away and run again"
                    )

    def install(
        self,
        file_set: str,
        wanted: Mapping[str, File],
        *,
        check: Check | None = None,
        taking: Collection[str] = (),
    ) -> bool:
        """Make the files of the set exactly `wanted`, in one step; return whether their content changed.

        Nothing is touched if all is so already, and only modes or links if only these differ. What others may have open
        for writing gets another inode all the same. `check` gets the
        contents as read back from the disk; an exception from it stops the swap. Raises StoreError if anything fails or
        a file that is not ours has one of the names: what was live then stays live. Those in `taking` are replaced,
        each in one step, once the set is in place.
        """
        if not wanted:
            raise ValueError(f"the file set {file_set} has no files; remove it instead")
        hidden = self._writable()
        self.refuse_taken(file_set, [name for name in wanted if name not in taking])
        with storage_errors(f"{self.path}/{HIDDEN_FOLDER}/{file_set}"):
            foreign = [name for name in taking if self._owner_of(name) == ""]
            same = self._same(file_set, wanted)
            unsafe = self._unsafe(file_set, wanted) if same else []
            if same and not unsafe:
                self._mend(file_set, wanted, foreign)
                return False
        generation = f"{file_set}.{files.random_suffix()}"
        linked: list[str] = []
        try:
            self._write(hidden, file_set, generation, wanted, check)
            with storage_errors(self.path):
                self._link(file_set, [name for name in wanted if name not in foreign], linked)
            with storage_errors(f"{self.path}/{HIDDEN_FOLDER}/{file_set}"):
                old = self._flip(hidden, file_set, generation)
            with storage_errors(self.path):
                self._take(file_set, foreign)
        except BaseException:
            self._forget(hidden, file_set, generation, linked)
            raise
        if old is not None:
            self._retired.append((time.monotonic(), old))
        # The swap is complete. Only links that lead nowhere can be left, and the next sweep removes them.
        with contextlib.suppress(OSError):
            self._unlink_obsolete(file_set, wanted)
        if unsafe:
            names = ", ".join(unsafe)
            text = f"{self.path}: another user owned or could write to {names}; written anew, as another file"
            self.rewritten.append(text)
        return not same

    def refresh(self) -> None:
        """Give every file here another inode: others could write to the folder, so they may have one open for writing.

        What cannot be read is left as it is; who looks at it next finds that out. Raises StoreError if one cannot be
        replaced.
        """
        self.suspect = True
        for file_set, names in self.file_sets().items():
            stored = self.read(file_set, names) if names else {}
            if stored and all(each.data is not None for each in stored.values()):
                kept = {n: File(each.data or b"", each.mode, each.uid, each.gid) for n, each in stored.items()}
                self.install(file_set, kept)
        self.suspect = False

    def _unsafe(self, file_set: str, wanted: Mapping[str, File]) -> list[str]:
        """Return the files of the live generation that somebody may have open for writing who should not."""
        with self._opened(file_set) as generation:
            if generation is None or self.suspect:
                return list(wanted)
            return [name for name, file in wanted.items() if stored_at(name, generation).open_to_others(file)]

    def _same(self, file_set: str, wanted: Mapping[str, File]) -> bool:
        with self._opened(file_set) as generation:
            if generation is None or set(os.listdir(generation)) != set(wanted):
                return False
            try:
                return all(files.read_at(name, generation)[0] == file.data for name, file in wanted.items())
            except OSError:
                return False

    def _mend(self, file_set: str, wanted: Mapping[str, File], foreign: Collection[str]) -> None:
        with self._opened(file_set) as generation:
            for name, file in wanted.items():
                with files.closing(os.open(name, files.OLD_FILE, dir_fd=generation)) as fd:
                    if stat.S_IMODE(os.fstat(fd).st_mode) != file.mode:
                        files.set_mode_and_owner(fd, file.mode, file.uid, file.gid)
                        os.fsync(fd)
        self._take(file_set, foreign)
        self._link(file_set, wanted, [])
        self._unlink_obsolete(file_set, wanted)

    def _take(self, file_set: str, names: Collection[str]) -> None:
        """Replace files that are not ours by links to the live generation, each in one step."""
        for name in names:
            temporary = f"{file_set}.{files.random_suffix()}.link"
            os.symlink(f"{HIDDEN_FOLDER}/{file_set}/{name}", temporary, dir_fd=self._hidden)
            os.rename(temporary, name, src_dir_fd=self._hidden, dst_dir_fd=self._fd)
        if names:
            os.fsync(self._fd)

    def _write(
        self, hidden: int, file_set: str, generation: str, wanted: Mapping[str, File], check: Check | None
    ) -> None:
        path = f"{self.path}/{HIDDEN_FOLDER}/{generation}"
        with storage_errors(path):
            folder = files.make_folder(generation, hidden, 0o755)
        with files.closing(folder):
            for name, file in wanted.items():
                with storage_errors(f"{path}/{name}"):
                    files.write_new(name, folder, file.data, file.mode, file.uid, file.gid)
            if check is not None:
                with storage_errors(path):
                    back = {name: files.read_at(name, folder)[0] for name in wanted}
                check(back)
            with storage_errors(path):
                os.fsync(folder)

    def _link(self, file_set: str, names: Collection[str], linked: list[str]) -> None:
        owners = {name: self._owner_of(name) for name in names}
        # Whoever gives a name up has removed it: nothing takes the path of what is still here.
        for name, owner in owners.items():
            if owner is not None and owner != file_set:
                raise StoreError(f"{self.path}/{name}: it belongs to {owner}, which is still here")
        for name, owner in owners.items():
            if owner != file_set:
                os.symlink(f"{HIDDEN_FOLDER}/{file_set}/{name}", name, dir_fd=self._fd)
                linked.append(name)
        if any(owner != file_set for owner in owners.values()):
            os.fsync(self._fd)

    def _flip(self, hidden: int, file_set: str, generation: str) -> str | None:
        old = self._generation(file_set)
        self._point(hidden, file_set, generation)
        try:
            os.fsync(hidden)
        except OSError:
            # It would not survive a power cut, so it failed: what was live must be live again.
            with contextlib.suppress(OSError):
                if old is None:
                    os.unlink(file_set, dir_fd=hidden)
                else:
                    self._point(hidden, file_set, old)
            raise
        return old

    def _point(self, hidden: int, file_set: str, generation: str) -> None:
        temporary = f"{generation}.link"
        os.symlink(generation, temporary, dir_fd=hidden)
        os.rename(temporary, file_set, src_dir_fd=hidden, dst_dir_fd=hidden)

    def _forget(self, hidden: int, file_set: str, generation: str, linked: Iterable[str]) -> None:
        with contextlib.suppress(OSError):
            os.unlink(f"{generation}.link", dir_fd=hidden)
        with contextlib.suppress(OSError, StoreError):
            if self._generation(file_set) == generation:
                return
            files.remove_tree(generation, hidden)
        for name in linked:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._fd)

    def _unlink_obsolete(self, file_set: str, names: Collection[str]) -> None:
        gone = [name for name in os.listdir(self._fd) if name not in names and self._owner_of(name) == file_set]
        for name in gone:
            os.unlink(name, dir_fd=self._fd)
        if gone:
            os.fsync(self._fd)

    def remove(self, file_set: str) -> bool:
        """Remove the files of the set in one step; return whether there were any."""
        valid(file_set, ())
        hidden = self._writable()
        with storage_errors(f"{self.path}/{HIDDEN_FOLDER}/{file_set}"):
            old = self._generation(file_set)
            if old is not None:
                os.unlink(file_set, dir_fd=hidden)
                os.fsync(hidden)
                self._retired.append((time.monotonic(), old))
            self._unlink_obsolete(file_set, ())
        return old is not None

    # -- cleaning up -------------------------------------------------------------------------------------------------

    def retire(self, grace: float = OLD_FILES_GRACE) -> float:
        """Remove generations replaced more than `grace` seconds ago; return the seconds until the next, or 0.0."""
        hidden = self._writable()
        now = time.monotonic()
        while self._retired and self._retired[0][0] + grace <= now:
            _, old = self._retired.pop(0)
            with storage_errors(f"{self.path}/{HIDDEN_FOLDER}/{old}"):
                files.remove_tree(old, hidden)
        return self._retired[0][0] + grace - now if self._retired else 0.0

    @property
    def unsettled(self) -> bool:
        """Whether a replaced generation is not removed yet."""
        return bool(self._retired)

    def settle(self, grace: float = OLD_FILES_GRACE) -> None:
        """Wait until every replaced generation is `grace` seconds old, and remove it."""
        while left := self.retire(grace):
            time.sleep(left)

    def sweep(self) -> int:
        """Remove what a killed or failed run left behind, never anything live; return how many things that were.

        An old generation that cannot be removed stops nothing: the next `retire` tries again and reports it.
        """
        hidden = self._writable()
        swept = 0
        with storage_errors(f"{self.path}/{HIDDEN_FOLDER}"):
            kept = {name for _, name in self._retired}
            entries = os.listdir(hidden)
            live: dict[str, set[str]] = {}
            for file_set in filter(self._is_file_set, entries):
                generation = self._generation(file_set)
                if generation in entries:
                    kept.add(generation)
                    with self._opened(file_set) as folder:
                        if folder is not None:
                            live[file_set] = set(os.listdir(folder))
                            if stat.S_IMODE(os.fstat(folder).st_mode) != 0o755:
                                os.fchmod(folder, 0o755)
                else:
                    os.unlink(file_set, dir_fd=hidden)
                    live[file_set] = set()
                    swept += 1
            for entry in entries:
                if _TEMPORARY.fullmatch(entry) or (GENERATION.fullmatch(entry) and entry not in kept):
                    try:
                        files.remove_tree(entry, hidden)
                        swept += 1
                    except OSError:
                        self._retired.insert(0, (0.0, entry))
            for name in os.listdir(self._fd):
                owner = self._owner_of(name) if re.fullmatch(NAME_PATTERN, name) else None
                # If something that is not ours has the file set's place, a person must decide about its links.
                if owner and (owner not in entries or name not in live.get(owner, (name,))):
                    os.unlink(name, dir_fd=self._fd)
                    swept += 1
            # A run that was killed between the swap and its fsync left a live link that a power cut would undo.
            os.fsync(hidden)
            if swept:
                os.fsync(self._fd)
        return swept

    def _writable(self) -> int:
        if self._hidden is None or self._lock is None:
            raise StoreError(f"{self.path}: the directory was opened for reading only")
        return self._hidden
