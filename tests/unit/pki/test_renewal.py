"""What a pair needs, reason by reason, with the clock passed in."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from helpers import sample_certificates
from vaultpki.certificates import SKEW, TABLE, shortest_ttl
from vaultpki.model import Certificate, KeyType, Row, Subject, Usage
from vaultpki.pki.facts import EKU, Pair, Replacement
from vaultpki.pki.renewal import (
    PairState,
    Reason,
    Recorded,
    Signers,
    assess,
    jitter,
    last_moment,
    life,
    renew_at,
    signed_at,
)
from vaultpki.values.windows import parse

SIGNED = sample_certificates.SIGNED
LIFE = timedelta(hours=30)
SUBJECT = Subject("system:node:w-1", ("system:nodes",), ("w-1", "w-1.example.com"), ("10.0.0.21",))
WANT = Certificate(
    name="kubelet",
    usage=Usage.SERVER,
    subject=SUBJECT,
    ca="kubelet",
    mount="vaultpki/prod/kubelet",
    role="kubelet",
    ttl=int(LIFE.total_seconds()),
    key=KeyType.EC_P256,
    stem="kubelet",
    reload=300,
)
LEAF = dataclasses.replace(sample_certificates.LEAF, subject=SUBJECT, not_after=SIGNED + LIFE)
GOOD = Pair((), (), LEAF, True, True)


def test_a_good_pair_is_left_alone_until_it_is_due() -> None:
    verdict = assess(GOOD, WANT, SIGNED, 0.0)
    assert verdict.state is PairState.OK and not verdict.sign and not verdict.mend and verdict.reasons == ()
    assert verdict.renew_after == SIGNED + LIFE / 2
    late = assess(GOOD, WANT, SIGNED + LIFE / 2, 0.0)
    assert late.reasons == (Reason.DUE,) and late.state is PairState.DUE and late.sign
    assert assess(GOOD, WANT, SIGNED + LIFE / 2 - timedelta(seconds=1), 0.0).state is PairState.OK
    assert assess(GOOD, WANT, SIGNED + LIFE / 2, 0.5).state is PairState.OK


def leaf(**changes: object) -> Pair:
    return dataclasses.replace(GOOD, leaf=dataclasses.replace(LEAF, **changes))  # type: ignore[arg-type]


def subject(**changes: object) -> Pair:
    return leaf(subject=dataclasses.replace(SUBJECT, **changes))  # type: ignore[arg-type]


CASES = [
    (Pair(("crt", "key", "pem"), (), None, False, None), Reason.MISSING, PairState.MISSING),
    (dataclasses.replace(GOOD, missing=("pem",)), Reason.MISSING, PairState.MISSING),
    (Pair((), ("crt",), None, False, None), Reason.UNREADABLE, PairState.BROKEN),
    (dataclasses.replace(GOOD, unreadable=("key",), matches=False), Reason.UNREADABLE, PairState.BROKEN),
    (dataclasses.replace(GOOD, matches=False), Reason.KEY_MISMATCH, PairState.BROKEN),
    (subject(common_name="system:node:W-1"), Reason.NAMES_CHANGED, PairState.DUE),
    (subject(organization=()), Reason.NAMES_CHANGED, PairState.DUE),
    (subject(dns=("w-1",)), Reason.NAMES_CHANGED, PairState.DUE),
    (subject(ips=("10.0.0.21", "10.0.0.22")), Reason.NAMES_CHANGED, PairState.DUE),
    (leaf(further_names=("RFC822Name:x@w-1",)), Reason.NAMES_CHANGED, PairState.DUE),
    (leaf(usages=EKU[Usage.BOTH]), Reason.USAGE_CHANGED, PairState.DUE),
    (leaf(usages=frozenset({"1.2.3"})), Reason.USAGE_CHANGED, PairState.DUE),
    (leaf(key=KeyType.RSA_2048), Reason.KEY_TYPE_CHANGED, PairState.DUE),
    (leaf(key=None), Reason.KEY_TYPE_CHANGED, PairState.DUE),
    (dataclasses.replace(GOOD, issuer_live=False), Reason.ISSUER_CHANGED, PairState.BROKEN),
    (leaf(not_before=SIGNED + timedelta(seconds=301)), Reason.NOT_YET_VALID, PairState.BROKEN),
    (leaf(not_after=SIGNED), Reason.EXPIRED, PairState.EXPIRED),
]


@pytest.mark.parametrize(("pair", "reason", "state"), CASES, ids=[f"{n}-{c[1].value}" for n, c in enumerate(CASES)])
def test_each_fault_has_its_reason_and_asks_for_a_signature(pair: Pair, reason: Reason, state: PairState) -> None:
    verdict = assess(pair, WANT, SIGNED, 0.0)
    assert verdict.reasons == (reason,) and verdict.state is state and verdict.sign and not verdict.mend


def test_order_of_names_unknown_issuers_and_clocks_a_little_apart_are_no_fault() -> None:
    for pair in (
        subject(dns=("w-1.example.com", "w-1")),
        dataclasses.replace(GOOD, issuer_live=None),
        leaf(not_before=SIGNED + timedelta(seconds=300)),
    ):
        assert assess(pair, WANT, SIGNED, 0.0).state is PairState.OK


def test_a_revoked_leaf_is_replaced_at_once_and_no_window_holds_it() -> None:
    verdict = assess(GOOD, WANT, SIGNED, 0.0, also={Reason.REVOKED})
    assert verdict.reasons == (Reason.REVOKED,) and verdict.state is PairState.REVOKED and verdict.sign
    late = assess(GOOD, WANT, SIGNED + LIFE, 0.0, also={Reason.REVOKED})
    assert late.reasons == (Reason.EXPIRED, Reason.REVOKED) and late.state is PairState.EXPIRED


def test_modes_and_owners_are_mended_and_never_a_reason_to_sign() -> None:
    verdict = assess(GOOD, WANT, SIGNED, 0.0, also={Reason.WRONG_MODE, Reason.WRONG_OWNER})
    assert verdict.reasons == (Reason.WRONG_MODE, Reason.WRONG_OWNER)
    assert verdict.mend and not verdict.sign and verdict.state is PairState.BROKEN
    due = assess(GOOD, WANT, SIGNED + LIFE * 0.9, 0.0, also={Reason.WRONG_MODE})
    assert due.sign and not due.mend


def test_a_leaf_whose_ca_is_replaced_is_due_from_its_moment_on_and_works_until_then() -> None:
    at = SIGNED + timedelta(minutes=7)
    signers = Signers(Replacement(at, 0))
    before = assess(GOOD, WANT, SIGNED, 0.5, signers=signers)
    assert before.state is PairState.OK and before.renew_after == at
    after = assess(GOOD, WANT, at, 0.5, signers=signers)
    assert after.reasons == (Reason.ISSUER_OUTGOING,) and after.state is PairState.DUE and after.sign
    # Its ordinary renewal may come first.
    signers = Signers(Replacement(SIGNED, 2 * LIFE.total_seconds()))
    late = assess(GOOD, WANT, SIGNED + LIFE * 7 / 12, 0.5, signers=signers)
    assert late.reasons == (Reason.DUE,) and late.renew_after == SIGNED + LIFE * 7 / 12


def test_what_ends_with_its_ca_is_not_renewed_in_vain() -> None:
    end = SIGNED + LIFE
    last = Signers(ends=end)
    for at in (SIGNED, SIGNED + LIFE * 0.9, end - timedelta(seconds=1)):
        verdict = assess(GOOD, WANT, at, 0.0, signers=last)
        assert verdict.final and verdict.reasons == () and verdict.renew_after == end, at
    assert assess(GOOD, WANT, end, 0.0, signers=last).reasons == (Reason.EXPIRED,)
    # A second more is worth a renewal at the ordinary time; so is a CA that nobody knows.
    for ends in (end + timedelta(seconds=1), None):
        verdict = assess(GOOD, WANT, SIGNED + LIFE / 2, 0.0, signers=Signers(ends=ends))
        assert verdict.reasons == (Reason.DUE,) and not verdict.final
    # No window moves the end.
    assert assess(GOOD, WANT, SIGNED, 0.0, signers=last, windows=(parse("sat 02:00-04:00"),)).renew_after == end


def test_a_longer_ttl_is_not_asked_of_a_ca_that_cannot_grant_it() -> None:
    last, asked = Signers(ends=SIGNED + LIFE), Recorded(asked=WANT.ttl)
    longer = dataclasses.replace(WANT, ttl=WANT.ttl * 2)
    assert assess(GOOD, longer, SIGNED, 0.0, signers=last, recorded=asked).reasons == ()
    assert assess(GOOD, longer, SIGNED, 0.0, recorded=asked).reasons == (Reason.TTL_CHANGED,)
    shorter = dataclasses.replace(WANT, ttl=WANT.ttl // 2)
    assert assess(GOOD, shorter, SIGNED, 0.0, signers=last, recorded=asked).reasons == (Reason.TTL_CHANGED,)
    # Names, keys and what a person asks for count until the end.
    assert assess(GOOD, WANT, SIGNED, 0.0, signers=last, also={Reason.FORCED}).reasons == (Reason.FORCED,)
    assert assess(subject(dns=("w-1",)), WANT, SIGNED, 0.0, signers=last).reasons == (Reason.NAMES_CHANGED,)


def test_leaves_that_waited_for_a_new_ca_are_replaced_in_its_time_and_not_at_once() -> None:
    """All of a cluster's have long been due when their CA is replaced: each comes at its own place in the spread."""
    since = SIGNED + LIFE * 0.8
    new_end = SIGNED + timedelta(days=3650)
    place = since + timedelta(hours=1)
    signers = Signers(Replacement(since, 2 * 3600), new_end)
    verdict = assess(GOOD, WANT, since, 0.5, signers=signers)
    assert verdict.reasons == () and verdict.renew_after == place
    assert assess(GOOD, WANT, place, 0.5, signers=signers).reasons == (Reason.DUE, Reason.ISSUER_OUTGOING)
    # One that would expire before its place, or would not be noticed in time, is not held back.
    far = Replacement(since, 4 * LIFE.total_seconds())
    late = assess(GOOD, WANT, since, 0.5, signers=Signers(far, new_end))
    assert late.renew_after == SIGNED + LIFE - timedelta(seconds=WANT.reload + SKEW)


def test_an_old_certificate_of_the_ca_behind_the_leaf_is_mended_and_no_reason_to_sign() -> None:
    verdict = assess(GOOD, WANT, SIGNED, 0.0, also={Reason.CHAIN_OLD})
    assert verdict.reasons == (Reason.CHAIN_OLD,) and verdict.mend and not verdict.sign
    assert verdict.state is PairState.DUE


def test_several_faults_are_all_told_and_the_worst_names_the_state() -> None:
    pair = dataclasses.replace(subject(dns=()), matches=False, issuer_live=False)
    verdict = assess(pair, WANT, SIGNED + LIFE, 0.0)
    assert verdict.state is PairState.BROKEN
    assert verdict.reasons == (Reason.KEY_MISMATCH, Reason.NAMES_CHANGED, Reason.ISSUER_CHANGED, Reason.EXPIRED)


def test_a_one_minute_leaf_backdated_by_five_is_not_due_at_birth() -> None:
    end = SIGNED + timedelta(seconds=60)
    assert signed_at(SIGNED - timedelta(minutes=5), end) == SIGNED
    at = renew_at(SIGNED, end, 0.0, 300)
    assert at == SIGNED + timedelta(seconds=30)
    assert assess(leaf(not_after=end), WANT, SIGNED + timedelta(seconds=29), 0.0).state is PairState.OK


def test_a_remembered_signing_counts_before_the_certificates_own_date() -> None:
    pair = leaf(not_before=SIGNED - timedelta(days=30))
    assert assess(pair, WANT, SIGNED, 0.0).state is PairState.DUE
    assert assess(pair, WANT, SIGNED, 0.0, recorded=Recorded(SIGNED, WANT.ttl)).state is PairState.OK


def test_a_memory_that_cannot_be_true_is_no_memory() -> None:
    plain = assess(GOOD, WANT, SIGNED, 0.5).renew_after
    for signed in (SIGNED + LIFE, SIGNED + LIFE * 9, LEAF.not_before - timedelta(seconds=301), SIGNED - LIFE * 9):
        assert assess(GOOD, WANT, SIGNED, 0.5, recorded=Recorded(signed)).renew_after == plain


def test_a_clock_behind_vaults_does_not_stretch_a_short_life() -> None:
    behind = timedelta(seconds=240)
    minute = leaf(not_after=SIGNED + timedelta(seconds=60))
    assert minute.leaf is not None
    assert life(minute.leaf, SIGNED - behind) == timedelta(seconds=60)
    verdict = assess(minute, WANT, SIGNED, 0.0, recorded=Recorded(SIGNED - behind))
    assert verdict.renew_after == SIGNED - behind + timedelta(seconds=30)
    # Ahead of Vault's it has less time by both clocks.
    assert life(minute.leaf, SIGNED + timedelta(seconds=20)) == timedelta(seconds=40)
    # A role that is not ours, and does not backdate: only this machine's clock tells.
    bare = leaf(not_before=SIGNED, not_after=SIGNED + timedelta(seconds=60))
    assert bare.leaf is not None and life(bare.leaf, SIGNED) == timedelta(seconds=60)


def test_a_certificate_at_the_end_of_time_is_judged_too() -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    for pair in (leaf(not_before=last, not_after=last), leaf(not_before=last - timedelta(days=3), not_after=last)):
        verdict = assess(pair, WANT, SIGNED, 0.5, windows=(parse("22:00-23:00"),))
        assert Reason.NOT_YET_VALID in verdict.reasons


def test_another_ttl_asked_for_is_a_reason_and_a_smaller_grant_is_none() -> None:
    def reasons(ttl: int, asked: int | None, pair: Pair = GOOD) -> tuple[Reason, ...]:
        return assess(pair, dataclasses.replace(WANT, ttl=ttl), SIGNED, 0.0, recorded=Recorded(asked=asked)).reasons

    assert reasons(WANT.ttl, WANT.ttl) == reasons(10 * WANT.ttl, 10 * WANT.ttl) == reasons(60, 60) == ()
    assert reasons(WANT.ttl + 1, WANT.ttl) == reasons(WANT.ttl - 1, WANT.ttl) == (Reason.TTL_CHANGED,)
    # Nothing remembered: less may be what Vault grants, more is not what anybody asks for now.
    assert reasons(10 * WANT.ttl, None) == reasons(WANT.ttl - 300, None) == ()
    assert reasons(WANT.ttl - 301, None) == (Reason.TTL_CHANGED,)
    assert reasons(60, 30, Pair(("crt", "key", "pem"), (), None, False, None)) == (Reason.MISSING,)


def test_force_is_the_last_reason_to_sign_and_names_no_fault() -> None:
    verdict = assess(GOOD, WANT, SIGNED, 0.0, also={Reason.FORCED, Reason.WRONG_MODE})
    assert verdict.reasons == (Reason.FORCED, Reason.WRONG_MODE) and verdict.sign and not verdict.mend
    assert assess(GOOD, WANT, SIGNED, 0.0, also={Reason.FORCED}).state is PairState.DUE
    gone = assess(Pair(("crt",), (), None, False, None), WANT, SIGNED, 0.0, also={Reason.FORCED})
    assert gone.reasons == (Reason.MISSING, Reason.FORCED) and gone.state is PairState.MISSING


# SIGNED is a Friday, 12:00; GOOD is due on Saturday at 03:00, and can wait until 14:50.
@pytest.mark.parametrize(
    ("windows", "jitter", "expected"),
    [
        ([], 0.0, "2026-05-02 03:00"),
        (["02:00-04:00"], 0.0, "2026-05-02 03:00"),
        (["10:00-11:00"], 0.0, "2026-05-02 10:00"),
        (["10:00-11:00"], 0.5, "2026-05-02 10:27"),
        (["10:00-11:00", "sat 05:00-05:10"], 0.0, "2026-05-02 05:00"),
        (["sun 10:00-11:00"], 0.0, "2026-05-02 03:00"),
        (["fri 22:00-06:00"], 0.0, "2026-05-02 03:00"),
        (["sat 22:00-06:00"], 0.0, "2026-05-02 03:00"),
        (["14:00-15:00"], 0.999, "2026-05-02 14:44"),
        (["14:50-15:00"], 0.0, "2026-05-02 03:00"),
    ],
)
def test_a_window_moves_a_renewal_and_never_beyond_the_last_moment(
    windows: list[str], jitter: float, expected: str
) -> None:
    found = assess(GOOD, WANT, SIGNED, jitter, windows=[parse(text) for text in windows]).renew_after
    assert last_moment(SIGNED, SIGNED + LIFE, WANT.reload) == datetime(2026, 5, 2, 14, 50, tzinfo=UTC)
    assert found is not None and f"{found:%Y-%m-%d %H:%M}" == expected


def test_whoever_slept_through_a_window_waits_for_the_next_unless_there_is_none() -> None:
    windows = [parse("05:00-06:00"), parse("13:00-14:00")]

    def at(hour: int, minute: int) -> tuple[bool, str]:
        now = datetime(2026, 5, 2, hour, minute, tzinfo=UTC)
        verdict = assess(GOOD, WANT, now, 0.0, windows=windows)
        return Reason.DUE in verdict.reasons, f"{verdict.renew_after:%H:%M}"

    assert at(4, 0) == (False, "05:00")
    assert at(5, 0) == at(5, 59) == (True, "05:00")
    assert at(6, 0) == at(12, 59) == (False, "13:00")
    assert at(13, 30) == (True, "13:00")
    # Nothing more before the last moment: it gives way to the expiry.
    assert at(14, 0) == at(17, 59) == (True, "03:00")
    assert assess(GOOD, WANT, SIGNED + LIFE, 0.0, windows=windows).reasons == (Reason.EXPIRED,)


def test_what_cannot_wait_asks_no_window() -> None:
    windows = [parse("05:00-06:00")]
    for pair in (subject(dns=()), dataclasses.replace(GOOD, matches=False), leaf(not_after=SIGNED)):
        assert assess(pair, WANT, SIGNED, 0.0, windows=windows).sign


def test_the_consumers_time_is_left_over_where_half_the_life_is_enough() -> None:
    end = SIGNED + timedelta(minutes=25)
    assert end - renew_at(SIGNED, end, 1.0, 300) == timedelta(minutes=10)
    end = SIGNED + timedelta(minutes=12)
    assert renew_at(SIGNED, end, 1.0, 300) == SIGNED + timedelta(minutes=6)


def test_jitter_is_the_same_for_one_leaf_and_spread_over_many() -> None:
    assert jitter("w-1", "kubelet", 7) == jitter("w-1", "kubelet", 7)
    spread = [jitter(f"w-{n}", "kubelet", 7) for n in range(1000)]
    assert min(spread) < 0.02 and max(spread) > 0.98 and 0.45 < sum(spread) / 1000 < 0.55
    assert len({jitter("w-1", "kubelet", n) for n in range(100)}) == 100
    assert jitter("a", "bc", 1) != jitter("ab", "c", 1)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_of_the_shortest_ttl_the_consumer_has_its_time(row: Row) -> None:
    """Where cluster.yaml takes a TTL without `allow_short_ttl`, the latest renewal leaves the pause and the skew."""
    end = SIGNED + timedelta(seconds=shortest_ttl(row))
    latest = renew_at(SIGNED, end, 1.0, row.reload)
    assert end - latest == timedelta(seconds=row.reload + SKEW)
    # And nodes are spread over the whole window still.
    assert latest - SIGNED == (end - SIGNED) * 2 / 3
