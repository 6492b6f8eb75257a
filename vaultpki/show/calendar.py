"""Sorts the ends of certificates into days or weeks: which one is crowded, and with which certificates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final

_DAY: Final = timedelta(days=1)
# Up to so many days ahead, columns are days.
_DAYS: Final = 12
_MOST_WEEKS: Final = 16
SHADES: Final = 4
"""The number of shades of a cell that is not empty."""


@dataclass(frozen=True, slots=True)
class Period:
    """A column: the words above it and in a sentence, and from when until before when it lasts.

    `begin` is None for what has expired, `end` None for all that is later than the columns before.
    """

    label: str
    words: str
    begin: datetime | None
    end: datetime | None

    def has(self, when: datetime) -> bool:
        return (self.begin is None or self.begin <= when) and (self.end is None or when < self.end)


@dataclass(frozen=True, slots=True)
class CalendarCell:
    """How many certificates of a row end in a column; `shade` is 0 for none up to SHADES for the most of any cell."""

    count: int
    shade: int


@dataclass(frozen=True, slots=True)
class Calendar:
    """The columns, each with its total and that total's share of the largest; and the rows with their cells.

    `weekly` is whether columns are weeks. `crowded` is the number of the column with the most, None if there is none;
    what has expired is not crowded.
    """

    columns: tuple[Period, ...]
    totals: tuple[int, ...]
    rows: Mapping[str, tuple[CalendarCell, ...]]
    weekly: bool
    crowded: int | None

    def index(self, when: datetime) -> int:
        """Return the number of the column in which a time lies; the columns cover all times."""
        return _index(self.columns, when)

    @property
    def largest(self) -> int:
        """Return the largest total."""
        return max(self.totals, default=0)

    @property
    def most(self) -> int:
        """Return the total of the crowded column."""
        return 0 if self.crowded is None else self.totals[self.crowded]


def calendar(ends: Mapping[str, Sequence[datetime]], now: datetime) -> Calendar:
    """Return the calendar of the ends by row, as of `now` in UTC."""
    every = [end for some in ends.values() for end in some]
    last = max((end for end in every if end > now), default=now)
    weekly = last - now > _DAY * _DAYS
    columns = tuple(_columns(now, last, weekly=weekly, expired=any(end <= now for end in every)))
    counts = {name: Counter(_index(columns, end) for end in some) for name, some in ends.items()}
    most = max((number for found in counts.values() for number in found.values()), default=0)
    totals = tuple(sum(found[at] for found in counts.values()) for at in range(len(columns)))
    return Calendar(
        columns,
        totals,
        {
            name: tuple(CalendarCell(found[at], _shade(found[at], most)) for at in range(len(columns)))
            for name, found in counts.items()
        },
        weekly,
        _crowded(columns, totals),
    )


def _columns(now: datetime, last: datetime, *, weekly: bool, expired: bool) -> Iterable[Period]:
    # What ends at this moment has expired.
    over = now + timedelta.resolution
    if expired:
        yield Period("expired", "expired", None, over)
    day = datetime.combine(now.date(), time(), now.tzinfo)
    begin, step = (day - _DAY * day.weekday(), _DAY * 7) if weekly else (day, _DAY)
    at = begin
    for number in range(_MOST_WEEKS):
        end = at + step
        what = "week of" if weekly else "day"
        # The first column begins with what has not expired yet.
        yield Period(f"{at:%b} {at.day}", f"{what} {at:%Y-%m-%d}", over if number == 0 and expired else at, end)
        at = end
        if last < at:
            return
    yield Period("later", f"after {at - _DAY:%Y-%m-%d}", at, None)


def _index(columns: Sequence[Period], when: datetime) -> int:
    return next(number for number, column in enumerate(columns) if column.has(when))


def _shade(count: int, most: int) -> int:
    # Rounded up, so that no cell with a certificate looks empty; of few certificates, none is many.
    return -(-count * SHADES // max(most, SHADES))


def _crowded(columns: Sequence[Period], totals: Sequence[int]) -> int | None:
    bounded = [at for at, column in enumerate(columns) if column.begin is not None and column.end and totals[at]]
    return max(bounded, key=totals.__getitem__, default=None)
