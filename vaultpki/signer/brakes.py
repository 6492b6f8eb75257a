"""Bounds how often is signed: in all, for each node, for each requester, and for people together; pure."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Final

HOUR: Final = 3600.0
EACH_SECOND: Final = 20
EACH_NODE: Final = 10
EACH_REQUESTER: Final = 1000
ALL_PEOPLE: Final = 100

Key = tuple[str, str]
"""What is counted: "node" and its name, "requester" and the user, or "people" and nothing."""

_MOST: Final = {"node": EACH_NODE, "requester": EACH_REQUESTER, "people": ALL_PEOPLE}


class Brakes:
    """When requests were let through in the last hour; times are seconds of one clock that never goes back."""

    def __init__(self) -> None:
        self._passed: dict[Key, collections.deque[float]] = {}
        self._next = 0.0

    def pace(self, now: float) -> float:
        """Return after how many seconds the next request may be worked on, whatever comes of it, and count it."""
        at = max(self._next, now)
        self._next = at + 1 / EACH_SECOND
        return at - now

    def left(self, keys: Iterable[Key], now: float) -> float:
        """Return after how many seconds a request with these keys may pass; 0.0 if at once."""
        kept = (self._kept(key, now) for key in keys)
        return max((times[0] + HOUR - now for key, times in kept if len(times) >= _MOST[key[0]]), default=0.0)

    def wait(self, keys: Iterable[Key], now: float) -> float:
        """Return the same as `left`, and count the request if it passes."""
        keys = tuple(keys)
        if left := self.left(keys, now):
            return left
        for key in keys:
            self._passed.setdefault(key, collections.deque()).append(now)
        return 0.0

    def give_back(self, keys: Iterable[Key], now: float) -> None:
        """Count a request no more that was let through at `now`, since nothing was signed."""
        for key in keys:
            if (times := self._passed.get(key)) and now in times:
                times.remove(now)

    def _kept(self, key: Key, now: float) -> tuple[Key, collections.deque[float]]:
        times = self._passed.get(key, collections.deque())
        while times and times[0] <= now - HOUR:
            times.popleft()
        if not times:
            # Names are a requester's to choose.
            self._passed.pop(key, None)
        return key, times
