"""Reads a maintenance window of agent.yaml, and moves a renewal that can wait into one."""

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
    """Return the window of a text such as `02:00-04:00` or `sat,sun 22:00-03:00`, in UTC; raise SpecError if wrong."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise SpecError(f"{text!r} is not a window: write one such as `02:00-04:00` or `sat,sun 22:00-03:00`, in UTC")
    days = frozenset(_DAYS.index(day) for day in match[1].split(",")) if match[1] else frozenset(range(7))
    begin, end = int(match[2]) * 60 + int(match[3]), int(match[4]) * 60 + int(match[5])
    if begin == end:
        raise SpecError(f"{text!r} begins and ends at the same time: write two different times")
    return Window(days, begin, (end - begin) % (24 * 60), text)


def within(windows: Sequence[Window], due: datetime, latest: datetime, jitter: float, now: datetime) -> datetime:
    """Return when to renew a pair that is due at `due` and must be renewed by `latest` (all times UTC).

    Returns a moment inside the first window of that span that is still open at `now` or opens later. `jitter` (0 to 1)
    says how far into the window. Returns `due` if no window opens in time: expiry is more important than windows.
    """
    if latest <= due:
        return due
    found: datetime | None = None
    # An agent that did not run during a window waits for the next one.
    first = max(due, now)
    midnight = first.replace(hour=0, minute=0, second=0, microsecond=0)
    # A window may have begun the day before, and each one opens at least once a week.
    for day in range(-1, 8):
        for window in windows:
            ahead = timedelta(days=day, minutes=window.begin)
            # Compared before adding: the sum could lie beyond the year 9999, which `datetime` refuses.
            if ahead >= latest - midnight or (midnight.weekday() + day) % 7 not in window.days:
                continue
            start = midnight + ahead
            end = start + min(timedelta(minutes=window.length), latest - start)
            if end <= first:
                continue
            # A window that is open at `due` is used at once, because `due` already has its own jitter.
            moment = due if start <= due else start + (end - start) * min(max(jitter, 0.0), 1.0) * 0.9
            if found is None or moment < found:
                found = moment
    return due if found is None else found
