"""One resident agent for each state folder and each certificate directory: it holds a lock on both as long as it lives.

The locks lie on the folders themselves, so no file is left, and are freed by any end of the process, kill -9 included.
A pass of another kind (`agent --once`, `renew`) does not ask for them; it waits for the directory's own lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from vaultpki import files
from vaultpki.errors import Busy, StoreError
from vaultpki.model import AgentConfig


class Residence:
    """The folders that this process holds as their only resident agent."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}

    def hold(self, config: AgentConfig) -> None:
        """Takes both folders of this agent.yaml, makes those that are missing, and lets go of any other.

        Busy where another resident agent holds one; what was held before is then still held. A folder that cannot be
        made or opened safely is passed over: the pass that follows says so.
        """
        wanted = (config.state, config.directory)
        with _told_by_the_pass():
            files.private_folder(config.state)
        for path in wanted:
            with _told_by_the_pass():
                self._take(path)
        for path in [path for path in self._held if path not in wanted]:
            os.close(self._held.pop(path))

    def _take(self, path: str) -> None:
        fd = files.open_folder(path, create=True)
        try:
            held = self._held.get(path)
            if held is not None and os.path.samestat(os.fstat(held), os.fstat(fd)):
                os.close(fd)
                return
            with files.told(path):
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise Busy(
                        f"{path}: another resident agent{_named(_holder(fd))} keeps this node's certificates; stop it "
                        "first, or use `vaultpki agent --once` or `vaultpki renew` beside it"
                    ) from None
        except BaseException:
            os.close(fd)
            raise
        if held is not None:
            os.close(held)
        self._held[path] = fd


@contextlib.contextmanager
def _told_by_the_pass() -> Iterator[None]:
    try:
        yield
    except Busy:
        raise
    except StoreError:
        pass


def _holder(fd: int) -> int | None:
    """The id of the process that holds the lock on this open folder; None where the kernel does not tell."""
    about = os.fstat(fd)
    with contextlib.suppress(OSError, ValueError):
        # proc_locks(5). Not every file system shows the same device here as in stat(2).
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(about.st_ino) and int(words[4]) > 0:
                return int(words[4])
    return None


def _named(pid: int | None) -> str:
    return f" (process {pid})" if pid else ""
