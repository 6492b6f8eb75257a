"""Signs an old certificate again, with the key of the old CA: only the dates and the serial number are new."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from vaultpki.errors import CertificateRefused
from vaultpki.pki.keys import parsing, public_der, read_key

_LIFE: Final = timedelta(days=365)
"""The life that kubeadm gives (cmd/kubeadm/app/constants/constants.go, CertificateValidityPeriod)."""

_BACKDATE: Final = timedelta(minutes=5)


def signed_again(leaf_pem: bytes, ca_pem: bytes, ca_key_pem: bytes, now: datetime) -> bytes:
    """Return the certificate with the same key, names and extensions, and a year from `now` on, as PEM.

    It ends with its CA at the latest. Raises CertificateUnreadable for what cannot be read, and CertificateRefused if
    the key is not the CA's, if the CA has not signed the certificate before, or if the CA has expired.
    """
    key = read_key(ca_key_pem)
    with parsing("a certificate"):
        leaf, ca = x509.load_pem_x509_certificate(leaf_pem), x509.load_pem_x509_certificate(ca_pem)
        ca_public = ca.public_key()
    if public_der(key) != _der(ca_public):
        raise CertificateRefused("the key of the old CA is not that of its certificate", reason="key-mismatch")
    if leaf.issuer != ca.subject:
        raise CertificateRefused("the certificate was not signed by this CA", reason="not-its-issuer")
    end = min(now + _LIFE, ca.not_valid_after_utc)
    if end <= now:
        raise CertificateRefused(f"the old CA expired on {ca.not_valid_after_utc:%Y-%m-%d}", reason="ca-expired")
    builder = (
        x509.CertificateBuilder()
        .subject_name(leaf.subject)
        .issuer_name(ca.subject)
        .public_key(leaf.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - _BACKDATE, ca.not_valid_before_utc))
        .not_valid_after(end)
    )
    for extension in leaf.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    hashed = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, hashed).public_bytes(Encoding.PEM)


def _der(public: object) -> bytes:
    from cryptography.hazmat.primitives.serialization import PublicFormat

    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]
