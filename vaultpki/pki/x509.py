"""Reads certificates, pairs and subjects, and checks who signed a certificate."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from vaultpki.errors import CertificateUnreadable
from vaultpki.model import Subject
from vaultpki.pki import keys, ways_up
from vaultpki.pki.facts import BADLY_ENCODED, Facts, Pair
from vaultpki.values import der

_E = TypeVar("_E", bound=x509.ExtensionType)

# Enough for a node's own certificates and its CAs, old and new, with those of a PKI outside above them; a `verify` of
# many nodes needs no more at a time.
_REMEMBERED: Final = 128

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

# Two contents that have the same hash can be made.
_FORGEABLE: Final = frozenset({"md5", "sha1"})

# What a subject has besides its CN, by the parameters of the PKI engine.
_SUBJECT: Final = {
    "organization": NameOID.ORGANIZATION_NAME,
    "ou": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "locality": NameOID.LOCALITY_NAME,
    "province": NameOID.STATE_OR_PROVINCE_NAME,
    "street_address": NameOID.STREET_ADDRESS,
    "postal_code": NameOID.POSTAL_CODE,
    "country": NameOID.COUNTRY_NAME,
}


def read_certificates(pem: bytes) -> tuple[Facts, ...]:
    """Read the certificates of a PEM in their order: at least one, and nothing else.

    Raises CertificateUnreadable for more than 64 KiB, text between the blocks, or a block that is not a certificate.
    """
    if len(pem) > keys.LARGEST_PEM:
        raise CertificateUnreadable(f"this is longer than {keys.LARGEST_PEM // 1024} KiB, the limit for certificates")
    found, at = [], 0
    while match := _BLOCK.match(pem, at):
        with keys.parsing("a certificate"):
            data = base64.b64decode(b"".join(match[1].split()), validate=True)
            der.refuse_odd(data)
            found.append(_facts(data))
        at = match.end()
    if not found or pem[at:].strip():
        raise CertificateUnreadable("this file does not hold PEM certificates only; renew it")
    return tuple(found)


def read_any(data: bytes) -> Facts:
    """Read a certificate in DER, also one with `der.oddities`; CertificateUnreadable for anything else."""
    with keys.parsing("a certificate"):
        return _facts(data)


def readable(pem: str) -> tuple[Facts, ...]:
    """Read the certificates of a PEM that a server shows; none if it is anything else."""
    try:
        return read_certificates(pem.encode("ascii", "replace"))
    except CertificateUnreadable:
        return ()


def fingerprint(pem: bytes) -> str:
    """Return the SHA-256 of the first certificate's DER in lower-case hex, which is what `root_sha256` pins."""
    return read_certificates(pem)[0].fingerprint


def matches(pem: bytes, leaf: Facts) -> bool:
    """Return whether the private key in `pem` is the certificate's; CertificateUnreadable if `pem` is not a key."""
    return keys.public_der(keys.read_key(pem)) == leaf.public_key


def issuer_of(leaf: Facts, issuers: Sequence[Facts]) -> Facts | None:
    """Return the first of `issuers` whose key signed the leaf; None if none did."""
    return next((issuer for issuer in issuers if signed_by(leaf, issuer)), None)


def read_pair(crt: bytes | None, key: bytes | None, pem: bytes | None, issuers: Sequence[Facts] | None) -> Pair:
    """Read the three files of one pair; None stands for a file that is missing.

    `issuers` are the live issuing certificates of its CA, or None if they are not known. Of several with one key, which
    all verify the leaf, its issuer is the one after it in the file.
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
            keys.read_key(key)
    except CertificateUnreadable:
        unreadable.append("key")
    if crt is not None and key is not None and pem is not None:
        same = same and pem == key + crt
    issuer = None
    if chain and issuers is not None:
        issuer = issuer_of(chain[0], sorted(issuers, key=lambda each: each not in chain[1:2]))
    live = None if issuers is None else issuer is not None
    return Pair(missing, tuple(unreadable), chain[0] if chain else None, same, live, issuer, chain[1:])


# A pass reads each certificate several times, and the CAs' at every pass.
@lru_cache(maxsize=_REMEMBERED)
def _facts(data: bytes) -> Facts:
    certificate = x509.load_der_x509_certificate(der.readable(data))
    subject, further = _read_names(certificate, data)
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
        key=keys.key_type(public),
        signature=_signature_name(certificate),
        subject_key_id=own_id.digest.hex() if own_id else None,
        authority_key_id=signer_id.key_identifier.hex() if signer_id and signer_id.key_identifier else None,
        fingerprint=sha256(data).hexdigest(),
        der=data,
        extensions=frozenset(item.oid.dotted_string for item in certificate.extensions),
    )


def _read_names(certificate: x509.Certificate, data: bytes) -> tuple[Subject, tuple[str, ...]]:
    common: list[str] = []
    organization: list[str] = []
    further: list[str] = []
    encodings = der.well_encoded(der.certificate_parts(data).subject)
    for attribute, well_encoded in zip(certificate.subject, encodings, strict=True):
        if not well_encoded:
            further.append(f"{attribute.rfc4514_string()}{BADLY_ENCODED}")
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


def signed_by(facts: Facts, issuer: Facts) -> bool:
    """Return whether the key of `issuer` signed it, not with SHA-1 or MD5, and it names `issuer` as its issuer."""
    names = der.certificate_parts(facts.der).issuer == der.certificate_parts(issuer.der).subject
    return names and facts.signature not in _FORGEABLE and _verified(facts.der, issuer.der)


# Not as many as `ways_up` remembers of CAs: an agent that stays would keep thousands of leaves that are gone.
_verified = lru_cache(maxsize=_REMEMBERED)(ways_up.verifies)


def subject_values(ca: Facts) -> dict[str, tuple[str, ...]]:
    """Return what the subject of a CA has besides its CN, by the parameters of the PKI engine, as `ca.subject` is."""
    read = x509.load_der_x509_certificate(der.readable(ca.der)).subject
    found = {
        name: tuple(str(each.value) for each in read.get_attributes_for_oid(oid)) for name, oid in _SUBJECT.items()
    }
    return {name: values for name, values in found.items() if values}


def subject_words(subject: Mapping[str, Sequence[str]]) -> str:
    """Return such values in one line for people, `O=Corp, C=DE`, the same for every order of them; "" for none."""
    return ", ".join(
        x509.NameAttribute(oid, value, _validate=False).rfc4514_string()
        for name, oid in _SUBJECT.items()
        for value in sorted(subject.get(name, ()))
    )
