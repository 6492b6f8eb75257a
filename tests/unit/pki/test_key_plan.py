"""What a node does with its service-account keys, by the record and by what it has; no server, no disk."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from helpers.ca_certificates import ca, root
from helpers.token_key_certificates import token_key
from vaultpki.pki.facts import Facts
from vaultpki.pki.key_plan import KeyPlan, KeysHeld, plan
from vaultpki.records.service_account import DepartedKey, Departure, KeyRecord, KeyState, NodeKeys

NAME = "prod service-account CA"
ROOT = root("prod")
ISSUING = ca(NAME, key=NAME, signer="prod root CA", serial=2)
ONE, TWO = token_key("sa:cp-1:1", signer=NAME), token_key("sa:cp-1:2", signer=NAME)
OTHER, OTHERS_NEXT = token_key("sa:cp-2:1", signer=NAME), token_key("sa:cp-2:2", signer=NAME)
NOW = datetime(2026, 11, 29, tzinfo=UTC)


def record(state: KeyState, **nodes: NodeKeys) -> KeyRecord:
    named = {name.replace("_", "-"): keys for name, keys in nodes.items()}
    return KeyRecord(state, 3, NOW, named, highest={name: keys.new for name, keys in named.items()})


def keys(old: int, new: int, *certificates: Facts, admitted: bool = True) -> NodeKeys:
    numbers = {int(facts.subject.common_name.rpartition(":")[2]): facts.pem for facts in certificates}
    return NodeKeys(old, new, admitted, numbers)


def made(
    known: KeyRecord | None, held: KeysHeld, *, frozen: bool = False, issuing: tuple[Facts, ...] = (ISSUING,)
) -> KeyPlan:
    return plan(known, "cp-1", held, issuing, (ROOT,), frozen=frozen)


NOTHING = KeysHeld()
WITH_ONE = KeysHeld({1: ONE}, 1, (ONE,))
WITH_BOTH = KeysHeld({1: ONE, 2: TWO}, 1, (ONE, TWO, OTHER, OTHERS_NEXT))
STEADY = record(KeyState.STEADY, cp_1=keys(1, 1, ONE), cp_2=keys(1, 1, OTHER))
PUBLISHED = record(KeyState.PUBLISHED, cp_1=keys(1, 2, ONE, TWO), cp_2=keys(1, 2, OTHER, OTHERS_NEXT))


def test_without_a_record_a_node_makes_key_1_and_waits() -> None:
    assert made(None, NOTHING) == KeyPlan((1,), (), None, (), (), {}, False)
    first = made(None, KeysHeld({1: ONE}))
    assert (first.make, first.signing, first.union, first.admitted) == ((), None, (ONE,), False)
    # What has sa.key keeps it, also where the record was lost.
    kept = made(None, WITH_ONE)
    assert (kept.make, kept.signing, kept.union, kept.admitted) == ((), 1, (ONE,), False)


def test_a_node_that_joins_makes_the_number_after_the_highest_that_was_ever_given() -> None:
    known = replace(record(KeyState.STEADY, cp_2=keys(1, 1, OTHER)), highest={"cp-1": 4, "cp-2": 1})
    assert made(known, NOTHING).make == (5,)
    five = token_key("sa:cp-1:5", signer=NAME)
    joined = made(known, KeysHeld({5: five}, None))
    assert (joined.signing, joined.union, joined.admitted) == (None, (five, OTHER), False)


def test_a_node_gets_sa_key_only_once_the_record_admits_it() -> None:
    """So kube-apiserver starts with the certificates of all, or not at all."""
    fresh = KeysHeld({1: ONE})
    waits = record(KeyState.STEADY, cp_1=keys(1, 1, ONE, admitted=False), cp_2=keys(1, 1, OTHER))
    assert made(waits, fresh).signing is None
    found = made(STEADY, fresh)
    assert (found.signing, found.union, found.admitted) == (1, (ONE, OTHER), True)
    # Of another key with that number nobody has the certificate.
    again = token_key("sa:cp-1:1", signer=NAME)
    assert made(STEADY, KeysHeld({1: again})).signing is None
    # A server that was set back does not say whether the node was admitted.
    assert made(waits, fresh, frozen=True).signing == 1


def test_a_node_is_admitted_only_with_the_very_key_that_the_record_has() -> None:
    assert made(STEADY, WITH_ONE).admitted
    waits = record(KeyState.STEADY, cp_1=keys(1, 1, ONE, admitted=False))
    assert not made(waits, WITH_ONE).admitted
    # The machine was installed anew, and has another key of that number.
    again = token_key("sa:cp-1:1", signer=NAME)
    found = made(STEADY, KeysHeld({1: again}, 1))
    assert not found.admitted and set(found.union) == {ONE, again, OTHER}


@pytest.mark.parametrize(
    ("state", "signing", "accepted"),
    [
        (KeyState.PUBLISHED, 1, (ONE, TWO, OTHER, OTHERS_NEXT)),
        (KeyState.SWITCHED, 2, (ONE, TWO, OTHER, OTHERS_NEXT)),
        (KeyState.RETIRED, 2, (TWO, OTHERS_NEXT)),
        (KeyState.RETRUSTING, 2, (ONE, TWO, OTHER, OTHERS_NEXT)),
        (KeyState.RETURNING, 1, (ONE, TWO, OTHER, OTHERS_NEXT)),
    ],
)
def test_the_states_of_a_rotation(state: KeyState, signing: int, accepted: tuple[Facts, ...]) -> None:
    for current in (1, 2):
        found = made(replace(PUBLISHED, state=state), replace(WITH_BOTH, signing=current))
        assert (found.signing, found.union) == (signing, accepted) and not found.make and not found.delete


def test_at_rest_the_key_that_is_not_wanted_is_deleted_once_it_signs_no_more() -> None:
    done = record(KeyState.DONE, cp_1=keys(2, 2, TWO), cp_2=keys(2, 2, OTHERS_NEXT))
    found = made(done, replace(WITH_BOTH, signing=2))
    assert (found.signing, found.delete, found.union) == (2, (1,), (TWO, OTHERS_NEXT))
    # A record that does not have the new key's certificate moves nobody to it, and nothing is deleted that signs.
    forged = record(KeyState.DONE, cp_1=keys(7, 7))
    kept = made(forged, WITH_ONE)
    assert (kept.signing, kept.delete, kept.make) == (1, (), (7,)) and ONE in kept.union


def test_a_next_key_signs_only_when_the_record_has_its_certificate() -> None:
    switched = record(KeyState.SWITCHED, cp_1=keys(1, 2, ONE), cp_2=keys(1, 2, OTHER))
    assert made(switched, WITH_BOTH).signing == 1


def test_a_record_that_is_not_the_newest_only_adds() -> None:
    older = record(KeyState.STEADY, cp_1=keys(1, 1, ONE), cp_2=keys(3, 3, third := token_key("sa:cp-2:3", signer=NAME)))
    found = made(older, WITH_BOTH, frozen=True)
    assert found.signing == 1 and not found.delete and not found.make
    assert set(found.union) == {ONE, TWO, OTHER, OTHERS_NEXT, third}
    assert set(made(None, WITH_BOTH).union) == set(WITH_BOTH.union)


def test_what_somebody_else_has_put_into_the_union_leaves_by_any_record() -> None:
    stranger = token_key("sa:cp-2:1", signer="x service-account CA")
    left = frozenset(facts.fingerprint for facts in WITH_BOTH.union)
    held = replace(WITH_BOTH, union=(*WITH_BOTH.union, stranger), left=left)
    for known, frozen in ((STEADY, True), (None, False), (PUBLISHED, False)):
        assert set(made(known, held, frozen=frozen).union) == set(WITH_BOTH.union)
    # What the last pass left stays though its CA cannot be read, and what its CA signed though the pass was killed.
    kept = replace(WITH_BOTH, left=left)
    assert set(made(None, kept, issuing=()).union) == set(WITH_BOTH.union)
    assert set(made(None, replace(kept, left=frozenset({ONE.fingerprint}))).union) == set(WITH_BOTH.union)


def test_what_counted_stays_where_its_ca_cannot_be_read_now() -> None:
    held = replace(WITH_ONE, union=(ONE, OTHER))
    assert made(STEADY, held, issuing=()).union == (ONE, OTHER)
    # But for what the record has taken out, or what never counted.
    gone = record(KeyState.STEADY, cp_1=keys(1, 1, ONE))
    assert made(gone, held, issuing=()).union == (ONE,)
    assert made(STEADY, WITH_ONE, issuing=()).union == (ONE,)


def test_a_departed_key_stays_as_long_as_the_record_has_it() -> None:
    away = token_key("sa:cp-9:1", signer=NAME)
    lingers = replace(STEADY, departed=(DepartedKey("cp-9", away.fingerprint, Departure.REMOVED, NOW, away.pem),))
    assert made(lingers, WITH_ONE).union == (ONE, OTHER, away)
    assert made(STEADY, replace(WITH_ONE, union=(ONE, OTHER, away))).union == (ONE, OTHER)


def test_what_does_not_count_is_named_and_a_retired_one_of_before_too() -> None:
    forged = token_key("sa:cp-2:1", signer="x service-account CA")
    found = made(record(KeyState.STEADY, cp_1=keys(1, 1, ONE), cp_2=keys(1, 1, forged)), WITH_ONE)
    assert found.union == (ONE,) and [facts for facts, _ in found.refused] == [forged]
    retired = made(STEADY, replace(WITH_ONE, lowest={"cp-2": 2}))
    assert retired.union == (ONE,) and retired.refused == ((OTHER, "key 1 of cp-2 was retired"),)
    # This node's own key in use stays, whatever a record says of it.
    own = made(replace(STEADY, lowest={"cp-1": 2}), WITH_ONE)
    assert ONE in own.union and own.lowest["cp-1"] == 2


def test_a_key_that_was_retired_here_is_not_used_again() -> None:
    """Whoever writes records cannot have the node sign, and so accept tokens, with a key that was stolen."""
    forged = record(KeyState.STEADY, cp_1=keys(1, 1, ONE), cp_2=keys(1, 1, OTHER))
    held = replace(WITH_BOTH, signing=2, union=(TWO, OTHERS_NEXT), lowest={"cp-1": 2, "cp-2": 2})
    found = made(forged, held)
    assert (found.signing, found.union, found.delete) == (2, (TWO,), ())
    # Nor where the file was lost: the node waits for a record that has its own key.
    lost = replace(held, signing=None)
    assert made(forged, lost).signing is None
    assert made(record(KeyState.SWITCHED, cp_1=keys(1, 2, ONE)), lost).signing is None
    assert made(record(KeyState.SWITCHED, cp_1=keys(1, 2, ONE, TWO)), lost).signing == 2


def test_a_node_that_was_removed_and_comes_back_takes_the_next_number() -> None:
    known = replace(record(KeyState.STEADY, cp_2=keys(1, 1, OTHER)), highest={"cp-1": 1}, lowest={"cp-1": 2})
    assert made(known, replace(WITH_ONE, union=(ONE, OTHER))).make == (2,)
    found = made(known, KeysHeld({1: ONE, 2: TWO}, 1, (ONE, OTHER)))
    assert found.signing == 2 and found.union == (TWO, OTHER)


def test_the_key_that_all_shared_is_admitted_before_its_certificate_is_taken_in() -> None:
    """Every API server accepts it already; another key under that number still waits."""
    shared = replace(record(KeyState.PUBLISHED, cp_1=keys(1, 2)), shared=hashlib.sha256(ONE.public_key).hexdigest())
    assert made(shared, WITH_ONE).admitted
    other = replace(shared, shared=hashlib.sha256(OTHER.public_key).hexdigest())
    assert not made(other, WITH_ONE).admitted
