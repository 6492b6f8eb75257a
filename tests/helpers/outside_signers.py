"""An outside root with CAs below it, made in memory, that signs an issuing CA of a cluster rightly or wrongly."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from cryptography import x509 as c
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from helpers import signed_certificates
from helpers.signed_certificates import SIGNS
from vaultpki.outside.files import SentFile, read_sent
from vaultpki.outside.name_constraints import LeafNames
from vaultpki.outside.request import WaitingRequest, waiting_request
from vaultpki.outside.verdicts import Verdict, judge
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.values import der

NOW: Final = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
DAY: Final = timedelta(days=1)
YEAR: Final = 365 * DAY

NAMES: Final = LeafNames(
    ("kubernetes", "kubernetes.default.svc.cluster.local", "cp-1", "localhost", "api.corp.example"),
    ("w-*",),
    ("10.96.0.1", "10.0.0.11", "127.0.0.1", "::1"),
)
"""What a kube-apiserver, an etcd member and the nodes of a pool are called."""

PARAMETERS: Final[Mapping[str, Any]] = {"ttl": int(5 * YEAR.total_seconds()), "longest_ttl": 30 * 86400, "names": NAMES}

BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"

Options = Mapping[str, Any]

_MAKERS: Final[Mapping[str, Callable[[], Any]]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "k256": lambda: ec.generate_private_key(ec.SECP256K1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
    "dsa": lambda: dsa.generate_private_key(1024),  # noqa: S505 - to be refused
    "rsa1024": lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505 - to be refused
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa4096": lambda: rsa.generate_private_key(65537, 4096),
}


def key(name: str, kind: str = "p256") -> Any:
    """The private key of this name."""
    return _key(name, kind)


@cache
def _key(name: str, kind: str) -> Any:
    return _MAKERS[kind]()


def name(text: str, kind: _ASN1Type = _ASN1Type.PrintableString) -> c.Name:
    """A subject with this CN, encoded as the servers do it."""
    return c.Name([c.NameAttribute(NameOID.COMMON_NAME, text, kind)])


usage = signed_certificates.usage


def unknown_extension() -> c.UnrecognizedExtension:
    """An extension that nobody knows."""
    return c.UnrecognizedExtension(c.ObjectIdentifier("1.3.6.1.4.1.32473.1"), b"\x05\x00")


def csr(subject: c.Name, private: Any) -> str:
    """A signing request for this name and key, in PEM."""
    hashed = None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    made = c.CertificateSigningRequestBuilder().subject_name(subject).sign(private, hashed)
    return made.public_bytes(Encoding.PEM).decode()


@dataclass(frozen=True)
class Level:
    """One CA of a chain: its name, its key, and what its certificate says; `options` changes that."""

    subject: c.Name
    private: Any
    options: Options = field(default_factory=dict)

    def certificate(self, signer: Level) -> bytes:
        """The DER of the certificate that `signer` makes."""
        o = self.options
        public = o.get("public", self.private.public_key())
        builder = (
            c.CertificateBuilder()
            .subject_name(o.get("subject", self.subject))
            .issuer_name(o.get("issuer", signer.subject))
            .public_key(public)
            .serial_number(o.get("serial", _serial(self.subject.rfc4514_string())))
            .not_valid_before(o.get("not_before", NOW - DAY))
            .not_valid_after(o.get("not_after", NOW + 10 * YEAR))
        )
        for extension, critical in self._extensions(public, signer):
            builder = builder.add_extension(extension, critical)
        edwards = isinstance(signer.private, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
        hashed = None if edwards else o.get("hash", hashes.SHA256())
        made = builder.sign(o.get("forger", signer.private), hashed, rsa_padding=o.get("padding"))
        data = made.public_bytes(Encoding.DER)
        return o["rebuilt"](data, signer.private) if "rebuilt" in o else data

    def _extensions(self, public: Any, signer: Level) -> list[tuple[c.ExtensionType, bool]]:
        o, lacking = self.options, self.options.get("without", ())
        found: list[tuple[c.ExtensionType, bool]] = []
        if "bc" not in lacking:
            ca = o.get("ca", True)
            basic = c.BasicConstraints(ca, o.get("path_length") if ca else None)
            found.append((basic, o.get("bc_critical", True)))
        if "ku" not in lacking:
            found.append((o.get("usage", usage(*SIGNS)), True))
        if "ski" not in lacking:
            found.append((o.get("ski", c.SubjectKeyIdentifier.from_public_key(public)), False))
        if "aki" not in lacking:
            aki = c.AuthorityKeyIdentifier.from_issuer_public_key(signer.private.public_key())
            found.append((o.get("aki", aki), False))
        return found + [(each, critical) for each, critical in o.get("more", [])]


def _serial(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1 | 1


RIGHT: Final[Mapping[str, Options]] = {
    "root": {"not_after": NOW + 20 * YEAR, "not_before": NOW - YEAR},
    "upper": {"path_length": 2, "not_before": NOW - YEAR},
    "lower": {"path_length": 1, "not_before": NOW - YEAR},
    "own": {"path_length": 0, "not_before": NOW - timedelta(minutes=10), "not_after": NOW + 5 * YEAR},
}
"""The options of a root, two intermediates, and an issuing CA that passes every check."""

KINDS: Final = {"root": "p256", "upper": "p256", "lower": "p256", "own": "p256"}


def chain(changes: Mapping[str, Options] | None = None, kinds: Mapping[str, str] = KINDS) -> dict[str, bytes]:
    """The DER of `root`, `upper`, `lower` and `own`, with these options changed; `more` adds to what is there."""
    levels: dict[str, Level] = {}
    for each, cn in (
        ("root", "Corp Root"),
        ("upper", "Corp Policy CA"),
        ("lower", "Corp Cluster CA"),
        ("own", "prod etcd CA"),
    ):
        kind = kinds.get(each, "p256")
        levels[each] = Level(name(cn), key(f"{each} {kind}", kind), {**RIGHT[each], **(changes or {}).get(each, {})})
    signers = {"root": "root", "upper": "root", "lower": "upper", "own": "lower"}
    return {each: level.certificate(levels[signers[each]]) for each, level in levels.items()}


def own_request(kinds: Mapping[str, str] = KINDS) -> WaitingRequest:
    """The request that waits: that of etcd, with the key of `own`."""
    kind = kinds.get("own", "p256")
    return waiting_request("etcd", csr(name("prod etcd CA"), key(f"own {kind}", kind)), **PARAMETERS)


def pem(*certificates: bytes) -> bytes:
    """These certificates as PEM."""
    blocks = (f"{BEGIN}\n{base64.encodebytes(each).decode()}{END}\n" for each in certificates)
    return "".join(blocks).encode()


def facts(data: bytes) -> Facts:
    """What a certificate says."""
    return x509.read_certificates(pem(data))[0]


def judged(
    files: Sequence[bytes],
    anchor: bytes,
    *,
    known: Sequence[bytes] = (),
    requests: Sequence[WaitingRequest] | None = None,
    now: datetime = NOW,
) -> Verdict:
    """The judgement on these files, called 1.pem, 2.pem and so on."""
    sent = read_sent([SentFile(f"{number}.pem", data) for number, data in enumerate(files, 1)])
    waiting = [own_request()] if requests is None else requests
    return judge(sent, waiting, facts(anchor), [facts(each) for each in known], now)


def resigned(data: bytes, private: Any, change: Callable[[list[tuple[int, bytes]]], list[tuple[int, bytes]]]) -> bytes:
    """The certificate with other fields in its signed part, signed again by `private` with the hash it had."""
    (_, whole), *_ = der.elements(data)
    (_, signed), algorithm, _ = der.elements(whole)
    body = der.element(0x30, b"".join(der.element(*each) for each in change(list(der.elements(signed)))))
    return _assembled(body, der.element(*algorithm), private, hashes.SHA256())


def version_1(data: bytes, private: Any) -> bytes:
    """The certificate as version 1: without the version's field and without extensions."""
    return resigned(data, private, lambda fields: [each for each in fields if each[0] not in (0xA0, 0xA3)])


def serial_zero(data: bytes, private: Any) -> bytes:
    """The certificate with the serial number 0."""
    return resigned(data, private, lambda fields: [fields[0], (0x02, b"\x00"), *fields[2:]])


def pss_key(data: bytes, private: Any) -> bytes:
    """The certificate with its RSA key marked as one for RSASSA-PSS (RFC 4055 section 1.2)."""

    def change(fields: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        _, bits = der.elements(fields[6][1])
        marked = der.element(0x30, bytes.fromhex("06092a864886f70d01010a")) + der.element(*bits)
        return [*fields[:6], (0x30, marked), *fields[7:]]

    return resigned(data, private, change)


def compressed_key(data: bytes, private: Any) -> bytes:
    """The certificate with its EC key as a compressed point, which Go does not read."""

    def change(fields: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        kind, (_, bits) = der.elements(fields[6][1])
        half = (len(bits) - 2) // 2
        point = bytes((0, 2 + (bits[-1] & 1))) + bits[2 : 2 + half]
        return [*fields[:6], (0x30, der.element(*kind) + der.element(0x03, point)), *fields[7:]]

    return resigned(data, private, change)


def sha1(data: bytes, private: Any) -> bytes:
    """The certificate signed with SHA-1 by an RSA key; `cryptography` makes none any more."""
    (_, whole), *_ = der.elements(data)
    (_, signed), *_ = der.elements(whole)
    sha256_rsa, sha1_rsa = (bytes.fromhex(f"2a864886f70d0101{end}") for end in ("0b", "05"))
    body = der.element(0x30, signed).replace(sha256_rsa, sha1_rsa)
    return _assembled(body, der.element(0x30, b"\x06\x09" + sha1_rsa + b"\x05\x00"), private, hashes.SHA1())  # noqa: S303 - to be refused


def _assembled(body: bytes, algorithm: bytes, private: Any, hashed: Any) -> bytes:
    if isinstance(private, rsa.RSAPrivateKey):
        signature = private.sign(body, padding.PKCS1v15(), hashed)
    else:
        signature = private.sign(body, ec.ECDSA(hashed))
    return der.element(0x30, body + algorithm + der.element(0x03, b"\x00" + signature))
