"""Maintenance windows of agent.yaml, the sentence with which each wrong one is refused, and renewals moved into one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vaultpki.errors import SpecError
from vaultpki.model import Window
from vaultpki.values.windows import parse, within

EVERY = frozenset(range(7))


@pytest.mark.parametrize(
    ("text", "days", "begin", "length"),
    [
        ("02:00-04:00", EVERY, 120, 120),
        ("00:00-23:59", EVERY, 0, 1439),
        ("23:59-00:00", EVERY, 1439, 1),
        ("22:00-03:00", EVERY, 1320, 300),
        ("sat,sun 22:00-03:00", {5, 6}, 1320, 300),
        ("mon 00:00-00:01", {0}, 0, 1),
        ("tue,tue 12:30-12:29", {1}, 750, 1439),
        ("mon,tue,wed,thu,fri 01:00-05:00", {0, 1, 2, 3, 4}, 60, 240),
    ],
)
def test_what_people_write(text: str, days: set[int], begin: int, length: int) -> None:
    assert parse(text) == Window(frozenset(days), begin, length, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "always",
        "02:00",
        "2:00-4:00",
        "02:00 - 04:00",
        "02:00-04:00 UTC",
        "02:00-04:00\n",
        " 02:00-04:00",
        "24:00-01:00",
        "23:00-24:00",
        "02:60-04:00",
        "02.00-04.00",
        "Sat 02:00-04:00",
        "saturday 02:00-04:00",
        "sat, sun 02:00-04:00",
        "sat,sun, 02:00-04:00",
        "sat-sun 02:00-04:00",
        "sat  02:00-04:00",
        "sat02:00-04:00",
        "\u0660\u0662:00-\u0660\u0664:00",
        "02:00-04:00,05:00-06:00",
    ],
)
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(SpecError) as error:
        parse(text)
    assert (
        str(error.value)
        == f"{text!r} is not a window: write one such as `02:00-04:00` or `sat,sun 22:00-03:00`, in UTC"
    )


def test_an_empty_window_is_no_whole_day() -> None:
    with pytest.raises(SpecError) as error:
        parse("sat 02:00-02:00")
    assert str(error.value) == "'sat 02:00-02:00' begins and ends at the same time: write two different times"


# A Friday.
DUE = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
WEEK = timedelta(days=7)


def test_no_window_moves_nothing() -> None:
    assert within((), DUE, DUE + WEEK, 0.5, DUE) == DUE


def test_a_window_once_a_week_is_found_a_week_ahead() -> None:
    weekly = parse("fri 11:00-11:30")
    assert within([weekly], DUE, DUE + WEEK, 0.0, DUE) == DUE + WEEK - timedelta(hours=1)
    assert within([weekly], DUE, DUE + WEEK - timedelta(hours=1), 0.0, DUE) == DUE
    # Long after it came due it is still only this week's.
    now = DUE + 52 * WEEK
    assert within([weekly], DUE, DUE + 60 * WEEK, 0.0, now) == now + WEEK - timedelta(hours=1)


def test_a_window_that_began_yesterday_is_open() -> None:
    night = parse("fri 22:00-03:00")
    saturday = datetime(2026, 5, 2, 2, 59, tzinfo=UTC)
    assert within([night], saturday, saturday + WEEK, 0.9, saturday) == saturday
    over = saturday + timedelta(minutes=1)
    assert within([night], over, over + WEEK, 0.0, over) == datetime(2026, 5, 8, 22, 0, tzinfo=UTC)


def test_nodes_are_spread_over_nine_tenths_of_a_window_that_opens() -> None:
    night, opens = parse("22:00-02:00"), DUE.replace(hour=22)
    assert within([night], DUE, DUE + WEEK, 0.0, DUE) == opens
    assert within([night], DUE, DUE + WEEK, 0.5, DUE) == opens + timedelta(minutes=108)
    assert within([night], DUE, DUE + WEEK, 1.0, DUE) == opens + timedelta(minutes=216)
    # Cut short by the last moment, what is left of it is shared.
    assert within([night], DUE, opens + timedelta(minutes=10), 1.0, DUE) == opens + timedelta(minutes=9)
