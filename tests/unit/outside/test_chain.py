"""Which CAs above the issuing ones leave a cluster, and which stay since something is below them."""

from __future__ import annotations

from datetime import timedelta

from helpers.corporate_certificates import NOW, Ca, Corporate
from vaultpki.outside.chain import ChainChanges, changes, is_renewal
from vaultpki.pki.facts import Facts

DAY = timedelta(days=1)
CORP = Corporate()
ROOT, UPPER, LOWER, OWN = CORP.root, CORP.upper, CORP.lower, CORP.issuing.facts
LATER = LOWER.again(UPPER, ends=LOWER.facts.not_after + DAY)


def found(named: dict[str, Facts], extra: dict[str, Facts], *lower: Facts, anchor: Facts = ROOT.facts) -> ChainChanges:
    return changes(named, extra, {"etcd": lower or (OWN,)}, anchor, NOW)


def test_a_ca_without_anything_below_it_leaves() -> None:
    other = Ca("Corp Web CA", UPPER).facts
    made = found({"upper": UPPER.facts, "lower": LOWER.facts}, {"other": other})
    assert made == ChainChanges(("other",), {}, {}, frozenset())


def test_a_ca_with_something_below_it_stays() -> None:
    made = found({"upper": UPPER.facts}, {"lower": LOWER.facts})
    assert made.leaving == () and made.needed == {"lower": ("etcd",)}
    # Both are needed, though without the one the other is of no use.
    assert found({}, {"lower": LOWER.facts, "upper": UPPER.facts}).needed == {"lower": ("etcd",), "upper": ("etcd",)}


def test_the_old_certificate_of_a_renewed_ca_leaves() -> None:
    assert found({"upper": UPPER.facts, "new": LATER.facts}, {"old": LOWER.facts}).leaving == ("old",)
    # And the other way round it stands for the one that is named.
    made = found({"upper": UPPER.facts, "old": LOWER.facts}, {"new": LATER.facts})
    assert made.leaving == () and made.renewed == {"new": LOWER.facts}


def test_of_two_for_one_key_that_nobody_names_the_later_one_stays() -> None:
    made = found({"upper": UPPER.facts}, {"a": LATER.facts, "b": LOWER.facts})
    assert made.leaving == ("b",) and made.needed == {"a": ("etcd",)}


def test_the_old_certificate_stays_while_the_new_one_has_expired() -> None:
    expired = LOWER.again(UPPER, ends=NOW - DAY).facts
    made = found({"upper": UPPER.facts, "new": expired}, {"old": LOWER.facts})
    assert made.leaving == () and made.renewed == {"old": expired} and made.left_out == {"new"}


def test_the_old_certificate_stays_until_the_new_one_has_begun() -> None:
    future = LOWER.again(UPPER, begins=NOW + DAY, ends=LATER.facts.not_after).facts
    made = found({"upper": UPPER.facts, "new": future}, {"old": LOWER.facts})
    assert made.leaving == () and made.needed == {"old": ("etcd",)}


def test_an_expired_ca_is_left_out_only_if_nothing_needs_it() -> None:
    expired = LOWER.again(UPPER, ends=NOW - DAY).facts
    assert found({"upper": UPPER.facts, "lower": expired}, {}).left_out == frozenset()
    both = {"upper": UPPER.facts, "lower": expired, "new": LATER.facts}
    assert found(both, {}).left_out == {"lower"}


def test_the_root_above_a_pinned_ca_is_needed() -> None:
    made = found({"lower": LOWER.facts}, {"root": ROOT.facts}, UPPER.facts, anchor=UPPER.facts)
    assert made.needed == {"root": ("etcd",)}


def test_a_renewal_has_the_same_key_and_name_and_ends_later() -> None:
    assert is_renewal(LATER.facts, LOWER.facts) and not is_renewal(LOWER.facts, LATER.facts)
    assert not is_renewal(LOWER.facts, LOWER.facts)
    renamed = Ca("Corp Other CA", UPPER, key=LOWER.key, ends=LATER.facts.not_after).facts
    assert not is_renewal(renamed, LOWER.facts)
    assert not is_renewal(Ca("Corp Platform CA", UPPER, ends=LATER.facts.not_after).facts, LOWER.facts)
