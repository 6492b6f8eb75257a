"""Work in threads that is given out piece by piece."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from vaultpki.errors import Unavailable
from vaultpki.vault.work import Work

SECONDS = 20


def test_each_result_comes_in_order_while_later_ones_are_worked_on() -> None:
    going = [threading.Event() for _ in range(3)]

    def work(number: int) -> tuple[int, int]:
        assert going[number].wait(SECONDS)
        return number, threading.get_ident()

    going[2].set()
    going[0].set()
    results = Work().stream(work, range(3), width=3)
    first, by = next(results)
    assert first == 0 and by != threading.get_ident()
    # The third is done, and waits for the second.
    going[1].set()
    assert [number for number, _ in results] == [1, 2]


def test_nothing_is_nothing() -> None:
    assert list(Work().stream(str, (), width=3)) == []


def test_a_failure_is_told_and_ends_the_rest() -> None:
    began = []

    def work(number: int) -> int:
        began.append(number)
        if number == 1:
            raise ValueError("the second")
        return number

    results = Work().stream(work, range(100), width=1)
    with pytest.raises(ValueError, match="the second"):
        list(results)
    assert began == [0, 1]


def test_who_asks_for_no_more_has_nothing_new_begun() -> None:
    began = []
    go = threading.Event()

    def work(number: int) -> int:
        began.append(number)
        if number:
            assert go.wait(SECONDS)
        return number

    before = threading.active_count()
    results = Work().stream(work, range(100), width=1)
    assert next(results) == 0
    results.close()
    go.set()
    _await(lambda: threading.active_count() == before)
    assert began in ([0], [0, 1])


def test_it_is_a_part_of_the_work_that_asks() -> None:
    work = Work()
    inside = threading.Event()
    seen: list[BaseException] = []

    def outer(number: int) -> None:
        if number:
            assert inside.wait(SECONDS)
            raise ValueError("the other")
        try:
            for _ in work.stream(inner, range(2), width=1):
                pass
        except Unavailable as error:
            seen.append(error)
            raise

    def inner(number: int) -> None:
        inside.set()
        assert work.given_up(SECONDS)

    with pytest.raises(ValueError, match="the other"):
        work.map(outer, range(2), width=2)
    assert [str(error) for error in seen] == ["other work, of which this is a part, has failed"]


def _await(there: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(SECONDS * 100):
        if there():
            return
        pause.wait(0.01)
    raise AssertionError("a thread goes on")
