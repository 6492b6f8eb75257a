"""The first process of a container: the kernel drops every signal that such a process has no handler for."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType


def prepare() -> None:
    """Have SIGTERM end this process from now on, also as process 1 of a container.

    Process 1 of a process namespace gets no signal for which it has no handler, not even SIGTERM
    (pid_namespaces(7)). The image starts it with SIGTERM blocked, so that one that comes before now waits
    (sigprocmask(2)).
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def reap_adopted() -> None:
    """Reap what hooks have left running and has ended since: process 1 is the last parent of everything.

    A process in the session of this one is a child of ours, whose end another part of the program waits for.
    """
    if os.getpid() != 1:
        return
    for thread in os.listdir("/proc/1/task"):
        with contextlib.suppress(OSError), open(f"/proc/1/task/{thread}/children", encoding="ascii") as listed:
            for pid in map(int, listed.read().split()):
                with contextlib.suppress(OSError):
                    # ESRCH once the process has been reaped.
                    if os.getsid(pid) != os.getsid(0):
                        os.waitpid(pid, os.WNOHANG)


def _end(number: int, frame: FrameType | None) -> None:
    # As the kernel ends any other process, without a word: every write of ours may be cut anywhere.
    os._exit(128 + number)
