"""Pairs that say what a cluster's pairs say, down to the key ids, and that no CA of the cluster has signed."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def pair(crt: bytes, stem: Path) -> tuple[Path, Path]:
    """A pair like that of `crt` (leaf and issuing CA, PEM), of a CA of the same name: `stem`.crt and `stem`.key."""
    leaf, ca = x509.load_pem_x509_certificates(crt)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = _like(ca, ca.subject, ca_key, ca_key)
    made = _like(leaf, ca.subject, key, ca_key)
    pem = serialization.Encoding.PEM
    files = stem.with_suffix(".crt"), stem.with_suffix(".key")
    files[0].write_bytes(made.public_bytes(pem) + issuer.public_bytes(pem))
    form = (pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files[1].write_bytes(key.private_bytes(*form))
    return files


def _like(
    certificate: x509.Certificate,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
    )
    for extension in certificate.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(signer, hashes.SHA256())
