"""When a signature may not be asked for: pure rules that keep any fault from becoming a loop of signings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

MOST_A_DAY: Final = 100
"""How many signings of one certificate may come to nothing within any 24 hours, unless its TTL is very short."""

AT_ONCE: Final = 20
"""How many of them within an hour are followed by another without a pause: who mends things by hand is not kept."""

FIRST_PAUSE: Final = 5.0

_DAY: Final = 86400.0
_HOUR: Final = 3600.0
# Below this share of a life no renewal is ever due; what comes earlier is counted as if it had come to nothing.
_EARLY: Final = 0.4
# cluster.yaml takes no TTL below this, so a life that is shorter is no use to anybody and never an excuse for a loop.
_SHORTEST: Final = 30
# Doubling is over long before this, and a float overflows at 2.0 ** 1024.
_MOST_DOUBLINGS: Final = 20

MOST_REMEMBERED: Final = int(_DAY) // _SHORTEST
"""No measure is more, so no more moments need to be kept."""


def most(ttl: int) -> int:
    """How many signings of a certificate that is asked for with this TTL may come to nothing within any 24 hours.

    As many as a day has TTLs where these are more than `MOST_A_DAY`: with a pause of half an hour between two tries a
    one-minute certificate would be gone. It is the TTL asked for: what a server grants must not raise its own measure.
    """
    return min(max(MOST_A_DAY, int(_DAY) // max(ttl, 1)), MOST_REMEMBERED)


def next_try(spent: Sequence[float], now: float, longest: float, most: int = MOST_A_DAY) -> float:
    """When the next signing of a certificate may be asked for, as Unix time: `now` where it may be at once.

    `spent` are the moments of its signings that came to nothing. After the first `AT_ONCE` the pauses double, up to
    `longest` seconds. Once half of a day's measure, `most`, is used up, the other half is spread over a whole day, so
    that the measure holds and nobody ever waits for a day. Moments later than `now` do not count: a clock was ahead.
    """
    counted = sorted(when for when in spent if now - _DAY < when <= now)
    if not counted:
        return now
    recent = sum(when > now - _HOUR for when in counted)
    wait = 0.0
    if recent >= AT_ONCE:
        wait = min(FIRST_PAUSE * 2.0 ** min(recent - AT_ONCE, _MOST_DOUBLINGS), longest)
    if len(counted) >= most // 2:
        wait = max(wait, 2 * _DAY / most)
    return max(counted[-1] + wait, now)


def longest(life: int, poll: float) -> float:
    """The longest pause in seconds for a certificate of `life` seconds: some fit into what is left when it is due."""
    return min(max(life / 8, FIRST_PAUSE), poll)


def early(signed: float | None, granted: int, now: float) -> bool:
    """Whether a new signature now would come sooner after the last one (`signed`, Unix time) than any renewal does."""
    return signed is not None and signed <= now < signed + max(granted, _SHORTEST) * _EARLY


def pause(failures: int, poll: float, left: float | None) -> float:
    """Seconds until the next pass after `failures` of them in a row, at most `poll`.

    `left` is the seconds until the first certificate ends, if that is known: the less there is, the sooner; and once
    one has ended, soon enough to be well again as soon as Vault is.
    """
    grown = min(FIRST_PAUSE * 2.0 ** min(max(failures - 1, 0), _MOST_DOUBLINGS), poll)
    if left is not None:
        grown = min(grown, max(left / 8, 2.0) if left > 0 else 30.0)
    return grown
