"""Nodes and operators follow issuers below a PKI outside: the anchor, and the CAs between it and the issuing ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509 as c
from cryptography.x509.oid import ExtendedKeyUsageOID as Use

from helpers.corporate_certificates import NOW, YEAR, Ca, Corporate, name
from vaultpki.certificates import ISSUING_CAS, ROOT
from vaultpki.errors import CertificateRefused
from vaultpki.issue.issuers import Issuers, follow, roots_below, trusts, untrusted_cas
from vaultpki.pki.facts import Facts, Trust
from vaultpki.pki.roots import Roots, key_id

CORP = Corporate()
ANCHOR, UPPER, LOWER = CORP.root.facts, CORP.upper.facts, CORP.lower.facts
CAS = {ca: Ca("", CORP.lower, subject=name(f"prod {ca} CA", O="Corp"), path_length=0).facts for ca in ISSUING_CAS}


def issuers(*above: Facts, **other: tuple[Facts, ...]) -> Issuers:
    issuing = {ca: (CAS[ca].pem, *(facts.pem for facts in other.get(ca.replace("-", "_"), ()))) for ca in ISSUING_CAS}
    return Issuers(issuing, tuple(facts.pem for facts in above), {ca: CAS[ca].fingerprint for ca in ISSUING_CAS})


def pinned(shown: Issuers, pin: Facts = ANCHOR) -> Roots:
    return roots_below(shown, pin.fingerprint, None, NOW, cluster="prod")


def followed(shown: Issuers, *held: Facts, pin: Facts = ANCHOR, below: bool = True) -> dict[str, Trust]:
    before = {ca: [CAS[ca].pem] for ca in ISSUING_CAS} if below and held else {}
    return follow(shown, {**before, ROOT: [facts.pem for facts in held]}, {}, Roots((pin,)), NOW, cluster="prod")


@pytest.mark.parametrize("pin", [ANCHOR, UPPER, LOWER])
def test_each_ca_of_the_chain_may_be_the_anchor(pin: Facts) -> None:
    shown = issuers(ANCHOR, UPPER, LOWER)
    above = pinned(shown, pin)
    assert above == Roots((pin,))
    trust = follow(shown, {}, {}, above, NOW, cluster="prod")
    for ca, known in trust.items():
        assert known.issuing == known.signers == (CAS[ca],) and known.root == pin
        assert known.bundle == CAS[ca].pem
    whole = [known.chain_bundle for known in trust.values()]
    ends = {ANCHOR: (LOWER, UPPER, ANCHOR), UPPER: (LOWER, UPPER, ANCHOR), LOWER: (LOWER,)}[pin]
    assert whole == ["".join(facts.pem for facts in (CAS[ca], *ends)) for ca in ISSUING_CAS]


def test_what_belongs_to_the_chain_is_not_reported_and_everything_else_is() -> None:
    other = Ca("Corp Web CA", CORP.root).facts
    shown = issuers(UPPER, ANCHOR, LOWER, other, etcd=(LOWER, UPPER, ANCHOR, other))
    above = pinned(shown, UPPER)
    found = list(untrusted_cas(shown, trusts(shown, above, NOW, cluster="prod"), above, None, "prod"))
    assert [(ca, each.fingerprint) for ca, each in found] == [(ROOT, other.fingerprint), ("etcd", other.fingerprint)]


UNFIT: dict[str, dict[str, Any]] = {
    "an anchor that may not sign": {"signs": False},
    "a path length of 0": {"path_length": 0},
    "that has ended": {"ends": NOW},
    "of clients alone": {"extensions": [(c.ExtendedKeyUsage([Use.CLIENT_AUTH]), False)]},
}


@pytest.mark.parametrize("options", UNFIT.values(), ids=UNFIT)
def test_an_anchor_that_cannot_be_one_is_refused(options: dict[str, Any]) -> None:
    for signer in (None, CORP.root):
        bad = Ca("Corp CA", signer, **options).facts
        with pytest.raises(CertificateRefused) as error:
            pinned(issuers(bad), bad)
        assert error.value.reason == "root-unfit"
    with pytest.raises(CertificateRefused) as error:
        pinned(issuers(UPPER, LOWER), ANCHOR)
    assert error.value.reason == "root-differs"


def test_a_server_that_shows_no_ca_between_any_more_changes_nothing() -> None:
    whole = followed(issuers(ANCHOR, UPPER, LOWER))
    for above in ((ANCHOR,), (ANCHOR, UPPER), (ANCHOR, LOWER)):
        kept = followed(issuers(*above), ANCHOR, UPPER, LOWER)
        assert {ca: known.chain_bundle for ca, known in kept.items()} == {
            ca: known.chain_bundle for ca, known in whole.items()
        }
        assert all(known.signers and not known.untrusted for known in kept.values())
    # A node that has never seen them cannot know them.
    assert all(known.issuing == () for known in followed(issuers(ANCHOR, UPPER)).values())
    # The root above a pinned intermediate is kept, too.
    ends = followed(issuers(UPPER, LOWER), ANCHOR, UPPER, LOWER, pin=UPPER)
    assert all(known.tops == (ANCHOR,) for known in ends.values())


def test_a_ca_between_that_was_renewed_replaces_the_one_before() -> None:
    renewed = CORP.lower.again(CORP.upper, ends=NOW + 12 * YEAR).facts
    found = followed(issuers(ANCHOR, UPPER, renewed), ANCHOR, UPPER, LOWER)
    assert all(known.between == (renewed, UPPER) for known in found.values())


def test_a_ca_between_that_has_ended_takes_nothing_away_and_brings_in_nothing() -> None:
    late = CORP.lower.again(CORP.upper, ends=NOW - timedelta(days=1)).facts
    assert all(known.issuing == () for known in followed(issuers(ANCHOR, UPPER, late)).values())
    held = followed(issuers(ANCHOR, UPPER, late), ANCHOR, UPPER, late)
    assert all(known.signers and known.issuing for known in held.values())


def test_what_a_root_that_was_given_up_vouches_for_counts_for_nothing() -> None:
    shown = issuers(ANCHOR, UPPER, LOWER)
    for given_up in (UPPER, LOWER):
        above = replace(pinned(shown), given_up=frozenset({key_id(given_up)}))
        assert all(known.issuing == () for known in trusts(shown, above, NOW, cluster="prod").values())


def test_the_root_of_another_cluster_below_the_same_pki_is_no_way_in() -> None:
    theirs = Ca("", CORP.lower, subject=name("test etcd CA"), path_length=0).facts
    found = followed(issuers(ANCHOR, UPPER, LOWER, etcd=(theirs,)))
    assert found["etcd"].issuing == (CAS["etcd"],)
    assert [each.fingerprint for each in found["etcd"].untrusted] == [theirs.fingerprint]
