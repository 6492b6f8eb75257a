"""Whom a node trusts and whose leaves it takes while a CA is replaced: each rule by itself, in every state."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from helpers.sample_certificates import LEAF, SIGNED
from vaultpki.pki.facts import Facts, Replacement, Trust
from vaultpki.pki.renewal import replaced_at
from vaultpki.pki.succession import (
    MOST_KEPT,
    VANISHED_SPREAD,
    RotationView,
    acceptable,
    default_signs,
    served,
    trust_during_rotation,
)
from vaultpki.records import rotation as rotation_record
from vaultpki.records.rotation import CaRef, Method, RotationRecord

NOW = SIGNED


def ca(name: str, key: str | None = None, age: int = 10, left: int = 1000) -> Facts:
    return dataclasses.replace(
        LEAF,
        is_ca=True,
        fingerprint=name.ljust(64, "0"),
        public_key=(key or name).encode(),
        not_before=NOW - timedelta(days=age),
        not_after=NOW + timedelta(days=left),
    )


ROOT, OLD, NEW, OTHER = ca("a"), ca("b"), ca("c", age=1), ca("d", age=5)
RENEWED = ca("e", key="b", age=1)


def known(*issuing: Facts) -> Trust:
    return Trust(ROOT, issuing, issuing, signers=issuing)


def record(
    state: str, *, new: Facts = NEW, method: Method = Method.NEW_KEY, also: tuple[str, ...] = ()
) -> RotationView:
    made = RotationRecord(
        "etcd",
        rotation_record.State(state),
        revision=7,
        since=NOW - timedelta(hours=1),
        old=CaRef("etcd-1", "1", "1", OLD.fingerprint),
        new=CaRef("etcd-2", "2", "2", new.fingerprint),
        method=method,
        also=also,
        spread=600,
    )
    return RotationView(made, shown=[OLD.fingerprint, new.fingerprint], held=[OLD.fingerprint], default=OLD.fingerprint)


BOTH = (OLD, NEW)
STATES = {
    "steady": ((OLD,), OLD),
    "prepared": ((OLD,), OLD),
    "published": (BOTH, OLD),
    "switched": (BOTH, NEW),
    "retired": ((NEW,), NEW),
    "done": ((NEW,), NEW),
    "re-trusting": (BOTH, NEW),
    "returning": (BOTH, OLD),
}


@pytest.mark.parametrize("state", STATES)
def test_bundles_and_leaves_are_those_of_the_record(state: str) -> None:
    trust = trust_during_rotation(known(NEW, OTHER, OLD), record(state), NOW)
    bundle, leaf = STATES[state]
    assert set(trust.issuing) == set(bundle) == set(trust.live)
    assert trust.signers == (leaf,) and trust.serving == leaf and not trust.frozen
    others = {facts.fingerprint for facts in bundle if facts != leaf}
    assert trust.outgoing == dict.fromkeys(others, Replacement(NOW - timedelta(hours=1), 600))


def test_every_state_has_its_case() -> None:
    assert {state.value for state in rotation_record.State} == set(STATES)


def test_other_cas_of_before_are_trusted_as_long_as_the_old_one() -> None:
    every = known(NEW, OTHER, OLD)
    for state in ("published", "switched", "returning"):
        assert OTHER in trust_during_rotation(every, record(state, also=(OTHER.fingerprint,)), NOW).issuing
    assert trust_during_rotation(every, record("retired", also=(OTHER.fingerprint,)), NOW).issuing == (NEW,)


def test_without_a_record_no_ca_is_dropped_and_a_vanished_one_is_replaced_slowly() -> None:
    word = RotationView(shown=[NEW.fingerprint], held=[OLD.fingerprint], default=NEW.fingerprint)
    assert trust_during_rotation(known(NEW, OLD), word, NOW).outgoing == {}
    gone = dataclasses.replace(word, vanished={OLD.fingerprint: NOW})
    trust = trust_during_rotation(known(NEW, OLD), gone, NOW)
    assert trust.issuing == (NEW, OLD) and trust.signers == (NEW,)
    assert trust.outgoing == {OLD.fingerprint: Replacement(NOW, VANISHED_SPREAD)}
    # One certificate of two for the same key: nothing is replaced.
    sibling = dataclasses.replace(gone, shown=[RENEWED.fingerprint], default=RENEWED.fingerprint)
    trust = trust_during_rotation(known(RENEWED, OLD), sibling, NOW)
    assert trust.outgoing == {} and set(trust.signers) == {RENEWED, OLD} and trust.serving is None
    # And where nothing could sign in its place.
    alone = dataclasses.replace(gone, shown=[], default="")
    trust = trust_during_rotation(known(OLD), alone, NOW)
    assert trust.issuing == (OLD,) and trust.signers == () and trust.outgoing == {}


def test_a_record_that_names_no_ca_of_ours_leaves_the_bundle_as_it_was() -> None:
    trust = trust_during_rotation(known(OTHER, OLD), record("retired"), NOW)
    assert trust.issuing == (OLD,) and trust.signers == () and trust.outgoing == {}
    fresh = dataclasses.replace(record("retired"), held=[])
    assert trust_during_rotation(known(OTHER, OLD), fresh, NOW).issuing == ()


def test_a_record_takes_no_ca_away_for_one_that_has_expired_or_is_not_on_the_mount() -> None:
    over = ca("c", left=-1)
    for state in ("retired", "done"):
        assert set(trust_during_rotation(known(over, OLD), record(state, new=over), NOW).issuing) == {over, OLD}
        gone = dataclasses.replace(record(state), shown=[OLD.fingerprint], held=[OLD.fingerprint, NEW.fingerprint])
        assert set(trust_during_rotation(known(NEW, OLD), gone, NOW).issuing) == {NEW, OLD}
        # What it has dropped before does not come back.
        gone = dataclasses.replace(gone, held=[NEW.fingerprint])
        assert trust_during_rotation(known(NEW, OLD), gone, NOW).issuing == (NEW,)
        # Between two that have expired the record decides.
        last = ca("b", left=-1)
        assert trust_during_rotation(known(over, last), record(state, new=over), NOW).issuing == (over,)


def test_a_node_that_has_read_a_newer_record_only_adds_trust() -> None:
    for state in STATES:
        word = dataclasses.replace(record(state), frozen=True, vanished={OLD.fingerprint: NOW})
        trust = trust_during_rotation(known(NEW, OLD), word, NOW)
        assert set(trust.issuing) == {OLD, NEW} and trust.outgoing == {} and trust.frozen
        # A leaf that must be renewed stays with its CA.
        assert acceptable(trust, OLD) == (OLD,) and acceptable(trust, NEW) == (NEW,)
        assert not default_signs(trust, NEW.fingerprint, acceptable(trust, OLD))
        assert served(trust, OLD) == OLD
    assert set(acceptable(trust, None)) == {OLD, NEW}


def test_a_certificate_renewed_for_its_key_replaces_no_leaf_and_is_served() -> None:
    every = known(RENEWED, OLD)
    trust = trust_during_rotation(every, record("switched", new=RENEWED, method=Method.SAME_KEY), NOW)
    assert trust.outgoing == {} and trust.signers == (RENEWED, OLD)
    assert served(trust, OLD) == served(trust, RENEWED) == RENEWED
    assert default_signs(trust, OLD.fingerprint, trust.signers)
    back = trust_during_rotation(every, record("returning", new=RENEWED, method=Method.SAME_KEY), NOW)
    assert back.outgoing == {} and served(back, RENEWED) == OLD
    before = trust_during_rotation(every, record("published", new=RENEWED, method=Method.SAME_KEY), NOW)
    assert served(before, OLD) == OLD and set(before.issuing) == {OLD, RENEWED}


def test_the_default_of_the_mount_must_have_the_key_that_leaves_are_taken_of() -> None:
    trust = trust_during_rotation(known(NEW, OLD), record("switched"), NOW)
    assert default_signs(trust, NEW.fingerprint, trust.signers)
    assert default_signs(trust, None, trust.signers)
    for other in (OLD.fingerprint, OTHER.fingerprint, ""):
        assert not default_signs(trust, other, trust.signers)


def test_an_expired_ca_signs_nothing_and_stays_in_the_bundle() -> None:
    over = ca("b", left=-1)
    trust = trust_during_rotation(known(NEW, over), record("published"), NOW)
    assert trust.issuing == (NEW, over) and trust.live == (NEW,) and trust.signers == ()


def test_no_more_cas_are_kept_than_a_bundle_can_have() -> None:
    many = [ca(f"{number:02x}", age=number) for number in range(2 * MOST_KEPT)]
    shown = [facts.fingerprint for facts in many[-3:]]
    trust = trust_during_rotation(known(*many), RotationView(shown=shown), NOW)
    assert trust.issuing == (*many[: MOST_KEPT - 3], *many[-3:])


def test_beyond_that_number_expired_cas_go_first() -> None:
    over = [ca(f"{number:02x}", left=-1) for number in range(MOST_KEPT)]
    word = RotationView(shown=[facts.fingerprint for facts in over], held=[OLD.fingerprint])
    assert OLD in trust_during_rotation(known(*over, OLD), word, NOW).issuing


@pytest.mark.parametrize("jitter", [0.0, 0.25, 0.999])
def test_leaves_are_replaced_within_the_spread_and_never_all_at_once(jitter: float) -> None:
    at = replaced_at(Replacement(NOW, 3600), jitter)
    assert at == NOW + timedelta(hours=jitter)
    assert replaced_at(None, jitter) is None
