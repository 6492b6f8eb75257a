"""The model of service-account keys: what must hold does, and every rule is needed. Each exploration is whole.

Some small worlds are for `make test`; all of them are for `make conformance`, as those of rotations. Those of three
machines, which take minutes, are made by `python -m models large` alone.
"""

from __future__ import annotations

import pytest

from models.explore import LIMIT, Try
from models.service_account_settings import NEEDED, tries
from models.service_account_tables import RULES

EVERY = {one.title: one for one in tries()}
SMALL = (
    "keys: two: all rules",
    "keys: two: without signword",
    "keys: two: without started",
    "keys: two, by turns: without turns",
    "keys: one, and one that joins: without own",
    "keys: two, records unreadable: without word",
    "keys: two, a writer of records: without certified",
    "keys: two, a writer of records: without listed",
)


@pytest.mark.parametrize("title", SMALL)
def test_a_small_world(title: str) -> None:
    judge(EVERY[title])


@pytest.mark.conformance
@pytest.mark.parametrize("title", [title for title in EVERY if title not in SMALL])
def test_a_whole_world(title: str) -> None:
    judge(EVERY[title])


def test_every_rule_is_shown_to_be_needed() -> None:
    assert {rule for needed in NEEDED.values() for rule in needed} == set(RULES)


def judge(one: Try) -> None:
    found = one.run(LIMIT)
    assert found.holds == one.holds, (found.problem or found.stuck, found.trace)
    assert found.complete, f"cut after {found.states} worlds"
