"""What an answer tells beside its body."""

from __future__ import annotations

import pytest

from vaultpki.vault import Answer


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0),
        ("Thu, 29 Feb 2024 23:59:59 GMT", 1709251199.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        (None, None),
        ("", None),
        ("now", None),
        ("Sunday, 06-Nov-94 08:49:37 GMT", None),
        ("Sun Nov  6 08:49:37 1994", None),
        ("Sun, 06 Nov 1994 08:49:37 +0000", None),
        ("Sun, 06 Foo 1994 08:49:37 GMT", None),
        ("Thu, 30 Feb 2024 00:00:00 GMT", None),
        ("Sun, 06 Nov 1994 24:00:00 GMT", None),
        ("Sun, 06 Nov 0000 08:49:37 GMT", None),
        ("Sun, 0٦ Nov 1994 08:49:37 GMT", None),
        ("x" * 60_000, None),
    ],
)
def test_an_answer_tells_the_servers_clock(header: str | None, seconds: float | None) -> None:
    assert Answer(200, {}, header).date == seconds


def test_the_clock_is_no_part_of_what_an_answer_says() -> None:
    assert Answer(200, {"a": 1}, "Sun, 06 Nov 1994 08:49:37 GMT") == Answer(200, {"a": 1})
