"""Keys, requests, and every way in which a certificate can be other than what was asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509 as c
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from vaultpki.errors import CertificateRefused, CertificateUnreadable, SpecError
from vaultpki.model import Certificate, KeyType, Subject, Usage
from vaultpki.pki import keys, roots, x509
from vaultpki.pki.chains import trust_below
from vaultpki.pki.facts import Facts, Trust
from vaultpki.pki.signed import check_for_request, check_signed
from vaultpki.values import der

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SUBJECT = Subject("system:node:w-1", ("system:nodes",), ("w-1", "w-1.example.com"), ("10.0.0.21", "fd00::21"))
TTL = 7 * 24 * 3600


def usage(**bits: bool) -> c.KeyUsage:
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
    names += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return c.KeyUsage(**{name: bits.get(name, False) for name in names})


class Authority:
    """A CA made here, so that each test can make exactly the certificate it needs."""

    def __init__(self, name: str, parent: Authority | None = None, **options: Any) -> None:
        self.key = options.get("key") or ec.generate_private_key(ec.SECP256R1())
        self.name = options.get("subject", c.Name([c.NameAttribute(NameOID.COMMON_NAME, name)]))
        signer = parent or self
        builder = (
            c.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(signer.name)
            .public_key(self.key.public_key())
            .serial_number(c.random_serial_number())
            .not_valid_before(options.get("not_before", NOW - DAY))
            .not_valid_after(options.get("not_after", NOW + 365 * DAY))
            .add_extension(
                c.BasicConstraints(ca := options.get("ca", True), options.get("path", 0 if parent and ca else None)),
                critical=True,
            )
            .add_extension(options.get("usage", usage(key_cert_sign=True, crl_sign=True)), critical=True)
        )
        for extension, critical in options.get("extensions", []):
            builder = builder.add_extension(extension, critical)
        self.pem = builder.sign(signer.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        self.facts = x509.read_certificates(self.pem)[0]

    def sign(self, public: Any, **o: Any) -> bytes:
        attributes = o.get(
            "attributes",
            [
                c.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
                c.NameAttribute(NameOID.COMMON_NAME, "system:node:w-1"),
            ],
        )
        names = o.get("names", DNS + IPS)
        builder = (
            c.CertificateBuilder()
            .subject_name(c.Name(attributes))
            .issuer_name(o.get("issuer", self.name))
            .public_key(public)
            .serial_number(4711)
            .not_valid_before(o.get("not_before", NOW - timedelta(minutes=5)))
            .not_valid_after(o.get("not_after", NOW + timedelta(seconds=TTL)))
            .add_extension(o.get("usage", usage(digital_signature=True)), critical=o.get("critical", True))
        )
        if o.get("eku", SERVER):
            builder = builder.add_extension(c.ExtendedKeyUsage(o.get("eku", SERVER)), critical=False)
        if names:
            builder = builder.add_extension(c.SubjectAlternativeName(names), critical=False)
        for extension, critical in o.get("extensions", []):
            builder = builder.add_extension(extension, critical)
        return builder.sign(o.get("signer", self.key), o.get("hash", hashes.SHA256())).public_bytes(
            serialization.Encoding.PEM
        )


DNS: list[c.GeneralName] = [c.DNSName("w-1"), c.DNSName("w-1.example.com")]
IPS: list[c.GeneralName] = [
    c.IPAddress(ipaddress.ip_address("10.0.0.21")),
    c.IPAddress(ipaddress.ip_address("fd00::21")),
]
SERVER = [ExtendedKeyUsageOID.SERVER_AUTH]
CLIENT = [ExtendedKeyUsageOID.CLIENT_AUTH]
CN = c.NameAttribute(NameOID.COMMON_NAME, "system:node:w-1")
O = c.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes")  # noqa: E741 - the attribute's own name
CN_OID, O_OID = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME

SMALL = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is what is wrong with it
CONSTRAINTS = (c.NameConstraints([c.DNSName("example.com")], None), False)
UNKNOWN = (c.UnrecognizedExtension(c.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
ANY_EKU = (c.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), False)


def encoded(attribute: c.NameAttribute[str], kind: str) -> c.NameAttribute[str]:
    """The same text as another ASN.1 type."""
    return c.NameAttribute(attribute.oid, attribute.value, _ASN1Type[kind])


ROOT = Authority("root")
ISSUING = Authority("issuing", ROOT)
KEY = keys.generate_key(KeyType.EC_P256)
WANT = Certificate(
    name="kubelet",
    usage=Usage.SERVER,
    subject=SUBJECT,
    ca="kubelet",
    mount="vaultpki/prod/kubelet",
    role="kubelet",
    ttl=TTL,
    key=KeyType.EC_P256,
    stem="kubelet",
)


def judged(pem: bytes, key: keys.PrivateKey = KEY, want: Certificate = WANT, **o: Any) -> Facts:
    return check_signed(pem, key, want, o.get("issuers", [ISSUING.facts]), [o.get("root", ROOT.facts)], NOW)


def test_what_was_asked_for_is_taken_with_every_fact_read() -> None:
    leaf = judged(ISSUING.sign(KEY.public_key()) + ISSUING.pem + ROOT.pem)
    assert leaf.subject == SUBJECT and leaf.further_names == ()
    assert leaf.subject_text == "CN=system:node:w-1,O=system:nodes" and leaf.issuer_text == "CN=issuing"
    assert leaf.serial == 4711
    assert leaf.not_before == NOW - timedelta(minutes=5) and leaf.not_after == NOW + timedelta(seconds=TTL)
    assert leaf.not_after.tzinfo is UTC
    assert leaf.usages == {"1.3.6.1.5.5.7.3.1"} and leaf.usage is Usage.SERVER
    assert leaf.key_usage == {"digital_signature"} and leaf.critical == {"2.5.29.15"}
    assert not leaf.is_ca and leaf.path_length is None
    assert leaf.key is KeyType.EC_P256 and leaf.signature == "sha256"
    assert ISSUING.facts.is_ca and ISSUING.facts.path_length == 0
    assert ISSUING.facts.key_usage == {"key_cert_sign", "crl_sign"}
    assert x509.fingerprint(leaf.pem.encode()) == leaf.fingerprint


@pytest.mark.parametrize(
    "options",
    [
        {"names": IPS[::-1] + DNS[::-1]},
        {"attributes": [CN, O]},
        {"attributes": [encoded(CN, "PrintableString"), encoded(O, "PrintableString")]},
        {"not_after": NOW + DAY},
        {"not_after": NOW + timedelta(seconds=TTL + 299)},
        {"not_before": NOW + timedelta(seconds=299)},
        {"extensions": [(c.BasicConstraints(False, None), True)]},
        {"hash": hashes.SHA512()},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_makes_no_difference_passes(options: dict[str, Any]) -> None:
    judged(ISSUING.sign(KEY.public_key(), **options))


BAD: dict[str, dict[str, dict[str, Any]]] = {
    "names-differ": {
        "another CN": {"attributes": [c.NameAttribute(NameOID.COMMON_NAME, "system:node:w-2"), O]},
        "CN in other case": {"attributes": [c.NameAttribute(NameOID.COMMON_NAME, "system:node:W-1"), O]},
        "two CNs": {"attributes": [CN, CN, O]},
        "no CN": {"attributes": [O]},
        "no O": {"attributes": [CN]},
        "O twice": {"attributes": [CN, O, O]},
        "a further O": {"attributes": [CN, O, c.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters")]},
        **{
            f"{name} as {kind}": {"attributes": attributes}
            for kind in ("UniversalString", "BMPString", "T61String", "IA5String", "NumericString", "VisibleString")
            for name, attributes in (("CN", [encoded(CN, kind), O]), ("O", [CN, encoded(O, kind)]))
        },
        "an empty name": {"attributes": []},
        "an OU": {"attributes": [CN, O, c.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "x")]},
        "a missing DNS name": {"names": DNS[:1] + IPS},
        "a further DNS name": {"names": [*DNS, *IPS, c.DNSName("kubernetes")]},
        "a wildcard": {"names": [c.DNSName("*"), DNS[1], *IPS]},
        "DNS in other case": {"names": [c.DNSName("W-1"), DNS[1], *IPS]},
        "no SAN at all": {"names": []},
        "another address": {"names": [*DNS, IPS[0], c.IPAddress(ipaddress.ip_address("10.0.0.9"))]},
        "a further address": {"names": [*DNS, *IPS, c.IPAddress(ipaddress.ip_address("127.0.0.1"))]},
        "an e-mail": {"names": [*DNS, *IPS, c.RFC822Name("x@w-1")]},
        "a URI": {"names": [*DNS, *IPS, c.UniformResourceIdentifier("spiffe://x/y")]},
        "an otherName": {
            "names": [*DNS, *IPS, c.OtherName(c.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01x")]
        },
        "a directory name": {"names": [*DNS, *IPS, c.DirectoryName(c.Name([CN]))]},
    },
    "usage-differs": {
        "client EKU": {"eku": CLIENT},
        "both EKUs": {"eku": SERVER + CLIENT},
        "any EKU": {"eku": [*SERVER, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]},
        "no EKU": {"eku": []},
    },
    "key-usage-differs": {
        "encipherment on EC": {"usage": usage(digital_signature=True, key_encipherment=True)},
        "cert sign": {"usage": usage(digital_signature=True, key_cert_sign=True)},
        "agreement": {"usage": usage(digital_signature=True, key_agreement=True, encipher_only=True)},
        "usage not critical": {"critical": False},
    },
    "is-ca": {"a CA": {"extensions": [(c.BasicConstraints(True, None), True)]}},
    "extensions-differ": {"an unknown critical extension": {"extensions": [UNKNOWN]}},
    "not-yet-valid": {"not yet valid": {"not_before": NOW + timedelta(seconds=301)}},
    "expired": {"expired": {"not_after": NOW}},
    "too-long": {"longer than asked": {"not_after": NOW + timedelta(seconds=TTL + 301)}},
    "stale": {"past half its life": {"not_before": NOW - 8 * DAY}},
    "not-our-ca": {
        "an unknown signer": {"signer": ec.generate_private_key(ec.SECP256R1())},
        "signed by the root itself": {"signer": ROOT.key, "issuer": ROOT.name},
    },
}


@pytest.mark.parametrize(("reason", "name"), [(reason, name) for reason, names in BAD.items() for name in names])
def test_what_differs_is_refused_by_name(reason: str, name: str) -> None:
    with pytest.raises(CertificateRefused) as error:
        judged(ISSUING.sign(KEY.public_key(), **BAD[reason][name]))
    assert error.value.reason == reason
    assert str(error.value).startswith("kubelet: the certificate Vault signed") and "\n" not in str(error.value)


# A stranger's certificate may be as old as it likes: nobody renews it here.
OF_STRANGERS = {reason: names for reason, names in BAD.items() if reason != "stale"}


@pytest.mark.parametrize(
    ("reason", "name"), [(reason, name) for reason, names in OF_STRANGERS.items() for name in names]
)
def test_what_is_signed_for_a_strangers_request_is_held_to_the_same(reason: str, name: str) -> None:
    with pytest.raises(CertificateRefused) as error:
        for_request(ISSUING.sign(KEY.public_key(), **BAD[reason][name]))
    assert error.value.reason == reason


def test_a_strangers_certificate_is_for_the_key_of_the_request_and_of_a_ca_that_the_node_trusts() -> None:
    leaf, issuer = for_request(ISSUING.sign(KEY.public_key()) + ROOT.pem)
    assert (leaf.subject, issuer) == (SUBJECT, ISSUING.facts)
    ended = Authority("issuing", ROOT, not_after=NOW - timedelta(seconds=1))
    short = Authority("issuing", ROOT, not_after=NOW + DAY)
    cases: dict[str, tuple[bytes, list[Facts]]] = {
        "key-mismatch": (ISSUING.sign(keys.generate_key(KeyType.EC_P256).public_key()), [ISSUING.facts]),
        "not-our-ca": (ended.sign(KEY.public_key(), not_after=NOW + DAY), [ended.facts]),
        "outlives-issuer": (short.sign(KEY.public_key()), [short.facts]),
    }
    for reason, (pem, issuers) in cases.items():
        with pytest.raises(CertificateRefused) as error:
            for_request(pem, issuers)
        assert error.value.reason == reason


def for_request(pem: bytes, issuers: Sequence[Facts] = (ISSUING.facts,)) -> tuple[Facts, Facts]:
    return check_for_request(pem, keys.public_der(KEY), WANT, issuers, NOW)


def test_another_key_is_refused() -> None:
    other = keys.generate_key(KeyType.EC_P256)
    with pytest.raises(CertificateRefused) as error:
        judged(ISSUING.sign(other.public_key()))
    assert error.value.reason == "key-mismatch"


def test_key_encipherment_is_for_rsa_servers() -> None:
    rsa_key = keys.generate_key(KeyType.RSA_2048)
    both = usage(digital_signature=True, key_encipherment=True)
    judged(ISSUING.sign(rsa_key.public_key(), usage=both), rsa_key)
    judged(ISSUING.sign(rsa_key.public_key()), rsa_key)
    with pytest.raises(CertificateRefused):
        judged(ISSUING.sign(rsa_key.public_key(), usage=usage(key_encipherment=True)), rsa_key)
    want = dataclasses.replace(WANT, usage=Usage.CLIENT)
    with pytest.raises(CertificateRefused):
        judged(ISSUING.sign(rsa_key.public_key(), usage=both, eku=CLIENT), rsa_key, want)


def test_each_usage_is_that_usage_and_no_other() -> None:
    ekus = {Usage.CLIENT: CLIENT, Usage.SERVER: SERVER, Usage.BOTH: CLIENT + SERVER}
    for wanted in Usage:
        for given_usage, eku in ekus.items():
            pem = ISSUING.sign(KEY.public_key(), eku=eku)
            want = dataclasses.replace(WANT, usage=wanted)
            if wanted is given_usage:
                assert judged(pem, want=want).usage is wanted
            else:
                with pytest.raises(CertificateRefused):
                    judged(pem, want=want)


def test_the_issuer_must_be_a_live_ca_of_the_pinned_root() -> None:
    stranger = Authority("root")
    cases = {
        "retired": Authority("old", ROOT, not_after=NOW - timedelta(seconds=1)),
        "not a CA": Authority("leaf", ROOT, ca=False, path=None),
        "no keyCertSign": Authority("weak", ROOT, usage=usage(crl_sign=True)),
        "another root's": Authority("issuing", stranger),
        "a path of one": Authority("issuing", ROOT, path=1),
        "an EKU": Authority("issuing", ROOT, extensions=[ANY_EKU]),
        "name constraints": Authority("issuing", ROOT, extensions=[CONSTRAINTS]),
        "an unknown critical extension": Authority("issuing", ROOT, extensions=[UNKNOWN]),
        "a key that no CA of ours has": Authority("issuing", ROOT, key=SMALL),
    }
    for name, authority in cases.items():
        with pytest.raises(CertificateRefused) as error:
            judged(authority.sign(KEY.public_key(), not_after=NOW + DAY), issuers=[authority.facts])
        assert error.value.reason == "not-our-ca", name
    with pytest.raises(CertificateRefused):
        judged(ISSUING.sign(KEY.public_key()), root=stranger.facts)
    with pytest.raises(CertificateRefused):
        judged(ISSUING.sign(KEY.public_key()), issuers=[])


def test_a_leaf_names_its_issuer_in_the_same_bytes() -> None:
    """Go finds an issuer by the bytes of its name."""
    issuer = c.Name([encoded(attribute, "PrintableString") for attribute in ISSUING.name])
    with pytest.raises(CertificateRefused) as error:
        judged(ISSUING.sign(KEY.public_key(), issuer=issuer))
    assert error.value.reason == "not-our-ca"


def spoilt(authority: Authority, old: bytes, new: bytes, **options: Any) -> bytes:
    """A leaf of this CA with other bytes in what is signed, and a signature of its own, as PEM."""
    whole = c.load_pem_x509_certificate(authority.sign(KEY.public_key(), **options))
    ((_, content),) = der.elements(whole.tbs_certificate_bytes)
    assert content.count(old) == 1
    changed = tlv(0x30, content.replace(old, new))
    algorithm = list(der.elements(next(der.elements(whole.public_bytes(serialization.Encoding.DER)))[1]))[1]
    signature = authority.key.sign(changed, ec.ECDSA(hashes.SHA256()))
    data = tlv(0x30, changed + tlv(*algorithm) + tlv(0x03, b"\0" + signature))
    return dataclasses.replace(authority.facts, der=data).pem.encode()


def tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    length = bytes([size]) if size < 0x80 else bytes([0x80 | len(octets)]) + octets
    return bytes([tag]) + length + content


def test_a_printable_string_holds_printable_characters() -> None:
    """Go refuses others."""
    text, want = b"\x06\x03\x55\x04\x03\x0c\x03a_b", dataclasses.replace(WANT, subject=Subject("a_b"))
    options: dict[str, Any] = {"attributes": [c.NameAttribute(CN_OID, "a_b")], "names": []}
    judged(spoilt(ISSUING, text, text, **options), want=want)
    with pytest.raises((CertificateRefused, CertificateUnreadable)):
        judged(spoilt(ISSUING, text, text.replace(b"\x0c", b"\x13"), **options), want=want)
    assert der.well_encoded(tlv(0x30, tlv(0x31, tlv(0x30, text)))) == [True]
    assert der.well_encoded(tlv(0x30, tlv(0x31, tlv(0x30, text.replace(b"\x0c", b"\x13"))))) == [False]


# The serial number of every leaf here, 4711, and the version before it.
SERIAL, VERSION = b"\x02\x02\x12\x67", b"\xa0\x03\x02\x01\x02"


@pytest.mark.parametrize("new", [b"\x02\x02\x92\x67", b"\x02\x02\x00\x00", b"\x02\x01\x00", b"\x02\x01\xff"])
def test_a_serial_number_that_is_not_positive_is_told_in_one_sentence(new: bytes) -> None:
    judged(spoilt(ISSUING, SERIAL, b"\x02\x02\x12\x68"))
    with pytest.raises(CertificateUnreadable):
        judged(spoilt(ISSUING, SERIAL, new))


@pytest.mark.parametrize("new", [b"", b"\xa0\x03\x02\x01\x00", b"\xa0\x03\x02\x01\x01", b"\xa0\x03\x02\x01\x03"])
def test_only_version_3_is_a_certificate(new: bytes) -> None:
    with pytest.raises(CertificateUnreadable):
        judged(spoilt(ISSUING, VERSION + SERIAL, new + SERIAL))


def test_an_extension_twice_is_told_in_one_sentence() -> None:
    twice = (c.UnrecognizedExtension(c.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), False)
    other = (c.UnrecognizedExtension(c.ObjectIdentifier("1.2.3.5"), b"\x05\x00"), False)
    judged(ISSUING.sign(KEY.public_key(), extensions=[twice, other]))
    certificate = c.load_pem_x509_certificate(ISSUING.sign(KEY.public_key(), extensions=[twice, other]))
    data = certificate.public_bytes(serialization.Encoding.DER).replace(b"\x2a\x03\x05", b"\x2a\x03\x04")
    with pytest.raises(CertificateUnreadable):
        judged(dataclasses.replace(ISSUING.facts, der=data).pem.encode())


def test_no_leaf_outlives_its_issuer() -> None:
    short = Authority("short", ROOT, not_after=NOW + DAY)
    judged(short.sign(KEY.public_key(), not_after=NOW + DAY), issuers=[short.facts])
    with pytest.raises(CertificateRefused) as error:
        judged(short.sign(KEY.public_key(), not_after=NOW + DAY + timedelta(seconds=1)), issuers=[short.facts])
    assert error.value.reason == "outlives-issuer"


def test_a_foreign_ca_in_the_chain_is_refused() -> None:
    with pytest.raises(CertificateRefused) as error:
        judged(ISSUING.sign(KEY.public_key()) + Authority("foreign").pem)
    assert error.value.reason == "foreign-chain"


def test_sha1_is_refused(tmp_path: Path) -> None:
    # cryptography signs no certificate with SHA-1 any more; OpenSSL's own command does.
    (tmp_path / "ca.key").write_bytes(keys.key_pem(ISSUING.key))
    (tmp_path / "ca.crt").write_bytes(ISSUING.pem)
    (tmp_path / "csr").write_text(keys.request(KEY, SUBJECT))
    (tmp_path / "ext").write_text(
        "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
        "subjectAltName=DNS:w-1,DNS:w-1.example.com,IP:10.0.0.21,IP:fd00::21\n"
    )
    command = "openssl x509 -req -sha1 -in csr -CA ca.crt -CAkey ca.key -set_serial 1 -days 1 -extfile ext"
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, check=True)
    leaf = x509.read_certificates(done.stdout)[0]
    assert leaf.signature == "sha1"
    with pytest.raises(CertificateRefused) as error:
        check_signed(done.stdout, KEY, WANT, [ISSUING.facts], [ROOT.facts], leaf.not_before)
    assert error.value.reason == "weak-signature"


@pytest.mark.parametrize("kind", list(KeyType))
def test_key_and_request_of_every_kind(kind: KeyType, tmp_path: Path) -> None:
    key = keys.generate_key(kind)
    pem = keys.key_pem(key)
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----\n")
    csr = c.load_pem_x509_csr(keys.request(key, SUBJECT).encode())
    assert csr.is_signature_valid and csr.public_key() == key.public_key()
    assert csr.subject.rfc4514_string() == "CN=system:node:w-1,O=system:nodes"
    (extension,) = csr.extensions
    assert list(extension.value) == DNS + IPS and not extension.critical
    leaf = x509.read_certificates(ISSUING.sign(key.public_key()))[0]
    assert leaf.key is kind
    assert x509.matches(pem, leaf) and not x509.matches(keys.key_pem(keys.generate_key(KeyType.EC_P256)), leaf)
    checked = subprocess.run(["openssl", "pkey", "-check", "-noout"], input=pem, capture_output=True, check=False)
    assert checked.returncode == 0 or kind is KeyType.ED25519, checked.stderr


def test_a_request_without_names_has_no_san() -> None:
    csr = c.load_pem_x509_csr(keys.request(KEY, Subject("kubernetes-admin", ("a", "b"))).encode())
    assert len(csr.extensions) == 0
    assert csr.subject.rfc4514_string() == "CN=kubernetes-admin,O=b,O=a"


@pytest.mark.parametrize("subject", [Subject("x" * 65), Subject(""), Subject("a", (), ("ä",))])
def test_a_name_that_fits_no_certificate_is_told(subject: Subject) -> None:
    with pytest.raises(SpecError, match="is not allowed in a certificate"):
        keys.request(KEY, subject)


LEAF = ISSUING.sign(KEY.public_key())


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"\n",
        b"x" + LEAF,
        LEAF + b"x",
        LEAF + b"bag attributes\n" + LEAF,
        LEAF + keys.key_pem(KEY),
        LEAF[:-30],
        LEAF.replace(b"CERTIFICATE", b"X509 CRL"),
        LEAF.replace(b"M", b"N", 1),
        LEAF[:100] + LEAF[165:],
        LEAF * 200,
        keys.request(KEY, SUBJECT).encode(),
    ],
    ids=range(12),
)
def test_what_is_no_certificate_is_told_in_one_sentence(pem: bytes) -> None:
    with pytest.raises(CertificateUnreadable) as error:
        x509.read_certificates(pem)
    assert "\n" not in str(error.value) and error.value.__cause__ is None
    with pytest.raises(CertificateUnreadable):
        x509.fingerprint(pem)


def test_a_key_of_another_kind_and_an_encrypted_key_are_told() -> None:
    other = ec.generate_private_key(ec.SECP521R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    locked = KEY.private_bytes(*form, serialization.BestAvailableEncryption(b"secret"))
    leaf = x509.read_certificates(LEAF)[0]
    for pem in (other.private_bytes(*form, serialization.NoEncryption()), locked, b"", LEAF, b"x" * 70_000):
        with pytest.raises(CertificateUnreadable):
            x509.matches(pem, leaf)


def mutated(base: bytes) -> st.SearchStrategy[bytes]:
    def change(edits: list[tuple[int, int]]) -> bytes:
        out = bytearray(base)
        for place, value in edits:
            out[place % len(out)] = value
        return bytes(out)

    return st.lists(st.tuples(st.integers(0, 4096), st.integers(0, 255)), max_size=6).map(change)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=300), mutated(LEAF), mutated(x509.read_certificates(LEAF)[0].der)))
def test_any_bytes_give_facts_or_our_own_error(data: bytes) -> None:
    wrapped = dataclasses.replace(ISSUING.facts, der=data).pem.encode()
    for read in (lambda: x509.read_certificates(data), lambda: x509.read_certificates(wrapped)):
        _either(read)
    _either(lambda: keys.read_key(data))
    _either(lambda: judged(wrapped))


@settings(max_examples=200, deadline=None)
@given(mutated(keys.key_pem(KEY)))
def test_any_key_bytes_give_a_key_or_our_own_error(data: bytes) -> None:
    _either(lambda: keys.read_key(data))


def _either(call: Callable[[], object]) -> None:
    with contextlib.suppress(CertificateUnreadable, CertificateRefused):
        call()


def trusted(*issuing: bytes, root: Authority = ROOT, pin: str = "", now: datetime = NOW) -> Trust:
    above = roots.follow(pin or root.facts.fingerprint, None, [root.facts], None, now, name="root")
    return trust_below(issuing, above.trusted, now, name="issuing")


def test_trust_orders_the_newest_first_and_keeps_the_root_out_of_the_bundle() -> None:
    newer = Authority("issuing 2", ROOT, not_before=NOW - timedelta(hours=1))
    gone = Authority("issuing 10", ROOT, not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    trust = trusted(gone.pem, ISSUING.pem + ROOT.pem, newer.pem, newer.pem)
    assert trust.issuing == (newer.facts, ISSUING.facts, gone.facts) and trust.live == (newer.facts, ISSUING.facts)
    assert trust.bundle.encode() == newer.pem + ISSUING.pem + gone.pem
    assert trust.chain_bundle.encode() == newer.pem + ISSUING.pem + gone.pem + ROOT.pem


def test_only_the_pinned_root_and_one_that_go_takes_is_a_root() -> None:
    late = Authority("late root", not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    cases = {
        "root-differs": [(Authority("root"), ROOT.facts.fingerprint)],
        "root-unfit": [
            (root, root.facts.fingerprint)
            for root in (
                ISSUING,
                late,
                Authority("root", path=0),
                Authority("root", extensions=[CONSTRAINTS]),
                Authority("root", extensions=[ANY_EKU]),
                Authority("root", extensions=[UNKNOWN]),
                Authority("root", usage=usage(crl_sign=True)),
                Authority("root", ca=False),
            )
        ],
    }
    for reason, pinned in cases.items():
        for root, pin in pinned:
            with pytest.raises(CertificateRefused) as error:
                trusted(ISSUING.pem, root=root, pin=pin)
            assert error.value.reason == reason and "\n" not in str(error.value)


def named(*attributes: tuple[c.ObjectIdentifier, str]) -> c.Name:
    return c.Name([c.NameAttribute(oid, text) for oid, text in attributes])


STRANGERS: dict[str, tuple[Authority, str]] = {
    "another root's": (Authority("issuing", Authority("root")), "was not signed by"),
    "its own": (Authority("issuing"), "was not signed by"),
    "the root itself": (ROOT, "is the root CA"),
    "another domain's": (Authority("kubernetes", ROOT), "name is not CN=issuing alone"),
    "a longer name": (Authority("issuing CA", ROOT), "name is not"),
    "in another case": (Authority("Issuing", ROOT), "name is not"),
    "a first number": (Authority("issuing 1", ROOT), "name is not"),
    "a leading zero": (Authority("issuing 02", ROOT), "name is not"),
    "a number of no digits": (Authority("issuing ", ROOT), "name is not"),
    "a number of other digits": (Authority("issuing \u0662", ROOT), "name is not"),
    "a line behind": (Authority("issuing\n", ROOT), "name is not"),
    "two CNs": (Authority("issuing", ROOT, subject=named((CN_OID, "issuing"), (CN_OID, "issuing"))), "name is not"),
    "no CN": (Authority("issuing", ROOT, subject=named((O_OID, "issuing"))), "name is not"),
    "no name": (Authority("issuing", ROOT, subject=c.Name([])), "name is not"),
    "a SAN": (Authority("issuing", ROOT, extensions=[(c.SubjectAlternativeName(DNS), False)]), "name is not"),
    "a path of one": (Authority("issuing", ROOT, path=1), "path length is not 0"),
    "a path without an end": (Authority("issuing", ROOT, path=None), "path length is not 0"),
    "a leaf": (Authority("issuing", ROOT, ca=False, path=None), "is not a CA that may sign"),
    "no right to sign": (Authority("issuing", ROOT, usage=usage(crl_sign=True)), "is not a CA that may sign"),
    "client EKU": (Authority("issuing", ROOT, extensions=[(c.ExtendedKeyUsage(CLIENT), False)]), "extended key usage"),
    "any EKU": (Authority("issuing", ROOT, extensions=[ANY_EKU]), "extended key usage"),
    "name constraints": (Authority("issuing", ROOT, extensions=[CONSTRAINTS]), "name constraints"),
    "an unknown critical extension": (Authority("issuing", ROOT, extensions=[UNKNOWN]), "extension that no CA of ours"),
    "P-521": (Authority("issuing", ROOT, key=ec.generate_private_key(ec.SECP521R1())), "kind or size"),
    "RSA of 1024 bits": (Authority("issuing", ROOT, key=SMALL), "kind or size"),
}


def test_a_ca_keeps_the_name_that_it_had_below_a_root_from_outside() -> None:
    """It is signed by ours again with its key, and leaves name it byte for byte."""
    kept = Authority("issuing", ROOT, subject=named((O_OID, "x"), (CN_OID, "issuing")))
    assert trusted(kept.pem).issuing == (kept.facts,)


@pytest.mark.parametrize(("authority", "why"), STRANGERS.values(), ids=STRANGERS)
def test_a_stranger_is_named_with_the_reason_and_takes_nothing_away(authority: Authority, why: str) -> None:
    for pems in ([authority.pem, ISSUING.pem], [ISSUING.pem, authority.pem]):
        trust = trusted(*pems)
        assert trust.issuing == trust.live == (ISSUING.facts,) and trust.bundle.encode() == ISSUING.pem
        (stranger,) = trust.untrusted
        assert stranger.fingerprint == authority.facts.fingerprint and why in stranger.reason
    alone = trusted(authority.pem)
    assert alone.issuing == alone.live == () and alone.bundle == "" and len(alone.untrusted) == 1


def test_what_cannot_be_read_on_a_mount_is_a_stranger() -> None:
    garbled = ISSUING.pem.replace(b"M", b"N", 1)
    trust = trusted(garbled, ISSUING.pem, b"")
    assert trust.issuing == (ISSUING.facts,)
    assert [stranger.reason for stranger in trust.untrusted] == ["it cannot be read"] * 2


def test_a_ca_past_its_date_stays_in_the_bundle_and_signs_nothing() -> None:
    gone = Authority("issuing", ROOT, not_after=NOW)
    soon = Authority("issuing 2", ROOT, not_before=NOW + timedelta(seconds=301))
    trust = trusted(gone.pem, soon.pem)
    assert trust.live == () and trust.issuing == (soon.facts, gone.facts) and trust.untrusted == ()
    assert trusted(soon.pem, now=NOW + timedelta(seconds=1)).live == (soon.facts,)
    assert trusted(ROOT.pem).issuing == ()


def test_read_pair() -> None:
    key, crt = keys.key_pem(KEY), LEAF + ISSUING.pem
    good = x509.read_pair(crt, key, key + crt, [ISSUING.facts])
    assert good.matches and good.issuer_live and not good.missing and not good.unreadable
    assert x509.read_pair(crt, key, key + crt, None).issuer_live is None
    assert x509.read_pair(crt, key, key + crt, [Authority("other", ROOT).facts]).issuer_live is False
    bare = x509.read_pair(LEAF, key, key + LEAF, [ISSUING.facts])
    assert bare.issuer_live and bare.issuer == ISSUING.facts and bare.served == ()
    # Of two certificates for one key the one behind the leaf is its issuer.
    renewed = Authority("issuing", ROOT, key=ISSUING.key)
    for issuers in ([ISSUING.facts, renewed.facts], [renewed.facts, ISSUING.facts]):
        assert x509.read_pair(crt, key, key + crt, issuers).issuer == ISSUING.facts
    assert x509.read_pair(crt, key, key + crt, [renewed.facts]).issuer == renewed.facts
    assert x509.read_pair(crt, None, None, None).missing == ("key", "pem")
    assert not x509.read_pair(crt, key, key + LEAF, None).matches
    other = keys.key_pem(ed25519.Ed25519PrivateKey.generate())
    assert not x509.read_pair(crt, other, other + crt, None).matches
    torn = x509.read_pair(crt[:50], key[:50], key + crt, None)
    assert torn.unreadable == ("crt", "key") and torn.leaf is None
