"""When to renew, over all lives, jitters and consumers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from vaultpki.certificates import SKEW
from vaultpki.renewal import jitter, renew_at, signed_at

BEGIN = datetime(2000, 1, 1, tzinfo=UTC)
MOMENTS = st.timedeltas(timedelta(), timedelta(days=36525)).map(lambda since: BEGIN + since)
LIVES = st.integers(1, 10 * 365 * 24 * 3600).map(lambda seconds: timedelta(seconds=seconds))
SHARES = st.floats(0, 1)
RELOADS = st.integers(0, 24 * 3600)
TICK = timedelta(milliseconds=1)


@given(MOMENTS, LIVES, SHARES, RELOADS)
def test_between_half_and_two_thirds_of_the_life(signed: datetime, life: timedelta, share: float, reload: int) -> None:
    spent = renew_at(signed, signed + life, share, reload) - signed
    assert life / 2 - TICK <= spent <= life * 2 / 3 + TICK


@given(MOMENTS, LIVES, SHARES, RELOADS)
def test_the_consumer_has_its_time(signed: datetime, life: timedelta, share: float, reload: int) -> None:
    needed = timedelta(seconds=reload + SKEW)
    left = life - (renew_at(signed, signed + life, share, reload) - signed)
    assert left >= min(needed, life / 2) - TICK


@given(MOMENTS, LIVES, SHARES, SHARES, RELOADS)
def test_more_jitter_is_never_earlier(signed: datetime, life: timedelta, a: float, b: float, reload: int) -> None:
    low, high = sorted((a, b))
    assert renew_at(signed, signed + life, low, reload) <= renew_at(signed, signed + life, high, reload)


@given(MOMENTS, LIVES, st.integers(0, 86400))
def test_the_signing_lies_within_the_dates(begin: datetime, life: timedelta, backdate: int) -> None:
    assert begin <= signed_at(begin, begin + life) <= begin + life


@given(st.text(max_size=30), st.text(max_size=30), st.integers(0, 2**160))
def test_jitter_is_a_share(node: str, name: str, serial: int) -> None:
    assert 0 <= jitter(node, name, serial) < 1
