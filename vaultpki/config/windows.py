"""Reads the maintenance windows of agent.yaml."""

from __future__ import annotations

import re
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
