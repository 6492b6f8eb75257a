"""Whoever waits long for a server is told what for, once until it has answered."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from vaultpki.cli import progress
from vaultpki.vault import long_waits
from vaultpki.vault.long_waits import TELL_WAITS, LongWaits

ORIGIN = "https://127.0.0.1:8200"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    lines: list[str] = []
    monkeypatch.setattr(long_waits, "UNTOLD_SECONDS", 0.1)
    monkeypatch.setattr(long_waits, "_LOOK_SECONDS", 0.01)
    token = TELL_WAITS.set(lines.append)
    yield lines
    TELL_WAITS.reset(token)


def wait_for(told: list[str], count: int) -> None:
    end = time.monotonic() + 10
    while len(told) < count and time.monotonic() < end:
        time.sleep(0.01)


def test_a_long_wait_is_told_once_until_the_server_answers(told: list[str]) -> None:
    waits = LongWaits()
    with waits.answer_from(ORIGIN):
        pass
    with suppress(OSError), waits.answer_from(ORIGIN):
        wait_for(told, 1)
        raise OSError
    with waits.answer_from(ORIGIN):
        time.sleep(0.3)
    assert told == [f"waiting for an answer from {ORIGIN}"]
    with waits.answer_from(ORIGIN) as awaited:
        awaited.line = "it refuses connections; trying again"
        wait_for(told, 2)
    assert told[1:] == ["it refuses connections; trying again"]


def test_requests_that_wait_together_are_told_as_one(told: list[str]) -> None:
    waits = LongWaits()
    with waits.answer_from(ORIGIN), waits.answer_from(ORIGIN):
        wait_for(told, 1)
        with waits.answer_from(ORIGIN):
            pass
        time.sleep(0.3)
    assert len(told) == 1


def test_agents_and_programs_are_told_nothing_and_have_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "Thread", None)
    with LongWaits().answer_from(ORIGIN):
        pass


def test_only_a_terminal_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    token = TELL_WAITS.set(None)
    try:
        progress.tell_waits()
        assert TELL_WAITS.get() is None
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        progress.tell_waits()
        tell = TELL_WAITS.get()
        assert tell is not None
        tell("waiting\x1b[2J")
        # The line may be that of a bar.
        assert capsys.readouterr().err.removeprefix("\r\x1b[2K").rstrip() == "waiting?[2J"
    finally:
        TELL_WAITS.reset(token)
