"""A member of etcd that is no static pod goes over and back; who runs it restarts it, and a person says so."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.kube.taken_over_machine import TakenOverMachine
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.records.adoption_report import Held, OldKeys
from vaultpki.rotation import adoption_reasons as reasons
from vaultpki.rotation.adoption_evidence import AdoptedMachine
from vaultpki.rotation.adoption_states import AdoptionStep

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.fixture
def machine(tmp_path: Path) -> TakenOverMachine:
    made = TakenOverMachine(tmp_path, "etcd-1")
    made.go(S.PREPARED)
    return made


def waits(machine: TakenOverMachine, state: S, to: S, *restarted: str) -> str:
    step = AdoptionStep(machine.record(state, restarted=restarted), to, NOW)
    seen = AdoptedMachine("etcd-1", member=True, kubelet=False, enrolled=True, report=machine.report(state), time=NOW)
    return reasons.waits_for(step, seen).reason


def test_it_goes_to_the_end_with_a_persons_word_for_each_restart(machine: TakenOverMachine) -> None:
    machine.go(S.PUBLISHED)
    found = machine.report(S.PUBLISHED)
    assert (found.trust, found.leaves, found.owed) == (Held.BOTH, Held.OLD, ())
    why = waits(machine, S.PUBLISHED, S.SWITCHED)
    assert "it is not known what etcd holds there" in why and "--restarted etcd-1" in why, why
    assert waits(machine, S.PUBLISHED, S.SWITCHED, "etcd-1/etcd") == ""
    machine.go(S.SWITCHED)
    found = machine.report(S.SWITCHED)
    assert (found.trust, found.leaves, found.keys) == (Held.BOTH, Held.NEW, OldKeys.ASIDE)
    assert "it is not known which certificate etcd shows" in waits(machine, S.SWITCHED, S.CLOSED)
    assert waits(machine, S.SWITCHED, S.CLOSED, "etcd-1/etcd") == ""
    for state in (S.CLOSED, S.RETIRED):
        machine.go(state)
    assert machine.report(S.RETIRED).trust is Held.NEW
    assert waits(machine, S.RETIRED, S.DONE, "etcd-1/etcd") == ""
    machine.go(S.DONE)
    assert machine.report(S.DONE).keys is OldKeys.NONE


def test_and_back_byte_for_byte(tmp_path: Path) -> None:
    machine = TakenOverMachine(tmp_path, "etcd-1")
    before = machine.snapshot()
    for state in (S.PREPARED, S.PUBLISHED, S.SWITCHED, S.RETIRED, S.RETRUSTING, S.RETURNING, S.PREPARED, None):
        machine.go(state)
    assert {name: about for name, about in machine.snapshot().items() if "/vaultpki" not in name} == before
