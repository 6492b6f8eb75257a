"""The pauses between signings that come to nothing, and between passes that fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from vaultpki.node.backoff import (
    AT_ONCE,
    MOST_A_DAY,
    UNANSWERED_AT_ONCE,
    after_unanswered,
    early,
    longest,
    next_mint,
    next_try,
    pause,
)
from vaultpki.node.state import AgentState, with_spent

NOW = 1_780_000_000.0
POLL = 300.0
DAY = 86400.0
SPREAD = 2 * DAY / MOST_A_DAY
# So many that one more second counts.
MANY = (NOW - 40.0,) * (AT_ONCE - 1)


def test_nothing_spent_nothing_waited_for() -> None:
    assert next_try((), NOW, POLL) == NOW
    assert next_try((NOW - DAY, NOW - 2 * DAY), NOW, POLL) == NOW


def test_pauses_begin_after_some_double_up_to_the_longest_and_end_after_a_quiet_hour() -> None:
    spent: list[float] = []
    now, waits = NOW, []
    for _ in range(AT_ONCE + 9):
        spent.append(now)
        at = next_try(spent, now, POLL)
        waits.append(at - now)
        assert next_try(spent, at, POLL) == at
        now = at
    assert waits == [0] * (AT_ONCE - 1) + [5, 10, 20, 40, 80, 160, 300, 300, 300, 300]
    assert next_try(spent, spent[-1] + 299, POLL) == spent[-1] + 300
    assert next_try(spent, spent[-1] + 3600, POLL) == spent[-1] + 3600


def test_an_eager_agent_uses_up_half_a_days_measure_and_then_goes_on_evenly() -> None:
    spent, now, moments = AgentState(), NOW, []
    while now < NOW + 3 * DAY:
        moments.append(now)
        spent = with_spent(spent, {"a": now})
        now = next_try(spent.spent["a"], now, 5.0)
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    half = MOST_A_DAY // 2
    assert gaps[: half - 1] == [0.0] * (AT_ONCE - 1) + [5.0] * (half - AT_ONCE)
    assert gaps[half - 1] == max(gaps) == SPREAD
    assert all(sum(t - DAY < other <= t for other in moments) <= MOST_A_DAY for t in moments)
    assert sum(t > NOW + DAY for t in moments) >= MOST_A_DAY


def test_as_many_as_any_file_can_hold_are_counted_without_overflow() -> None:
    assert next_try((NOW,) * 5000, NOW, POLL) == NOW + SPREAD
    assert next_try((float("nan"), float("inf"), -float("inf")), NOW, POLL) == NOW


def test_moments_to_come_hold_nobody_up() -> None:
    assert next_try((NOW + 1, NOW + 10 * DAY), NOW, POLL) == NOW
    assert next_try((*MANY, NOW - 1, NOW + 10 * DAY), NOW, POLL) == NOW + 4


def test_the_order_in_which_they_are_remembered_is_no_matter() -> None:
    spent = (NOW - 1, NOW - 30, NOW - 7)
    orders = [(*MANY, *order) for order in itertools.permutations(spent)]
    assert {next_try(order, NOW, POLL) for order in orders} == {NOW + 19}


@pytest.mark.parametrize(
    ("life", "poll", "seconds"),
    [(30, 300, 5), (60, 300, 7.5), (900, 300, 112.5), (3600, 300, 300), (86400, 86400, 10800), (1, 10, 5), (0, 10, 5)],
)
def test_short_lives_have_short_pauses(life: int, poll: float, seconds: float) -> None:
    assert longest(life, poll) == seconds


def test_early_is_what_no_renewal_ever_is() -> None:
    assert not early(None, 3600, NOW)
    assert early(NOW, 3600, NOW) and early(NOW, 3600, NOW + 1439) and not early(NOW, 3600, NOW + 1440)
    # A minute's certificate is due after 30 s at the earliest.
    assert early(NOW, 60, NOW + 23) and not early(NOW, 60, NOW + 24)
    # A signing to come means that a clock was set back.
    assert not early(NOW + 1, 3600, NOW)


@pytest.mark.parametrize("granted", [-5, 0, 1, 29])
def test_a_grant_too_short_to_be_asked_for_excuses_no_loop(granted: int) -> None:
    assert early(NOW, granted, NOW + 11) and not early(NOW, granted, NOW + 12)


@pytest.mark.parametrize(
    ("failures", "left", "seconds"),
    [
        (0, None, 5),
        (1, None, 5),
        (2, None, 10),
        (4, None, 40),
        (10**9, None, 300),
        (10**9, 8000.0, 300),
        (10**9, 800.0, 100),
        (10**9, 40.0, 5),
        (10**9, 1.0, 2),
        (1, 1.0, 2),
        (10**9, 0.0, 30),
        (10**9, -DAY, 30),
        (1, -DAY, 5),
    ],
)
def test_pauses_between_passes(failures: int, left: float | None, seconds: float) -> None:
    assert pause(failures, POLL, left) == seconds


def tries(until: float, at: Callable[[list[float], float], float]) -> list[float]:
    """When something is tried whose answer is always lost, by who comes every second."""
    made, now = list[float](), NOW
    while now < NOW + until:
        made.append(now)
        now = max(at(made, now + 1), now + 1)
    return [when - NOW for when in made]


def test_signings_without_an_answer_grow_rare() -> None:
    made = tries(3600, lambda times, now: after_unanswered(times, now, POLL))
    assert made[:6] == [0, 1, 31, 91, 211, 451] and len(made) == UNANSWERED_AT_ONCE + 14
    assert after_unanswered((NOW + 1, NOW + DAY), NOW, POLL) == NOW
    # A certificate that lives for a minute is asked for again in time.
    assert after_unanswered([NOW] * 20, NOW, longest(60, POLL)) == NOW + 7.5


def test_secret_ids_without_an_answer_are_few_in_a_life() -> None:
    life = 40 * DAY
    made = tries(life, lambda times, now: next_mint(times, now, NOW + life - now))
    assert made[:4] == [0, 600, 3000, 12600] and len(made) < 22
    # Several come in the last day.
    assert sum(when > life - DAY for when in made) >= 5
    assert next_mint((NOW + 1,), NOW, life) == NOW
