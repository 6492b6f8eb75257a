"""The first process of a container: the kernel drops every signal that such a process has no handler for."""

from __future__ import annotations

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


def _end(number: int, frame: FrameType | None) -> None:
    # As the kernel ends any other process, without a word: every write of ours may be cut anywhere.
    os._exit(128 + number)
