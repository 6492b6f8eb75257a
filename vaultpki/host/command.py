"""Run a command from agent.yaml in a session of its own, with a time limit; kill it with all that it started."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from vaultpki.errors import StoreError
from vaultpki.spec import permissions

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL for a command that has timed out."""

# A process that waits for a dead disk or network file system cannot be killed.
_STUCK: Final = 5.0


class CommandRunner:
    """Run commands, one at a time. To be made in the main thread."""

    def __init__(self) -> None:
        # Reentrant: a signal handler that calls `stop` may interrupt the thread that holds it.
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._group: int | None = None
        # Where the parent left it ignored, the kernel keeps no exit codes (wait(2)).
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Python's own descriptors close at exec (PEP 446); those that this process was started with may not.
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2:
                with contextlib.suppress(OSError):
                    os.set_inheritable(fd, False)

    @property
    def stopped(self) -> bool:
        """Whether `stop` has been called."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Kill the command that runs, and start no other; from any thread, and returns within 0.25 s."""
        self._stopped.set()
        if self._lock.acquire(timeout=0.25):
            self._signal(signal.SIGKILL)
            self._lock.release()

    def run(self, argv: tuple[str, ...], environment: Mapping[str, str], timeout: float) -> str:
        """Run the command for at most `timeout` seconds; return "", or what went wrong as the rest of a sentence.

        It reads nothing, writes to this process's standard error, and has only PATH and `environment`.
        """
        program = shutil.which(argv[0], path=PATH)
        if program is None:
            if os.path.exists(argv[0]):
                return "is not executable; run `chmod +x` on it, or name another program in agent.yaml"
            return "was not found; install the program, or write its full path in agent.yaml"
        try:
            permissions.refuse_file(program)
            with self._lock:
                if self.stopped:
                    return "was not run"
                self._group = pid = _spawn(program, argv, {"PATH": PATH, **environment})
        except StoreError as error:
            return f"was not run: {error}"
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                return "is not a program; a script must begin with a line such as #!/bin/sh"
            return f"could not be started: {os.strerror(error.errno or errno.EIO)}"
        ended = None
        try:
            ended = _wait(pid, timeout, self._stopped.wait)
            if ended is None:
                self._signal(signal.SIGTERM)
                self._stopped.wait(GRACE)
        finally:
            self._reap(pid, kill=ended is None)
        if ended is None:
            return f"timed out after {timeout:g} s and was killed; correct it, or raise hook_timeout in agent.yaml"
        if ended.si_code != os.CLD_EXITED:
            return f"was killed by {signal.Signals(ended.si_status).name}"
        return f"failed with exit code {ended.si_status}; its output is in the agent's log" if ended.si_status else ""

    def _signal(self, number: signal.Signals) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._group is not None:
                os.killpg(self._group, number)

    def _reap(self, pid: int, *, kill: bool) -> None:
        """Reap the child. Until then its number is taken, so that no signal of ours can reach another's group."""
        if kill:
            self._signal(signal.SIGKILL)
            _wait(pid, _STUCK, time.sleep)
        with self._lock:
            self._group = None
            # The first process of a container becomes the parent of what the command leaves behind.
            for number in (pid, -pid):
                with contextlib.suppress(ChildProcessError):
                    while os.waitpid(number, os.WNOHANG)[0]:
                        pass


def _spawn(program: str, argv: tuple[str, ...], environment: Mapping[str, str]) -> int:
    # Not subprocess: a child of it inherits the signals that this thread blocks and that this process ignores.
    return os.posix_spawn(
        program,
        argv,
        environment,
        # Standard output is for what programs read of us.
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, 2, 1)],
        setsid=True,
        setsigmask=(),
        setsigdef=sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}),
    )


def _wait(pid: int, seconds: float, pause: Callable[[float], bool | None]) -> os.waitid_result | None:
    """Return how the child ended, unreaped; None after `seconds`, or once `pause` returns True."""
    until, longer = time.monotonic() + seconds, 0.001
    while (ended := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
        if time.monotonic() >= until or pause(longer):
            return None
        longer = min(longer * 2, 0.05)
    return ended
