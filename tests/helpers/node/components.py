"""A small real process that stands for a component of a node: its name, its flags, and its own health endpoint.

It is a program of its own, started as `etcd` and the like with the flags of the real one. Its folder holds what a test
may change: `answer`, the status and the text of the endpoint, and `slow`, for how many seconds it does not listen.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helpers.node import component_program
from helpers.node.component_program import HOST, POLL

__all__ = ["HOST", "Component"]

_PROGRAM = [sys.executable, "-I", "-S", component_program.__file__]


@dataclass(slots=True)
class Component:
    """A component; `flags` are as the real one has them, and say where it listens.

    With a `version` (v1.36.3) the program that it was started as prints that as Kubernetes' programs do.
    """

    name: str
    folder: Path
    flags: Sequence[str]
    starts: int = 0
    version: str = ""
    running: subprocess.Popen[bytes] | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.version:
            self.upgrade(self.version)
        else:
            (self.folder / self.name).symlink_to(os.path.realpath(sys.executable))

    def upgrade(self, version: str) -> None:
        """Replace its program, as a package does; what runs is the one of before until the next start."""
        new = self.folder / f"{self.name}.new"
        new.write_text(f"#!/bin/sh\necho Kubernetes {version}\n")
        new.chmod(0o755)
        new.replace(self.folder / self.name)

    @property
    def pid(self) -> int:
        assert self.running is not None, f"{self.name} was not started"
        return self.running.pid

    @property
    def hook(self) -> list[str]:
        """A hook that has it restarted while `supervised`, and waits for that."""
        return [*_PROGRAM, "restart", str(self.folder)]

    def answers(self, status: int, text: str = "") -> None:
        """Let its endpoint answer so, at once and after a restart."""
        new = self.folder / "answer.new"
        new.write_text(f"{status} {text}")
        new.replace(self.folder / "answer")

    def slow(self, seconds: float = float("inf")) -> None:
        """Let it listen only so long after its next start, or once it is released."""
        (self.folder / "slow").write_text(str(seconds))

    def release(self) -> None:
        """Let it listen at once."""
        (self.folder / "slow").unlink()

    def start(self) -> None:
        with self.lock:
            self.stop()
            (self.folder / "pid").unlink(missing_ok=True)
            command = [str(self.folder / self.name), *_PROGRAM[1:], *self.flags]
            if self.version:
                # Python under the name of a program that says its version.
                command = ["/bin/bash", "-c", 'exec -a "$1" "$0" "${@:2}"', os.path.realpath(sys.executable), *command]
            with (self.folder / "log").open("ab") as log:
                self.running = subprocess.Popen(
                    # It ends with the thread that starts it.
                    ["setpriv", "--pdeathsig", "KILL", *command],
                    cwd=self.folder,
                    env={**os.environ, component_program.PARENT: str(os.getpid())},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            self.starts += 1
            # By then it has its name and its flags.
            _wait((self.folder / "pid").exists, lambda: f"{self.name} did not start")

    def serves(self) -> None:
        """Wait until the process that runs listens."""
        _wait(
            lambda: self._text("serving") == self._text("pid") != "",
            lambda: f"{self.name} does not serve: {self._text('log')[-1000:]}",
        )

    def restart(self) -> None:
        """Have it restarted while `supervised`, as a person does, and wait until it listens."""
        component_program.restart(str(self.folder))
        self.serves()

    def _text(self, name: str) -> str:
        return component_program.text(f"{self.folder}/{name}")

    def stop(self) -> None:
        with self.lock:
            if self.running is not None:
                self.running.kill()
                self.running.wait()
                self.running = None

    @contextlib.contextmanager
    def supervised(self, watched: Path | None = None) -> Iterator[Component]:
        """Start it, and start it again whenever its `hook` runs or `watched` is replaced, as the kubelet does."""
        ended = threading.Event()
        # The kernel ends it with the thread that has started it.
        thread = threading.Thread(target=self._supervise, args=(watched, ended), name=self.name, daemon=True)
        thread.start()
        try:
            _wait(
                lambda: self.running is not None and (self.folder / "pid").exists(),
                lambda: f"{self.name} did not start",
            )
            yield self
        finally:
            ended.set()
            thread.join()

    def _supervise(self, watched: Path | None, ended: threading.Event) -> None:
        wanted, seen = self.folder / "restart", _version(watched)
        self.start()
        while not ended.wait(POLL):
            now = _version(watched)
            if wanted.exists() or now != seen:
                wanted.unlink(missing_ok=True)
                seen = now
                self.start()
        self.stop()


def _version(path: Path | None) -> tuple[int, int] | None:
    if path is None or not path.exists():
        return None
    about = path.stat()
    return about.st_ino, about.st_mtime_ns


def _wait(reached: Callable[[], bool], otherwise: Callable[[], str], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < until, otherwise()
        time.sleep(POLL)
