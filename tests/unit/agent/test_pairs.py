"""What holds a signature back, what counts as one that came to nothing, and what is remembered of a good one."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta

import pytest

from helpers import sample_certificates
from vaultpki.agent.pairs import (
    PairStatus,
    _keep_the_better,
    granted,
    held_back,
    known,
    may_have_signed,
    needs_another_ca,
    premature,
    short,
)
from vaultpki.errors import (
    BadAnswer,
    CertificateRefused,
    CertificateUnreadable,
    Denied,
    NeedsJoin,
    Refused,
    Sealed,
    SigningPaused,
    StoreError,
    Unavailable,
    Untrusted,
    VaultpkiError,
)
from vaultpki.issue.signing import Signed
from vaultpki.model import Certificate, KeyType, Subject, Usage
from vaultpki.node.backoff import AT_ONCE, MOST_A_DAY
from vaultpki.node.state import AgentState, Fault, IssuedRecord, with_spent
from vaultpki.pki.renewal import Assessment, Reason

MOMENT = sample_certificates.SIGNED
NOW = MOMENT.timestamp()
POLL = 300.0
WANT = Certificate(
    "kubelet", Usage.SERVER, Subject("w-1"), "kubelet", "m/kubelet", "kubelet", 86400, KeyType.EC_P256, "kubelet"
)
LEAF = dataclasses.replace(sample_certificates.LEAF, subject=WANT.subject, serial=7)


def item(*reasons: Reason, ttl: int = WANT.ttl) -> PairStatus:
    return PairStatus(dataclasses.replace(WANT, ttl=ttl), {}, Assessment(reasons, None), None)


def spent(count: int, ago: float = 0.0) -> AgentState:
    return AgentState(spent={"kubelet": (NOW - ago,) * count})


def test_a_signature_is_held_back_with_the_reason_why_the_last_came_to_nothing() -> None:
    assert held_back(item(Reason.DUE), AgentState(), NOW, POLL) is None
    assert held_back(item(Reason.DUE), spent(AT_ONCE - 1), NOW, POLL) is None
    held = held_back(item(Reason.DUE), spent(AT_ONCE), NOW, POLL)
    assert isinstance(held, SigningPaused) and held.at == NOW + 5
    assert str(held) == "kubelet: it was signed again and again, sooner than it could be due"
    assert held_back(item(Reason.DUE), spent(AT_ONCE), held.at, POLL) is None
    faulty = dataclasses.replace(spent(AT_ONCE), faults={"kubelet": Fault("kubelet: the disk is full", NOW, NOW, 1)})
    assert str(held_back(item(Reason.DUE), faulty, NOW, POLL)) == "kubelet: the disk is full"


def test_what_only_another_ca_helps_is_no_reason_to_hurry() -> None:
    refused = Refused("Vault refuses it: beyond the expiration of the CA", status=400)
    far, near = MOMENT + timedelta(days=365), MOMENT + timedelta(seconds=WANT.ttl - 1)

    def ends(end: datetime | None, *, final: bool = False) -> PairStatus:
        return dataclasses.replace(item(), verdict=Assessment((), None, final), ends=end)

    assert needs_another_ca(ends(far, final=True), None, MOMENT) and needs_another_ca(ends(None), None, MOMENT)
    # Release 0.1.0 made CAs that refuse what would outlive them; any other refusal may be mended at any time.
    assert needs_another_ca(ends(near), refused, MOMENT) and not needs_another_ca(ends(far), refused, MOMENT)
    for error in (None, Unavailable("away", sent=False), Denied("no")):
        assert not needs_another_ca(ends(near), error, MOMENT)


def test_a_server_that_shows_all_as_revoked_has_little_signed() -> None:
    memory, signed, now = AgentState(), 0, NOW
    while now < NOW + 10 * 86400:
        if held_back(item(Reason.REVOKED), memory, now, POLL) is None:
            # No renewal is due so soon, so each of these counts as wasted.
            memory, signed = with_spent(memory, {"kubelet": now}), signed + 1
        now += POLL
    assert held_back(item(Reason.REVOKED), AgentState(), NOW, POLL) is None
    assert 10 <= signed <= 10 * 20


def test_a_revoked_leaf_that_expires_is_replaced_as_any_other() -> None:
    memory = spent(AT_ONCE - 1)
    assert held_back(item(Reason.REVOKED), memory, NOW, POLL) is not None
    for reason in (Reason.DUE, Reason.EXPIRED, Reason.NAMES_CHANGED):
        assert held_back(item(reason, Reason.REVOKED), memory, NOW, POLL) is None


def test_another_certificates_failures_hold_nothing_back() -> None:
    other = AgentState(spent={"kube-proxy": (NOW,) * MOST_A_DAY})
    assert held_back(item(Reason.MISSING), other, NOW, POLL) is None


def test_what_a_person_asks_for_is_not_held_back() -> None:
    assert held_back(item(Reason.DUE, Reason.FORCED), spent(MOST_A_DAY), NOW, POLL) is None


def test_a_short_life_has_short_pauses_whether_asked_or_granted() -> None:
    def wait(memory: AgentState, ttl: int) -> float:
        held = held_back(item(Reason.DUE, ttl=ttl), memory, NOW, POLL)
        assert isinstance(held, SigningPaused)
        return held.at - NOW

    many = spent(AT_ONCE + 9)
    assert wait(many, WANT.ttl) == 300
    assert wait(many, 60) == 7.5
    minute = dataclasses.replace(many, certificates={"kubelet": IssuedRecord(1, NOW - 30, WANT.ttl, 60)})
    assert wait(minute, WANT.ttl) == 7.5


def test_premature_is_what_comes_before_any_renewal_could() -> None:
    memory = AgentState(certificates={"kubelet": IssuedRecord(1, NOW, WANT.ttl, 3600)})
    assert not premature(item(), AgentState(), NOW)
    assert premature(item(), memory, NOW + 1439) and not premature(item(), memory, NOW + 1440)


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (Unavailable("x"), False),
        (Unavailable("x", sent=True), True),
        (Sealed("x"), False),
        (Untrusted("x"), False),
        (Denied("x"), False),
        (NeedsJoin("x"), False),
        (Refused("x", status=400), False),
        (BadAnswer("x"), True),
        (CertificateRefused("x", reason="stale"), True),
        (CertificateRefused("x", reason="nothing-live"), False),
        (CertificateUnreadable("x"), True),
        (StoreError("x"), True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, VaultpkiError) else str(value),
)
def test_what_vault_may_have_signed_counts(error: VaultpkiError, *, counts: bool) -> None:
    assert may_have_signed(error) is counts


def signed(seconds: int, *, ttl: int = WANT.ttl) -> Signed:
    leaf = dataclasses.replace(LEAF, not_after=MOMENT + timedelta(seconds=seconds))
    return Signed(dataclasses.replace(WANT, ttl=ttl), leaf, {})


def test_what_is_remembered_of_a_signing() -> None:
    assert known(signed(3600), MOMENT) == IssuedRecord(7, NOW, WANT.ttl, 3600)
    # By a clock four minutes behind Vault's and by one twenty seconds ahead of it.
    assert granted(signed(60), MOMENT - timedelta(minutes=4)) == 60
    assert granted(signed(60), MOMENT + timedelta(seconds=20)) == 40


@pytest.mark.parametrize(
    ("asked", "seconds", "short_of_it"),
    [
        (86400, 86400, False),
        (86400, 86100, False),
        (86400, 86099, True),
        (60, 60, False),
        (60, 54, False),
        (60, 53, True),
        (86400, 1, True),
    ],
)
def test_a_grant_is_short_where_no_clock_explains_it(asked: int, seconds: int, *, short_of_it: bool) -> None:
    assert short(known(signed(seconds, ttl=asked), MOMENT)) is short_of_it


@pytest.mark.parametrize(
    ("reason", "asked", "granted_until", "kept"),
    [
        (Reason.DUE, WANT.ttl, -timedelta(hours=1), True),
        (Reason.DUE, WANT.ttl, timedelta(hours=1), False),
        # Another TTL was asked for, and granted.
        (Reason.TTL_CHANGED, 23 * 3600, -timedelta(hours=1), False),
        (Reason.TTL_CHANGED, WANT.ttl, -timedelta(hours=1), True),
        # One that is not good is replaced by whatever comes.
        (Reason.NAMES_CHANGED, WANT.ttl, -timedelta(hours=1), False),
    ],
)
def test_a_good_certificate_is_not_replaced_by_one_that_ends_before_it(
    reason: Reason, asked: int, granted_until: timedelta, kept: bool
) -> None:
    """A CA or a role that grants less than before would else shorten what the node has."""
    held = PairStatus(WANT, {}, Assessment((reason,), None), LEAF)
    want = dataclasses.replace(WANT, ttl=asked)
    signed = Signed(want, dataclasses.replace(LEAF, not_after=LEAF.not_after + granted_until), {})
    if kept:
        with pytest.raises(SigningPaused, match="ends before the certificate in use") as paused:
            _keep_the_better(held, signed, MOMENT)
        assert MOMENT.timestamp() < paused.value.at < LEAF.not_after.timestamp()
    else:
        _keep_the_better(held, signed, MOMENT)
