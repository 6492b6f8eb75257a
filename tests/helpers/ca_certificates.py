"""Certificates of a root CA and of the issuing CAs below it, made in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509 as certificates
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vaultpki.pki import x509
from vaultpki.pki.facts import Facts

BEGUN = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@cache
def key_of(name: str) -> ec.EllipticCurvePrivateKey:
    """The key of this name, made once."""
    return ec.generate_private_key(ec.SECP256R1())


@cache
def ca(
    subject: str, *, key: str, signer: str = "", serial: int = 1, years: int = 5, path_length: int | None = 0
) -> Facts:
    """A CA with this CN and the key of this name, signed by the key `signer` (named as its CN), by default its own."""
    own, above = key_of(key), key_of(signer or key)
    names = [
        certificates.Name([certificates.NameAttribute(certificates.NameOID.COMMON_NAME, each)])
        for each in (subject, signer or subject)
    ]
    usage = dict.fromkeys(
        (
            *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "digital_signature"),
            *("encipher_only", "decipher_only"),
        ),
        False,
    )
    made = (
        certificates.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(own.public_key())
        .serial_number(serial)
        .not_valid_before(BEGUN)
        .not_valid_after(BEGUN + timedelta(days=365 * years))
        .add_extension(certificates.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(certificates.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .add_extension(certificates.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .sign(above, hashes.SHA256())
    )
    return x509.read_certificates(made.public_bytes(serialization.Encoding.PEM))[0]


def root(cluster: str) -> Facts:
    """The root CA of a cluster."""
    return ca(f"{cluster} root CA", key=f"{cluster} root CA", years=10, path_length=None)
