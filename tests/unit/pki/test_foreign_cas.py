"""Which foreign CAs a node takes into its bundles, and that they count nowhere else."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from helpers.ca_certificates import BEGUN, ca, root
from helpers.foreign_ca import ForeignCa
from vaultpki.pki import ca_life, foreign_cas, succession
from vaultpki.pki.ca_life import Level
from vaultpki.pki.chains import trust_below, why_untrusted
from vaultpki.pki.facts import Facts, Trust
from vaultpki.records.foreign_cas import MOST_CAS, MOST_FOREIGN_BYTES

NOW = BEGUN + timedelta(days=30)
ROOT = root("prod")
OWN = ca("prod kubernetes CA", key="kubernetes", signer="prod root CA")
ETCD = ca("prod etcd CA", key="etcd", signer="prod root CA")
OLD, OTHER = ForeignCa(), ForeignCa("other")
NAMESAKE = ForeignCa("prod kubernetes CA")


def trust(domain: str, own: Facts) -> Trust:
    return trust_below([own.pem.encode()], [ROOT], NOW, name=f"prod {domain} CA")


TRUST = {"kubernetes": trust("kubernetes", OWN), "etcd": trust("etcd", ETCD)}


def judged(*pems: str, pins: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """The subjects that a node takes for kubernetes, and the reasons why not."""
    found = foreign_cas.with_foreign(TRUST, {"kubernetes": pems}, {"kubernetes": pins})["kubernetes"]
    return [each.subject_text for each in found.foreign], [each.reason for each in found.foreign_ignored]


def test_one_comes_in_by_its_sha256_alone() -> None:
    assert judged(OLD.pem, OTHER.pem, pins=(OLD.sha256,)) == (["CN=kubernetes"], [foreign_cas.NOT_PINNED])
    assert judged(OLD.pem) == ([], [foreign_cas.NOT_PINNED])
    # A pin without a certificate brings nothing, and one of another domain neither.
    assert judged(pins=(OLD.sha256,)) == ([], [])
    found = foreign_cas.with_foreign(TRUST, {"kubernetes": [OLD.pem]}, {"etcd": [OLD.sha256]})
    assert not any(each.foreign for each in found.values())


def test_the_bundles_hold_it_behind_our_own_and_before_the_roots() -> None:
    found = foreign_cas.with_foreign(TRUST, {"kubernetes": [OLD.pem]}, {"kubernetes": [OLD.sha256]})
    assert found["kubernetes"].bundle == OWN.pem + OLD.pem
    assert found["kubernetes"].chain_bundle == OWN.pem + OLD.pem + ROOT.pem
    assert found["etcd"] == TRUST["etcd"]


def test_it_signs_nothing_and_is_no_ca_of_ours_whatever_its_name() -> None:
    pinned = foreign_cas.with_foreign(TRUST, {"kubernetes": [NAMESAKE.pem]}, {"kubernetes": [NAMESAKE.sha256]})
    found = pinned["kubernetes"]
    assert found.foreign == (NAMESAKE.facts,)
    for own in (found.issuing, found.live, found.signers, found.roots):
        assert NAMESAKE.facts not in own
    assert replace(found, foreign=()) == TRUST["kubernetes"]
    # Held in a bundle it is not taken for one of ours at the next pass.
    again = trust_below([found.bundle.encode()], [ROOT], NOW, name="prod kubernetes CA")
    assert again.issuing == (OWN,) and succession.acceptable(found, NAMESAKE.facts) == (OWN,)
    assert why_untrusted(NAMESAKE.facts, ROOT, "prod kubernetes CA")


def test_a_ca_of_the_cluster_is_none_even_with_a_pin() -> None:
    """The root would let in the clients of every CA, and etcd's those of etcd at kube-apiserver."""
    crossed = ca("prod root CA", key="prod root CA", signer="prod kubernetes CA", serial=9, path_length=None)
    for own in (ROOT, OWN, ETCD, crossed):
        assert judged(own.pem, pins=(own.fingerprint,))[0] == []
    aside = root("former")
    found = foreign_cas.with_foreign(TRUST, {"etcd": [aside.pem]}, {"etcd": [aside.fingerprint]}, [aside])
    assert not found["etcd"].foreign


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (ForeignCa(is_ca=False), "it is not a CA"),
        (ForeignCa(usage=("digital_signature",)), "its key usage does not allow it to sign certificates"),
        (ForeignCa(usage=None), None),
        (ForeignCa(usage=("key_cert_sign",)), None),
        (ForeignCa(years=0), None),
    ],
)
def test_what_a_ca_certificate_is(made: ForeignCa, why: str | None) -> None:
    """Dates do not count: a bundle changes only when the record does."""
    assert foreign_cas.not_a_ca(made.facts) == why
    assert judged(made.pem, pins=(made.sha256,)) == (([], [why]) if why else (["CN=kubernetes"], []))


@pytest.mark.parametrize("text", ["", "x", "é", OLD.pem[:-30], OLD.pem + OTHER.pem, OLD.pem + "and more", "\0" * 9])
def test_what_cannot_be_read_is_told_and_stops_nothing(text: str) -> None:
    taken, why = judged(text, OLD.pem, pins=(OLD.sha256, OTHER.sha256))
    assert (taken, why) == (["CN=kubernetes"], ["it cannot be read"])


def test_a_bundle_of_many_can_still_be_read() -> None:
    """Our own agent and `verify` read 64 KiB."""
    from vaultpki.pki.keys import LARGEST_PEM
    from vaultpki.pki.succession import MOST_KEPT

    assert MOST_CAS * len(OLD.pem) < MOST_FOREIGN_BYTES
    assert MOST_KEPT * len(OWN.pem) + MOST_FOREIGN_BYTES < LARGEST_PEM


def test_every_sentence_says_what_to_do() -> None:
    found = foreign_cas.with_foreign(TRUST, {"kubernetes": [OLD.pem, OWN.pem]}, {})["kubernetes"]
    unpinned, own = (foreign_cas.ignored_sentence("kubernetes", each) for each in found.foreign_ignored)
    assert OLD.sha256 in unpinned and unpinned.endswith("write it there, or enroll the node again")
    assert "take it out of `ca.also_trust` in cluster.yaml" in own
    (left,) = foreign_cas.unused({"kubernetes": [OLD.sha256, OTHER.sha256]}, {"kubernetes": [OLD.pem]})
    assert OTHER.sha256 in left and OLD.sha256 not in left


def test_its_end_is_told_as_that_of_a_ca() -> None:
    life = ca_life.foreign_life("etcd", OLD.facts)
    for days, level in ((200, Level.NONE), (170, Level.NOTICE), (50, Level.WARNING), (20, Level.CRITICAL)):
        end = ca_life.expiry(life, OLD.facts.not_after - timedelta(days=days))
        assert (end.ca, end.level, end.foreign) == ("etcd", level, "CN=kubernetes")
        assert end.sentence.startswith("etcd also trusts CN=kubernetes, which expires on 2036-04-28")
    # A successor needs a person on each node, so one with a short life is told of as early.
    short = replace(life, not_before=life.not_after - timedelta(days=21))
    assert short.level(life.not_after - timedelta(days=20)) is Level.CRITICAL
    ended = ca_life.expiry(life, OLD.facts.not_after)
    assert ended.level is Level.EXPIRED and "run `vaultpki apply`" in ended.sentence
    assert ca_life.own([ended]) == () and ca_life.to_json(ended)["foreign"] == "CN=kubernetes"
