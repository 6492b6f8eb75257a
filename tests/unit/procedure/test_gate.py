"""A gate does not open while it waits for something, and restarts take turns, one node at a time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from vaultpki.procedure.gate import Gate, InLine, Waiting, whose_turn

NOW = datetime(2026, 11, 25, tzinfo=UTC)
OWES = Waiting("cp-1", "owes a restart")


def node(name: str, *, done: bool = False, ready: bool = True, ailing: bool = False, **more: bool) -> InLine:
    return InLine(name, done, ready, ailing, **more)


def test_a_gate_that_waits_has_no_time_at_which_it_opens() -> None:
    assert Gate(opens=NOW).open(NOW) and not Gate(opens=NOW).open(NOW - timedelta(seconds=1)) and not Gate().open(NOW)
    for closed in (Gate((OWES,), opens=NOW), Gate(opens=NOW).also([OWES]), replace(Gate(opens=NOW), waiting=(OWES,))):
        assert closed.waiting == (OWES,) and closed.opens is None and not closed.open(NOW)
    # What it waited for once does not open it.
    assert not replace(Gate((OWES,), opens=NOW), waiting=()).open(NOW)
    assert Gate(opens=NOW).also([]) == Gate(opens=NOW)


def test_the_node_with_the_turn_keeps_it_until_it_is_done() -> None:
    assert whose_turn("cp-2", [node("cp-1"), node("cp-2", ready=False)]) == "cp-2"
    assert whose_turn("cp-2", [node("cp-1"), node("cp-2", done=True)]) == "cp-1"
    assert whose_turn("cp-9", [node("cp-2"), node("cp-1")]) == "cp-1"


def test_a_turn_goes_to_who_is_ready_and_is_not_done() -> None:
    assert whose_turn("", [node("cp-1", done=True), node("cp-2", ready=False)]) == ""
    assert whose_turn("", []) == ""


def test_those_come_first_where_something_is_down_then_members_of_etcd() -> None:
    assert whose_turn("", [node("a"), node("b", member=True), node("c", ailing=True)]) == "c"
    assert whose_turn("", [node("a"), node("b", member=True)]) == "b"


def test_while_one_is_away_only_such_a_one_gets_the_turn() -> None:
    assert whose_turn("", [node("cp-1"), node("cp-2", ready=False, away=True)]) == ""
    assert whose_turn("", [node("cp-1"), node("cp-2", away=True)]) == "cp-2"
    # What is ailing and not away holds up nobody.
    assert whose_turn("", [node("cp-1"), node("cp-2", ready=False, ailing=True)]) == "cp-1"
