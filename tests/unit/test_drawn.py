"""helpers/faults/drawn.py: the points that a seed draws, and which seed that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.faults.drawn import Drawn, default_seed
from vaultpki import __version__

POINTS = range(1000)


def test_a_seed_draws_the_same_once_more_and_another_seed_or_test_draws_others() -> None:
    drawn = [Drawn(seed, test).some(POINTS, 10) for seed, test in (("a", "x"), ("a", "x"), ("b", "x"), ("a", "y"))]
    assert drawn[0] == drawn[1]
    assert len({tuple(each) for each in drawn}) == 3
    again = Drawn("a", "x")
    assert again.some(POINTS, 10) == drawn[0] and again.some(POINTS, 10) != drawn[0]


@pytest.mark.parametrize("size", [1, 7, 999])
def test_each_stretch_has_one_point(size: int) -> None:
    chosen = Drawn("a", "x").some(POINTS, size)
    assert len(chosen) == size
    assert all(index * 1000 // size <= point < (index + 1) * 1000 // size for index, point in enumerate(chosen))


def test_all_points_where_there_are_no_more_and_each_can_be_drawn() -> None:
    assert Drawn("a", "x").some("abc", 3) == Drawn("a", "x").some("abc", 10**6) == ["a", "b", "c"]
    assert Drawn("a", "x").some("", 3) == []
    assert {point for seed in range(200) for point in Drawn(str(seed), "x").some("abcdefg", 3)} == {*"abcdefg"}
    assert {Drawn(str(seed), "x").below(5) for seed in range(100)} == {*range(5)}


def test_the_seed_is_the_commit_or_the_version_where_there_is_no_git(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    assert default_seed(tmp_path) == __version__
    assert pytestconfig.getoption("--seed")
