"""A fleet that was together spreads, whatever its TTL, its luck, and when Vault or its machines were away."""

from __future__ import annotations

import random
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.node.fleet_year import BEGIN, WINDOW, Away, Fleet, most
from vaultpki.pki.facts import Replacement

AGENTS = 1_000
# At most 5 % in any 1 % of the window, and four standard deviations of a count as large: so few agents are uneven.
MOST = 50 + 4 * 7
TTLS = st.sampled_from([timedelta(days=days) for days in (1, 7, 30, 90)])
LIVES = 3


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """A fleet that has a rotation at some time, and two times away that are together at most a tenth of a life."""
    ttl = draw(TTLS)
    begins = sorted(draw(st.floats(0, LIVES)) for _ in range(2))
    lengths = [draw(st.floats(0, 0.05)) for _ in begins]
    away = [
        Away(BEGIN + ttl * begin, BEGIN + ttl * (begin + length), draw(st.booleans()))
        for begin, length in zip(begins, lengths, strict=True)
    ]
    rotation = Replacement(BEGIN + ttl * draw(st.floats(0, LIVES)), draw(st.integers(0, 6 * 3600)))
    rotations = draw(st.sampled_from([(), (rotation,)]))
    luck = random.Random(draw(st.integers(0, 2**32)))  # noqa: S311 - only to be repeated
    return Fleet(AGENTS, ttl, away, rotations, draw(st.integers(10, 600)), random=luck)


@settings(max_examples=25, deadline=None)
@given(fleets())
def test_no_span_of_a_hundredth_of_the_window_has_many_renewals(fleet: Fleet) -> None:
    times = fleet.renewals(fleet.ttl * LIVES)
    assert most(times, fleet.ttl.total_seconds() * WINDOW / 100) <= MOST


@settings(max_examples=20, deadline=None)
@given(TTLS, st.floats(0.01, 0.73), st.floats(0.01, 0.5), st.booleans())
def test_a_long_time_away_too_if_enough_of_the_life_is_left(
    ttl: timedelta, end: float, length: float, off: bool
) -> None:
    away = Away(BEGIN + ttl * max(end - length, 0.0), BEGIN + ttl * end, off)
    times = Fleet(AGENTS, ttl, (away,)).renewals(ttl * LIVES)
    assert most(times, ttl.total_seconds() * WINDOW / 100) <= MOST
