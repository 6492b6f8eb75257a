"""A command on a terminal of a given size, which a test reads as it goes, and signals."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from helpers.vault.applied_cluster import environment
from helpers.vault.forked_command import Fork

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(slots=True)
class OnTerminal:
    """A process whose three streams are one terminal. `shown` is all that it wrote so far."""

    process: Fork
    leader: int
    shown: str = field(default="", repr=False)

    def until(self, text: str, seconds: float = 60, *, since: int = 0) -> None:
        """Read until the text was written, behind so many characters; fails if the process ends before."""
        end = time.monotonic() + seconds
        while text not in self.shown[since:]:
            assert time.monotonic() < end, f"no {text!r} in {self.shown!r}"
            assert self._read(end - time.monotonic()), f"it ended without {text!r}: {self.shown!r}"

    def ended(self, number: signal.Signals | None = None, seconds: float = 60) -> int:
        """Send a signal, if any, read the rest, and return the exit code."""
        if number is not None:
            self.process.send_signal(number)
        end = time.monotonic() + seconds
        while self._read(end - time.monotonic()):
            assert time.monotonic() < end, self.shown
        return self.process.wait(max(end - time.monotonic(), 1))

    @property
    def lines(self) -> list[str]:
        """What was written, without colours and movements of the cursor."""
        return _CONTROL.sub("", self.shown).replace("\r\n", "\n").split("\n")

    @property
    def left(self) -> list[str]:
        """The lines as the terminal has them in the end, without colours: what a bar was overwritten by."""
        lines = self.shown.replace("\r\n", "\n").split("\n")
        last = (line.rpartition("\x1b[2K")[2].rpartition("\r")[2] for line in lines)
        return [_CONTROL.sub("", line).rstrip() for line in last]

    def typed(self, text: str) -> None:
        os.write(self.leader, f"{text}\n".encode())

    @property
    def coloured(self) -> bool:
        return _COLOUR.search(self.shown) is not None

    def _read(self, seconds: float) -> bool:
        assert select.select([self.leader], [], [], max(seconds, 0.0))[0], self.shown
        # EIO stands for the end (pty(7)).
        data = b""
        with contextlib.suppress(OSError):
            data = os.read(self.leader, 65536)
        self.shown += data.decode(errors="replace")
        return bool(data)


@contextmanager
def on_terminal(
    *words: str | Path,
    env: Mapping[str, str],
    columns: int = 80,
    rows: int = 24,
    replaced: Mapping[str, object] | None = None,
) -> Iterator[OnTerminal]:
    """The product on a terminal of its own; killed when the block ends, if it is still there.

    `replaced` has other values for names of the product (`forked_command.Fork`).
    """
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    variables = {**environment(env), "TERM": "xterm"}
    process = Fork(list(map(str, words)), variables, [follower] * 3, replaced=replaced)
    os.close(follower)
    try:
        yield OnTerminal(process, leader)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
        os.close(leader)
