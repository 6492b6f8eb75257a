"""tests/FINDINGS.md: every row names a test that exists, and the table has one form."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parents[1]
TABLE: Final = TESTS / "FINDINGS.md"
ROW: Final = re.compile(
    r"\| (?P<fault>[^|\n]+[.]) \| (?P<found>[^|\n]+) \| `(?P<file>[\w/]+\.py)::(?P<test>test_\w+)` \|"
)
FOUND: Final = re.compile(r"(\d+\.\d+\.\d+|CI|a soak|a real cluster|an attack|a trial)(, (?!$)|$)")


def wrong(text: str) -> list[str]:
    """What is wrong with the table, a sentence each."""
    lines = text.rstrip("\n").partition("|---|---|---|\n")[2].split("\n")
    rows = [(line, ROW.fullmatch(line)) for line in lines]
    found = [f"no row of the table: {line}" for line, row in rows if row is None]
    tests = [(row["file"], row["test"], row["fault"]) for _, row in rows if row]
    found += [f"found in: {row['found']}" for _, row in rows if row and FOUND.sub("", row["found"])]
    found += [f"not sorted: {after[1]}" for before, after in itertools.pairwise(tests) if not before < after]
    for file, test, _ in tests:
        path = TESTS / file
        if not path.is_file() or not re.search(
            rf"^ *(async )?def {test}\(", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            found.append(f"no such test: {file}::{test}")
    return found


def test_every_row_names_a_test() -> None:
    text = TABLE.read_text(encoding="utf-8")
    assert text.count("::test_") > 150
    assert wrong(text) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("::test_", "::test_no_"),
        (".py::", "_no.py::"),
        (". |", " |"),
        ("| CI |", "| nowhere |"),
        ("| CI |", "| CI, |"),
        ("| `conformance/", "| `unit/"),
    ],
)
def test_a_wrong_row_is_told(before: str, after: str) -> None:
    assert wrong(TABLE.read_text(encoding="utf-8").replace(before, after, 1)) != []
