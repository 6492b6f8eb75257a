"""Allow one daemon for each state folder and certificate directory: it locks both as long as it runs.

The locks are on the folders themselves, so no file is left, and every end of the process frees them, kill -9 included.
Other passes (`agent --once`, `renew`) do not take them; they wait for the directory's own lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from vaultpki.disk import files
from vaultpki.errors import Busy, StoreError
from vaultpki.model import AgentConfig


class DaemonLock:
    """The folders that this process has locked as their only daemon."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}

    def hold(self, config: AgentConfig) -> None:
        """Lock both folders of this agent.yaml, made if missing, and release any other.

        On a machine that is taken over no folder of certificates is made: it may just be on its way to another place,
        and keeps its lock there. Raises Busy if another daemon holds one; earlier locks are then kept. A folder that
        cannot be made or opened safely is skipped: the pass that follows reports it.
        """
        wanted = (config.state, config.directory)
        with _reported_by_the_pass():
            files.private_folder(config.state)
        for path in wanted:
            with _reported_by_the_pass():
                self._take(path, create=config.taken_over is None or path == config.state)
        for path in [path for path in self._held if path not in wanted]:
            os.close(self._held.pop(path))

    def _take(self, path: str, *, create: bool) -> None:
        fd = files.open_folder(path, create=create)
        try:
            held = self._held.get(path)
            moved = next((at for at, one in self._held.items() if os.path.samestat(os.fstat(one), os.fstat(fd))), None)
            if moved is not None:
                os.close(fd)
                if moved != path:
                    self._held[path] = self._held.pop(moved)
                    if held is not None:
                        os.close(held)
                return
            with files.storage_errors(path):
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
def _reported_by_the_pass() -> Iterator[None]:
    try:
        yield
    except Busy:
        raise
    except StoreError:
        pass


def _holder(fd: int) -> int | None:
    """Return the id of the process that holds the lock on this open folder; None if the kernel does not say."""
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
