"""A root from outside counts as a successor only by a cross certificate of a trusted root, or by its node's owner."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509 as c
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from helpers.corporate_certificates import NOW, Ca, name
from vaultpki.errors import CertificateRefused
from vaultpki.outside.root_vouching import CROSS_ASKS, cross_problems, depth, why_not
from vaultpki.pki.facts import Facts
from vaultpki.pki.roots import Roots, crosses, follow, key_id, successors, untrusted_roots
from vaultpki.records.rotation import CaRef, RotationRecord, State

NAME = "prod root CA"
OURS = Ca("", subject=name(NAME))
NEXT = Ca("", subject=name(f"{NAME} 2"))
CORP, OTHER = Ca("Corp Root"), Ca("Corp New Root")
R1, R2, X, Y = OURS.facts, NEXT.facts, CORP.facts, OTHER.facts


def cross(of: Ca, by: Ca, **options: Any) -> Facts:
    return of.again(by, **options).facts


def record(old: Facts, new: Facts, state: State = State.PUBLISHED) -> RotationRecord:
    return RotationRecord(
        "root", state, 3, NOW, CaRef("root-1", sha256=old.fingerprint), CaRef("root-2", sha256=new.fingerprint)
    )


def pins(old: Facts, new: Facts, *shown: Facts, state: State = State.PUBLISHED, **options: Any) -> tuple[Facts, ...]:
    known = options.pop("known", None)
    return follow(old.fingerprint, known, shown, record(old, new, state), NOW, name=NAME, **options).trusted


@pytest.mark.parametrize(("old", "new"), [(OURS, CORP), (CORP, NEXT), (CORP, OTHER)])
def test_the_word_of_the_old_root_is_enough(old: Ca, new: Ca) -> None:
    word = cross(new, old)
    assert pins(old.facts, new.facts, old.facts, new.facts, word) == (old.facts, new.facts)
    assert crosses(Roots((old.facts, new.facts)), (old.facts, new.facts, word)) == (word,)
    # A record and a server alone are not.
    assert pins(old.facts, new.facts, old.facts, new.facts) == (old.facts,)
    assert pins(old.facts, new.facts, old.facts, new.facts, cross(new, Ca("Corp Root"))) == (old.facts,)


def test_what_is_no_word_for_a_root_outside() -> None:
    other_key = Ca("Corp Root")
    wrong = {
        "another key": cross(other_key, OURS),
        "another name": Ca("Corp Roots", OURS, key=CORP.key).facts,
        "the name in another encoding": _encoded_again(),
        "an issuing CA": cross(CORP, OURS, path_length=0),
        "expired": cross(CORP, OURS, ends=NOW - timedelta(days=1)),
        "no CA": cross(CORP, OURS, signs=False),
        "its own": X,
    }
    for why, word in wrong.items():
        assert pins(R1, X, R1, X, word) == (R1,), why


def _encoded_again() -> Facts:
    from cryptography.x509.name import _ASN1Type

    made = [c.NameAttribute(each.oid, each.value, _ASN1Type.PrintableString) for each in CORP.subject]
    return Ca("", OURS, key=CORP.key, subject=c.Name(made)).facts


def test_a_root_outside_that_did_not_sign_itself_has_no_successor_by_word() -> None:
    top = Ca("Corp Top")
    below = Ca("Corp Root", top, key=CORP.key)
    word = cross(CORP, OURS)
    assert successors([R1], (R1, below.facts, word), NOW, name=NAME) == ()
    assert successors([R1], (R1, X, word), NOW, name=NAME) == (X,)


def test_a_ca_below_a_root_outside_vouches_for_nothing_but_the_roots_of_this_cluster() -> None:
    policy = Ca("Corp Policy CA", CORP)
    theirs = Ca("Corp Rogue Root")
    by_policy = cross(theirs, policy)
    assert pins(X, theirs.facts, X, policy.facts, theirs.facts, by_policy) == (X,)
    # Who was away finds the way over roots of ours: each signed cross certificates alone.
    third = Ca("", subject=name(f"{NAME} 3"))
    words = cross(CORP, OURS), cross(third, CORP)
    later = replace(record(X, third.facts, State.DONE), revision=20)
    found = follow(R1.fingerprint, Roots((R1,)), (third.facts, *words), later, NOW, name=NAME)
    assert found.trusted == (third.facts,)


def test_the_owner_of_a_node_brings_a_root_in() -> None:
    both = (X.fingerprint, R2.fingerprint)
    assert pins(X, R2, X, R2, further=both[1:]) == (X, R2)
    # Neither the server nor the record alone, before the rotation is published, or without it.
    assert pins(X, R2, X, R2, state=State.PREPARED, further=both[1:]) == (X,)
    assert follow(both[0], Roots((X,)), (X, R2), None, NOW, name=NAME, further=both[1:]).trusted == (X,)
    assert pins(X, Y, X, R2, Y, further=both[1:]) == (X,)
    # In any order, and for an intermediate too.
    assert set(follow(both[1], Roots((X,)), (X, R2), record(X, R2), NOW, name=NAME, further=both[:1]).trusted) == {
        X,
        R2,
    }
    lower = Ca("Corp Policy CA", OTHER).facts
    assert pins(X, lower, X, lower, further=(lower.fingerprint,)) == (X, lower)


def test_what_was_given_up_comes_back_by_a_new_line_of_the_owner_alone() -> None:
    word, both = cross(CORP, OURS), (R1.fingerprint, X.fingerprint)
    known = follow(R1.fingerprint, Roots((R1, X)), (R1,), record(R1, X, State.STEADY), NOW, name=NAME)
    assert known.trusted == (R1,) and key_id(X) in known.given_up
    shown = (R1, X, word)
    assert pins(R1, X, *shown, known=known) == (R1,)
    assert set(pins(R1, X, *shown, known=known, further=both[1:])) == {R1, X}
    # A line that stood there when it was given up says nothing new.
    stood = follow(both[0], Roots((R1, X)), (R1,), record(R1, X, State.STEADY), NOW, name=NAME, further=both[1:])
    assert stood.ignored == {X.fingerprint}
    assert pins(R1, X, *shown, known=stood, further=both[1:]) == (R1,)
    gone = follow(both[0], stood, (R1,), None, NOW, name=NAME)
    assert set(pins(R1, X, *shown, known=gone, further=both[1:])) == {R1, X}


def test_a_list_does_not_bring_the_old_root_back_after_the_end() -> None:
    both = (R1.fingerprint, X.fingerprint)
    done = follow(both[0], Roots((R1, X)), (X,), record(R1, X, State.DONE), NOW, name=NAME, further=both[1:])
    assert done.trusted == (X,)
    again = record(X, R1)
    assert follow(both[0], done, (R1, X), again, NOW, name=NAME, further=both[1:]).trusted == (X,)
    with pytest.raises(CertificateRefused):
        follow(both[0], done, (R1,), again, NOW, name=NAME, further=both[1:])


def test_what_belongs_to_a_rotation_is_not_strange() -> None:
    word = cross(CORP, OURS)
    above = Roots((R1,))
    assert untrusted_roots(above, (R1, X, word), record(R1, X, State.PREPARED), name=NAME) == ()
    assert Y in untrusted_roots(above, (R1, X, word, Y), record(R1, X), name=NAME)


WRONG: dict[str, dict[str, Any]] = {
    "expired": {"ends": NOW - timedelta(days=1)},
    "not-yet-valid": {"begins": NOW + timedelta(days=1)},
    "path-length": {"path_length": 0},
    "not-a-ca": {"signs": False},
    "unfit": {"extensions": [(c.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)]},
}


@pytest.mark.parametrize("reason", WRONG)
def test_a_wrong_cross_certificate_has_its_own_sentence(reason: str) -> None:
    assert cross_problems(cross(NEXT, CORP), R2, X, 0, NOW) == ()
    (found,) = cross_problems(cross(NEXT, CORP, **WRONG[reason]), R2, X, 0, NOW)
    assert found.reason == reason and found.ask == CROSS_ASKS[reason]


def test_all_that_is_wrong_with_a_cross_certificate_is_told_at_once() -> None:
    wrong = {option: value for reason in ("expired", "path-length", "unfit") for option, value in WRONG[reason].items()}
    found = cross_problems(cross(NEXT, Ca("Corp Policy CA", CORP), **wrong), R2, X, 0, NOW)
    assert [each.reason for each in found] == ["expired", "path-length", "not-by-root", "unfit"]


def test_a_cross_certificate_of_something_else() -> None:
    reasons = {
        "another-key": cross(Ca("", subject=NEXT.subject), CORP),
        "subject-differs": Ca("", CORP, key=NEXT.key, subject=name(f"{NAME} 2", O="Corp")).facts,
        "not-by-root": cross(NEXT, Ca("Corp Policy CA", CORP)),
        "path-length": cross(NEXT, CORP, path_length=1),
    }
    for reason, found in reasons.items():
        assert reason in [each.reason for each in cross_problems(found, R2, X, 1, NOW)]
    # One of the same name, which another key signed.
    forged = cross(NEXT, Ca("Corp Root", key=ec.generate_private_key(ec.SECP256R1())))
    assert [each.reason for each in cross_problems(forged, R2, X, 0, NOW)] == ["not-by-root"]


def test_path_lengths_are_looked_at_before_anything_begins() -> None:
    policy = Ca("Corp Policy CA", CORP).facts
    assert why_not(R1, X, ()) == "" and why_not(R1, X, (policy,)) == ""
    assert "path length 1, and" in why_not(Ca("", subject=name(NAME), path_length=1).facts, X, ())
    assert why_not(Ca("", subject=name(NAME), path_length=2).facts, X, ()) == ""
    short = Ca("Corp Root", path_length=1)
    lower = Ca("Corp Policy CA", short).facts
    assert why_not(R1, short.facts, ()) == ""
    assert "has path length 1, and 2 CAs would stand below it" in why_not(R1, short.facts, (lower,))
    # Side by side they need no more.
    beside = Ca("Corp Web CA", CORP).facts
    assert depth(X, (policy, beside)) == 1 and depth(X, ()) == 0
    two = Ca("Corp Root", path_length=2)
    apart = Ca("Corp Platform CA", Ca("Corp Policy CA", two))
    assert why_not(R1, two.facts, (Ca("Corp A", two).facts, Ca("Corp B", two).facts)) == ""
    assert depth(two.facts, (apart.facts,)) == 0
    assert "is not self-signed" in why_not(R1, policy, ())
    narrow = Ca("Corp Root", extensions=[(c.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)]).facts
    assert "it has an extended key usage" in why_not(R1, narrow, ())
