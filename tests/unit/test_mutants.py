"""What `make mutants` changes: a line at a time, of what decides, and the same for the same seed."""

from __future__ import annotations

import sys
from pathlib import Path

from helpers.sentences import every_sentence
from mutants.sites import ROOMS, draw, mutants

SOURCE = b'''"""What 1 == 1 says."""

LIMIT: Final = 8


@dataclass(frozen=True)
class Some:
    def of(self, number: int | None = 3) -> bool:
        """Return whether 2 < 3."""
        if number is None or (
            number >= 2
        ):
            raise WrongNumber(f"{number + 1} of 3")
        return not number

    def __repr__(self) -> str:
        return "1"
'''


def test_each_mutant_changes_what_decides_and_keeps_the_lines_numbers() -> None:
    found = {(one.line, one.old, one.new) for one in mutants(SOURCE, "vaultpki/pki/some.py")}
    test = "number is None or (\n            number >= 2\n        )"
    assert found == {
        *((3, "8", new) for new in "97"),
        *((8, "3", new) for new in "42"),
        (10, "is", "is not"),
        (10, "or", "and"),
        *((10, test, new) for new in ("True", "False")),
        *((11, ">=", new) for new in (">", "<")),
        *((11, "2", new) for new in "31"),
        (13, 'raise WrongNumber(f"{number + 1} of 3")', "pass"),
        (14, "return not number", "return None"),
        (14, "not", ""),
    }
    for one in mutants(SOURCE, "vaultpki/pki/some.py"):
        mutant = one.applied(SOURCE)
        compile(mutant, one.file, "exec")
        before, after = SOURCE.split(b"\n"), mutant.split(b"\n")
        assert len(after) == len(before) and after[: one.line - 1] == before[: one.line - 1] and after != before


def test_a_seed_draws_the_same_mutants_each_time_of_every_room_and_one_a_line() -> None:
    root = Path(__file__).parents[2]
    drawn = draw(root, 39, 100, ["pki", "disk"])
    assert len({(one.file, one.line) for one in drawn}) == 100 and {one.room for one in drawn} == {"pki", "disk"}
    assert drawn == draw(root, 39, 100, ["pki", "disk"]) != draw(root, 40, 100, ["pki", "disk"])
    assert all((root / "vaultpki" / room).is_dir() for room in ROOMS)


def test_tests_that_ask_for_every_sentence_do_not_take_the_place_of_coverages_trace() -> None:
    before = sys.gettrace()
    with every_sentence([]):
        assert sys.gettrace() is before
