"""What records have in common: which report counts for them, and what the next state forgets."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from datetime import UTC, datetime, timedelta

import pytest

from vaultpki.records.adoption import AdoptionRecord, AdoptionState
from vaultpki.records.rotation import CaRef, Kept, RotationRecord, State
from vaultpki.records.service_account import KeyRecord, KeyState

NOW = datetime(2026, 11, 25, tzinfo=UTC)
CA = RotationRecord("etcd", State.PUBLISHED, 7, NOW, CaRef("etcd-1"))
KEYS = KeyRecord(KeyState.PUBLISHED, 7, NOW)
ADOPTION = AdoptionRecord(AdoptionState.PUBLISHED, 7, 5, NOW, {})
EACH = pytest.mark.parametrize("record", [CA, KEYS, ADOPTION], ids=["CA", "keys", "adoption"])


@EACH
def test_a_report_counts_if_its_pass_read_this_record_and_none_a_later_one(
    record: RotationRecord | KeyRecord | AdoptionRecord,
) -> None:
    assert record.read_by(7, 7)
    assert not record.read_by(4, 4) and not record.read_by(8, 8)
    # A snapshot was restored: the node stands by a record that the server has lost.
    assert not record.read_by(7, 8)
    # No node has read more than its highest.
    assert not record.read_by(7, 6)


def test_each_write_asks_for_another_pass_but_within_a_state_of_an_adoption() -> None:
    assert not CA.read_by(6, 6) and not KEYS.read_by(6, 6)
    assert ADOPTION.read_by(5, 5) and ADOPTION.read_by(6, 7)
    assert not ADOPTION.changed(turn="cp-1").read_by(4, 8) and ADOPTION.changed(turn="cp-1").read_by(5, 8)
    assert not ADOPTION.moved(AdoptionState.SWITCHED, NOW).read_by(7, 7)


@EACH
def test_what_is_forgotten_are_fields_with_a_value_to_begin_with(
    record: RotationRecord | KeyRecord | AdoptionRecord,
) -> None:
    begin = {each.name: each.default for each in fields(record) if each.default is not MISSING}
    assert set(record.FORGOTTEN) <= set(begin) and "restarted" in record.FORGOTTEN


def test_the_next_state_forgets_what_belongs_to_one_and_nothing_else() -> None:
    later = NOW + timedelta(hours=1)
    full = CA.changed(turn="cp-1", restarted=("cp-1/etcd",), checked=("pods",), kept=Kept.OLD, closing=True)
    full = full.changed(accepting=("cp-1/etcd",), let_go=True, excused=("cp-9",), drops=True, also=("a" * 64,))
    expected = replace(CA, state=State.SWITCHED, revision=10, since=later)
    # Whose turn it is stays: that node may be restarting.
    expected = replace(expected, turn="cp-1", excused=full.excused, drops=True, also=full.also)
    assert full.moved(State.SWITCHED, later) == expected
    keys = KEYS.changed(turn="cp-1", restarted=("cp-1",), checked=("jwks",), signing_since=NOW, life=9, stated=True)
    keys = keys.changed(shared="a" * 64, highest={"cp-1": 2})
    expected_keys = KeyRecord(KeyState.SWITCHED, 10, later, turn="cp-1", shared="a" * 64, highest={"cp-1": 2})
    assert keys.moved(KeyState.SWITCHED, later) == expected_keys
    assert keys.moved(KeyState.SWITCHED, later, life=3).life == 3
