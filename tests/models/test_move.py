"""The models of a move: what must hold does, and every rule is needed. Each exploration is whole.

Those that take more than a second of one core are for `make conformance`, the others for `make test`. Those that take
minutes are for `make exhaustive`.
"""

from __future__ import annotations

import pytest

from models.explore import LIMIT, Try
from models.move_settings import HAND_OVER_NEEDED, LOSS_NEEDED, NEEDED, large, tries
from models.move_tables import ALL, HAND_OVER_RULES, IDLE, IDLE_LOSS, LOSS_RULES

EVERY = {one.title: one for one in tries()}
LARGE = {one.title: one for one in large()}
LONG = (
    "move: servers away: all rules",
    "move: two operators: all rules",
    "move: B away, A may be lost: all rules",
    "move: B may be lost: all rules",
    "move: somebody writes on B, A may be lost: all rules",
    "move: somebody writes on B, A away shortly: all rules",
    "move: somebody writes on B, A away and called lost: without heeded",
    "move: B away, A is set back: without passed",
    "move: A is away and called lost: without met",
    "move: A is away and called lost: without jump",
)


@pytest.mark.parametrize("title", [title for title in EVERY if title not in LONG])
def test_a_quick_exploration(title: str) -> None:
    judge(EVERY[title])


@pytest.mark.conformance
@pytest.mark.parametrize("title", LONG)
def test_a_long_exploration(title: str) -> None:
    judge(EVERY[title])


@pytest.mark.exhaustive
@pytest.mark.parametrize("title", LARGE)
def test_an_exploration_of_minutes(title: str) -> None:
    judge(LARGE[title])


def test_every_rule_is_shown_to_be_needed() -> None:
    assert {rule for broken in NEEDED.values() for rule in broken} == ALL - IDLE.keys()
    assert set(HAND_OVER_NEEDED) == set(HAND_OVER_RULES)
    assert set(LOSS_NEEDED) == LOSS_RULES.keys() - IDLE_LOSS.keys()


def judge(one: Try) -> None:
    found = one.run(LIMIT)
    assert found.holds == one.holds, (found.problem or found.stuck, found.trace)
    assert (found.problem or found.stuck or "").startswith(one.breaks), (found.problem or found.stuck, found.trace)
    assert found.complete, f"cut after {found.states} worlds"
