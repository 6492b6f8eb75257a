"""What a pair needs, reason by reason, with the clock passed in."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from vaultpki.facts import EKU, Facts, Pair
from vaultpki.model import Certificate, KeyType, Subject, Usage
from vaultpki.renewal import Reason, State, assess, jitter, renew_at, signed_at

SIGNED = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
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
LEAF = Facts(
    subject=SUBJECT,
    further_names=(),
    subject_text="",
    issuer_text="",
    serial=1,
    not_before=SIGNED - timedelta(minutes=5),
    not_after=SIGNED + LIFE,
    usages=EKU[Usage.SERVER],
    key_usage=frozenset({"digital_signature"}),
    critical=frozenset(),
    is_ca=False,
    path_length=None,
    public_key=b"",
    key=KeyType.EC_P256,
    signature="sha256",
    subject_key_id=None,
    authority_key_id=None,
    fingerprint="",
    der=b"",
)
GOOD = Pair((), (), LEAF, True, True)


def test_a_good_pair_is_left_alone_until_it_is_due() -> None:
    verdict = assess(GOOD, WANT, SIGNED, 0.0)
    assert verdict.state is State.OK and not verdict.sign and not verdict.mend and verdict.reasons == ()
    assert verdict.renew_after == SIGNED + LIFE / 2
    late = assess(GOOD, WANT, SIGNED + LIFE / 2, 0.0)
    assert late.reasons == (Reason.DUE,) and late.state is State.DUE and late.sign
    assert assess(GOOD, WANT, SIGNED + LIFE / 2 - timedelta(seconds=1), 0.0).state is State.OK
    assert assess(GOOD, WANT, SIGNED + LIFE / 2, 0.5).state is State.OK


def leaf(**changes: object) -> Pair:
    return dataclasses.replace(GOOD, leaf=dataclasses.replace(LEAF, **changes))  # type: ignore[arg-type]


def subject(**changes: object) -> Pair:
    return leaf(subject=dataclasses.replace(SUBJECT, **changes))  # type: ignore[arg-type]


CASES = [
    (Pair(("crt", "key", "pem"), (), None, False, None), Reason.MISSING, State.MISSING),
    (dataclasses.replace(GOOD, missing=("pem",)), Reason.MISSING, State.MISSING),
    (Pair((), ("crt",), None, False, None), Reason.UNREADABLE, State.BROKEN),
    (dataclasses.replace(GOOD, unreadable=("key",), matches=False), Reason.UNREADABLE, State.BROKEN),
    (dataclasses.replace(GOOD, matches=False), Reason.KEY_MISMATCH, State.BROKEN),
    (subject(common_name="system:node:W-1"), Reason.NAMES_CHANGED, State.DUE),
    (subject(organization=()), Reason.NAMES_CHANGED, State.DUE),
    (subject(dns=("w-1",)), Reason.NAMES_CHANGED, State.DUE),
    (subject(ips=("10.0.0.21", "10.0.0.22")), Reason.NAMES_CHANGED, State.DUE),
    (leaf(further_names=("RFC822Name:x@w-1",)), Reason.NAMES_CHANGED, State.DUE),
    (leaf(usages=EKU[Usage.BOTH]), Reason.USAGE_CHANGED, State.DUE),
    (leaf(usages=frozenset({"1.2.3"})), Reason.USAGE_CHANGED, State.DUE),
    (leaf(key=KeyType.RSA_2048), Reason.KEY_TYPE_CHANGED, State.DUE),
    (leaf(key=None), Reason.KEY_TYPE_CHANGED, State.DUE),
    (dataclasses.replace(GOOD, issuer_live=False), Reason.ISSUER_CHANGED, State.BROKEN),
    (leaf(not_before=SIGNED + timedelta(seconds=301)), Reason.NOT_YET_VALID, State.BROKEN),
    (leaf(not_after=SIGNED), Reason.EXPIRED, State.EXPIRED),
]


@pytest.mark.parametrize(("pair", "reason", "state"), CASES, ids=[f"{n}-{c[1].value}" for n, c in enumerate(CASES)])
def test_each_fault_has_its_reason_and_asks_for_a_signature(pair: Pair, reason: Reason, state: State) -> None:
    verdict = assess(pair, WANT, SIGNED, 0.0)
    assert verdict.reasons == (reason,) and verdict.state is state and verdict.sign and not verdict.mend


def test_order_of_names_unknown_issuers_and_clocks_a_little_apart_are_no_fault() -> None:
    for pair in (
        subject(dns=("w-1.example.com", "w-1")),
        dataclasses.replace(GOOD, issuer_live=None),
        leaf(not_before=SIGNED + timedelta(seconds=300)),
    ):
        assert assess(pair, WANT, SIGNED, 0.0).state is State.OK


def test_modes_and_owners_are_mended_and_never_a_reason_to_sign() -> None:
    verdict = assess(GOOD, WANT, SIGNED, 0.0, wrong_mode=True, wrong_owner=True)
    assert verdict.reasons == (Reason.WRONG_MODE, Reason.WRONG_OWNER)
    assert verdict.mend and not verdict.sign and verdict.state is State.BROKEN
    due = assess(GOOD, WANT, SIGNED + LIFE * 0.9, 0.0, wrong_mode=True)
    assert due.sign and not due.mend


def test_several_faults_are_all_told_and_the_worst_names_the_state() -> None:
    pair = dataclasses.replace(subject(dns=()), matches=False, issuer_live=False)
    verdict = assess(pair, WANT, SIGNED + LIFE, 0.0)
    assert verdict.state is State.BROKEN
    assert verdict.reasons == (Reason.KEY_MISMATCH, Reason.NAMES_CHANGED, Reason.ISSUER_CHANGED, Reason.EXPIRED)


def test_a_one_minute_leaf_backdated_by_five_is_not_due_at_birth() -> None:
    end = SIGNED + timedelta(seconds=60)
    assert signed_at(SIGNED - timedelta(minutes=5), end) == SIGNED
    at = renew_at(SIGNED, end, 0.0, 300)
    assert at == SIGNED + timedelta(seconds=30)
    assert assess(leaf(not_after=end), WANT, SIGNED + timedelta(seconds=29), 0.0).state is State.OK


def test_a_remembered_signing_counts_before_the_certificates_own_date() -> None:
    pair = leaf(not_before=SIGNED - timedelta(days=30))
    assert assess(pair, WANT, SIGNED, 0.0).state is State.DUE
    assert assess(pair, WANT, SIGNED, 0.0, signed=SIGNED).state is State.OK


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
