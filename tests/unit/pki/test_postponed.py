"""A renewal that comes late: when it waits for its turn, until when, and what that makes of a fleet's year."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from helpers import sample_certificates
from helpers.node.fleet_year import BEGIN, TTL, WINDOW, Away, Fleet, bad_year, most
from vaultpki.model import Certificate, KeyType, Subject, Usage
from vaultpki.pki.facts import Pair, Replacement
from vaultpki.pki.renewal import (
    MOST_POSTPONED,
    LeafLife,
    PairState,
    Reason,
    Recorded,
    Signers,
    assess,
    latest_postponed,
    overdue,
    postponed_to,
    renew_at,
)
from vaultpki.values.windows import parse

SIGNED = sample_certificates.SIGNED
DAYS = timedelta(days=1)
LIFE = LeafLife(SIGNED, SIGNED + 30 * DAYS, 300)
DUE = SIGNED + 16 * DAYS
BEFORE = DUE - timedelta(minutes=5)
MOST = 5 / 100
WANT = Certificate(
    "kubelet",
    Usage.SERVER,
    Subject("w-1"),
    "kubelet",
    "m",
    "kubelet",
    30 * 86400,
    KeyType.EC_P256,
    "kubelet",
    reload=300,
)
LEAF = dataclasses.replace(sample_certificates.LEAF, subject=WANT.subject, not_after=SIGNED + 30 * DAYS)
PAIR = Pair((), (), LEAF, True, True)


def test_what_comes_late_waits_for_up_to_twice_as_long() -> None:
    now = DUE + DAYS
    assert postponed_to(DUE, LIFE, BEFORE, now, 0.5) == now + DAYS
    assert postponed_to(DUE, LIFE, BEFORE, now, 0.0) == now
    assert postponed_to(DUE, LIFE, BEFORE, now, 1.0) == now + 2 * DAYS


def test_what_comes_in_time_waits_for_nothing() -> None:
    assert postponed_to(DUE, LIFE, BEFORE, DUE, 0.5) is None
    assert postponed_to(DUE, LIFE, BEFORE, DUE + timedelta(minutes=43), 0.5) is None
    assert postponed_to(DUE, LIFE, BEFORE, DUE + timedelta(minutes=44), 0.5) is not None


def test_it_waits_for_nothing_if_vault_has_answered_since_it_was_due() -> None:
    """Then a refusal or the disk held it back, and a person must go on seeing that."""
    assert postponed_to(DUE, LIFE, DUE, DUE + DAYS, 0.5) is None
    assert postponed_to(DUE, LIFE, DUE + DAYS / 2, DUE + DAYS, 0.5) is None


def test_it_waits_less_where_less_is_left_and_not_at_all_near_the_end() -> None:
    latest = latest_postponed(LIFE)
    assert latest == SIGNED + 23 * DAYS
    assert postponed_to(DUE, LIFE, BEFORE, latest - DAYS, 1.0) == latest
    assert postponed_to(DUE, LIFE, BEFORE, latest, 0.5) is None
    assert postponed_to(DUE, LIFE, BEFORE, LIFE.ends + DAYS, 0.5) is None
    # No view that has only the file takes it for overdue meanwhile.
    assert not overdue(LEAF, 300, latest - timedelta(minutes=10)) and overdue(LEAF, 300, latest)


def test_it_does_not_wait_for_ever() -> None:
    now = DUE + DAYS
    assert postponed_to(DUE, LIFE, BEFORE, now, 0.5, MOST_POSTPONED - 1) is not None
    assert postponed_to(DUE, LIFE, BEFORE, now, 0.5, MOST_POSTPONED) is None


def test_the_consumer_has_its_time_where_the_life_is_short() -> None:
    short = LeafLife(SIGNED, SIGNED + timedelta(minutes=30), 300)
    assert latest_postponed(short) == SIGNED + timedelta(minutes=20)


def test_a_postponed_renewal_is_not_due_and_no_fault() -> None:
    due = renew_at(SIGNED, LEAF.not_after, 0.5, 300)
    now, until = due + DAYS, due + 2 * DAYS
    late = assess(PAIR, WANT, now, 0.5)
    assert late.reasons == (Reason.DUE,) and not late.postponed
    waits = assess(PAIR, WANT, now, 0.5, recorded=Recorded(postponed=until))
    assert waits.reasons == () and waits.state is PairState.OK and waits.renew_after == until and waits.postponed
    turn = assess(PAIR, WANT, until, 0.5, recorded=Recorded(postponed=until))
    assert turn.reasons == (Reason.DUE,) and turn.renew_after == until and not turn.postponed


def test_a_wrong_record_postpones_nothing_beyond_the_latest_moment() -> None:
    far = Recorded(postponed=datetime(9000, 1, 1, tzinfo=UTC))
    verdict = assess(PAIR, WANT, SIGNED, 0.5, recorded=far)
    assert verdict.renew_after == SIGNED + 23 * DAYS
    past = Recorded(postponed=datetime(1990, 1, 1, tzinfo=UTC))
    assert assess(PAIR, WANT, SIGNED, 0.5, recorded=past) == assess(PAIR, WANT, SIGNED, 0.5)


@pytest.mark.parametrize("reason", [Reason.FORCED, Reason.REVOKED, Reason.KEY_EXPOSED])
def test_other_reasons_do_not_wait(reason: Reason) -> None:
    due = renew_at(SIGNED, LEAF.not_after, 0.5, 300)
    verdict = assess(PAIR, WANT, due + DAYS, 0.5, recorded=Recorded(postponed=due + 2 * DAYS), also={reason})
    assert verdict.reasons == (reason,) and verdict.sign


def test_a_rotation_does_not_wait() -> None:
    due = renew_at(SIGNED, LEAF.not_after, 0.5, 300)
    rotation = Signers(Replacement(due, 3600))
    verdict = assess(PAIR, WANT, due + DAYS, 0.5, recorded=Recorded(postponed=due + 2 * DAYS), signers=rotation)
    assert verdict.reasons == (Reason.ISSUER_OUTGOING,) and verdict.sign


def test_a_postponed_renewal_falls_into_a_window() -> None:
    due = renew_at(SIGNED, LEAF.not_after, 0.0, 300)
    until, windows = due + DAYS, [parse("02:00-03:00")]
    verdict = assess(PAIR, WANT, due, 0.0, recorded=Recorded(postponed=until), windows=windows)
    assert verdict.renew_after is not None and until <= verdict.renew_after <= until + DAYS
    assert verdict.renew_after.hour == 2 and verdict.postponed


def test_no_span_of_a_bad_year_has_many_renewals() -> None:
    agents = 5_000
    times = bad_year(agents).renewals()
    assert len(times) > 18 * agents
    assert most(times, TTL.total_seconds() * WINDOW / 100) <= MOST * agents


def test_the_bound_can_fail() -> None:
    """Without jitter a fleet stays together, and without the rule an outage of a day brings a fifth of it together."""
    agents, span = 500, TTL.total_seconds() * WINDOW / 100
    together = Fleet(agents, TTL, jitter=lambda node, name, serial: 0.5).renewals()
    assert most(together, span) == agents
    outage = Away(BEGIN + 17 * DAYS, BEGIN + 18 * DAYS)
    at_once = Fleet(agents, TTL, (outage,), postponed_to=lambda *_: None).renewals(timedelta(days=30))
    assert most(at_once, span) > 0.15 * agents
