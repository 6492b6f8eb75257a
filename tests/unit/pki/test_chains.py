"""Chains over the CAs of a PKI outside: what counts as one, and what a server that lies cannot bring in."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509 as c
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as Use

from helpers.corporate_certificates import NOW, Ca, Corporate, name
from helpers.outside_signers import chain, facts, sha1
from vaultpki.pki import chains, roots, x509
from vaultpki.pki.chains import MOST_BETWEEN, above, between, chain_up, parts, tops, trust_below, with_chains
from vaultpki.pki.facts import Facts, Trust
from vaultpki.pki.trust import signed_by

CORP = Corporate()
ROOT, UPPER, LOWER, ISSUING = CORP.root.facts, CORP.upper.facts, CORP.lower.facts, CORP.issuing.facts
DAY = timedelta(days=1)
OWN = "prod root CA"


def trusted(*shown: Facts, pin: Facts = ROOT, issuing: tuple[Facts, ...] = (ISSUING,), **options: Any) -> Trust:
    pems = [facts.pem.encode() for facts in issuing]
    return trust_below(pems, (pin,), NOW, name=CORP.name, shown=shown, root_name=OWN, **options)


def test_an_issuing_ca_below_two_others_is_trusted_and_the_files_have_the_whole_chain() -> None:
    for shown in ((UPPER, LOWER, ROOT), (LOWER, ROOT, UPPER, LOWER)):
        trust = trusted(*shown)
        assert trust.issuing == trust.live == (ISSUING,) and trust.between == (LOWER, UPPER)
        assert trust.untrusted == () and trust.tops == ()
        assert trust.bundle == ISSUING.pem
        assert trust.chain_bundle == "".join(facts.pem for facts in (ISSUING, LOWER, UPPER, ROOT))


def test_the_chain_of_a_leaf_ends_at_the_root() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = CORP.issuing.certify(key.public_key(), name("etcd-1"), ca=False)
    middle = between((LOWER, UPPER), [ROOT])
    assert middle == (UPPER, LOWER)
    assert chain_up(leaf, [ROOT], [ISSUING, *middle]) == (ISSUING, LOWER, UPPER, ROOT)
    assert chain_up(leaf, [ROOT], middle) == ()
    assert chain_up(ROOT, [ROOT], middle) == (ROOT,)


def test_an_intermediate_may_be_the_anchor_and_the_root_that_signed_it_ends_the_file() -> None:
    trust = trusted(LOWER, ROOT, pin=UPPER)
    assert trust.issuing == (ISSUING,) and trust.between == (LOWER,) and trust.tops == (ROOT,)
    assert trust.chain_bundle == "".join(facts.pem for facts in (ISSUING, LOWER, UPPER, ROOT))
    # What stands above a CA that is not pinned cannot be verified.
    deep = trusted(UPPER, ROOT, pin=LOWER)
    assert deep.issuing == (ISSUING,) and deep.between == () and deep.tops == ()
    assert deep.chain_bundle == ISSUING.pem + LOWER.pem


FAKE_ROOT = Ca("Corp Root")
NO_TOPS: dict[str, Facts] = {
    "another key's": FAKE_ROOT.facts,
    "one that is signed by others": CORP.root.again(FAKE_ROOT).facts,
    "one that may not sign": CORP.root.again(CORP.root, signs=False).facts,
    "no CA": CORP.root.again(CORP.root, ca=False).facts,
}


@pytest.mark.parametrize("shown", NO_TOPS.values(), ids=NO_TOPS)
def test_no_other_root_comes_above_a_pinned_intermediate(shown: Facts) -> None:
    trust = trusted(LOWER, shown, pin=UPPER)
    assert trust.tops == () and trust.between == (LOWER,) and shown.pem not in trust.chain_bundle


@pytest.mark.parametrize("pin", ["root", "upper"])
def test_a_root_that_signed_itself_with_sha_1_is_a_root_like_others(pin: str) -> None:
    made = {each: facts(der) for each, der in chain({"root": {"rebuilt": sha1}}, {"root": "rsa2048"}).items()}
    root, upper, lower, own = (made[each] for each in ("root", "upper", "lower", "own"))
    assert root.signature == "sha1" and roots.unfit(made[pin], NOW, name=OWN) is None
    shown, pems = (root, upper, lower), [own.pem.encode()]
    trust = trust_below(pems, (made[pin],), NOW, name=CORP.name, shown=shown, root_name=OWN)
    assert trust.issuing == (own,) and trust.untrusted == ()
    assert set(trust.chain_bundle.split("-----END")) == set("".join(f.pem for f in (own, *shown)).split("-----END"))
    held = chains.parts((own, lower, upper, root), root_name=OWN)
    assert (held.issuing, held.between, held.roots) == ((own,), (lower, upper), (root,))
    # Below the root the hash counts.
    weak = chain({"upper": {"rebuilt": sha1}}, {"root": "rsa2048"})
    assert between([facts(weak["upper"])], [facts(weak["root"])], root_name=OWN) == ()


def test_a_key_that_was_made_to_fit_a_signature_makes_no_root() -> None:
    """With a small exponent a second key can be found that verifies the signature of the pinned intermediate."""
    small = Ca("Corp Root", key=rsa.generate_private_key(public_exponent=3, key_size=2048))
    pin = Ca("Corp Policy CA", small)
    assert tops([pin.facts], [small.facts]) == ()


EKU_SERVER, EKU_BOTH = ([Use.SERVER_AUTH], [Use.SERVER_AUTH, Use.CLIENT_AUTH])
UNKNOWN = (c.UnrecognizedExtension(c.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
CONSTRAINTS = (c.NameConstraints([c.DNSName("corp.example")], None), True)
POLICIES = (c.CertificatePolicies([c.PolicyInformation(c.ObjectIdentifier("1.2.3.5"), None)]), True)
STRANGER = Ca("Corp Policy CA")
UNFIT: dict[str, dict[str, Any]] = {
    "no CA": {"ca": False},
    "no right to sign": {"signs": False},
    "a path length of 0": {"path_length": 0},
    "a path length of 0 at the root": {},
    "the use of servers alone": {"extensions": [(c.ExtendedKeyUsage(EKU_SERVER), False)]},
    "an unknown critical extension": {"extensions": [UNKNOWN]},
    "another signer of the same name": {"signer": STRANGER},
    "RSA of 1024 bits": {"key": lambda: rsa.generate_private_key(65537, 1024)},  # noqa: S505 - the case
    "RSA with the exponent 3": {"key": lambda: rsa.generate_private_key(3, 2048)},
    "a curve that nobody takes": {"key": lambda: ec.generate_private_key(ec.SECP256K1())},
    "many kilobytes": {"extensions": [(c.UnrecognizedExtension(c.ObjectIdentifier("1.2.3.4"), bytes(17000)), False)]},
}


@pytest.mark.parametrize("options", UNFIT.values(), ids=UNFIT)
def test_a_chain_over_an_unfit_ca_counts_for_nothing(options: dict[str, Any]) -> None:
    root = Ca("Corp Root", path_length=0) if not options else CORP.root
    own = {"key": options["key"]()} if "key" in options else {}
    lower = Ca("Corp Platform CA", options.pop("signer", root), **options | own)
    issuing = Ca("", lower, subject=name(CORP.name), path_length=0)
    trust = trusted(lower.facts, STRANGER.facts, pin=root.facts, issuing=(issuing.facts, ISSUING))
    assert trust.issuing == () and trust.between == ()
    assert {each.fingerprint for each in trust.untrusted} == {issuing.facts.fingerprint, ISSUING.fingerprint}
    assert all("no chain of CAs" in each.reason for each in trust.untrusted)


FIT: dict[str, dict[str, Any]] = {
    "both uses": {"extensions": [(c.ExtendedKeyUsage(EKU_BOTH), False)]},
    "any use": {"extensions": [(c.ExtendedKeyUsage([Use.ANY_EXTENDED_KEY_USAGE]), True)]},
    "name constraints": {"extensions": [CONSTRAINTS]},
    "policies": {"extensions": [POLICIES]},
    "room for one CA": {"path_length": 1},
    "P-521": {"key": ec.generate_private_key(ec.SECP521R1())},
    "Ed25519": {"key": ed25519.Ed25519PrivateKey.generate()},
}


@pytest.mark.parametrize("options", FIT.values(), ids=FIT)
def test_what_a_corporate_pki_has_passes(options: dict[str, Any]) -> None:
    lower = Ca("Corp Platform CA", CORP.upper, **options)
    issuing = Ca("", lower, subject=name(CORP.name), path_length=0)
    trust = trusted(lower.facts, UPPER, issuing=(issuing.facts,))
    assert trust.issuing == (issuing.facts,) and trust.between == (lower.facts, UPPER)


def test_path_lengths_hold_over_the_whole_chain() -> None:
    for lengths, fits in (((2, 1), True), ((1, 1), False), ((1, None), False), ((None, 1), True)):
        upper = Ca("Corp Policy CA", CORP.root, path_length=lengths[0])
        lower = Ca("Corp Platform CA", upper, path_length=lengths[1])
        issuing = Ca("", lower, subject=name(CORP.name), path_length=0).facts
        assert (trusted(upper.facts, lower.facts, issuing=(issuing,)).issuing == (issuing,)) is fits, lengths
    tight = Ca("Corp Root", path_length=1)
    upper = Ca("Corp Policy CA", tight)
    lower = Ca("Corp Platform CA", upper)
    issuing = Ca("", lower, subject=name(CORP.name), path_length=0).facts
    assert trusted(upper.facts, lower.facts, pin=tight.facts, issuing=(issuing,)).issuing == ()


def test_a_chain_has_an_end() -> None:
    """As many as the limit pass, one more does not, and two CAs that signed each other end no search."""
    signer, made = CORP.root, []
    for number in range(MOST_BETWEEN + 1):
        signer = Ca(f"Corp CA {number}", signer)
        made.append(signer)
    below = [Ca("", each, subject=name(CORP.name), path_length=0).facts for each in made]
    shown = [each.facts for each in made]
    assert trusted(*shown, issuing=(below[-2],)).issuing == (below[-2],)
    assert trusted(*shown, issuing=(below[-1],)).issuing == ()
    one, two = Ca("Corp One"), Ca("Corp Two")
    ring = [one.again(two).facts, two.again(one).facts, one.facts, two.facts]
    issuing = Ca("", one, subject=name(CORP.name), path_length=0).facts
    assert trusted(*ring, issuing=(issuing,)).issuing == ()
    entered = [*ring, one.again(CORP.root).facts]
    assert trusted(*entered, issuing=(issuing,)).between[0].issuer_text == ROOT.subject_text


def test_a_thousand_certificates_of_a_liar_cost_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Facts] = []

    def counted(facts: Facts, issuer: Facts) -> bool:
        tried.append(facts)
        return signed_by(facts, issuer)

    monkeypatch.setattr(chains, "signed_by", counted)
    liar = Ca("Liar")
    junk = [liar.certify(liar.key.public_key(), name(f"Liar {number}"), path_length=None) for number in range(300)]
    assert trusted(*junk, LOWER, UPPER).issuing == (ISSUING,)
    assert not any(facts in junk for facts in tried)


def test_a_ca_between_is_never_an_issuing_ca_and_an_issuing_ca_never_stands_between() -> None:
    # The lower CA has the name of a domain's, and a chain to the root.
    odd = Ca("", CORP.upper, subject=name(CORP.name), path_length=None)
    trust = trusted(UPPER, LOWER, odd.facts, issuing=(odd.facts, ISSUING))
    assert trust.issuing == (ISSUING,) and odd.pem not in trust.chain_bundle
    assert [each.fingerprint for each in trust.untrusted] == [odd.facts.fingerprint]
    # What an issuing CA signed, against its path length.
    below = Ca("", CORP.issuing, subject=name(CORP.name), path_length=0).facts
    assert trusted(UPPER, LOWER, ISSUING, issuing=(below,)).issuing == ()


def test_other_cas_of_the_same_pki_come_into_no_file() -> None:
    other, deeper = Ca("Corp Web CA", CORP.upper), None
    deeper = Ca("Corp Shop CA", other)
    trust = trusted(UPPER, LOWER, other.facts, deeper.facts)
    assert trust.between == (LOWER, UPPER)
    # With the CAs on the mount of the issuing CA, as an import of the whole chain leaves them.
    whole = trusted(UPPER, LOWER, issuing=(ISSUING, LOWER, UPPER))
    assert whole.issuing == (ISSUING,) and whole.untrusted == ()
    strange = trusted(UPPER, LOWER, other.facts, issuing=(ISSUING, other.facts))
    assert [each.fingerprint for each in strange.untrusted] == [other.facts.fingerprint]


def test_a_cross_certificate_is_no_ca_between() -> None:
    """It vouches for another root, and the rules of a rotation say whether that one counts."""
    mine = Ca("", subject=name(OWN))
    successor = Ca("", subject=name(f"{OWN} 2"))
    cross = successor.again(mine).facts
    issuing = Ca("", successor, subject=name(CORP.name), path_length=0).facts
    assert trusted(cross, successor.facts, pin=mine.facts, issuing=(issuing,)).issuing == ()
    both = trust_below(
        [issuing.pem.encode()], (mine.facts, successor.facts), NOW, name=CORP.name, shown=(cross,), root_name=OWN
    )
    assert both.issuing == (issuing,) and both.between == ()
    # Of a root outside that is trusted too, or set aside.
    newer = Ca("Corp Root G2")
    link = newer.again(CORP.root).facts
    of_newer = Ca("", newer, subject=name(CORP.name), path_length=0).facts
    assert trusted(link, issuing=(of_newer,), parked=(newer.facts,)).issuing == ()


def test_below_a_root_that_was_made_for_the_cluster_nothing_stands_between() -> None:
    own = Ca("", subject=name(OWN))
    middle = Ca("Corp Platform CA", own)
    issuing = Ca("", middle, subject=name(CORP.name), path_length=0).facts
    trust = trusted(middle.facts, pin=own.facts, issuing=(issuing,))
    assert trust.issuing == trust.between == () and "was not signed by" in trust.untrusted[0].reason


def test_dates_count_for_what_is_new_and_nothing_that_is_held_is_lost() -> None:
    late = Ca("Corp Platform CA", CORP.upper, ends=NOW - DAY)
    issuing = Ca("", late, subject=name(CORP.name), path_length=0).facts
    fresh = trusted(UPPER, late.facts, issuing=(issuing,))
    assert fresh.issuing == () and "is not in date" in fresh.untrusted[0].reason
    assert late.facts.subject_text in fresh.untrusted[0].reason
    held = trusted(UPPER, late.facts, issuing=(issuing,), held={issuing.fingerprint})
    assert held.issuing == held.live == (issuing,)
    # A renewed certificate for the same key makes it whole; both stand in the file while both are shown.
    renewed = late.again(CORP.upper)
    whole = trusted(UPPER, late.facts, renewed.facts, issuing=(issuing,))
    assert whole.issuing == (issuing,) and set(whole.between) == {UPPER, late.facts, renewed.facts}
    soon = Ca("Corp Platform CA", CORP.upper, begins=NOW + DAY)
    not_yet = Ca("", soon, subject=name(CORP.name), path_length=0).facts
    assert trusted(UPPER, soon.facts, issuing=(not_yet,)).issuing == ()


def test_a_server_that_shows_no_ca_between_any_more_takes_none_out_of_a_file() -> None:
    known = trusted(UPPER, LOWER)
    for shown in ((), (UPPER,), (LOWER,)):
        kept = with_chains(known, shown, (UPPER, LOWER), root_name=OWN)
        assert set(kept.between) == {UPPER, LOWER} and chain_up(ISSUING, [ROOT], kept.between)
    pinned = trusted(LOWER, ROOT, pin=UPPER)
    assert with_chains(pinned, (LOWER,), (ROOT,), root_name=OWN).tops == (ROOT,)
    # One that was replaced goes, since the chain is whole without it.
    renewed = CORP.lower.again(CORP.upper).facts
    assert with_chains(known, (UPPER, renewed), (UPPER, LOWER), root_name=OWN).between == (renewed, UPPER)


SUBJECTS: dict[str, tuple[c.Name, bool]] = {
    "the CN alone": (name(CORP.name), True),
    "a later key's": (name(f"{CORP.name} 2"), True),
    "with an O": (name(CORP.name, O="Corp"), True),
    "with all of them": (name(CORP.name, C="DE", O="Corp", OU="Platform"), True),
    "of another domain": (name("prod kubernetes CA", O="Corp"), False),
    "with a second CN": (c.Name([*name("x"), *name(CORP.name)]), False),
    "with an address": (
        c.Name([c.NameAttribute(c.NameOID.EMAIL_ADDRESS, "a@corp.example"), *name(CORP.name)]),
        False,
    ),
}


@pytest.mark.parametrize(("subject", "fits"), SUBJECTS.values(), ids=SUBJECTS)
def test_the_owner_of_a_root_outside_may_add_its_names_to_the_subject(subject: c.Name, fits: bool) -> None:
    issuing = Ca("", CORP.lower, subject=subject, path_length=0).facts
    trust = trusted(UPPER, LOWER, issuing=(issuing,))
    assert (trust.issuing == (issuing,)) is fits
    own = Ca("", subject=name(OWN))
    mine = Ca("", own, subject=subject, path_length=0).facts
    # Renewed below a root of ours it keeps its name.
    assert (trusted(pin=own.facts, issuing=(mine,)).issuing == (mine,)) is fits


def test_the_cas_above_are_in_the_order_of_the_chain() -> None:
    assert above((ISSUING,), (UPPER, LOWER)) == (LOWER, UPPER)
    assert above((), (UPPER, LOWER)) == ()


def test_a_root_that_comes_from_outside_brings_the_cas_between_before_anything_is_below_them() -> None:
    """Who reads a bundle only at a start, such as a pod, has all that it needs once the root is published."""
    own = Ca("", subject=name(OWN), ends=ROOT.not_after)
    mine = Ca("", own, subject=name(CORP.name), path_length=0).facts
    first = trusted(pin=own.facts, issuing=(mine,))
    published = with_chains(replace(first, further_roots=(ROOT,)), (UPPER, LOWER), (), root_name=OWN)
    assert published.between == (LOWER, UPPER)
    held = x509.read_certificates(published.chain_bundle.encode())
    assert held == (mine, LOWER, UPPER, own.facts, ROOT)
    split = parts(held, root_name=OWN)
    assert (split.issuing, set(split.between), split.roots) == ((mine,), {UPPER, LOWER}, (own.facts, ROOT))
    # One that the server hides meanwhile stays; once the root is given up again all of them go.
    assert with_chains(published, (), (UPPER, LOWER), root_name=OWN).between == (LOWER, UPPER)
    assert with_chains(first, (UPPER, LOWER), (UPPER, LOWER), root_name=OWN).between == ()
