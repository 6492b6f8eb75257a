"""Makes and reads private keys, and makes certificate signing requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from vaultpki.errors import CertificateUnreadable, SpecError
from vaultpki.model import KeyType, Subject

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

LARGEST_PEM: Final = 64 * 1024
"""The most bytes of PEM that are read; a chain of four RSA-4096 certificates has 9 KiB."""


def generate_key(kind: KeyType) -> PrivateKey:
    """Make a new private key of that kind."""
    if kind is KeyType.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    if kind.rsa:
        return rsa.generate_private_key(public_exponent=65537, key_size=kind.vault_bits)
    return ec.generate_private_key(ec.SECP384R1() if kind is KeyType.EC_P384 else ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    """Return the key as unencrypted PKCS#8 PEM, which every TLS library reads."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_key(pem: bytes) -> PrivateKey:
    """Read the private key in an unencrypted PEM; raises CertificateUnreadable for anything else."""
    with parsing("a private key"):
        if len(pem) > LARGEST_PEM:
            raise ValueError("too large")
        key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, PrivateKey) or key_type(key.public_key()) is None:
        raise CertificateUnreadable("this is a private key of a kind that vaultpki never makes; renew the pair")
    return key


def public_der(key: PrivateKey) -> bytes:
    """Return the DER of the key's SubjectPublicKeyInfo, as `Facts.public_key` has it."""
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def requested_key(csr: bytes) -> bytes:
    """Return the DER of the SubjectPublicKeyInfo in a PEM signing request; CertificateUnreadable if it is none."""
    with parsing("a signing request"):
        public = x509.load_pem_x509_csr(csr).public_key()
        return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_type(public: object) -> KeyType | None:
    """Return the kind of a public key of `cryptography`; None for a kind that vaultpki never makes."""
    if isinstance(public, ed25519.Ed25519PublicKey):
        return KeyType.ED25519
    if isinstance(public, ec.EllipticCurvePublicKey):
        return {"secp256r1": KeyType.EC_P256, "secp384r1": KeyType.EC_P384}.get(public.curve.name)
    if isinstance(public, rsa.RSAPublicKey):
        return next((kind for kind in KeyType if kind.rsa and kind.vault_bits == public.key_size), None)
    return None


@lru_cache(maxsize=64)
def fit_above(public_key: bytes) -> bool:
    """Return whether a CA that is not ours may have this key (DER of the SubjectPublicKeyInfo) and stand above ours.

    RSA of 2048 to 8192 bits, P-256, P-384, P-521 or Ed25519. For an RSA key with a small exponent a second key can be
    found that verifies the same signature (Blake-Wilson and Menezes, Unknown key-share attacks, 1999), and Go takes
    none above 2^31 - 1.
    """
    try:
        public = serialization.load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm):
        return False
    if isinstance(public, rsa.RSAPublicKey):
        return 2048 <= public.key_size <= 8192 and 65537 <= public.public_numbers().e < 2**31
    if isinstance(public, ec.EllipticCurvePublicKey):
        return public.curve.name in ("secp256r1", "secp384r1", "secp521r1")
    return isinstance(public, ed25519.Ed25519PublicKey)


def request(key: PrivateKey, subject: Subject) -> str:
    """Make a certificate signing request in PEM that names exactly `subject`, signed with `key`.

    Raises SpecError for a name that a certificate cannot carry (RFC 5280 appendix A.1: a CN has at most 64 characters).
    """
    try:
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in subject.dns]
        names += [x509.IPAddress(ip_address(address)) for address in subject.ips]
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, value) for value in subject.organization]
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, subject.common_name))
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        hashed = hashes.SHA384() if key_type(key.public_key()) is KeyType.EC_P384 else hashes.SHA256()
        signed = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashed)
    except ValueError:
        raise SpecError(
            f"{subject.common_name!r} or another name of this certificate is not allowed in a certificate. A common "
            "name has 1 to 64 characters, a DNS name is ASCII: change the name"
        ) from None
    return signed.public_bytes(serialization.Encoding.PEM).decode()


@contextmanager
def parsing(what: str) -> Iterator[None]:
    """Turn every error of a parser of `cryptography` into CertificateUnreadable."""
    try:
        yield
    # cryptography documents no closed list of what its parsers raise for bytes from outside: ValueError, TypeError,
    # UnsupportedAlgorithm, InvalidVersion, DuplicateExtension, OverflowError ...
    except Exception:  # noqa: BLE001 - the facts just above
        raise CertificateUnreadable(f"this is not {what} that can be read; renew the pair") from None
