"""Run a command from agent.yaml in a session of its own, with a time limit; kill it with all that it started."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from vaultpki.errors import StoreError
from vaultpki.host import first_process, hook_files, hook_keeper

KILL_GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL for a command that has timed out."""

# A process that waits for a dead disk or network file system cannot be killed.
_STUCK: Final = 5.0
# For the keeper to start, where the processors are busy.
_START: Final = 30.0


class CommandRunner:
    """Run commands, one at a time. To be made in the main thread."""

    def __init__(self) -> None:
        # Reentrant: a signal handler that calls `stop` may interrupt the thread that holds it.
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._keeper: socket.socket | None = None
        # Read now: the file may be another version's by the time that a hook runs.
        self._program = Path(hook_keeper.__file__).read_text(encoding="utf-8")
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

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until `stop` is called; return whether it has been."""
        return self._stopped.wait(seconds)

    def stop(self) -> None:
        """Kill the running command and start no other; returns within 0.3 s and may be called from any thread."""
        self._stopped.set()
        if self._lock.acquire(timeout=0.15):
            try:
                if self._keeper is not None:
                    with contextlib.suppress(OSError):
                        self._keeper.shutdown(socket.SHUT_WR)
                    # It answers once nothing is left.
                    select.select([self._keeper], [], [], 0.15)
            finally:
                self._lock.release()

    def run(
        self,
        argv: tuple[str, ...],
        environment: Mapping[str, str],
        timeout: float,
        *,
        place: str = "agent.yaml",
        own: Collection[str] = (),
    ) -> str:
        """Run the command for at most `timeout` seconds; return "", or what went wrong as the rest of a sentence.

        It runs in `/`, reads nothing, writes to this process's standard error, and has only PATH and `environment`.
        It is not run if other users could change the files that it names; `place` is where agent.yaml has it, and `own`
        are the folders of this node's certificates.
        """
        program = shutil.which(argv[0], path=hook_files.PATH)
        if program is None:
            if os.path.exists(argv[0]):
                return "is not executable; run `chmod +x` on it, or name another program in agent.yaml"
            return "was not found; install the program, or write its full path in agent.yaml"
        command = hook_keeper.message(
            program, argv, {"PATH": hook_files.PATH, **environment}, timeout=timeout, grace=KILL_GRACE, stuck=_STUCK
        )
        try:
            hook_files.refuse(argv, path=hook_files.PATH, own=own)
            with self._lock:
                if self.stopped:
                    return "was not run"
                pid, self._keeper = self._start()
        except StoreError as error:
            return f"was not run: {place}: {error}"
        except OSError as error:
            return f"could not be started: {os.strerror(error.errno or errno.EIO)}"
        said = b""
        try:
            said = _exchange(self._keeper, command, timeout + KILL_GRACE + 2 * _STUCK + _START)
        finally:
            status = self._end(pid)
        return _sentence(said.decode().split(), timeout, status)

    def _start(self) -> tuple[int, socket.socket]:
        """Start a keeper; return its process id, and the socket to it."""
        ours, theirs = socket.socketpair()
        with theirs:
            pid = os.posix_spawn(
                sys.executable,
                # Without the user's settings and site-packages, which it does not need.
                (sys.executable, "-I", "-S", "-c", self._program),
                {},
                # Standard output is for what programs read of us.
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0), (os.POSIX_SPAWN_DUP2, 2, 1)],
                # Not subprocess: a child of it inherits the signals that this thread blocks and that this process
                # ignores. A Ctrl-C reaches this process only, which then has the command killed.
                setsid=True,
                setsigmask=(),
                setsigdef=sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}),
            )
        return pid, ours

    def _end(self, pid: int) -> int:
        """Close the socket, so that the keeper kills what still runs; wait for its end and return its wait status."""
        with self._lock:
            if self._keeper is not None:
                self._keeper.close()
                self._keeper = None
        until = time.monotonic() + 2 * _STUCK
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() >= until:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
        status = os.waitpid(pid, 0)[1]
        first_process.reap_adopted()
        return status


def _exchange(keeper: socket.socket, command: bytes, seconds: float) -> bytes:
    """Write the command and return the answer; empty if there is none after so long."""
    keeper.settimeout(seconds)
    with contextlib.suppress(OSError):
        keeper.sendall(command)
        return b"".join(iter(lambda: keeper.recv(4096), b""))
    return b""


def _sentence(said: list[str], timeout: float, status: int) -> str:
    """Return what went wrong as the rest of a sentence, from the keeper's answer; "" if nothing did."""
    match said:
        case ["exited", "0"]:
            return ""
        case ["exited", code]:
            return f"failed with exit code {code}; its output is in the agent's log"
        case ["killed", number]:
            return f"was killed by {signal.Signals(int(number)).name}"
        case ["refused", number]:
            if int(number) == errno.ENOEXEC:
                return "is not a program; a script must begin with a line such as #!/bin/sh"
            return f"could not be started: {os.strerror(int(number))}"
        case ["timeout", *left]:
            also = f", but not process {' '.join(left)}" if left else ""
            return (
                f"timed out after {timeout:g} s and was killed{also}; correct it, or raise hook_timeout in agent.yaml"
            )
        case ["stopped", *_]:
            return "was stopped"
    how = f"was killed by {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else "failed"
    return f"was interrupted, because the process that watches it {how}; look at the log of the machine"
