"""The models of rotations: what must hold does, and every rule is needed. A few explorations here, all for hours."""

from __future__ import annotations

import pytest

from models.explore import LIMIT
from models.settings import Try, tries

EVERY = {one.title: one for one in tries()}
QUICK = (
    "etcd, set back, forward only: without recover",
    "etcd, set back to retired: without back only",
    "etcd, a liar is ahead: without kept",
    "etcd, a liar is ahead, a node joins: without waits",
    "etcd, one node, a forged record: without limit",
    "etcd, one node, a forged record: all rules",
    "root: without outside and send-cross",
    "etcd, hooks: without seen",
    "etcd, another file: without compared",
    "etcd, another file, a listener away: without accepting",
    "quorum: by turns",
    "quorum: by turns, one lies",
    "same key: all rules",
)
"""Together some seconds of one core."""
FEW = 300


@pytest.mark.parametrize("title", QUICK)
def test_a_setting(title: str) -> None:
    judge(EVERY[title], 10_000)


@pytest.mark.parametrize(
    "title", [title for title in EVERY if title.endswith("all rules") and title not in QUICK and "root" not in title]
)
def test_nothing_breaks_within_the_first_states(title: str) -> None:
    judge(EVERY[title], FEW)


@pytest.mark.conformance
@pytest.mark.parametrize("title", EVERY)
def test_every_setting(title: str) -> None:
    judge(EVERY[title], LIMIT // 5)


def judge(one: Try, limit: int) -> None:
    found = one.run(limit)
    assert one.holds is None or found.holds == one.holds, (found.problem or found.stuck, found.trace)
