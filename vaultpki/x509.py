"""Keys, certificate requests, and reading and judging certificates: the only importer of `cryptography`.

Importing it costs about 50 ms, so other modules import this one inside the functions that need it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from ipaddress import ip_address
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from vaultpki import ca_rules, der
from vaultpki.certificates import LEAF_BACKDATE, SKEW
from vaultpki.errors import CertificateRefused, CertificateUnreadable, SpecError
from vaultpki.facts import EKU, Facts, Pair, Stranger, Trust, same_names
from vaultpki.model import Certificate, KeyType, Subject

_E = TypeVar("_E", bound=x509.ExtensionType)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

LARGEST: Final = 64 * 1024
"""The most bytes of PEM that are looked at; a chain of four RSA-4096 certificates has 9 KiB."""

# A node's own certificates and its CAs, old and new, and no more of a `verify` of many nodes than is in use.
_REMEMBERED: Final = 64

_BLOCK = re.compile(
    rb"\s*-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END CERTIFICATE-----[ \t]*(?:\r?\n|\Z)"
)

_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)


def generate_key(kind: KeyType) -> PrivateKey:
    """A new private key of that kind."""
    if kind is KeyType.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    if kind.rsa:
        return rsa.generate_private_key(public_exponent=65537, key_size=kind.vault_bits)
    return ec.generate_private_key(ec.SECP384R1() if kind is KeyType.EC_P384 else ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    """The key as unencrypted PKCS#8 PEM, which every TLS library reads."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_key(pem: bytes) -> PrivateKey:
    """The private key in an unencrypted PEM; CertificateUnreadable for anything else."""
    with _reading("a private key"):
        if len(pem) > LARGEST:
            raise ValueError("too large")
        key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, PrivateKey) or _kind(key.public_key()) is None:
        raise CertificateUnreadable("this is a private key of a kind that vaultpki never makes; renew the pair")
    return key


def request(key: PrivateKey, subject: Subject) -> str:
    """A certificate request in PEM that names exactly `subject`, signed with `key`.

    SpecError where a name cannot stand in a certificate (RFC 5280 appendix A.1: a CN has at most 64 characters).
    """
    try:
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in subject.dns]
        names += [x509.IPAddress(ip_address(address)) for address in subject.ips]
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, value) for value in subject.organization]
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, subject.common_name))
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        hashed = hashes.SHA384() if _kind(key.public_key()) is KeyType.EC_P384 else hashes.SHA256()
        signed = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashed)
    except ValueError:
        raise SpecError(
            f"{subject.common_name!r} or a name beside it cannot stand in a certificate: a common name has "
            "1 to 64 characters, a DNS name is ASCII; change the name"
        ) from None
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def read_certificates(pem: bytes) -> tuple[Facts, ...]:
    """The certificates of a PEM in their order: at least one, and nothing beside them.

    CertificateUnreadable for more than 64 KiB, text between the blocks, or a block that is no certificate.
    """
    if len(pem) > LARGEST:
        raise CertificateUnreadable(f"this is longer than the {LARGEST // 1024} KiB that certificates may have")
    found, at = [], 0
    while match := _BLOCK.match(pem, at):
        with _reading("a certificate"):
            found.append(_facts(base64.b64decode(b"".join(match[1].split()), validate=True)))
        at = match.end()
    if not found or pem[at:].strip():
        raise CertificateUnreadable("this is not a PEM file of certificates and nothing else; renew it")
    return tuple(found)


def fingerprint(pem: bytes) -> str:
    """The SHA-256 of the first certificate's DER in lower-case hex, which is what `root_sha256` pins."""
    return read_certificates(pem)[0].fingerprint


def matches(pem: bytes, leaf: Facts) -> bool:
    """Whether the private key in `pem` is the certificate's; CertificateUnreadable where `pem` is no private key."""
    return _public(read_key(pem)) == leaf.public_key


def issuer_of(leaf: Facts, issuers: Sequence[Facts]) -> Facts | None:
    """The first of `issuers` whose key made the leaf's signature; None where none did."""
    return next((issuer for issuer in issuers if _signed_by(leaf, issuer)), None)


def outlives(new: Facts, old: Facts | None) -> bool:
    """Whether `new` lives longer than `old`: one that does not must never replace a good one."""
    return old is None or new.not_after > old.not_after


def read_pair(crt: bytes | None, key: bytes | None, pem: bytes | None, issuers: Sequence[Facts] | None) -> Pair:
    """What the three files of one pair amount to; None stands for a file that is not there.

    `issuers` are the live issuing certificates of its CA, or None where they are not known.
    """
    missing = tuple(name for name, data in (("crt", crt), ("key", key), ("pem", pem)) if data is None)
    unreadable: list[str] = []
    chain: tuple[Facts, ...] = ()
    same = False
    try:
        chain = read_certificates(crt) if crt is not None else ()
    except CertificateUnreadable:
        unreadable.append("crt")
    try:
        same = bool(key is not None and chain and matches(key, chain[0]))
        if key is not None and not chain:
            read_key(key)
    except CertificateUnreadable:
        unreadable.append("key")
    if crt is not None and key is not None and pem is not None:
        same = same and pem == key + crt
    issuer = issuer_of(chain[0], issuers) if chain and issuers is not None else None
    live = None if issuers is None else issuer is not None and chain[1:2] == (issuer,)
    return Pair(missing, tuple(unreadable), chain[0] if chain else None, same, live)


def trust(issuing_pems: Sequence[bytes], root_pem: bytes, root_sha256: str, now: datetime, *, name: str) -> Trust:
    """The CA that these certificates make: those that the pinned root signed as issuing CAs with the CN `name`.

    `root_sha256` is the pin in hex, `name` what `certificates.ca_subject` gives; later keys have a number behind it.
    Where no issuing CA is in date, none is live. All else is a stranger: whoever may write to the mount must not be
    able to stop a node. CertificateRefused with the reason `root-differs` or `root-unfit`; CertificateUnreadable where
    the root is no certificate.
    """
    root = read_certificates(root_pem)[0]
    if root.fingerprint != root_sha256.replace(":", "").lower():
        raise CertificateRefused(
            f"the root CA that Vault shows has the fingerprint {root.fingerprint}, not the pinned {root_sha256}; "
            "find out who changed it before anything is trusted again",
            reason="root-differs",
        )
    if root.not_before > now:
        raise CertificateRefused(
            f"the root CA {root.subject_text} begins at {root.not_before:%Y-%m-%d %H:%M}Z, and here it is "
            f"{now:%Y-%m-%d %H:%M}Z; set this machine's clock right",
            reason="root-unfit",
        )
    problem = ca_rules.no_root(root) or (None if _signed_by(root, root) else "it did not sign itself")
    if problem:
        raise CertificateRefused(f"the root CA {root.subject_text} cannot be trusted: {problem}", reason="root-unfit")
    if not _in_date(root, now):
        raise CertificateRefused(
            f"the root CA {root.subject_text} is past its date {root.not_after:%Y-%m-%d}", reason="root-unfit"
        )
    fit: set[Facts] = set()
    strangers: dict[str, Stranger] = {}
    for pem in issuing_pems:
        try:
            found = read_certificates(pem)
        except CertificateUnreadable:
            unreadable = sha256(pem).hexdigest()
            strangers[unreadable] = Stranger("a certificate", unreadable, "it cannot be read")
            continue
        for facts in found:
            if why := stranger(facts, root, name):
                strangers[facts.fingerprint] = Stranger(facts.subject_text, facts.fingerprint, why)
            else:
                fit.add(facts)
    ordered = tuple(sorted(fit, key=lambda facts: (facts.not_before, facts.serial), reverse=True))
    live = tuple(facts for facts in ordered if _in_date(facts, now))
    return Trust(root, ordered, live, tuple(strangers.values()))


def stranger(facts: Facts, root: Facts, name: str) -> str | None:
    """Why a certificate is no issuing CA called `name` below this root, as the rest of a sentence; None if it is one.

    Its date is not looked at.
    """
    if facts == root:
        return "it is the root CA, which belongs on its own mount alone"
    if not _signed_by(facts, root):
        return "it was not signed by the cluster's root CA"
    return ca_rules.no_issuing_ca(facts, name)


def is_root(facts: Facts, common_name: str, now: datetime) -> bool:
    """Whether a certificate is a self-signed CA of exactly this common name that is in date at `now`."""
    named = facts.subject.common_name == common_name
    return named and ca_rules.no_root(facts) is None and _signed_by(facts, facts) and _in_date(facts, now)


def check_signed(
    chain_pem: bytes,
    key: PrivateKey,
    want: Certificate,
    issuers: Sequence[Facts],
    root: Facts,
    now: datetime,
    *,
    slack: int = SKEW,
) -> Facts:
    """The leaf at the head of `chain_pem`, once it is exactly what was asked for.

    `issuers` are the live issuing certificates of its CA, `root` the pinned root; further certificates in `chain_pem`
    must be among these. `slack` is the seconds by which clocks may differ. A shorter life than asked passes: the
    caller compares. CertificateRefused names the first check that fails, CertificateUnreadable says it is no chain.
    """
    leaf, *others = read_certificates(chain_pem)
    for reason, check in _CHECKS:
        if problem := check(leaf, key, want, now, timedelta(seconds=slack)):
            raise _refused(want, reason, problem)
    issuer = issuer_of(leaf, issuers)
    if issuer is None:
        raise _refused(want, "not-our-ca", f"was not signed by a live issuing CA of {want.ca}")
    if not (_in_date(issuer, now) and _signed_by(issuer, root)) or ca_rules.no_root(root):
        raise _refused(want, "not-our-ca", "was signed by a CA that is out of date or not the pinned root's")
    if problem := ca_rules.no_signer(issuer):
        raise _refused(want, "not-our-ca", f"was signed by {issuer.subject_text}, which may not sign: {problem}")
    if leaf.not_after > issuer.not_after:
        raise _refused(want, "outlives-issuer", "would live longer than the CA that signed it")
    if any(other != root and other not in issuers for other in others):
        raise _refused(want, "foreign-chain", "came with a CA that is not the cluster's")
    return leaf


_Check = Callable[[Facts, PrivateKey, Certificate, datetime, timedelta], str | None]


def _refused(want: Certificate, reason: str, problem: str) -> CertificateRefused:
    return CertificateRefused(
        f"{want.name}: the certificate Vault signed {problem}; it was not installed", reason=reason
    )


def _key_mismatch(leaf: Facts, key: PrivateKey, *_: object) -> str | None:
    return None if leaf.public_key == _public(key) else "is for another key than the one sent"


def _names(leaf: Facts, key: PrivateKey, want: Certificate, *_: object) -> str | None:
    if leaf.further_names:
        return f"carries names nobody asked for ({', '.join(leaf.further_names[:3])!r})"
    return None if same_names(leaf.subject, want.subject) else "does not carry exactly the names asked for"


def _not_a_ca(leaf: Facts, *_: object) -> str | None:
    return "is a CA" if leaf.is_ca else None


def _usage(leaf: Facts, key: PrivateKey, want: Certificate, *_: object) -> str | None:
    return None if leaf.usages == EKU[want.usage] else f"is not for the use {want.usage.value!r} alone"


def _key_usage(leaf: Facts, key: PrivateKey, want: Certificate, *_: object) -> str | None:
    allowed = [{"digital_signature"}]
    if isinstance(key, rsa.RSAPrivateKey) and want.usage.server:
        # A server's key in TLS 1.2's RSA key exchange is the one thing key encipherment is for (RFC 8446 has none).
        allowed.append({"digital_signature", "key_encipherment"})
    if leaf.key_usage in allowed and ExtensionOID.KEY_USAGE.dotted_string in leaf.critical:
        return None
    return "has another key usage than digitalSignature, marked critical"


def _extensions(leaf: Facts, *_: object) -> str | None:
    return "has critical extensions nobody asked for" if leaf.critical - ca_rules.LEAF_CRITICAL else None


def _signature(leaf: Facts, *_: object) -> str | None:
    return None if leaf.signature in ca_rules.SANE_SIGNATURES else f"has a weak signature ({leaf.signature})"


def _begun(leaf: Facts, key: PrivateKey, want: Certificate, now: datetime, slack: timedelta) -> str | None:
    return "is not valid yet: compare this node's clock with Vault's" if leaf.not_before > now + slack else None


def _left(leaf: Facts, key: PrivateKey, want: Certificate, now: datetime, slack: timedelta) -> str | None:
    return "has expired already: compare this node's clock with Vault's" if leaf.not_after <= now else None


def _not_too_long(leaf: Facts, key: PrivateKey, want: Certificate, now: datetime, slack: timedelta) -> str | None:
    return "lives longer than asked" if leaf.not_after > now + timedelta(seconds=want.ttl) + slack else None


def _fresh(leaf: Facts, key: PrivateKey, want: Certificate, now: datetime, slack: timedelta) -> str | None:
    # Renewal is due from half of the life on: one that comes older than that would be renewed in a loop.
    signed = min(leaf.not_before + timedelta(seconds=LEAF_BACKDATE), leaf.not_after)
    stale = leaf.not_after - now + slack < (leaf.not_after - signed) / 2
    return "has spent half of its life already: compare this node's clock with Vault's" if stale else None


_CHECKS: Final[tuple[tuple[str, _Check], ...]] = (
    ("key-mismatch", _key_mismatch),
    ("names-differ", _names),
    ("is-ca", _not_a_ca),
    ("usage-differs", _usage),
    ("key-usage-differs", _key_usage),
    ("extensions-differ", _extensions),
    ("weak-signature", _signature),
    ("not-yet-valid", _begun),
    ("expired", _left),
    ("too-long", _not_too_long),
    ("stale", _fresh),
)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    try:
        yield
    # cryptography documents no closed list of what its parsers raise for bytes from outside: ValueError, TypeError,
    # UnsupportedAlgorithm, InvalidVersion, DuplicateExtension, OverflowError ...
    except Exception:  # noqa: BLE001 - the facts just above
        raise CertificateUnreadable(f"this is not {what} that can be read; renew the pair") from None


# A pass reads each certificate several times, and a CA's at every pass: what the same bytes say does not change.
@lru_cache(maxsize=_REMEMBERED)
def _facts(data: bytes) -> Facts:
    der.refuse_odd(data)
    certificate = x509.load_der_x509_certificate(data)
    subject, further = _read_names(certificate)
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    extended = _extension(certificate, x509.ExtendedKeyUsage)
    own_id = _extension(certificate, x509.SubjectKeyIdentifier)
    signer_id = _extension(certificate, x509.AuthorityKeyIdentifier)
    public = certificate.public_key()
    return Facts(
        subject=subject,
        further_names=further,
        subject_text=certificate.subject.rfc4514_string(),
        issuer_text=certificate.issuer.rfc4514_string(),
        serial=certificate.serial_number,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        usages=frozenset(oid.dotted_string for oid in extended or ()),
        key_usage=frozenset(bit for bit in _KEY_USAGES if getattr(usage, bit)) if usage else frozenset(),
        critical=frozenset(item.oid.dotted_string for item in certificate.extensions if item.critical),
        is_ca=bool(constraints and constraints.ca),
        path_length=constraints.path_length if constraints else None,
        public_key=public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        key=_kind(public),
        signature=_signature_name(certificate),
        subject_key_id=own_id.digest.hex() if own_id else None,
        authority_key_id=signer_id.key_identifier.hex() if signer_id and signer_id.key_identifier else None,
        fingerprint=sha256(data).hexdigest(),
        der=data,
        extensions=frozenset(item.oid.dotted_string for item in certificate.extensions),
    )


def _read_names(certificate: x509.Certificate) -> tuple[Subject, tuple[str, ...]]:
    common: list[str] = []
    organization: list[str] = []
    further: list[str] = []
    encodings = der.well_encoded(certificate.subject.public_bytes())
    for attribute, well_encoded in zip(certificate.subject, encodings, strict=True):
        if not well_encoded:
            further.append(f"{attribute.rfc4514_string()} in another encoding than UTF8String")
        elif attribute.oid == NameOID.COMMON_NAME and not common:
            common.append(str(attribute.value))
        elif attribute.oid == NameOID.ORGANIZATION_NAME:
            organization.append(str(attribute.value))
        else:
            further.append(attribute.rfc4514_string())
    dns: list[str] = []
    ips: list[str] = []
    for name in _extension(certificate, x509.SubjectAlternativeName) or ():
        if isinstance(name, x509.DNSName):
            dns.append(name.value)
        elif isinstance(name, x509.IPAddress):
            ips.append(str(name.value))
        else:
            further.append(f"{type(name).__name__}:{name.value}")
    return Subject("".join(common), tuple(organization), tuple(dns), tuple(ips)), tuple(further)


def _extension(certificate: x509.Certificate, kind: type[_E]) -> _E | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _signature_name(certificate: x509.Certificate) -> str:
    if certificate.signature_algorithm_oid == SignatureAlgorithmOID.ED25519:
        return "ed25519"
    algorithm = certificate.signature_hash_algorithm
    return algorithm.name if algorithm else certificate.signature_algorithm_oid.dotted_string


def _kind(key: object) -> KeyType | None:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return KeyType.ED25519
    if isinstance(key, ec.EllipticCurvePublicKey):
        return {"secp256r1": KeyType.EC_P256, "secp384r1": KeyType.EC_P384}.get(key.curve.name)
    if isinstance(key, rsa.RSAPublicKey):
        return next((kind for kind in KeyType if kind.rsa and kind.vault_bits == key.key_size), None)
    return None


def _public(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _in_date(facts: Facts, now: datetime) -> bool:
    return facts.not_before <= now + timedelta(seconds=SKEW) and now < facts.not_after


def _signed_by(facts: Facts, issuer: Facts) -> bool:
    return _verified(facts.der, issuer.der)


@lru_cache(maxsize=_REMEMBERED)
def _verified(data: bytes, issuer_der: bytes) -> bool:
    try:
        signer = x509.load_der_x509_certificate(issuer_der)
        x509.load_der_x509_certificate(data).verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
