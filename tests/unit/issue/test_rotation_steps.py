"""What one command has changed, by the records of rotations before and after it, and the record that agents poll."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from vaultpki.certificates import ROOT
from vaultpki.errors import SpecError
from vaultpki.issue.rotations import RecordRead, Rotations, only_turns, stepped
from vaultpki.records.changes import Mark
from vaultpki.records.rotation import CaRef, RotationRecord, State

NOW = datetime(2026, 12, 1, tzinfo=UTC)
ETCD = RotationRecord("etcd", State.PUBLISHED, 7, NOW, CaRef("etcd-1", sha256="a" * 64), CaRef("etcd-2"))
KUBELET = replace(ETCD, domain="kubelet", state=State.DONE, new=CaRef("kubelet-2", sha256="b" * 64))
NEXT, TURN = ETCD.moved(State.PREPARED, NOW), ETCD.changed(turn="cp-1")
ROOT_RECORD = replace(KUBELET, domain=ROOT)


def read(*records: RotationRecord, **others: RecordRead[RotationRecord]) -> Rotations:
    return Rotations({record.domain: RecordRead(record) for record in records} | others)


BEFORE = read(ETCD, KUBELET, ROOT_RECORD)


def test_the_cas_whose_records_have_changed() -> None:
    assert stepped(BEFORE, read(NEXT, KUBELET, ROOT_RECORD)) == {"etcd"}
    # An emergency that could not tell nodes of itself.
    both = read(NEXT, KUBELET.moved(State.PUBLISHED, NOW), ROOT_RECORD)
    assert stepped(BEFORE, both) == {"etcd", "kubelet"} and not only_turns(
        BEFORE, both, {"etcd": "a" * 64, "kubelet": "b" * 64}
    )
    assert stepped(read(), read(ETCD)) == {"etcd"} and not only_turns(read(), read(ETCD), {"etcd": "a" * 64})


def test_the_root_gives_the_turns_of_every_ca_while_it_is_rotated_and_while_nobody_knows() -> None:
    for state in State:
        found = read(ETCD, replace(ROOT_RECORD, state=state))
        # In a move to another server the root is prepared there while its CAs are still under way.
        moves = state is State.PREPARED and ETCD.active
        assert found.leading("etcd", {ROOT: 7}) == ("etcd" if state.resting or moves else ROOT), state
        assert found.leading("etcd", {ROOT: 8}) == ROOT
    assert read(ETCD, root=RecordRead(error=SpecError("is not a record"))).leading("etcd", {}) == ROOT
    assert read(ETCD, root=RecordRead(not_followed=2000)).leading("etcd", {}) == ROOT
    # That it is gone is as unknown as that it is older.
    assert read(ETCD).leading("etcd", {}) == "etcd" and read(ETCD).leading("etcd", {ROOT: 1}) == ROOT


def test_what_may_go_on_at_any_time() -> None:
    for state in State:
        assert RecordRead(replace(ETCD, state=state)).under_way is not state.resting
    missing, ahead = read(a=RecordRead(), b=RecordRead(not_followed=2000)).read.values()
    assert ahead.under_way and not missing.under_way


def test_a_turn_alone() -> None:
    turn, defaults = read(TURN, KUBELET, ROOT_RECORD), {"etcd": ETCD.leaf.sha256}
    assert stepped(BEFORE, turn) == {"etcd"} and only_turns(BEFORE, turn, defaults)
    for other in (NEXT, replace(TURN, accepting=("cp-1/etcd",)), replace(TURN, new=CaRef("etcd-3"))):
        assert not only_turns(BEFORE, read(other, KUBELET, ROOT_RECORD), defaults), other
    # The command that moved the record was killed before it made the CA the default; the next one did that first.
    for lagging in ({}, {"etcd": ""}, {"etcd": "b" * 64}):
        assert not only_turns(BEFORE, turn, lagging)


@pytest.mark.parametrize(
    "after",
    [
        BEFORE,
        read(replace(NEXT, revision=6), KUBELET, ROOT_RECORD),
        read(replace(NEXT, revision=7), KUBELET, ROOT_RECORD),
        read(NEXT, ROOT_RECORD),
        read(NEXT, KUBELET),
        read(NEXT, KUBELET, ROOT_RECORD.changed(also=("c" * 64,))),
        read(NEXT, ROOT_RECORD, kubelet=RecordRead(error=SpecError("is not a record"))),
        read(NEXT, ROOT_RECORD, kubelet=RecordRead(not_followed=2000)),
    ],
    ids=["nothing", "set back", "same revision", "gone", "root's gone", "root", "unreadable", "not followed"],
)
def test_more_may_have_changed(after: Rotations) -> None:
    assert stepped(BEFORE, after) == frozenset()


def test_while_the_root_is_rotated_more_may_change() -> None:
    root = ROOT_RECORD.moved(State.SWITCHED, NOW)
    assert stepped(read(ETCD, root), read(NEXT, root)) == frozenset()
    unclear = read(ETCD, kubelet=RecordRead(error=SpecError("is not a record")))
    assert stepped(unclear, read(NEXT)) == frozenset()


def test_one_command_alone_writes_two_versions() -> None:
    seen, after = Mark(7, "2026-11-28T12:00:00.5Z", "aa"), Mark(9, "2026-11-28T12:10:00Z", "aa")
    assert after.ends_one_command(seen)
    for other in (*(replace(after, version=each) for each in (5, 7, 8, 10, 11)), replace(after, records="bb")):
        assert not other.ends_one_command(seen), other
    # Of a record without digests nothing is known.
    assert not replace(after, records="").ends_one_command(replace(seen, records=""))
