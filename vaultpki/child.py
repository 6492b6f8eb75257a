"""Running one command of the user's: in a session of its own, with a time limit, ended with all that it started."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from typing import Final

from vaultpki import guard
from vaultpki.errors import StoreError

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL for a command that is past its time limit."""

_LONGEST_LOOK = 0.05
# A process that waits for a dead disk or network file system cannot be ended at all.
_STUCK = 5.0


class Child:
    """Where a command runs, one at a time; `stop`, from any thread, ends it and lets no other begin.

    Made in the main thread.
    """

    def __init__(self) -> None:
        # Reentrant: a signal's handler that calls `stop` may interrupt whoever holds it.
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._group: int | None = None
        # Whoever started us may have it ignored, and then the kernel keeps no exit code for anybody (wait(2)).
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        """Ends the command with SIGKILL; returns within a quarter of a second."""
        self._stopped.set()
        if self._lock.acquire(timeout=0.25):
            try:
                self._signal(signal.SIGKILL)
            finally:
                self._lock.release()

    def run(self, argv: tuple[str, ...], environment: Mapping[str, str], timeout: float) -> str:
        """Runs the command for at most `timeout` seconds: "" where it worked, else what became of it.

        Its input is empty, all it says goes to this process's stderr, and `environment` is all it has beside PATH.
        """
        program = shutil.which(argv[0], path=PATH)
        if program is None:
            if os.path.exists(argv[0]):
                return "may not be executed: `chmod +x` the program, or name another in agent.yaml"
            return "was not found: install the program, or write its whole path in agent.yaml"
        try:
            guard.refuse_file(program)
            return self._run(program, argv, environment, timeout)
        except StoreError as error:
            return f"was not run: {error}"
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                return "is no program: a script begins with a line such as #!/bin/sh"
            return f"could not be started: {os.strerror(error.errno or errno.EIO)}"

    def _run(self, program: str, argv: tuple[str, ...], environment: Mapping[str, str], timeout: float) -> str:
        with self._lock:
            if self.stopped:
                return "was not run"
            # Not subprocess: it can neither give a child an empty signal mask nor default dispositions for all, and
            # inherits what the thread has blocked and the service manager ignored.
            self._group = pid = os.posix_spawn(
                program,
                argv,
                {"PATH": PATH, **environment},
                file_actions=_file_actions(),
                setsid=True,
                setsigmask=(),
                setsigdef=sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}),
            )
        try:
            ended = self._ended(pid, timeout)
            if ended is None:
                self._signal(signal.SIGTERM)
                self._stopped.wait(GRACE)
        except BaseException:
            self._reap(pid, kill=True)
            raise
        self._reap(pid, kill=ended is None)
        if ended is None:
            return f"was not done after {timeout:g} seconds and was ended: mend it, or raise hook_timeout in agent.yaml"
        if ended.si_code != os.CLD_EXITED:
            return f"was killed by {signal.Signals(ended.si_status).name}"
        if ended.si_status:
            return f"ended with exit code {ended.si_status}: what it said stands in the agent's own output"
        return ""

    def _ended(self, pid: int, timeout: float) -> os.waitid_result | None:
        """How the child ended, which stays unreaped; None after `timeout` seconds, or once this is stopped."""
        until = time.monotonic() + timeout
        pause = 0.001
        while True:
            found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is not None or time.monotonic() >= until or self._stopped.wait(pause):
                return found
            pause = min(pause * 2, _LONGEST_LOOK)

    def _signal(self, number: signal.Signals) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._group is not None:
                os.killpg(self._group, number)

    def _reap(self, pid: int, *, kill: bool) -> None:
        """Reaps the child. Until then its number is taken, so that no signal of ours can meet a stranger's group."""
        if kill:
            self._signal(signal.SIGKILL)
            until = time.monotonic() + _STUCK
            while time.monotonic() < until:
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    break
                time.sleep(0.002)
        with self._lock:
            self._group = None
            # What it left behind becomes ours where we are the first process of a container.
            for number in (pid, -pid):
                with contextlib.suppress(ChildProcessError):
                    while os.waitpid(number, os.WNOHANG)[0]:
                        pass


def _file_actions() -> list[tuple[object, ...]]:
    # Python's own descriptors close themselves (PEP 446); others are what this process was started with.
    inherited = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and _stays_open(fd)]
    return [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        # What programs read on our stdout is ours alone.
        (os.POSIX_SPAWN_DUP2, 2, 1),
        *((os.POSIX_SPAWN_CLOSE, fd) for fd in inherited),
    ]


def _stays_open(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
