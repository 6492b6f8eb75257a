"""What an outside signer may send for an issuing CA: right answers, and wrong ones, each with its reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from cryptography import x509 as c
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from helpers.outside_signers import (
    DAY,
    NOW,
    YEAR,
    Options,
    chain,
    compressed_key,
    facts,
    judged,
    key,
    name,
    own_request,
    pem,
    pss_key,
    resigned,
    serial_zero,
    sha1,
    unknown_extension,
    usage,
    version_1,
)
from vaultpki.model import Subject
from vaultpki.outside import checks, verdicts
from vaultpki.pki import x509
from vaultpki.pki.forged_client import forged_pair

MINUTE = timedelta(minutes=1)
LOWER = facts(chain()["lower"])
LATER = "where Python since 3.13 checks the whole chain, it fails"
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


def extended(*oids: c.ObjectIdentifier) -> tuple[c.ExtensionType, bool]:
    return c.ExtendedKeyUsage(oids), False


def permits(*names: c.GeneralName) -> Options:
    return {"more": [(c.NameConstraints(names, None), True)]}


def excludes(*names: c.GeneralName) -> Options:
    return {"more": [(c.NameConstraints(None, names), True)]}


def with_aki(serial: int) -> Options:
    public = key("lower p256").public_key()
    found = c.AuthorityKeyIdentifier.from_issuer_public_key(public).key_identifier
    issuer = [c.DirectoryName(name("Corp Policy CA"))]
    return {"aki": c.AuthorityKeyIdentifier(found, issuer, serial)}


Files = Callable[[Mapping[str, bytes]], list[bytes]]


def every(made: Mapping[str, bytes]) -> list[bytes]:
    return [pem(made["own"], made["lower"], made["upper"], made["root"])]


@dataclass(frozen=True)
class Wrong:
    """A wrong answer: what differs at which CA, the reason, and part of the sentence."""

    reason: str
    changes: Mapping[str, Options]
    says: str = ""
    files: Files = every
    kinds: Mapping[str, str] | None = None
    anchor: str = "root"


def own(reason: str, says: str = "", **options: Any) -> Wrong:
    return Wrong(reason, {"own": options}, says)


def above(reason: str, level: str, says: str = "", /, **options: Any) -> Wrong:
    return Wrong(reason, {level: options}, says)


def sent(reason: str, files: Files, says: str = "", **more: Any) -> Wrong:
    return Wrong(reason, {}, says, files, **more)


def private(kind: str, **how: Any) -> bytes:
    locked = how.get("encryption", NoEncryption())
    made: bytes = key("spare", kind).private_bytes(
        how.get("encoding", Encoding.PEM), how.get("form", PrivateFormat.PKCS8), locked
    )
    return made


def renamed(name: bytes) -> Callable[[bytes, Any], bytes]:
    """The certificate with another name of the lower CA, as long as the one before, as a PrintableString."""
    return lambda data, private: resigned(
        data, private, lambda fields: [(tag, content.replace(b"Corp Cluster CA", name)) for tag, content in fields]
    )


def crl(made: Mapping[str, bytes]) -> bytes:
    issuer = c.load_der_x509_certificate(made["root"]).subject
    empty = c.CertificateRevocationListBuilder(issuer, NOW - DAY, NOW + DAY)
    return empty.sign(key("root p256"), hashes.SHA256()).public_bytes(Encoding.PEM)


DNS, IP = c.DNSName, c.IPAddress
RSA_UPPER = {"upper": "rsa2048"}

WRONG: Mapping[str, Wrong] = {
    # Readable, and no key.
    "an empty file": sent("unreadable", lambda _: [b" \n"], "is empty"),
    "a web page": sent("unreadable", lambda _: [b"<html>Log in</html>"], "neither PEM nor DER nor PKCS#7"),
    "a block cut short": sent("unreadable", lambda made: [pem(made["own"])[:-30]], "cut short"),
    "a block with a typing error": sent(
        "unreadable", lambda made: [pem(made["own"]).replace(b"MII", b"M*I")], "decode"
    ),
    "a certificate cut short": sent("unreadable", lambda made: [made["own"][:-9]], "PEM nor DER"),
    "a damaged certificate": sent("unreadable", lambda made: [made["own"].replace(b"\x55\x04\x03", b"\xff\xff\xff")]),
    "a file of 300 KiB": sent("too-large", lambda made: [pem(made["own"]) + b"#" * 300_000], "256 KiB"),
    "33 files": sent("too-many", lambda made: [pem(made["own"])] * 33, "33 files"),
    "a signing request": sent("no-certificate", lambda _: [own_request().csr.encode()], "but a signing request"),
    "a CRL": sent("no-certificate", lambda made: [crl(made)], "but a CRL"),
    "a plain key": sent("private-key", lambda made: [*every(made), private("p256")], "private key"),
    "a key of PKCS#1": sent("private-key", lambda _: [private("rsa2048", form=PrivateFormat.TraditionalOpenSSL)]),
    "a key in DER": sent("private-key", lambda _: [private("p256", encoding=Encoding.DER)]),
    "a key of SEC1 in DER": sent(
        "private-key", lambda _: [private("p256", encoding=Encoding.DER, form=PrivateFormat.TraditionalOpenSSL)]
    ),
    "an encrypted key": sent(
        "private-key", lambda made: [*every(made), private("p256", encryption=BestAvailableEncryption(b"open"))]
    ),
    "an encrypted key in DER": sent(
        "private-key", lambda _: [private("p256", encoding=Encoding.DER, encryption=BestAvailableEncryption(b"open"))]
    ),
    "a damaged key": sent("private-key", lambda made: [*every(made), private("p256")[:60]]),
    # A CA.
    "of version 1": Wrong("version-1", {"own": {"rebuilt": version_1}}, "for etcd is not of version 3"),
    "serial number 0": Wrong("serial-number", {"own": {"rebuilt": serial_zero}}, "serial number"),
    "an underscore and an at sign in a PrintableString": Wrong(
        "name-encoded",
        {each: {"rebuilt": renamed(b"Corp_Clust@r CA")} for each in ("lower", "own")},
        "Corp_Clust@r CA above the issuing CAs has `@` and `_` in a name that is a PrintableString",
    ),
    "a leaf": own("not-a-ca", "not for a CA", ca=False),
    "no basic constraints": own("not-a-ca", without=("bc",)),
    # Its key and its subject.
    "another key": own("another-key", "another key than the request", public=key("other").public_key()),
    "somebody else's CA": sent("no-answer", lambda made: [pem(made["lower"], made["root"])], "waiting request (etcd)"),
    "the name encoded again": own(
        "subject-encoded", "another encoding", subject=name("prod etcd CA", _ASN1Type.UTF8String)
    ),
    "another name": own("subject-differs", "CN=etcd", subject=name("etcd")),
    "a name with an organization": own(
        "subject-differs",
        "O=Corp",
        subject=c.Name([c.NameAttribute(NameOID.ORGANIZATION_NAME, "Corp"), *name("prod etcd CA")]),
    ),
    # Its dates.
    "expired": own("expired", "2026-05-01 11:59:00Z", not_after=NOW - MINUTE),
    "expires now": own("expired", not_after=NOW),
    "begins tomorrow": own("not-yet-valid", "from 2026-05-02 12:05:00Z on", not_before=NOW + DAY),
    "begins now": own("too-young", "until 2026-05-01 12:05:00Z", not_before=NOW),
    "begins four minutes ago": own("too-young", "until 2026-05-01 12:01:00Z", not_before=NOW - 4 * MINUTE),
    # What it may do.
    "path length 1": own("path-length", "path length 1 instead of 0", path_length=1),
    "no path length": own("path-length", "no path length", path_length=None),
    "no certSign": own("no-cert-sign", usage=usage("crl_sign", "digital_signature")),
    "no key usage": own("no-cert-sign", without=("ku",)),
    "no cRLSign": own("no-crl-sign", usage=usage("key_cert_sign")),
    "basic constraints not critical": own("not-critical", bc_critical=False),
    "no subject key identifier": own("no-subject-key-id", without=("ski",)),
    "no authority key identifier": own("no-authority-key-id", without=("aki",)),
    "an authority key identifier by serial number alone": own(
        "no-authority-key-id",
        aki=c.AuthorityKeyIdentifier(None, [c.DirectoryName(name("Corp Policy CA"))], LOWER.serial),
    ),
    "an extended key usage": own("extended-key-usage", more=[extended(SERVER, CLIENT)]),
    "name constraints of its own": Wrong("own-constraints", {"own": permits(DNS("corp.example"))}),
    "an unknown critical extension": own(
        "critical-extension", "1.3.6.1.4.1.32473.1", more=[(unknown_extension(), True)]
    ),
    "policies demanded": own("wants-policy", more=[(c.PolicyConstraints(0, None), False)]),
    # Keys and hashes of the whole chain.
    "SHA-1": Wrong("weak-signature", {"own": {"rebuilt": sha1}}, "has a weak", kinds={"lower": "rsa2048"}),
    "an intermediate of SHA-1": Wrong("weak-signature", {"lower": {"rebuilt": sha1}}, "Cluster CA", kinds=RSA_UPPER),
    "SHA-224": own("weak-signature", "sha224", hash=hashes.SHA224()),
    "SHA-3": own("signature-kind", hash=hashes.SHA3_256()),
    "an RSA key of 1024 bits": Wrong("rsa-too-short", {}, "1024 bits", kinds={"lower": "rsa1024"}),
    "a root with 1024 bits": Wrong("rsa-too-short", {}, "Corp Root", kinds={"root": "rsa1024"}),
    "an intermediate with Ed448": Wrong("key-kind", {}, "CN=Corp Cluster CA above", kinds={"lower": "ed448"}),
    "a root with Ed448": Wrong("key-kind", {}, "Corp Root", kinds={"root": "ed448"}),
    "an intermediate with DSA": Wrong("key-kind", {}, "has a DSA key", kinds={"lower": "dsa"}),
    "a root with DSA": Wrong("key-kind", {}, "Corp Root above the issuing CAs has a DSA key", kinds={"root": "dsa"}),
    "a curve that Go does not know": Wrong("key-kind", {}, "secp256k1", kinds={"lower": "k256"}),
    "an RSASSA-PSS key": Wrong(
        "key-kind", {"lower": {"rebuilt": pss_key}}, "RSASSA-PSS key", kinds={"lower": "rsa2048"}
    ),
    "a compressed point": Wrong("key-encoded", {"lower": {"rebuilt": compressed_key}}, "unusual encoding"),
    "PSS with a salt of OpenSSL's choice": Wrong(
        "pss-parameters",
        {"own": {"padding": padding.PSS(padding.MGF1(hashes.SHA256()), 222)}},
        kinds={"lower": "rsa2048"},
    ),
    # The chain.
    "no intermediates": sent(
        "chain-incomplete", lambda made: [pem(made["own"])], "CN=Corp Cluster CA above the issuing CAs is"
    ),
    "one intermediate missing": sent(
        "chain-incomplete", lambda made: [pem(made["own"], made["lower"])], "Policy CA above the issuing CAs is missing"
    ),
    "signed by another key of that name": own("signature-wrong", "names CN=Corp Cluster CA", forger=key("forger")),
    "an intermediate signed by another key": above(
        "signature-wrong", "lower", "CN=Corp Cluster CA", forger=key("forger")
    ),
    "its signer encoded again": above(
        "issuer-encoded", "lower", "in other bytes", subject=name("Corp Cluster CA", _ASN1Type.UTF8String)
    ),
    "another root": sent("wrong-anchor", every, "CN=Corp Root above the issuing CAs is the root", anchor="another"),
    "an anchor without its root": sent(
        "root-missing",
        lambda made: [pem(made["own"], made["lower"])],
        "CN=Corp Root above the issuing CAs is missing",
        anchor="upper",
    ),
    "the identifier of another signer": own(
        "authority-key-id", aki=c.AuthorityKeyIdentifier.from_issuer_public_key(key("other").public_key())
    ),
    "the serial number of another signer": Wrong(
        "authority-key-id", {"own": with_aki(12345)}, "serial number of another"
    ),
    # Each CA above.
    "a leaf above": above("above-not-a-ca", "lower", "is not a CA", ca=False),
    "an intermediate that has expired": above("above-expired", "upper", "Policy CA", not_after=NOW - DAY),
    "an expired root": above("above-expired", "root", "Corp Root", not_after=NOW - DAY),
    "an intermediate of tomorrow": above("above-not-yet-valid", "lower", "2026-05-02", not_before=NOW + DAY),
    "an intermediate with path length 0": above("above-path-length", "lower", "1 CA stands", path_length=0),
    "a policy CA with path length 1": above("above-path-length", "upper", "2 CAs stand", path_length=1),
    "a root with path length 2": above("above-path-length", "root", "3 CAs stand", path_length=2),
    "an intermediate for servers alone": above(
        "above-extended-key-usage", "lower", "lacks client", more=[extended(SERVER)]
    ),
    "an intermediate without certSign": above("above-no-cert-sign", "lower", usage=usage("crl_sign")),
    "an unknown critical extension above": above(
        "above-critical-extension", "upper", more=[(unknown_extension(), True)]
    ),
    "policies demanded above": above("wants-policy", "upper", more=[(c.PolicyConstraints(0, None), True)]),
    # Name constraints above.
    "corp.example only": Wrong(
        "above-constraints", {"lower": permits(DNS("corp.example"))}, "kubernetes, kubernetes.def"
    ),
    "10/8 only": Wrong("above-constraints", {"upper": permits(IP(ip_network("10.0.0.0/8")))}, "127.0.0.1, ::1"),
    "IPv4 only": Wrong("above-constraints", {"lower": permits(IP(ip_network("0.0.0.0/0")))}, "cluster: ::1"),
    "no addresses": Wrong(
        "above-constraints", {"root": excludes(IP(ip_network("0.0.0.0/0")), IP(ip_network("::/0")))}, "10.96.0.1"
    ),
    "not cluster.local": Wrong("above-constraints", {"upper": excludes(DNS("cluster.local"))}, "svc.cluster.local"),
    "a directory name": Wrong(
        "above-constraints-kind", {"upper": permits(c.DirectoryName(name("Corp")))}, "DirectoryName"
    ),
    # How long it lives.
    "ends after its signer": above("outlives-signer", "lower", "Cluster CA above it", not_after=NOW + 4 * YEAR),
    "ends after its root": above("outlives-signer", "root", "Corp Root above it", not_after=NOW + 4 * YEAR),
    "too short for leaves": own("too-short", "must end after 2026-06-30", not_after=NOW + 60 * DAY),
}


@pytest.mark.parametrize("what", WRONG)
def test_one_fault_is_told_once_and_no_other_one_with_it(what: str) -> None:
    found = judge_wrong(WRONG[what]).refused
    assert [each.sentence for each in found] == [found[0].sentence]


def judge_wrong(wrong: Wrong) -> verdicts.Verdict:
    kinds = wrong.kinds or {}
    made = chain(wrong.changes, kinds)
    made["another"] = chain({}, {"root": "p384"})["root"]
    return judged(wrong.files(made), made[wrong.anchor], requests=[own_request(kinds)])


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_answer_is_refused_with_its_reason(what: str) -> None:
    wrong = WRONG[what]
    found = judge_wrong(wrong)
    assert found.accepted == () and not found.ok
    refusal = found.refused[0]
    assert (refusal.reason, wrong.says in refusal.sentence) == (wrong.reason, True), refusal.sentence
    whole = {**verdicts.FILE_ASKS, **checks.ASKS}
    assert refusal.ask == whole[wrong.reason]


def test_what_is_told_is_one_sentence_and_what_to_ask_another() -> None:
    for refusal in (each for wrong in WRONG.values() for each in judge_wrong(wrong).refused):
        assert re.fullmatch(r"([0-9]+\.pem[: ]|CN=Corp[A-Za-z_@ ]+ above ).*[^.]", refusal.sentence), refusal.sentence
        assert re.fullmatch(r"[A-Z].*\.", refusal.ask), refusal.ask


def test_every_reason_has_a_wrong_answer_here() -> None:
    shown = {wrong.reason for wrong in WRONG.values()}
    # Tried below, where files are read, and by `ca import`.
    elsewhere = {"chain-too-long", "odd-certificate", "serial-number-twice", "not-in-root-file"}
    assert shown | elsewhere == {*verdicts.FILE_ASKS, *checks.ASKS}
    assert len(WRONG) > 70


@pytest.mark.parametrize(
    "kinds",
    [
        {},
        {"root": "rsa4096", "upper": "rsa2048"},
        {"root": "p384", "upper": "p384", "lower": "p384"},
        {"root": "ed25519", "upper": "ed25519", "lower": "ed25519"},
        {"root": "rsa4096", "upper": "ed25519", "lower": "p521", "own": "p384"},
        {"own": "ed25519"},
        {"own": "rsa2048"},
    ],
    ids=str,
)
def test_signers_of_every_kind_are_accepted(kinds: Mapping[str, str]) -> None:
    longer = {each: {"hash": hashes.SHA512()} for each in ("root", "upper", "lower", "own")}
    made = chain(longer, kinds)
    found = judged(every(made), made["root"], requests=[own_request(kinds)])
    assert found.ok and found.ignored == () and found.unanswered == ()
    (accepted,) = found.accepted
    assert [accepted.certificate.der, *(each.der for each in accepted.chain)] == [
        made[each] for each in ("own", "lower", "upper", "root")
    ]
    assert accepted.remarks == () and accepted.request.domain == "etcd" and accepted.file == "1.pem"


def test_pss_as_go_knows_it_is_accepted() -> None:
    pss = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
    kinds = {"lower": "rsa2048"}
    made = chain({"own": {"padding": pss, "hash": hashes.SHA384()}}, kinds)
    assert judged(every(made), made["root"]).ok


def test_a_root_that_signed_itself_with_sha_1_is_accepted() -> None:
    kinds = {"root": "rsa2048"}
    made = chain({"root": {"rebuilt": sha1}}, kinds)
    assert judged(every(made), made["root"]).ok


def test_what_is_allowed_above_is_accepted() -> None:
    generous = permits(DNS(""), IP(ip_network("0.0.0.0/0")), IP(ip_network("::/0")), c.RFC822Name("corp.example"))
    both = [*generous["more"], extended(SERVER, CLIENT), (c.CertificatePolicies([]), False)]
    anyone = {"more": [extended(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)]}
    made = chain({"upper": {"more": both[:2]}, "lower": anyone, "root": {"without": ("aki",)}})
    assert judged(every(made), made["root"]).ok


def test_an_ampersand_and_an_asterisk_in_a_printable_string_are_accepted() -> None:
    """As Go, OpenSSL and GnuTLS do; `cryptography` does not load such a certificate."""
    made = chain({each: {"rebuilt": renamed(b"Corp & Sons *CA")} for each in ("lower", "own")})
    (accepted,) = judged(every(made), made["root"]).accepted
    assert (accepted.certificate.der, accepted.chain[0].der) == (made["own"], made["lower"])
    own, lower = facts(made["own"]), facts(made["lower"])
    assert own.issuer_text == lower.subject_text == "CN=Corp & Sons *CA" and lower.subject.common_name
    assert x509.signed_by(own, lower)
    assert forged_pair(Subject("admin"), own.der, NOW)[0].count(b"BEGIN CERTIFICATE") == 2
    # The same name in other bytes, which Go compares.
    other = chain({"lower": {"subject": name("Corp & Sons *CA", _ASN1Type.UTF8String)}})["lower"]
    assert not x509.signed_by(own, facts(other)) and facts(other).subject_text == lower.subject_text


def test_a_serial_number_that_was_given_twice_is_told_with_all_that_is_wrong() -> None:
    found = judged(every(chain({"own": {"path_length": 1, "serial": 77}})), chain()["root"])
    twin = facts(chain({"own": {"serial": 77}})["own"])
    assert [each.reason for each in found.refused] == ["path-length"]
    (told,) = verdicts.same_serials(found.answers, [twin])
    assert (told.domain, told.reason) == ("etcd", "serial-number-twice")


def test_an_anchor_may_be_an_intermediate_whose_root_is_known() -> None:
    made = chain()
    found = judged([pem(made["own"], made["lower"])], made["upper"], known=[made["root"]])
    assert [each.der for each in found.accepted[0].chain] == [made[each] for each in ("lower", "upper", "root")]


def test_a_chain_that_the_root_file_has_need_not_be_sent() -> None:
    made = chain()
    assert judged([made["own"]], made["root"], known=[made["upper"], made["lower"]]).ok


def test_a_certificate_with_a_shorter_life_and_an_old_root_is_accepted_with_remarks() -> None:
    old = {"without": ("ku", "ski"), "bc_critical": False}
    made = chain({"own": {"not_after": NOW + YEAR}, "root": old, "upper": {"without": ("aki",)}})
    (accepted,) = judged(every(made), made["root"]).accepted
    assert accepted.remarks == (
        "the certificate for etcd ends on 2027-05-01, earlier than asked for",
        f"CN=Corp Policy CA has no authority key identifier: {LATER}",
        f"CN=Corp Root has no subject key identifier, key usage, critical basic constraints: {LATER}",
    )


def test_five_minutes_later_a_certificate_that_began_at_its_signing_is_accepted() -> None:
    made = chain({"own": {"not_before": NOW}})
    assert not judged(every(made), made["root"], now=NOW + 5 * MINUTE - timedelta(seconds=1)).ok
    assert judged(every(made), made["root"], now=NOW + 5 * MINUTE).ok
