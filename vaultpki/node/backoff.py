"""Decide when a signature must wait: pure rules that keep a fault from becoming a loop of signings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MOST_A_DAY: Final = 100
"""How many signings of one certificate may be wasted within any 24 hours, unless its TTL is very short."""

AT_ONCE: Final = 20
"""How many of them within an hour need no pause: a person who repairs something must not wait."""

FIRST_PAUSE: Final = 5.0

UNANSWERED_AT_ONCE: Final = 2
"""How many signings without an answer need no pause: each may have left a certificate that nobody has."""

_FIRST_UNANSWERED: Final = 30.0
# A secret id lives for weeks, and the one in use is good meanwhile.
_FIRST_MINT: Final = 600.0

PULLS_AT_ONCE: Final = 10
"""How many looks that a person asks for need no pause."""

PULL_PAUSE: Final = 30.0
"""Seconds after which one more of them needs none."""

_DAY: Final = 86400.0
_HOUR: Final = 3600.0
# No renewal is due before this share of a life; an earlier signing counts as wasted.
_EARLY: Final = 0.4
# cluster.yaml accepts no shorter TTL, so a shorter life is not a reason to sign more often.
_SHORTEST: Final = 30
# The pause is at its limit long before this; a float overflows at 2.0 ** 1024.
_MOST_DOUBLINGS: Final = 20

MOST_SIGNINGS: Final = int(_DAY) // _SHORTEST
"""No daily limit is higher, so no more times need to be kept."""


def daily_limit(ttl: int) -> int:
    """Return how many signings of a certificate with this TTL (seconds) may be wasted within any 24 hours.

    At least `MOST_A_DAY`, and as many as a day has TTLs: with half an hour between two tries a one-minute certificate
    would expire. It is the TTL asked for: a server must not raise the limit by granting less.
    """
    return min(max(MOST_A_DAY, int(_DAY) // max(ttl, 1)), MOST_SIGNINGS)


def next_try(spent: Sequence[float], now: float, longest: float, daily: int = MOST_A_DAY) -> float:
    """Return when the next signing of a certificate may be asked for, as Unix time: `now` if at once.

    `spent` are the times of its wasted signings. After the first `AT_ONCE` the pauses double, up to `longest` seconds.
    Once half of the limit `daily` is used, the other half is spread over a whole day, so that the limit holds and the
    wait is never a whole day. Times later than `now` do not count: a clock was ahead.
    """
    counted = sorted(when for when in spent if now - _DAY < when <= now)
    if not counted:
        return now
    recent = sum(when > now - _HOUR for when in counted)
    wait = 0.0
    if recent >= AT_ONCE:
        wait = min(FIRST_PAUSE * 2.0 ** min(recent - AT_ONCE, _MOST_DOUBLINGS), longest)
    if len(counted) >= daily // 2:
        wait = max(wait, 2 * _DAY / daily)
    return max(counted[-1] + wait, now)


def after_revoked(spent: Sequence[float], now: float, life: int) -> float:
    """Return when a successor may be asked for of a certificate that only was revoked, as Unix time: `now` if at once.

    The pauses double with each wasted signing (`spent`) of the last day, up to an eighth of the life of `life` seconds:
    a server that shows every certificate as revoked must not have one signed at each poll.
    """
    counted = [when for when in spent if now - _DAY < when <= now]
    if not counted:
        return now
    wait = min(FIRST_PAUSE * 2.0 ** min(len(counted), _MOST_DOUBLINGS), max(life / 8, FIRST_PAUSE))
    return max(max(counted) + wait, now)


def after_unanswered(unanswered: Sequence[float], now: float, longest: float) -> float:
    """Return when the next signing may be asked for after some whose answers were lost, as Unix time.

    `unanswered` are the times of those since the last answer. The pauses double, up to `longest` seconds.
    """
    counted = sorted(when for when in unanswered if now - _DAY < when <= now)
    if len(counted) < UNANSWERED_AT_ONCE:
        return now
    doublings = min(len(counted) - UNANSWERED_AT_ONCE, _MOST_DOUBLINGS)
    return max(counted[-1] + min(_FIRST_UNANSWERED * 2.0**doublings, longest), now)


def next_mint(unanswered: Sequence[float], now: float, left: float) -> float:
    """Return when the next secret id may be minted after answers that were lost, as Unix time.

    `unanswered` are the times of those since the last answer, `left` the seconds that the one in use still lives: the
    pauses grow fourfold, and several tries fit into what is left.
    """
    counted = sorted(when for when in unanswered if when <= now)
    if not counted:
        return now
    wait = min(_FIRST_MINT * 4.0 ** min(len(counted) - 1, _MOST_DOUBLINGS), max(left / 2, _FIRST_MINT))
    return max(counted[-1] + wait, now)


@dataclass(frozen=True, slots=True)
class PullBudget:
    """How many looks that a person asks for need no pause, as of the time `at` (seconds of any clock).

    A person never waits. A script or a hook that asks in a loop gets `PULLS_AT_ONCE`, then one every `PULL_PAUSE`.
    """

    left: float = PULLS_AT_ONCE
    at: float = 0.0

    def next(self, now: float) -> float:
        """Return when the next one may be made: `now` if at once."""
        return now + max(1.0 - self._left(now), 0.0) * PULL_PAUSE

    def taken(self, now: float) -> PullBudget:
        """Return what is left after one more."""
        return PullBudget(self._left(now) - 1.0, now)

    def _left(self, now: float) -> float:
        return min(self.left + max(now - self.at, 0.0) / PULL_PAUSE, PULLS_AT_ONCE)


def longest(life: int, poll: float) -> float:
    """Return the longest pause in seconds for a life of `life` seconds: several fit between its renewal and its end."""
    return min(max(life / 8, FIRST_PAUSE), poll)


def early(signed: float | None, granted: int, now: float) -> bool:
    """Return whether signing now would be sooner after the last one (`signed`, Unix time) than any renewal is due."""
    return signed is not None and signed <= now < signed + max(granted, _SHORTEST) * _EARLY


def pause(failures: int, poll: float, left: float | None) -> float:
    """Return the seconds until the next pass after `failures` failed ones in a row, at most `poll`.

    `left` is the seconds until the first certificate expires, if known: the less is left, the sooner the next pass.
    Once one has expired, the pause stays short, so that the node recovers as soon as Vault does.
    """
    grown = min(FIRST_PAUSE * 2.0 ** min(max(failures - 1, 0), _MOST_DOUBLINGS), poll)
    if left is not None:
        grown = min(grown, max(left / 8, 2.0) if left > 0 else 30.0)
    return grown
