"""Which of both servers of a move a record of a rotation lies on, and what counts there."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from vaultpki.records.move import MovedCa, MoveRecord, ServerPlace, is_new, is_old, of_domain, seen_locally
from vaultpki.records.rotation import CaRef, Kept, State

WHEN = datetime(2026, 12, 3, 12, tzinfo=UTC)
OLD, NEW = (ServerPlace((f"https://{name}.example.com:8200",), "vaultpki/prod") for name in ("old", "new"))
ETCD = MovedCa("etcd-1", "a1" * 32, "etcd-2", "b2" * 32)
MOVE = MoveRecord(State.PUBLISHED, 3, WHEN, 1, OLD, NEW, cas={"etcd": ETCD}, root="c3" * 32, new_root="d4" * 32)
AT_OLD = CaRef("", "id-1", "key-1"), CaRef("", "id-2")
AT_NEW = CaRef("", "id-1"), CaRef("", "id-2", "key-2")
ACTIVE = [state for state in State if not state.resting]


@pytest.mark.parametrize("state", ACTIVE)
def test_each_server_signs_by_its_own_ca_all_the_time(state: State) -> None:
    move = replace(MOVE, state=state, kept=Kept.OLD if state is State.RETRUSTING else None)
    old, new = (of_domain(move, "etcd", *ids) for ids in (AT_OLD, AT_NEW))
    assert (is_old(old, move), is_new(old), is_old(new, move), is_new(new)) == (True, False, False, True)
    assert seen_locally(old, move).leaf.name == "etcd-1"
    assert seen_locally(new, move).leaf.name == "etcd-2"
    # Both are a rotation under way, with the same CAs and the same number.
    for found in (old, new):
        seen = seen_locally(found, move)
        assert seen.active and (seen.old, seen.new, seen.revision) == (found.old, found.new, found.revision)


def test_at_rest_the_records_count_as_they_are() -> None:
    steady = replace(MOVE, state=State.STEADY)
    old = of_domain(steady, "etcd", *AT_OLD)
    assert seen_locally(old, steady) == old and old.leaf.name == "etcd-1"
    done = replace(MOVE, state=State.DONE)
    new = of_domain(done, "etcd", *AT_NEW)
    assert seen_locally(new, done) == new and new.leaf.name == "etcd-2"
    # The old server, until it is emptied.
    left = of_domain(done, "etcd", *AT_OLD)
    assert is_old(left, done) and seen_locally(left, done).leaf.name == "etcd-1"


def test_a_later_rotation_on_the_new_server_is_none_of_the_move() -> None:
    done = replace(MOVE, state=State.DONE)
    begun = replace(
        of_domain(done, "etcd", *AT_NEW),
        state=State.PREPARED,
        old=CaRef("etcd-2", "id-2", "key-2", "b2" * 32),
        new=CaRef("etcd-3"),
    )
    assert not is_old(begun, done) and not is_new(begun) and seen_locally(begun, done) == begun
    assert seen_locally(replace(begun, domain="kubelet"), MOVE).domain == "kubelet"
    assert seen_locally(begun, None) == begun
