"""Who reads or watches a pair while it is swapped: no reader finds a torn or missing one, no watcher misses a swap.

Each reader and watcher is held against a way of writing that it must find fault with.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest

from helpers.node import pair_reader
from helpers.node.pair_reader import content
from vaultpki.disk.generations import File
from vaultpki.disk.store import Directory

READER = Path(pair_reader.__file__)
# Shorter than the product's, so that old generations go while readers read; longer than any reader's pause.
GRACE = 1.0
KINDS = ("bundle", "folder")
# So many different pairs a reader meets at least.
PAIRS = 21
Write = Callable[[int], None]
Result = dict[str, int]


def files(tag: int) -> dict[str, File]:
    return {name: File(data, 0o644 if name.endswith(".crt") else 0o600) for name, data in content(tag).items()}


@contextmanager
def swaps(folder: Path) -> Iterator[Write]:
    """The product's own way."""
    with Directory.open(str(folder)) as directory:

        def write(tag: int) -> None:
            directory.install("pair", files(tag))
            directory.retire(GRACE)

        yield write


@contextmanager
def renames(folder: Path) -> Iterator[Write]:
    """Each file replaced by itself, as consul-template and certmagic do; atomic for one file, and not for a pair."""
    place = folder / ".vaultpki/pair"
    place.mkdir(parents=True)

    def write(tag: int) -> None:
        for name, data in content(tag).items():
            (place / "new").write_bytes(data)
            (place / "new").rename(place / name)

    yield write


@contextmanager
def rewrites(folder: Path) -> Iterator[Write]:
    """The file is opened and written where it lies, as `>` in a shell does."""
    folder.mkdir()

    def write(tag: int) -> None:
        (folder / "pair.pem").write_bytes(content(tag)["pair.pem"])

    yield write


def read_while(write: Write, folder: Path, kinds: tuple[str, ...], opens: int) -> tuple[dict[str, Result], int]:
    """What each reader met while pair after pair was written, and how many that were."""
    write(1)
    written = 1
    with ExitStack() as stack:
        readers = {}
        for kind in kinds:
            command = [sys.executable, "-S", str(READER), kind, str(folder), str(opens), str(PAIRS)]
            readers[kind] = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(readers[kind].kill)
        while any(reader.poll() is None for reader in readers.values()):
            written += 1
            write(written)
        return {kind: json.loads(reader.communicate()[0]) for kind, reader in readers.items()}, written


@pytest.mark.parametrize("opens", [20_000, pytest.param(1_000_000, marks=pytest.mark.exhaustive)])
def test_no_reader_sees_a_torn_pair(opens: int, tmp_path: Path) -> None:
    with swaps(tmp_path / "pki") as write:
        found, written = read_while(write, tmp_path / "pki", KINDS, opens)
    for kind in KINDS:
        assert (found[kind]["torn"], found[kind]["missing"]) == (0, 0), found
        assert found[kind]["whole"] >= opens and found[kind]["pairs"] >= PAIRS, (found, written)


@pytest.mark.parametrize(("kind", "way"), [("folder", renames), ("bundle", rewrites)])
def test_the_readers_see_what_is_torn(
    kind: str, way: Callable[[Path], AbstractContextManager[Write]], tmp_path: Path
) -> None:
    with way(tmp_path / "pki") as write:
        found, written = read_while(write, tmp_path / "pki", (kind,), 20_000)
    assert found[kind]["torn"] > 10 and found[kind]["pairs"] >= PAIRS, (found, written)


IN_MODIFY, IN_ATTRIB, IN_DELETE_SELF, IN_MOVE_SELF, IN_IGNORED = 0x2, 0x4, 0x400, 0x800, 0x8000


class Watcher:
    """Follows a pair as kube-apiserver does: two watches on what the paths lead to, renewed when they are gone.

    kubernetes staging/src/k8s.io/apiserver/pkg/server/dynamiccertificates/dynamic_serving_content.go, whose fsnotify
    adds a watch with inotify(7) on the inode behind the link. `met` has what it read after each event: the number of a
    whole pair, or -1 for anything else.
    """

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._paths = [folder / "pair.crt", folder / "pair.key"]
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watches: dict[int, Path] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.met: list[int] = []
        self._rests = 0
        for path in self._paths:
            self._add(path)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._fd)

    def _add(self, path: Path) -> None:
        wanted = IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF
        watch = self._libc.inotify_add_watch(self._fd, os.fsencode(path), wanted)
        assert watch > 0, f"{path}: {os.strerror(ctypes.get_errno())}"
        self._watches[watch] = path

    def _run(self) -> None:
        while not self._stop.is_set():
            if not select.select([self._fd], [], [], 0.01)[0]:
                self._rests += 1
                continue
            events = os.read(self._fd, 65536)
            at = 0
            while at < len(events):
                watch, mask, _, length = struct.unpack_from("iIII", events, at)
                at += 16 + length
                if mask & IN_IGNORED and watch in self._watches:
                    self._add(self._watches.pop(watch))
            crt, key = (path.read_bytes() for path in self._paths)
            tag = int(crt[:8])
            self.met.append(tag if key + crt == content(tag)["pair.pem"] else -1)

    def saw(self, tag: int, within: float) -> bool:
        """Whether it met the pair `tag` in `within` seconds; by then it has followed all that happened before."""
        end = time.monotonic() + within
        # The rest that is under way may have begun before the last event.
        rests = self._rests + 2
        while (tag not in self.met or self._rests < rests) and time.monotonic() < end:
            time.sleep(0.005)
        return tag in self.met


ROTATIONS = 30


def test_a_watcher_sees_every_rotation(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    with Directory.open(str(folder)) as directory:
        directory.install("pair", files(1))
        with Watcher(folder) as watcher:
            for tag in range(2, ROTATIONS + 2):
                directory.install("pair", files(tag))
                directory.settle(0.02)
                assert watcher.saw(tag, 10), f"rotation {tag - 1} was missed: {watcher.met}"
    assert -1 not in watcher.met and sorted(set(watcher.met)) == list(range(2, ROTATIONS + 2))


def test_the_watcher_misses_a_swap_that_leaves_the_old_files(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    with Directory.open(str(folder)) as directory:
        directory.install("pair", files(1))
        with Watcher(folder) as watcher:
            directory.install("pair", files(2))
            assert not watcher.saw(2, 1)
            directory.settle(0)
            assert watcher.saw(2, 10)
