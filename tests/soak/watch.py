"""Who looks at a node's pairs for hours: a reader that polls, and one that waits for inotify as the API server does."""

from __future__ import annotations

import ctypes
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from vaultpki.certificates import file_set
from vaultpki.errors import VaultpkiError
from vaultpki.pki import x509

PAUSE = 0.2


@dataclass(slots=True)
class Seen:
    """One pair as it was last seen: its three files, when it ends (Unix time), and its certificate's serial."""

    contents: tuple[bytes, ...]
    ends: float
    serial: int


@dataclass(slots=True)
class Reader:
    """Opens every pair of a node's directory each 0.2 s: through one descriptor of its folder, and its `.pem` by path.

    `faults` are what it found wrong, each with the moment; `rotations` the moments at which a new pair was first seen,
    by the pair's name.
    """

    node: str
    pki: Path
    stems: tuple[str, ...]
    seen: dict[str, Seen] = field(default_factory=dict)
    expired: set[tuple[str, int]] = field(default_factory=set)
    faults: list[tuple[float, str]] = field(default_factory=list)
    rotations: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    looks: int = 0
    least_left: float = float("inf")
    longest_pause: float = 0.0

    def look(self) -> None:
        now = time.time()
        for stem in self.stems:
            try:
                contents = self._read(stem)
            except OSError as error:
                self._fault(now, f"{stem}: {error.strerror}")
                continue
            old = self.seen.get(stem)
            if old is None or old.contents != contents:
                found = self._judged(now, stem, contents)
                if found is None:
                    continue
                self.seen[stem] = found
                if old is not None:
                    self.rotations.setdefault(stem, []).append((now, found.serial))
            seen = self.seen[stem]
            self.least_left = min(self.least_left, seen.ends - now)
            if seen.ends <= now and (stem, seen.serial) not in self.expired:
                self.expired.add((stem, seen.serial))
                self._fault(now, f"{stem}: expired")
        self.looks += 1

    def _read(self, stem: str) -> tuple[bytes, ...]:
        folder = os.open(self.pki / ".vaultpki" / file_set(stem), os.O_RDONLY | os.O_DIRECTORY)
        try:
            parts = []
            for suffix in ("crt", "key", "pem"):
                file = os.open(f"{stem}.{suffix}", os.O_RDONLY, dir_fd=folder)
                with os.fdopen(file, "rb") as stream:
                    parts.append(stream.read())
        finally:
            os.close(folder)
        with open(self.pki / f"{stem}.pem", "rb") as stream:
            return (*parts, stream.read())

    def _judged(self, now: float, stem: str, contents: tuple[bytes, ...]) -> Seen | None:
        crt, key, pem, by_path = contents
        secret, begin, rest = by_path.partition(b"-----BEGIN CERTIFICATE-----")
        try:
            leaf, other = x509.read_certificates(crt)[0], x509.read_certificates(begin + rest)[0]
            whole = x509.matches(key, leaf) and pem == key + crt and x509.matches(secret, other)
        except VaultpkiError as error:
            self._fault(now, f"{stem}: {error}")
            return None
        if not whole:
            self._fault(now, f"{stem}: torn")
            return None
        return Seen(contents, leaf.not_after.timestamp(), leaf.serial)

    def _fault(self, now: float, text: str) -> None:
        self.faults.append((now, f"{self.node}: {text}"))


class Waiter:
    """Follows one file through the link as client-go's and the API server's file watchers do: no polling at all.

    It adds a watch on the inode behind the path, reads the file again when that inode goes, and adds the next.
    `met` are the moments and serials of what it read.
    """

    _WANTED = 0x400 | 0x800 | 0x4 | 0x2 | 0x8  # DELETE_SELF, MOVE_SELF, ATTRIB, MODIFY, CLOSE_WRITE (inotify(7))

    def __init__(self, path: Path) -> None:
        self._path = path
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.met: list[tuple[float, int]] = []
        self._watch()

    def wake(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self.fd, 65536):
                pass
        self._watch()

    def _watch(self) -> None:
        with suppress(OSError, VaultpkiError):
            # First the watch, then the reading: what changes in between brings an event.
            self._libc.inotify_add_watch(self.fd, os.fsencode(self._path), self._WANTED)
            serial = x509.read_certificates(self._path.read_bytes())[0].serial
            if not self.met or self.met[-1][1] != serial:
                self.met.append((time.time(), serial))


@contextmanager
def watching(readers: list[Reader], waiters: dict[tuple[str, str], Waiter]) -> Iterator[None]:
    """Both kinds at work, each in a thread of its own, until the block is left."""
    ended = threading.Event()

    def poll() -> None:
        last = time.monotonic()
        while not ended.wait(PAUSE):
            for reader in readers:
                now = time.monotonic()
                reader.look()
                reader.longest_pause = max(reader.longest_pause, now - last)
            last = now

    def wait() -> None:
        poller = select.poll()
        by_fd = {waiter.fd: waiter for waiter in waiters.values()}
        for fd in by_fd:
            poller.register(fd, select.POLLIN)
        while not ended.is_set():
            for fd, _ in poller.poll(500):
                by_fd[fd].wake()

    with working(ended, poll, wait):
        yield


@contextmanager
def working(ended: threading.Event, *work: Callable[[], None]) -> Iterator[None]:
    """Do the work in threads, until it is told by the event that it has ended."""
    threads = [threading.Thread(target=each, daemon=True) for each in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
