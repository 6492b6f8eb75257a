"""What a machine that is taken over remembers: kubeadm's own files, what was written, and when processes started.

It lies in STATE/takeover, which only root may enter: some of kubeadm's files hold keys.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any, Final

from vaultpki.disk import exchange, files
from vaultpki.disk.files import closing, open_folder, private_folder, read_private, storage_errors, write_private
from vaultpki.errors import StateConflict
from vaultpki.host.boot_time import Moment
from vaultpki.records.adoption import AdoptionState
from vaultpki.records.adoption_report import Held
from vaultpki.values.json_object import from_asdict

FOLDER: Final = "takeover"
JOURNAL: Final = "journal.json"
_LOCK: Final = "takeover.lock"
_MOST_STARTS: Final = 4
_BY_TYPE: Final[Mapping[Any, Callable[[Any], Any]]] = {
    AdoptionState | None: lambda value: AdoptionState(value) if value else None,
    bool: lambda value: value,
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a component reads since `moment`: a digest of it, the CAs it trusts, and whose certificates it shows.

    `active` is whether the controller manager signs CSRs, or the kubelet renews its certificate by them. `mark` is the
    value of the annotation that makes the kubelet start the pod. `moment` is None for what was there before.
    """

    digest: str
    trust: Held
    leaves: Held
    active: bool | None
    mark: str
    moment: Moment | None


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file of kubeadm's: the name of its copy, mode, owner, and times in nanoseconds."""

    copy: str
    mode: int
    uid: int
    gid: int
    times: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Journal:
    """The journal. `reached` is the last state whose steps were all done; None while all is as kubeadm left it.

    `asked` is the last state whose steps were begun, None if none were: the record said so then.
    `kept` are kubeadm's files by path, None for one that was not there. `written` are the SHA-256 of what was written
    last in their places, the one before first. `copied` are those of the copy with both CAs as it was made, by path.
    `prepared` is what each component was prepared to read, newest last. `signed_again` are the names of old pairs that
    were signed again, and `changed` those files that somebody else changed meanwhile. `since` is Unix time. `ended` are
    the SHA-256 of old CAs by domain with which an adoption is done here; they only become more. `in_retired` are the
    seconds of this machine's uptime since it has done the steps of RETIRED, as far as they were counted at `counted`.
    """

    reached: AdoptionState | None = None
    asked: AdoptionState | None = field(default=None, kw_only=True)
    kept: Mapping[str, KeptFile | None] = field(default_factory=dict)
    written: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    copied: Mapping[str, str] = field(default_factory=dict)
    prepared: Mapping[str, tuple[Prepared, ...]] = field(default_factory=dict)
    signed_again: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    report: str = ""
    since: float = 0.0
    _: KW_ONLY  # Earlier releases did not write these, nor `asked`.
    ended: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    in_retired: float = 0.0
    counted: Moment | None = None


class JournalFile:
    """The journal in the folder `state`; `value` is what it says, and `save` writes it. Raises StoreError."""

    def __init__(self, state: str) -> None:
        self.folder = f"{state}/{FOLDER}"
        self.value = self._load()

    def _load(self) -> Journal:
        raw = read_private(f"{self.folder}/{JOURNAL}") if files.exists(self.folder) else None
        if raw is None:
            return Journal()
        try:
            read: Journal = from_asdict(Journal, json.loads(raw), _BY_TYPE)
            return read
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise StateConflict(
                f"{self.folder}/{JOURNAL} cannot be read; restore it from a backup: it says how to go back"
            ) from None

    def read_again(self) -> None:
        """Read the journal anew: another process may have written it meanwhile."""
        self.value = self._load()

    def save(self, **changes: Any) -> None:
        """Write the journal with these changes, if there are any."""
        value = replace(self.value, **changes)
        if value != self.value or not files.exists(f"{self.folder}/{JOURNAL}"):
            private_folder(self.folder)
            text = json.dumps(asdict(value), default=lambda each: each.value)
            write_private(f"{self.folder}/{JOURNAL}", text.encode())
            self.value = value

    def keep(self, path: str) -> None:
        """Keep kubeadm's file at `path`, unless it was kept before."""
        if path in self.value.kept:
            return
        found = read(path)
        if found is None:
            self.save(kept={**self.value.kept, path: None})
            return
        self.renew(path, found[0], found[1])

    def renew(self, path: str, data: bytes, about: os.stat_result) -> None:
        """Keep these bytes as kubeadm's file at `path`, with mode, owner and times of `about`."""
        private_folder(self.folder)
        copy = f"{path.strip('/').replace('/', '-')}.{sha256(data).hexdigest()[:8]}"
        write_private(f"{self.folder}/{copy}", data)
        times = (about.st_atime_ns, about.st_mtime_ns)
        entry = KeptFile(copy, about.st_mode & 0o7777, about.st_uid, about.st_gid, times)
        self.save(kept={**self.value.kept, path: entry})

    def original(self, path: str) -> bytes | None:
        """Return kubeadm's file at `path` as it was kept; None if there was none. StateConflict if it is lost."""
        entry = self.value.kept.get(path)
        if entry is None:
            return None
        data = read_private(f"{self.folder}/{entry.copy}")
        if data is None:
            raise StateConflict(f"{self.folder}/{entry.copy} is lost, which is kubeadm's {path}; restore it")
        return data

    def put(self, path: str, data: bytes | None, *, known_as: bytes | None = None) -> bool:
        """Write a file in place of kubeadm's, with its mode and owner, and remember that; return whether it changed.

        What is kubeadm's own gets its times too. None removes the file. `known_as` is what of it tells that it was
        written here, if that is not the whole.
        """
        found = read(path)
        if (found[0] if found else None) == data:
            return False
        known = data if known_as is None else known_as
        digest = sha256(known).hexdigest() if known is not None else ""
        before = self.value.written.get(path, ())[-1:]
        self.save(written={**self.value.written, path: tuple(dict.fromkeys((*before, digest)))})
        folder_path, name = os.path.split(path)
        with closing(open_folder(folder_path, create=False)) as folder, storage_errors(path):
            if data is None:
                os.unlink(name, dir_fd=folder)
                os.fsync(folder)
                return True
            entry = self.value.kept.get(path)
            mode, uid, gid = (entry.mode, entry.uid, entry.gid) if entry else (0o600, None, None)
            times = entry.times if entry is not None and data == self.original(path) else None
            files.swap(name, folder, data, mode, uid, gid, times=times)
        return True

    def is_ours(self, path: str, data: bytes) -> bool:
        """Return whether a file is kubeadm's as it was kept, or what was written here last."""
        digest = sha256(data).hexdigest()
        return data == self.original(path) or digest in self.value.written.get(path, ())

    def remove(self) -> None:
        """Remove the journal and everything that was kept."""
        exchange.remove(self.folder)
        self.value = Journal()


def files_in(folder: str) -> list[str]:
    """Return the paths of what is in a folder; empty if there is none."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(f"{folder}/{name}" for name in os.listdir(folder))
    return []


def read(path: str) -> tuple[bytes, os.stat_result] | None:
    """Return a file and its fstat(2); None if there is none. Raises StoreError."""
    if not files.exists(path):
        return None
    folder_path, name = os.path.split(path)
    with closing(open_folder(folder_path, create=False)) as folder, storage_errors(path):
        return files.read_at(name, folder)


@contextlib.contextmanager
def lock(state: str, wait: float) -> Any:
    """Hold the lock under which folders are exchanged; BlockingIOError after `wait` seconds."""
    private_folder(state)
    with closing(open_folder(state, create=False)) as folder, closing(files.lock(_LOCK, folder, wait)):
        yield


def later(journal: Journal, component: str, prepared: Prepared) -> dict[str, tuple[Prepared, ...]]:
    """Return what components were prepared to read, with one more entry."""
    before = journal.prepared.get(component, ())
    return {**journal.prepared, component: (*before, prepared)[-_MOST_STARTS:]}
