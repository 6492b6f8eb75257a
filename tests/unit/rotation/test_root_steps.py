"""Which writes lead the root's mount to what its record says, where one of the two roots is from outside."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.corporate_certificates import NOW, Ca, name
from vaultpki.pki.facts import Facts
from vaultpki.records import above
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount, Write
from vaultpki.rotation.root_steps import cross_issuer, new_is_outside, new_issuer, next_write, problem
from vaultpki.vault.issuer import FULL, NO_SIGNING, READ_ONLY

NAME = "prod root CA"
OURS, CORP = Ca("", subject=name(NAME)), Ca("Corp Root")
NEXT = Ca("", subject=name(f"{NAME} 3"))
POLICY = Ca("Corp Policy CA", CORP)
CHAIN = CORP.facts, POLICY.facts


def issuer(id_: str, facts: Facts, key: str = "", usage: str = "") -> MountIssuer:
    return MountIssuer(id_, id_, key, frozenset((usage or (FULL if key else READ_ONLY)).split(",")), facts=facts)


ROOT_1 = issuer("root-1", OURS.facts, "key-1")
ROOT_2 = issuer("root-2", CORP.facts)
CROSS = issuer("root-2-by-root-1", CORP.again(OURS).facts)
ABOVE = issuer(above.name(POLICY.pem), POLICY.facts)
ROOT_3 = issuer("root-3", NEXT.facts, "key-3")
BACK = issuer("root-3-by-root-2", NEXT.again(CORP).facts, "key-3", NO_SIGNING)


def out(state: State) -> RotationRecord:
    new = CaRef("root-2", "root-2" if state is not State.PREPARED else "", "", CORP.facts.fingerprint)
    return RotationRecord("root", state, 2, NOW, CaRef("root-1", "root-1", "key-1", OURS.facts.fingerprint), new)


def back(state: State, new: CaRef | None = None) -> RotationRecord:
    known = CaRef("root-3", "root-3", "key-3", NEXT.facts.fingerprint)
    return RotationRecord(
        "root", state, 2, NOW, CaRef("root-2", "root-2", "", CORP.facts.fingerprint), new or known, highest=3
    )


def mount(default: MountIssuer, *issuers: MountIssuer, incoming: tuple[Facts, ...] = ()) -> RotationMount:
    keys = {each.key: each.key.replace("key", "root") for each in issuers if each.key}
    facts = default.facts
    assert facts is not None
    return RotationMount("p/root", facts, issuers, keys, default.id, default.key, root_name=NAME, incoming=incoming)


def step(record: RotationRecord, found: RotationMount) -> Write | None:
    return next_write("prod", record, found, NOW)


def test_a_root_outside_comes_with_its_chain_and_the_old_one_vouches_for_it() -> None:
    record, published = out(State.PREPARED), replace(out(State.PUBLISHED), new=out(State.PREPARED).new)
    assert new_is_outside(record)
    assert step(record, mount(ROOT_1, ROOT_1, incoming=CHAIN)) is None
    wanted = [
        ("import-root", CORP.facts.fingerprint),
        ("import-root", POLICY.facts.fingerprint),
        ("sign-cross", "root-1"),
    ]
    there = [ROOT_1]
    for each, (kind, target) in zip((ROOT_2, ABOVE, CROSS), wanted, strict=True):
        write = step(published, mount(ROOT_1, *there, incoming=CHAIN))
        assert write is not None and (write.kind, write.target) == (kind, target)
        unnamed = replace(each, name="", usage=frozenset(FULL.split(",")))
        naming = step(published, mount(ROOT_1, *there, unnamed, incoming=CHAIN))
        assert naming is not None and naming.kind in ("name-outside", "name-cross") and naming.target == each.id
        there.append(each)
    whole = mount(ROOT_1, *there, incoming=CHAIN)
    write = step(published, whole)
    assert write is not None and write.kind == "amend" and write.record is not None
    assert write.record.new == out(State.PUBLISHED).new
    assert step(out(State.PUBLISHED), whole) is None
    # Another cluster.yaml by now puts no other root there.
    assert step(published, mount(ROOT_1, ROOT_1, incoming=(Ca("Corp Other Root").facts,))) is None


def test_it_becomes_the_default_without_a_key_and_the_old_one_goes_with_its_own() -> None:
    there = ROOT_1, ROOT_2, ABOVE, CROSS
    write = step(out(State.SWITCHED), mount(ROOT_1, *there, incoming=CHAIN))
    assert write is not None and (write.kind, write.target) == ("default", "root-2")
    assert step(out(State.SWITCHED), mount(ROOT_2, *there, incoming=CHAIN)) is None
    write = step(out(State.RETIRED), mount(ROOT_2, *there, incoming=CHAIN))
    assert write is not None and (write.kind, write.usage) == ("usage", NO_SIGNING)
    write = step(out(State.DONE), mount(ROOT_2, *there, incoming=CHAIN))
    assert write is not None and (write.kind, write.target) == ("delete-issuer", "root-1")
    keyed = mount(ROOT_2, ROOT_2, ABOVE, CROSS, incoming=CHAIN)
    write = step(out(State.DONE), replace(keyed, keys={"key-1": "root-1"}))
    assert write is not None and (write.kind, write.target) == ("delete-key", "key-1")
    # Its chain stays, also once cluster.yaml asks for the next root.
    assert step(out(State.DONE), keyed) is None and step(out(State.DONE), replace(keyed, incoming=())) is None
    assert problem("prod", out(State.DONE), keyed) == ""


@pytest.mark.parametrize("incoming", [CHAIN, ()])
def test_an_abort_takes_the_chain_away(incoming: tuple[Facts, ...]) -> None:
    there = [ROOT_1, ROOT_2, ABOVE, CROSS]
    gone = []
    while (write := step(out(State.STEADY), mount(ROOT_1, *there, incoming=incoming))) is not None:
        assert write.kind == "delete-issuer"
        gone.append(write.target)
        there = [each for each in there if each.id != write.target]
    assert there == [ROOT_1] and set(gone) == {ROOT_2.id, ABOVE.id, CROSS.id}


def test_below_a_root_outside_the_new_one_is_made_before_anybody_vouches_for_it() -> None:
    begun = back(State.PREPARED, CaRef("root-3"))
    there = ROOT_2, ABOVE
    write = step(begun, mount(ROOT_2, *there))
    assert write is not None and write.kind == "make-key"
    keyed = back(State.PREPARED, CaRef("root-3", key="key-3"))
    write = step(keyed, replace(mount(ROOT_2, *there), keys={"key-3": "root-3"}))
    assert write is not None and write.kind == "sign-root"
    write = step(keyed, mount(ROOT_2, *there, ROOT_3))
    # Else OpenBao may build a chain that it refuses.
    assert write is not None and (write.kind, write.target) == ("chain", "root-3")
    alone = replace(ROOT_3, chain=("root-3",))
    write = step(keyed, mount(ROOT_2, *there, alone))
    assert write is not None and write.kind == "amend"
    waiting = mount(ROOT_2, *there, alone)
    assert step(back(State.PREPARED), waiting) is None and cross_issuer("prod", back(State.PREPARED), waiting) is None
    # It signs nothing, and nobody has it sign the cross certificate.
    assert step(back(State.PUBLISHED), waiting) is None
    brought = replace(BACK, name="", usage=frozenset(FULL.split(",")))
    write = step(back(State.PREPARED), mount(ROOT_2, *there, alone, brought))
    assert write is not None and (write.kind, write.usage) == ("name-cross", NO_SIGNING)
    assert cross_issuer("prod", back(State.PREPARED), mount(ROOT_2, *there, alone, BACK)) == BACK


def test_at_the_end_the_root_outside_goes_with_its_chain_and_what_vouched_for_it() -> None:
    alone = replace(ROOT_3, chain=("root-3",))
    there = [ROOT_2, ABOVE, CROSS, alone, BACK]
    gone = []
    while (write := step(back(State.DONE), mount(alone, *there))) is not None:
        assert write.kind == "delete-issuer", write
        gone.append(write.target)
        there = [each for each in there if each.id != write.target]
    assert there == [alone, BACK] and gone[0] == "root-2"


def test_what_looks_like_the_word_of_the_old_root_and_is_not() -> None:
    others = {
        "by another": CORP.again(Ca("", subject=name(NAME))).facts,
        "of another key": Ca("Corp Root", OURS).facts,
        "of another name": Ca("Corp Roots", OURS, key=CORP.key).facts,
    }
    for why, facts in others.items():
        wrong = issuer("root-2-by-root-1", facts)
        assert cross_issuer("prod", out(State.PUBLISHED), mount(ROOT_1, ROOT_1, ROOT_2, wrong)) is None, why
    assert new_issuer("prod", out(State.PUBLISHED), mount(ROOT_1, ROOT_1, issuer("root-2", OURS.facts))) is None
