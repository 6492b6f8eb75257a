"""When a renewal is moved into a maintenance window."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from vaultpki.config.windows import parse
from vaultpki.pki.windows import within

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
