"""A successor of the root counts on the old root's word and the record's, and nothing else changes the pins."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from helpers.root_certificates import NAME, NOW, YEAR, Key
from vaultpki.errors import CertificateRefused
from vaultpki.pki.facts import Facts
from vaultpki.pki.roots import Roots, crosses, follow, key_id
from vaultpki.records.rotation import CaRef, RotationRecord, State

ONE, TWO, THREE = Key(NAME), Key(f"{NAME} 2"), Key(f"{NAME} 3")
R1, R2, R3 = ONE.root(), TWO.root(), THREE.root()
X2, X3 = ONE.certify(TWO), TWO.certify(THREE)
RECORD = RotationRecord(
    "root", State.PUBLISHED, 3, NOW, CaRef("root-1", sha256=R1.fingerprint), CaRef("root-2", sha256=R2.fingerprint)
)
LATER = replace(
    RECORD, old=CaRef("root-2", sha256=R2.fingerprint), new=CaRef("root-3", sha256=R3.fingerprint), revision=20
)
BOTH_STATES = (State.PUBLISHED, State.SWITCHED, State.RETRUSTING, State.RETURNING)


def at(state: State, record: RotationRecord = RECORD) -> RotationRecord:
    return replace(record, state=state)


def pins(
    known: Roots | None,
    record: RotationRecord | None,
    *shown: Facts,
    behind: bool = False,
    now: datetime = NOW,
    pin: Facts = R1,
) -> Roots:
    return follow(pin.fingerprint, known, shown, record, now, name=NAME, behind=behind)


@pytest.mark.parametrize("state", BOTH_STATES)
@pytest.mark.parametrize("known", [None, Roots((R1,)), Roots((R1, R2))])
def test_both_count_while_the_record_says_so(state: State, known: Roots | None) -> None:
    assert pins(known, at(state), R1, R2, X2) == Roots((R1, R2))


def test_without_a_record_or_before_it_is_published_the_old_one_counts_alone() -> None:
    for record in (None, at(State.STEADY), at(State.PREPARED)):
        assert pins(None, record, R1, R2, X2) == Roots((R1,))


@pytest.mark.parametrize("known", [None, Roots((R1,)), Roots((R1, R2)), Roots((R2,), (R1,))])
def test_retired_parks_the_old_one_and_re_trusting_brings_it_back(known: Roots | None) -> None:
    retired = pins(known, at(State.RETIRED), R1, R2, X2)
    assert retired == Roots((R2,), (R1,))
    again = pins(retired, at(State.RETRUSTING), R1, R2, X2)
    assert set(again.trusted) == {R1, R2} and again.parked == ()


def test_done_forgets_the_old_one_and_a_pin_in_agent_yaml_brings_nothing_back() -> None:
    done = pins(Roots((R2,), (R1,)), at(State.DONE), R2, X2)
    was = frozenset({R1.fingerprint})
    assert done == Roots((R2,), (), was, frozenset({key_id(R1)}), was)
    for record in (at(State.DONE), None, at(State.PUBLISHED)):
        assert pins(done, record, R1, R2, X2) == done
    assert pins(done, at(State.DONE), R2, pin=R2).trusted == (R2,)


def test_a_node_that_was_away_takes_the_new_one_by_the_cross_certificate_after_the_old_one_has_gone() -> None:
    assert pins(Roots((R1,)), at(State.DONE), R2, X2).trusted == (R2,)
    # An image has the fingerprint alone, with which nobody can check the cross certificate.
    with pytest.raises(CertificateRefused, match="not the pinned"):
        pins(None, at(State.DONE), R2, X2)


def test_a_node_that_missed_two_rotations_goes_through_the_cross_certificates() -> None:
    assert pins(Roots((R1,)), at(State.DONE, LATER), R3, X2, X3).trusted == (R3,)
    assert set(pins(Roots((R1,)), LATER, R2, R3, X2, X3).trusted) == {R2, R3}
    with pytest.raises(CertificateRefused):
        pins(Roots((R1,)), at(State.DONE, LATER), R3, X3)


def test_an_abort_drops_the_new_one() -> None:
    gone = Roots((R1,), (), frozenset({R2.fingerprint}), frozenset({key_id(R2)}))
    assert pins(Roots((R1, R2)), at(State.STEADY), R1) == gone


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("state", [*BOTH_STATES, State.RETIRED, State.DONE])
def test_a_root_that_was_given_up_does_not_return_by_any_record(state: State, behind: bool) -> None:
    gone = pins(Roots((R1, R2)), at(State.STEADY), R1)
    again = TWO.root()
    for new in (R2, again):
        record = replace(at(state), revision=50, new=CaRef("root-2", sha256=new.fingerprint))
        assert pins(gone, record, R1, R2, again, X2, ONE.certify(TWO), behind=behind) == gone
    # Nor does its key vouch for another one, by itself or in the middle.
    record = replace(at(state, LATER), old=CaRef("root-1", sha256=R1.fingerprint))
    assert pins(gone, record, R1, R2, R3, X2, X3, behind=behind) == gone
    # One with another key, for which a trusted root vouches, is accepted.
    assert R3 in pins(gone, record, R1, R3, X2, X3, ONE.certify(THREE), behind=behind).trusted


def test_the_old_root_does_not_return_once_the_rotation_is_done() -> None:
    done = pins(Roots((R2,), (R1,)), at(State.DONE), R2, X2)
    cross = TWO.certify(ONE)
    record = replace(LATER, new=CaRef("root-1", sha256=R1.fingerprint))
    for state in (*BOTH_STATES, State.RETIRED):
        for behind in (False, True):
            assert pins(done, at(state, record), R1, R2, X2, cross, behind=behind) == done


def test_a_server_from_before_an_abort_is_led_back_without_the_root_that_was_given_up() -> None:
    known = pins(Roots((R1, R2)), at(State.STEADY), R1)
    # As restored, then as `ca recover` and the rollback write it.
    for state, behind in ((State.SWITCHED, True), (State.RETRUSTING, False), (State.RETURNING, False)):
        known = pins(known, at(state), R1, R2, X2, behind=behind)
        assert known.trusted == (R1,)
    assert pins(known, at(State.STEADY), R1) == known


def test_a_node_that_joined_anew_remembers_only_whose_its_folders_are() -> None:
    former = frozenset({R1.fingerprint, R2.fingerprint})
    assert pins(Roots((), (), former), None, R2, pin=R2) == Roots((R2,), (), former - {R2.fingerprint})
    assert pins(Roots((), (), former), at(State.SWITCHED), R1, R2, X2).trusted == (R1, R2)


LIES = {
    "no cross certificate": (R2,),
    "one of a stranger": (R2, Key(NAME).certify(TWO)),
    "one for another key": (R2, ONE.certify(Key(f"{NAME} 2"))),
    "one for another name": (R2, ONE.certify(TWO, name=f"{NAME} 3")),
    "one of an issuing CA's kind": (R2, ONE.certify(TWO, path=0)),
    "one that ended": (R2, ONE.certify(TWO, end=NOW)),
    "itself alone, signed by the old one": (X2,),
}


@pytest.mark.parametrize("shown", LIES.values(), ids=LIES)
@pytest.mark.parametrize("state", [*BOTH_STATES, State.RETIRED, State.DONE])
def test_a_server_that_lies_brings_in_no_root(state: State, shown: tuple[Facts, ...]) -> None:
    for known in (None, Roots((R1,))):
        found = pins(known, at(state), R1, *shown)
        assert found.trusted == (R1,)


def test_an_issuing_ca_whose_key_was_stolen_becomes_no_root() -> None:
    issuing = Key("prod etcd CA")
    record = replace(RECORD, new=CaRef("root-2", sha256=issuing.root().fingerprint))
    assert pins(None, record, R1, ONE.certify(issuing, path=0), issuing.root()).trusted == (R1,)
    long = Key("prod etcd CA")
    record = replace(RECORD, new=CaRef("root-2", sha256=long.root().fingerprint))
    assert pins(None, record, R1, ONE.certify(long), long.root()).trusted == (R1,)


def test_a_root_that_the_record_does_not_name_is_not_accepted() -> None:
    other = replace(RECORD, new=CaRef("root-2", sha256="ab" * 32))
    assert pins(None, other, R1, R2, X2) == Roots((R1,))


def test_a_record_of_roots_that_nobody_vouches_for_takes_nothing_away() -> None:
    other = replace(at(State.DONE), old=CaRef("root-1", sha256="cd" * 32), new=CaRef("root-2", sha256="ab" * 32))
    assert pins(Roots((R1,)), other, R1, R2, X2) == Roots((R1,))


def test_a_server_that_was_set_back_adds_only() -> None:
    assert pins(Roots((R2,), (R1,)), at(State.STEADY), R1, behind=True) == Roots((R2, R1))
    assert pins(Roots((R1, R2)), None, R1, behind=True) == Roots((R1, R2))
    with pytest.raises(CertificateRefused):
        pins(Roots((R2,), (), frozenset({R1.fingerprint})), at(State.STEADY), R1, behind=True)


def test_known_roots_of_another_pin_do_not_count() -> None:
    assert pins(Roots((R3,)), None, R1) == Roots((R1,))


def test_only_roots_that_go_takes_and_that_are_in_date_count() -> None:
    ended = ONE.root(end=NOW)
    for root in (ended, ONE.root(path=0), X2):
        with pytest.raises(CertificateRefused) as error:
            pins(None, None, root, pin=root)
        assert error.value.reason == "root-unfit"
    bad = TWO.root(path=0)
    record = replace(RECORD, new=CaRef("root-2", sha256=bad.fingerprint))
    assert pins(None, record, R1, bad, X2) == Roots((R1,))
    # The new one goes on after the end of the old one.
    assert pins(Roots((R1, R2)), at(State.SWITCHED), R1, R2, now=NOW + 9 * YEAR) == Roots((R1, R2))
    long = TWO.root(end=NOW + 30 * YEAR)
    record = replace(RECORD, new=CaRef("root-2", sha256=long.fingerprint))
    assert long in pins(Roots((R1, long)), record, R1, long, X2, now=NOW + 11 * YEAR).trusted


def test_the_cross_certificates_of_trusted_roots() -> None:
    issuing = ONE.certify(Key("prod etcd CA"), path=0)
    assert crosses(Roots((R1, R2)), (R1, R2, X2, X3, issuing)) == (X2,)
    assert crosses(Roots((R2,), (R1,)), (R1, R2, X2)) == ()
    assert crosses(Roots((R1,)), (R1, X2)) == ()
