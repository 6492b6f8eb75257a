"""A hook that tries to outlive its end: `escaping_hook.py KIND TOKEN FOLDER`, with TOKEN to find its processes by.

Everything ends by itself after a minute, whatever the test finds.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

END = time.monotonic() + 60


def stay() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while time.monotonic() < END:
        time.sleep(0.05)
    os._exit(0)


def own_session() -> None:
    """A child in a session of its own."""
    if os.fork() == 0:
        os.setsid()
        stay()


def daemon() -> None:
    """A daemon as of old: its parent ends, and it has neither session, group nor parent in common with the hook."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid() if os.getpgrp() == os.getpid() else os.setpgid(0, 0)
            stay()
        os._exit(0)


def runner() -> None:
    """A process that goes on in a new child, in a new session, and ends: each lives for a millisecond or less.

    Nobody finds it in a list of processes, so it touches the file `beat`.
    """
    beat = Path(sys.argv[3], "beat")
    beat.touch()
    if os.fork() == 0:
        while time.monotonic() < END:
            os.setsid()
            os.utime(beat)
            if os.fork():
                os._exit(0)
        os._exit(0)


def storm() -> None:
    """Runners, and a tree of 127 processes in sessions of their own, each of which starts its children slowly."""
    for _ in range(3):
        runner()
    if os.fork() == 0:
        for _ in range(6):
            time.sleep(0.02)
            if os.fork() == 0:
                os.setsid()
        stay()


if __name__ == "__main__":
    {"own-session": own_session, "daemon": daemon, "runner": runner, "storm": storm}[sys.argv[1]]()
    time.sleep(0.3)
    Path(sys.argv[3], "ready").touch()
    stay()
