"""Certificates signed in memory: what the CAs of all helpers are made with, rightly or with one thing wrong."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from cryptography import x509 as c
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from vaultpki.pki import x509
from vaultpki.pki.facts import Facts

Extension = tuple[c.ExtensionType, bool]

_BITS = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
SIGNS = ("key_cert_sign", "crl_sign")
"""The key usage of a CA."""


def usage(*bits: str) -> c.KeyUsage:
    """A key usage with these bits alone."""
    return c.KeyUsage(**{bit: bit in bits for bit in _BITS})


def named(common_name: str, organization: Collection[str] = ()) -> c.Name:
    """A subject with these groups and this CN."""
    groups = [c.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organization]
    return c.Name([*groups, c.NameAttribute(NameOID.COMMON_NAME, common_name)])


def extensions(
    public: Any,
    signer: Any = None,
    *,
    ca: bool | None = True,
    path_length: int | None = None,
    bits: Sequence[str] | None = SIGNS,
) -> list[Extension]:
    """What a certificate of this public key says of it: no constraints where `ca` is None, no usage without `bits`.

    The id of the issuer's key is there where the public key `signer` is given.
    """
    found: list[Extension] = []
    if ca is not None:
        found.append((c.BasicConstraints(ca=ca, path_length=path_length), True))
    if bits is not None:
        found.append((usage(*bits), True))
    found.append((c.SubjectKeyIdentifier.from_public_key(public), False))
    if signer is not None:
        found.append((c.AuthorityKeyIdentifier.from_issuer_public_key(signer), False))
    return found


def signed(
    subject: c.Name,
    public: Any,
    issuer: c.Name,
    key: Any,
    life: tuple[datetime, datetime],
    said: Sequence[Extension],
    serial: int | None = None,
    hashed: Any = None,
) -> c.Certificate:
    """The certificate of a public key that the private `key` of `issuer` signs; `said` are its extensions."""
    begins, ends = life
    built = c.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    built = built.serial_number(serial or c.random_serial_number()).not_valid_before(begins).not_valid_after(ends)
    for extension, critical in said:
        built = built.add_extension(extension, critical)
    return built.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashed or hashes.SHA256())


def facts(certificate: c.Certificate) -> Facts:
    """What the product reads in it."""
    return x509.read_certificates(certificate.public_bytes(Encoding.PEM))[0]
