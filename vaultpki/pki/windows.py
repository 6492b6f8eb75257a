"""Moves a renewal that can wait into a maintenance window."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from vaultpki.model import Window


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
