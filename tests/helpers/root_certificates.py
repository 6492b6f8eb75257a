"""Roots, cross certificates and issuing CAs made here, as the servers make them in a rotation of the root."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509 as c
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from vaultpki.pki import x509
from vaultpki.pki.facts import Facts

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
YEAR = timedelta(days=365)
NAME = "prod root CA"
_BITS = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


class Key:
    """A CA's name and key; `certify` signs any other's, and `root` its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())

    def certify(
        self, other: Key, *, path: int | None = None, end: datetime = NOW + 10 * YEAR, name: str | None = None
    ) -> Facts:
        """The certificate of `other`'s key that this one signed; a path length of None makes it a root's."""
        usage: dict[str, Any] = {bit: bit in ("key_cert_sign", "crl_sign") for bit in _BITS}
        built = (
            c.CertificateBuilder()
            .subject_name(_name(name or other.name))
            .issuer_name(_name(self.name))
            .public_key(other.key.public_key())
            .serial_number(c.random_serial_number())
            .not_valid_before(NOW - YEAR)
            .not_valid_after(end)
            .add_extension(c.BasicConstraints(ca=True, path_length=path), critical=True)
            .add_extension(c.KeyUsage(**usage), critical=True)
            .add_extension(c.SubjectKeyIdentifier.from_public_key(other.key.public_key()), critical=False)
            .add_extension(
                c.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )
        return x509.read_certificates(built.public_bytes(serialization.Encoding.PEM))[0]

    def root(self, **options: Any) -> Facts:
        return self.certify(self, **options)


def _name(text: str) -> c.Name:
    return c.Name([c.NameAttribute(NameOID.COMMON_NAME, text)])
