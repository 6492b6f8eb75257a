"""Moments since the machine was booted: the clock on which starts of processes are compared.

The wall clock may be set, forwards and backwards; this one is only read. It goes on while the machine is suspended.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

_NAME = "sys/kernel/random/boot_id"


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment: seconds (CLOCK_BOOTTIME) since the boot that the kernel calls `boot`."""

    boot: str
    uptime: float

    def later_than(self, other: Moment) -> bool:
        """Return whether this moment, of the boot that the machine runs in now, is later than another one.

        Whatever was noted in another boot is earlier.
        """
        return self.boot != other.boot or self.uptime > other.uptime


def now(processes: str = "/proc") -> Moment:
    """Return this moment."""
    return Moment(boot(processes), time.clock_gettime(time.CLOCK_BOOTTIME))


def boot(processes: str = "/proc") -> str:
    """Return the kernel's random name of this boot (random(4)); "" where it cannot be read."""
    try:
        return Path(processes, _NAME).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
