"""Maintenance windows: when renewals that could wait are made. They give way to expiry."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from vaultpki.errors import SpecError
from vaultpki.model import Window

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FORM: Final = re.compile(
    r"(?:((?:mon|tue|wed|thu|fri|sat|sun)(?:,(?:mon|tue|wed|thu|fri|sat|sun))*) )?"
    r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)",
    re.ASCII,
)


def parse(text: str) -> Window:
    """A window as agent.yaml has it, in UTC: `02:00-04:00`, `sat,sun 22:00-03:00`; SpecError for anything else."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise SpecError(f"{text!r} is no window: write such as `02:00-04:00` or `sat,sun 22:00-03:00`, in UTC")
    days = frozenset(_DAYS.index(day) for day in match[1].split(",")) if match[1] else frozenset(range(7))
    begin, end = int(match[2]) * 60 + int(match[3]), int(match[4]) * 60 + int(match[5])
    if begin == end:
        raise SpecError(f"{text!r} begins when it ends: write two different times")
    return Window(days, begin, (end - begin) % (24 * 60), text)


def within(windows: Sequence[Window], due: datetime, latest: datetime, jitter: float, now: datetime) -> datetime:
    """When to do what is due at `due` and must not wait beyond `latest` (all UTC).

    A moment inside the first window in that span that is not over at `now`, `jitter` (0 to 1) of the way through it;
    `due` itself where there is no window, or none in time any more.
    """
    if latest <= due:
        return due
    found: datetime | None = None
    # Whoever slept through a window waits for the next.
    first = max(due, now)
    midnight = first.replace(hour=0, minute=0, second=0, microsecond=0)
    # A window may have begun the day before; every one comes once in a week.
    for day in range(-1, 8):
        for window in windows:
            ahead = timedelta(days=day, minutes=window.begin)
            # Before the sum, which the year 9999 has no room for.
            if ahead >= latest - midnight or (midnight.weekday() + day) % 7 not in window.days:
                continue
            start = midnight + ahead
            end = start + min(timedelta(minutes=window.length), latest - start)
            if end <= first:
                continue
            # One that is open when it comes due is used at once: `due` has its own jitter.
            moment = due if start <= due else start + (end - start) * min(max(jitter, 0.0), 1.0) * 0.9
            if found is None or moment < found:
                found = moment
    return due if found is None else found
