"""Maintenance windows, held against a walk through every minute."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from vaultpki.model import Window
from vaultpki.pki.renewal import last_moment, renew_at
from vaultpki.values.windows import parse, within

DAY, WEEK = 1440, 7 * 1440
# A Monday, so that minutes since then tell the day of the week.
MONDAY = datetime(2026, 5, 4, tzinfo=UTC)
NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
JITTERS = st.floats(0, 1)


def clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


@st.composite
def windows(draw: st.DrawFn) -> Window:
    begin, end = draw(st.lists(st.integers(0, DAY - 1), min_size=2, max_size=2, unique=True))
    days = draw(st.sets(st.sampled_from(NAMES)))
    return parse((",".join(sorted(days)) + " " if days else "") + f"{clock(begin)}-{clock(end)}")


def inside(window: Window, minute: int) -> bool:
    """Whether that minute after MONDAY lies in the window, by the calendar on the wall."""
    for days_ago in (0, 1):
        day = minute // DAY - days_ago
        since = minute - day * DAY - window.begin
        if day % 7 in window.days and 0 <= since < window.length:
            return True
    return False


def at(minute: float) -> datetime:
    return MONDAY + timedelta(minutes=minute)


def minute_of(when: datetime) -> int:
    return (when - MONDAY) // timedelta(minutes=1)


def runs(window: Window, first: int, last: int) -> tuple[int, int] | None:
    """Beginning and end of the window's first run that has a minute in [first, last)."""
    for minute in range(first, last):
        if inside(window, minute):
            begin = end = minute
            while inside(window, begin - 1) and end - begin < window.length:
                begin -= 1
            while inside(window, end) and end - begin < window.length:
                end += 1
            return begin, end
    return None


SPANS = st.integers(0, WEEK + 2 * DAY)


@settings(deadline=None)
@given(windows(), st.integers(WEEK, 2 * WEEK), SPANS, st.integers(-DAY, WEEK), JITTERS)
def test_one_window_as_a_walk_through_the_minutes_finds_it(
    window: Window, due: int, span: int, since: int, jitter: float
) -> None:
    latest, now = due + span, due + since
    found = within([window], at(due), at(latest), jitter, at(now))
    run = runs(window, max(due, now), latest)
    if run is None:
        assert found == at(due)
        return
    begin, end = run
    if begin <= due:
        assert found == at(due)
    else:
        assert at(begin) <= found < at(min(end, latest))
        assert found - at(begin) <= (at(min(end, latest)) - at(begin)) * jitter
        assert jitter or found == at(begin)
    assert inside(window, minute_of(found))


MANY = st.lists(windows(), min_size=1, max_size=4)


@settings(deadline=None)
@given(MANY, st.integers(WEEK, 2 * WEEK), SPANS, st.integers(-DAY, WEEK), JITTERS)
def test_of_several_the_first(many: list[Window], due: int, span: int, since: int, jitter: float) -> None:
    latest, now = due + span, due + since
    found = within(many, at(due), at(latest), jitter, at(now))
    assert at(due) <= found <= at(latest)
    usable = [window for window in many if runs(window, max(due, now), latest)]
    each = [within([window], at(due), at(latest), jitter, at(now)) for window in usable]
    assert found == min(each, default=at(due))
    assert found == at(due) or any(inside(window, minute_of(found)) for window in many)


MOMENTS = st.floats(0, 60 * DAY).map(at)


@settings(deadline=None)
@given(MANY, MOMENTS, st.floats(0, WEEK), MOMENTS, JITTERS, JITTERS)
def test_more_jitter_is_never_earlier(
    many: list[Window], due: datetime, span: float, now: datetime, one: float, other: float
) -> None:
    latest = due + timedelta(minutes=span)
    low, high = (within(many, due, latest, share, now) for share in sorted((one, other)))
    assert due <= low <= high <= latest


@settings(deadline=None)
@given(MANY, MOMENTS, st.floats(0, 60 * DAY), st.floats(0, 60 * DAY), JITTERS)
def test_time_only_ever_moves_it_on_until_it_gives_way(
    many: list[Window], due: datetime, span: float, since: float, jitter: float
) -> None:
    latest = due + timedelta(minutes=span)
    now = due + timedelta(minutes=since)
    found = within(many, due, latest, jitter, now)
    if now >= latest:
        assert found == due
    if found > now:
        # Nobody who looks again on the way there is told anything else.
        assert within(many, due, latest, jitter, now + (found - now) / 2) == found
        assert within(many, due, latest, jitter, found) == found


LIVES = st.integers(30, 10 * 365 * 86400).map(lambda seconds: timedelta(seconds=seconds))


@settings(deadline=None)
@given(st.lists(windows(), max_size=4), MOMENTS, LIVES, JITTERS, st.integers(0, 86400), st.floats(0, 1))
def test_no_life_is_too_short_or_too_long_for_windows(
    many: Sequence[Window], signed: datetime, life: timedelta, jitter: float, reload: int, share: float
) -> None:
    end = signed + life
    due, last = renew_at(signed, end, jitter, reload), last_moment(signed, end, reload)
    found = within(many, due, last, jitter, signed + life * share)
    assert signed + life / 2 - timedelta(milliseconds=1) <= due <= found <= max(due, last)
    assert found < end - life / 11
    if found != due:
        assert end - found >= timedelta(seconds=reload + 300) + life / 10 - timedelta(milliseconds=1)
