"""An agent that fails, is killed and comes back for days on end, under clocks that jump: what that may cost Vault."""

from __future__ import annotations

import itertools
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from vaultpki.node.backoff import FIRST_PAUSE, MOST_A_DAY, longest, next_try, pause
from vaultpki.node.state import AgentState, with_spent

DAY = 86400.0
HALF = MOST_A_DAY // 2
SPREAD = 2 * DAY / MOST_A_DAY
BEGIN = 1_780_000_000.0
LIVES = st.integers(1, 10 * 365 * 86400)
POLLS = st.integers(10, 86400)
NAME = "kubelet"


class Node:
    """One certificate's brakes as the agent uses them: written before Vault is asked, read anew by each process."""

    def __init__(self, longest: float) -> None:
        self.longest = longest
        self.disk = "[]"
        self.signed: list[float] = []

    @property
    def spent(self) -> tuple[float, ...]:
        return tuple(json.loads(self.disk))

    def ready(self, now: float) -> float:
        return next_try(self.spent, now, self.longest)

    def attempt(self, now: float, *, fruitful: bool = False) -> bool:
        """Signs if that is allowed, and says whether it was."""
        if self.ready(now) > now:
            return False
        memory = with_spent(AgentState(spent={NAME: self.spent}), {NAME: now})
        if fruitful:
            memory = with_spent(memory, {NAME: None})
        self.disk = json.dumps(memory.spent.get(NAME, ()))
        self.signed += [] if fruitful else [now]
        return True


@settings(max_examples=50, deadline=None)
@given(
    LIVES,
    POLLS,
    st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.0, 1.0, 7.0, 300.0, 4000.0, DAY]), st.booleans()), max_size=30),
    st.integers(1, 250),
)
def test_no_day_has_more_than_its_measure(life: int, poll: int, habits: list[tuple[float, bool]], turns: int) -> None:
    node, now = Node(longest(life, poll)), BEGIN
    for idle, fruitful in itertools.islice(itertools.cycle([*habits, (0.0, False)]), turns):
        at = node.ready(now)
        assert now <= at <= now + max(node.longest, SPREAD)
        assert node.ready(at) == at, "what was promised is kept"
        assert node.attempt(at, fruitful=fruitful)
        now = at + idle
    for moment in node.signed:
        assert sum(moment - DAY < other <= moment for other in node.signed) <= MOST_A_DAY


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=True), max_size=300), st.floats(0, 1e11), LIVES, POLLS)
def test_nothing_remembered_blocks_for_long(spent: list[float], now: float, life: int, poll: int) -> None:
    pause = longest(life, poll)
    at = next_try(spent, now, pause)
    assert now <= at <= now + max(pause, SPREAD)


def used_up() -> tuple[Node, float]:
    """A node that has spent all that a day gives at once, and the time."""
    node, now = Node(FIRST_PAUSE), BEGIN
    while len(node.signed) < HALF:
        now = node.ready(now)
        node.attempt(now)
    return node, now


@settings(deadline=None)
# Less than a day lies between any two of the moments: what is a whole day old counts no more, and rightly.
@given(st.lists(st.floats(1 - DAY, DAY - 1), min_size=1, max_size=20))
def test_a_clock_that_leaps_about_within_a_day_frees_one_for_each_leap(leaps: list[float]) -> None:
    node, now = used_up()
    for leap in leaps:
        before = len(node.signed)
        for _ in range(5):
            # Up to half a day to either side of the true time, which stands still.
            node.attempt(now + leap / 2)
        assert len(node.signed) <= before + 1
    assert not node.attempt(now) or not node.attempt(now)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=8), LIVES, POLLS)
def test_however_a_clock_leaps_no_leap_gives_more_than_a_day_does(leaps: list[float], life: int, poll: int) -> None:
    node, now = used_up()
    node.longest = longest(life, poll)
    for leap in leaps:
        now = max(now + leap, 1.0)
        before, end = len(node.signed), now + 2 * SPREAD
        while (at := node.ready(now)) < end and len(node.signed) < before + 2 * MOST_A_DAY:
            assert at <= now + max(node.longest, SPREAD)
            # Moments that lay ahead until now count once the clock has come to them.
            node.attempt(at)
            now = at
        assert len(node.signed) <= before + HALF + 2


@settings(deadline=None)
@given(st.integers(0, 10**6), POLLS, st.none() | st.floats(-1e9, 1e9))
def test_a_pass_is_never_further_off_than_the_poll_interval(failures: int, poll: int, left: float | None) -> None:
    wait = pause(failures, poll, left)
    assert 0 < wait <= poll
    if left is not None:
        assert wait <= (max(left / 8, 2) if left > 0 else 30)
    assert pause(failures + 1, poll, left) >= wait


@settings(deadline=None)
@given(LIVES, POLLS)
def test_several_pauses_fit_into_what_is_left_of_a_life(life: int, poll: int) -> None:
    assert FIRST_PAUSE <= longest(life, poll) <= poll
    if life >= 60:
        assert 2 * longest(life, poll) <= life / 3
