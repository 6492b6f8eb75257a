"""A person's looks are made at once, and a loop of them at most so often."""

from __future__ import annotations

from vaultpki.node.backoff import PULL_PAUSE, PULLS_AT_ONCE, PullBudget


def followed(seconds: float, every: float, budget: PullBudget) -> tuple[int, PullBudget]:
    """How many looks a loop gets that asks again `every` so many seconds."""
    now, made = budget.at, 0
    end = now + seconds
    while (now := max(budget.next(now), now)) <= end:
        budget, made = budget.taken(now), made + 1
        now += every
    return made, budget


def test_a_person_never_waits() -> None:
    budget = PullBudget(at=1000.0)
    for number in range(PULLS_AT_ONCE):
        now = 1000.0 + number
        assert budget.next(now) == now
        budget = budget.taken(now)
    # One each minute, for a day.
    made, _ = followed(86400, 60, budget)
    assert made >= 1440


def test_a_loop_gets_a_burst_and_then_one_each_pause() -> None:
    made, budget = followed(3600, 0.01, PullBudget())
    assert PULLS_AT_ONCE + 3600 / PULL_PAUSE - 2 <= made <= PULLS_AT_ONCE + 3600 / PULL_PAUSE + 1
    # The next hour has no burst.
    assert followed(3600, 0.01, budget)[0] <= 3600 / PULL_PAUSE + 1
    # After a pause of five minutes, a person has all of them again.
    later = budget.at + PULLS_AT_ONCE * PULL_PAUSE + PULL_PAUSE
    for _ in range(PULLS_AT_ONCE):
        assert budget.next(later) == later
        budget = budget.taken(later)
    assert budget.next(later) > later


def test_a_clock_that_stands_still_brings_nothing_back() -> None:
    budget = PullBudget(0.0, 100.0)
    assert budget.next(50.0) == 50.0 + PULL_PAUSE and budget.taken(50.0).left == -1.0
