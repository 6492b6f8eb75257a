"""Reads and writes durations such as 30d, 12h, 10y, 1h30m."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from vaultpki.errors import SpecError
from vaultpki.values.names import quoted

UNITS: Final = {"y": 365 * 86400, "w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1}
LONGEST: Final = 100 * UNITS["y"]
PATTERN: Final = r"^(?=.)(\d{1,10}y)?(\d{1,10}w)?(\d{1,10}d)?(\d{1,10}h)?(\d{1,10}m)?(\d{1,10}s)?$"

_SHAPE = re.compile(PATTERN, re.ASCII)
# Shorter durations are written in seconds: 90s, not 1m30s.
_PLAIN_SECONDS = 120

_WORDS: Final = {"d": "day", "h": "hour", "m": "minute", "s": "second"}


def parse_duration(text: str) -> int:
    """Return the duration in seconds; a year is 365 days.

    Raises SpecError if a unit is missing or unknown, and for zero, negative values and more than 100 years.
    """
    if re.fullmatch(r"\d+", text, re.ASCII):
        raise SpecError(f"{quoted(text)} has no unit: write {quoted(text)[1:-1]}s, or use m, h, d, w or y")
    if text.startswith("-"):
        raise SpecError(f"{quoted(text)} is negative: write a duration such as 30d")
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise SpecError(
            f"{quoted(text)} is not a duration: write whole numbers with y, w, d, h, m or s. The largest unit comes "
            "first, such as 30d, 12h or 1h30m"
        )
    seconds = sum(int(part[:-1]) * UNITS[part[-1]] for part in match.groups() if part)
    if seconds == 0:
        raise SpecError(f"{quoted(text)} is zero: write a duration of at least 1s")
    if seconds > LONGEST:
        raise SpecError(f"{quoted(text)} is too long: write at most 100y")
    return seconds


def format_duration(seconds: int) -> str:
    """Return the text that `parse_duration` reads as this number of seconds (1 or more)."""
    if seconds < 1:
        raise ValueError("a duration is at least one second")
    if seconds < _PLAIN_SECONDS and seconds != UNITS["m"]:
        return f"{seconds}s"
    text = ""
    for unit in "ydhms":
        count, seconds = divmod(seconds, UNITS[unit])
        if count:
            text += f"{count}{unit}"
    return text


def short_span(span: timedelta) -> str:
    """Return a span for a table: `29d`, `5h`, `12m`, `40s`; the unit is the largest that fits twice."""
    number, unit = _rounded(span)
    return f"{number}{unit}"


def long_span(span: timedelta) -> str:
    """Return a span for a sentence: `29 days`, `5 hours`, `12 minutes`, with the number and unit of `short_span`."""
    number, unit = _rounded(span)
    return f"{number:,} {_WORDS[unit]}{'' if number == 1 else 's'}"


def _rounded(span: timedelta) -> tuple[int, str]:
    seconds = max(int(span.total_seconds()), 0)
    for unit in "dhm":
        if seconds >= 2 * UNITS[unit]:
            return seconds // UNITS[unit], unit
    return seconds, "s"
