"""The models of rotations: what must hold does, and every rule is needed. Each exploration is whole.

Those that take more than a second of one core are for `make conformance`, the others, ten seconds together, for
`make test`; all together are a minute and a half.
"""

from __future__ import annotations

import pytest

from models import turns
from models.explore import LIMIT, Try
from models.root_rotation import ROOT_RULES
from models.rotation_tables import RULES
from models.settings import NEEDED, ROOT_NEEDED, tries

EVERY = {one.title: one for one in (*tries(), *turns.tries())}
LONG = (
    "etcd, two operators: all rules",
    "etcd, two operators, two nodes: all rules",
    "etcd, two operators, admin: all rules",
    "etcd, set back: all rules",
    "etcd, set back, stale reports, a liar: all rules",
    "etcd, a liar is ahead, two honest: all rules",
    "etcd, set back to published, a liar, two honest: all rules",
    "etcd, a liar is ahead, a node joins: all rules",
    "etcd, a forged record: all rules",
    "etcd, a forged record in published: all rules",
    "kubernetes: without echo",
    "root: all rules",
    "root: all rules, one node away",
    "root: without keep-cross, with a later issuing CA",
    "root: without manager, with a later issuing CA",
)


@pytest.mark.parametrize("title", [title for title in EVERY if title not in LONG])
def test_a_quick_exploration(title: str) -> None:
    judge(EVERY[title])


@pytest.mark.conformance
@pytest.mark.parametrize("title", LONG)
def test_a_long_exploration(title: str) -> None:
    judge(EVERY[title])


def test_every_rule_is_shown_to_be_needed() -> None:
    assert {rule for rule, _ in NEEDED} == set(RULES)
    assert {rule for rules, _ in ROOT_NEEDED for rule in rules} == set(ROOT_RULES) - {"pins"}
    assert {rule for needed in turns.NEEDED.values() for rule in needed} == set(turns.RULES)


def judge(one: Try) -> None:
    found = one.run(LIMIT)
    assert found.holds == one.holds, (found.problem or found.stuck, found.trace)
    assert found.complete or one.title.startswith("walks: "), f"cut after {found.states} worlds"
