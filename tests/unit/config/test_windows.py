"""Maintenance windows of agent.yaml, and the sentence with which each wrong one is refused."""

from __future__ import annotations

import pytest

from vaultpki.config.windows import parse
from vaultpki.errors import SpecError
from vaultpki.model import Window

EVERY = frozenset(range(7))


@pytest.mark.parametrize(
    ("text", "days", "begin", "length"),
    [
        ("02:00-04:00", EVERY, 120, 120),
        ("00:00-23:59", EVERY, 0, 1439),
        ("23:59-00:00", EVERY, 1439, 1),
        ("22:00-03:00", EVERY, 1320, 300),
        ("sat,sun 22:00-03:00", {5, 6}, 1320, 300),
        ("mon 00:00-00:01", {0}, 0, 1),
        ("tue,tue 12:30-12:29", {1}, 750, 1439),
        ("mon,tue,wed,thu,fri 01:00-05:00", {0, 1, 2, 3, 4}, 60, 240),
    ],
)
def test_what_people_write(text: str, days: set[int], begin: int, length: int) -> None:
    assert parse(text) == Window(frozenset(days), begin, length, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "always",
        "02:00",
        "2:00-4:00",
        "02:00 - 04:00",
        "02:00-04:00 UTC",
        "02:00-04:00\n",
        " 02:00-04:00",
        "24:00-01:00",
        "23:00-24:00",
        "02:60-04:00",
        "02.00-04.00",
        "Sat 02:00-04:00",
        "saturday 02:00-04:00",
        "sat, sun 02:00-04:00",
        "sat,sun, 02:00-04:00",
        "sat-sun 02:00-04:00",
        "sat  02:00-04:00",
        "sat02:00-04:00",
        "\u0660\u0662:00-\u0660\u0664:00",
        "02:00-04:00,05:00-06:00",
    ],
)
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(SpecError) as error:
        parse(text)
    assert (
        str(error.value)
        == f"{text!r} is not a window: write one such as `02:00-04:00` or `sat,sun 22:00-03:00`, in UTC"
    )


def test_an_empty_window_is_no_whole_day() -> None:
    with pytest.raises(SpecError) as error:
        parse("sat 02:00-02:00")
    assert str(error.value) == "'sat 02:00-02:00' begins and ends at the same time: write two different times"
