"""When a command with `--wait` stops: another operator has turned the rotation round, or it is another one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from vaultpki.records.rotation import CaRef, Kept, Method, RotationRecord, State
from vaultpki.rotation.course import Course, why_stopped

WHEN = datetime(2026, 11, 26, 12, tzinfo=UTC)
FILE = "cluster.yaml"

P, B, S, R = State.PREPARED, State.PUBLISHED, State.SWITCHED, State.RETIRED
D, Y, T, N = State.DONE, State.STEADY, State.RETRUSTING, State.RETURNING

# The states in which a command goes on, by that in which it looked last.
FORWARD = {P: {P, B, S, R, D}, B: {B, S, R, D}, S: {S, R, D}, R: {R, D}, T: {T, S, R, D}, N: {N, Y, S, R, D}}
BACK = {P: {P, Y}, B: {B, Y}, S: {S, N, Y}, R: {R, T, N, Y}, T: {T, N, Y}, N: {N, Y}}


def record(state: State, revision: int = 4, **changes: object) -> RotationRecord:
    old, new = CaRef("etcd-1", sha256="a1" * 32), CaRef("etcd-2", sha256="b2" * 32)
    return replace(RotationRecord("etcd", state, revision, WHEN, old, new), **changes)  # type: ignore[arg-type]


def said(last: RotationRecord, now: RotationRecord | None, *, back: bool = False) -> str:
    return why_stopped(Course(last, back), now, FILE)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("now", list(State))
@pytest.mark.parametrize("last", list(FORWARD))
def test_it_goes_one_way(last: State, now: State, back: bool) -> None:
    allowed = (BACK if back else FORWARD)[last]
    assert (said(record(last), record(now, 5), back=back) == "") == (now in allowed)


def test_it_says_what_the_other_operator_did() -> None:
    assert said(record(S), record(N, 5)) == (
        "another operator has turned the rotation of etcd back by `vaultpki ca abort`; this command has stopped, and "
        "takes no step against that: agree on the way, and let one of you go on"
    )
    assert said(record(B), record(Y, 5)) == (
        "another operator has taken the rotation of etcd back by `vaultpki ca abort`, and it is over; `vaultpki ca "
        "rotate etcd` begins again"
    )
    assert said(record(T), record(S, 5), back=True).startswith(
        "another operator goes on with the rotation of etcd by `vaultpki ca continue`, which this command led back; "
    )
    assert said(record(R), record(D, 5), back=True).endswith("this command has stopped, look at `vaultpki ca status`")


@pytest.mark.parametrize("back", [False, True])
def test_another_rotation_is_not_its_own(back: bool) -> None:
    other = record(P, 9, new=CaRef("etcd-3"))
    assert said(record(B), other, back=back).startswith(
        "another operator has begun another rotation of etcd to key 3 of the CA etcd, and the one to key 2 of the CA "
    )
    emergency = record(B, 9, new=CaRef("etcd-3"), method=Method.EMERGENCY)
    assert "an emergency rotation of etcd to key 3 of the CA etcd" in said(record(S), emergency, back=back)
    # With the same key the name can come back, and the certificate is another one.
    same = record(B, 4, new=CaRef("etcd-1r2", sha256="c3" * 32), method=Method.SAME_KEY)
    again = replace(same, revision=9, new=CaRef("etcd-1r2", sha256="d4" * 32))
    assert "another rotation" in said(same, again, back=back)
    begun = record(P, 4, new=CaRef("etcd-1r2"), method=Method.SAME_KEY)
    later = replace(begun, revision=7, since=WHEN + timedelta(seconds=1))
    assert "another rotation" in said(begun, later, back=back)


def test_an_emergency_is_another_rotation_too() -> None:
    assert "has begun an emergency rotation" in said(record(B), record(R, 5, method=Method.EMERGENCY))
    # It was turned back meanwhile, though it goes forward again.
    hasty = record(B, method=Method.EMERGENCY)
    assert "back by `vaultpki ca abort`" in said(hasty, record(S, 9))
    # An abort ends it, and goes on.
    assert said(record(R, method=Method.EMERGENCY), record(T, 5), back=True) == ""


@pytest.mark.parametrize("back", [False, True])
def test_a_server_that_was_set_back(back: bool) -> None:
    assert "restored from a snapshot" in said(record(S, 7), record(S, 6), back=back)
    assert "shows no record of etcd's rotation" in said(record(S, 7), None, back=back)


def test_a_recovery_is_a_decision_anew() -> None:
    for back in (False, True):
        assert "by `vaultpki ca recover`" in said(record(R), record(T, 9, kept=Kept.NEW), back=back)
    begun = record(T, 9, kept=Kept.OLD)
    assert said(begun, begun) == "" and said(begun, record(S, 10)) == "" and said(begun, record(N, 10), back=True) == ""


def test_what_is_seen_is_remembered_for_its_own_ca_alone() -> None:
    course = Course(record(B), back=False)
    assert course.seen(record(S, 5)).last.state is S
    assert course.seen(replace(record(S, 5), domain="kubelet")) == course
