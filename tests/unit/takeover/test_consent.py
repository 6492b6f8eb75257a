"""An agent's consent ends at retired: the last step is root's, or the agent's after a day of uptime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.kube.taken_over_machine import TakenOverMachine
from vaultpki.errors import Attention
from vaultpki.host.boot_time import Moment
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.records.adoption_report import OldKeys
from vaultpki.takeover import carry_out, consent
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import JournalFile

ONWARD = (S.PREPARED, S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETIRED)
DAY = consent.FINISH_AFTER


@pytest.fixture
def machine(tmp_path: Path) -> TakenOverMachine:
    made = TakenOverMachine(tmp_path)
    for state in ONWARD:
        made.go(state)
    made.agent_pass(S.DONE)
    return made


def count(machine: TakenOverMachine, *moments: tuple[str, float]) -> JournalFile:
    journal = JournalFile(machine.config.state)
    for boot, uptime in moments:
        consent.count(journal, Moment(boot, uptime))
    return journal


def last(machine: TakenOverMachine) -> TakeOver:
    """A run to the end as nobody has agreed to it."""
    return replace(machine.run(S.DONE), finish=False)


def test_a_record_alone_deletes_nothing(machine: TakenOverMachine) -> None:
    before = machine.snapshot()
    for _ in range(2):
        with pytest.raises(Attention, match="no way back from it: `vaultpki adopt node --finish`"):
            carry_out.carry_out(last(machine))
    assert machine.snapshot() == before and last(machine).machine.keys() is not OldKeys.NONE
    # It can still be led back.
    for state in (S.RETRUSTING, S.RETURNING, S.PREPARED):
        machine.go(state)


def test_nor_where_the_keys_are_kept_at_first_and_the_record_forgets_that(machine: TakenOverMachine) -> None:
    machine.go(S.DONE, kept="in the safe")
    with pytest.raises(Attention):
        carry_out.carry_out(last(machine))
    assert last(machine).machine.keys() is not OldKeys.NONE


def test_root_may_at_once(machine: TakenOverMachine) -> None:
    machine.go(S.DONE)
    assert last(machine).machine.keys() is OldKeys.NONE
    # Nothing is left to agree to.
    assert carry_out.left(last(machine)) == [] and not carry_out.carry_out(last(machine))


def test_a_day_of_uptime_is_counted_over_boots(machine: TakenOverMachine) -> None:
    """The time for which the machine was off, or nobody looked in another boot, does not count."""
    journal = count(machine, ("a", 100.0), ("a", 100.0 + DAY / 2), ("b", 5000.0), ("b", 5000.0 + DAY / 4))
    assert journal.value.in_retired == DAY * 3 / 4
    run = last(machine)
    # Stored: another process goes on from it.
    assert "in about 6 hours of this machine's uptime" in consent.waits(run, Moment("b", 5000.0 + DAY / 4))
    assert "adopt node --finish" in consent.waits(run, Moment("c", 9e9))
    assert consent.waits(run, Moment("b", 5000.0 + DAY / 2)) == ""
    # A clock that goes back, and one boot that says less.
    assert count(machine, ("b", 10.0)).value.in_retired == DAY * 3 / 4


def test_it_is_not_written_at_each_pass(machine: TakenOverMachine) -> None:
    journal = count(machine, ("a", 100.0), ("a", 130.0))
    assert journal.value.counted == Moment("a", 100.0)
    assert count(machine, ("a", 165.0)).value.in_retired == 65.0


@pytest.mark.parametrize("back", [S.RETRUSTING, S.RETURNING])
def test_a_step_back_begins_the_day_anew(machine: TakenOverMachine, back: S) -> None:
    count(machine, ("a", 100.0), ("a", 100.0 + DAY))
    machine.go(S.RETRUSTING)
    machine.go(back)
    journal = count(machine, ("a", 200.0 + DAY))
    assert (journal.value.in_retired, journal.value.counted) == (0.0, None)


def test_before_retired_nothing_is_counted(tmp_path: Path) -> None:
    made = TakenOverMachine(tmp_path)
    for state in ONWARD[:4]:
        made.go(state)
    assert count(made, ("a", 1.0), ("a", 2.0 * DAY)).value.in_retired == 0.0


@pytest.mark.parametrize("fault", ["serves", "refuses", "lets in"])
def test_its_own_listeners_must_prove_it(machine: TakenOverMachine, fault: str) -> None:
    count(machine, ("a", 100.0), ("a", 100.0 + DAY))
    now = Moment("a", 100.0 + DAY)
    processes = machine.processes
    assert consent.waits(last(machine), now) == ""
    processes.serves_old = fault == "serves"
    processes.refuses = "it cannot be reached" if fault == "refuses" else ""
    processes.lets_in = ("CN=kubernetes",) if fault == "lets in" else ()
    words = {
        "serves": "etcd at 127.0.0.1:2379 shows a certificate of an old CA",
        "refuses": "etcd at 127.0.0.1:2379: it cannot be reached",
        "lets in": "etcd at 127.0.0.1:2379 lets in clients of an old CA",
    }
    assert consent.waits(last(machine), now).endswith(words[fault])


def test_what_it_waits_for_stands_in_the_report(machine: TakenOverMachine) -> None:
    count(machine, ("a", 100.0))
    owed = machine.report(S.DONE).owed
    assert owed[0].startswith("the last step, from which there is no way back: in about 24 hours")
