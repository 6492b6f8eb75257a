"""When a signature may not be asked for: pure rules that keep any fault from becoming a loop of signings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

MOST_A_DAY: Final = 100
"""How many signings of one certificate may come to nothing within 24 hours."""

FIRST_PAUSE: Final = 5.0

_DAY: Final = 86400.0
_HOUR: Final = 3600.0
# Below this share of a life no renewal is ever due; what comes earlier is counted as if it had come to nothing.
_EARLY: Final = 0.4


def next_try(spent: Sequence[float], now: float, poll: float) -> float:
    """When the next signing of a certificate may be asked for, as Unix time: `now` where it may be at once.

    `spent` are the moments of its signings that came to nothing. The pauses double, up to `poll` seconds; a full day's
    measure waits until the oldest is a day old. Moments later than `now` do not count: a clock was ahead then.
    """
    counted = sorted(when for when in spent if now - _DAY < when <= now)
    if not counted:
        return now
    recent = sum(when > now - _HOUR for when in counted)
    ready = counted[-1] + min(FIRST_PAUSE * 2.0 ** max(recent - 1, 0), poll) if recent else now
    if len(counted) >= MOST_A_DAY:
        ready = max(ready, counted[-MOST_A_DAY] + _DAY)
    return max(ready, now)


def early(signed: float | None, granted: int, now: float) -> bool:
    """Whether a new signature now would come sooner after the last one (`signed`, Unix time) than any renewal does."""
    return signed is not None and signed <= now < signed + granted * _EARLY


def pause(failures: int, poll: float, left: float | None) -> float:
    """Seconds until the next pass after `failures` of them in a row, at most `poll`.

    `left` is the seconds until the first certificate ends, if that is known: the less there is, the sooner; and once
    one has ended, soon enough to be well again as soon as Vault is.
    """
    grown = min(FIRST_PAUSE * 2.0 ** min(max(failures - 1, 0), 20), poll)
    if left is not None:
        grown = min(grown, max(left / 8, 2.0) if left > 0 else 30.0)
    return grown
