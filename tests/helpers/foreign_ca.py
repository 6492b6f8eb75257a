"""A CA that is not the cluster's, as kubeadm makes one (CN=kubernetes, no path length), and what it signs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from cryptography import x509 as certificates
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vaultpki.pki import x509
from vaultpki.pki.facts import Facts

BEGUN = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)

_BITS = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def _usage(*bits: str) -> certificates.KeyUsage:
    return certificates.KeyUsage(**{bit: bit in bits for bit in _BITS})


def _name(common_name: str, organization: Collection[str] = ()) -> certificates.Name:
    groups = [certificates.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organization]
    return certificates.Name([*groups, certificates.NameAttribute(NameOID.COMMON_NAME, common_name)])


@dataclass
class ForeignCa:
    """One such CA, with its key. `usage` are the bits of its key usage, None for no such extension."""

    common_name: str = "kubernetes"
    years: int = 10
    begun: datetime = BEGUN
    usage: tuple[str, ...] | None = ("digital_signature", "key_encipherment", "key_cert_sign")
    is_ca: bool = True
    organization: tuple[str, ...] = ()
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def _signed(self) -> certificates.Certificate:
        made = (
            certificates.CertificateBuilder()
            .subject_name(_name(self.common_name, self.organization))
            .issuer_name(_name(self.common_name, self.organization))
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(self.begun)
            .not_valid_after(self.begun + timedelta(days=365 * self.years))
            .add_extension(certificates.BasicConstraints(ca=self.is_ca, path_length=None), critical=True)
            .add_extension(certificates.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
        )
        if self.usage is not None:
            made = made.add_extension(_usage(*self.usage), critical=True)
        return made.sign(self.key, hashes.SHA256())

    @cached_property
    def facts(self) -> Facts:
        # Once: ECDSA signs the same bytes differently each time.
        return x509.read_certificates(self._signed().public_bytes(serialization.Encoding.PEM))[0]

    @property
    def pem(self) -> str:
        return self.facts.pem

    @property
    def sha256(self) -> str:
        return self.facts.fingerprint

    def client(self, folder: Path, common_name: str, organization: Collection[str] = ()) -> tuple[Path, Path]:
        """A client certificate of this CA and its key, as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        leaf = (
            certificates.CertificateBuilder()
            .subject_name(_name(common_name, organization))
            .issuer_name(_name(self.common_name))
            .public_key(key.public_key())
            .serial_number(certificates.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(certificates.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage("digital_signature"), critical=True)
            .add_extension(certificates.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(
                certificates.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        crt, pem = folder / f"{common_name}.crt", folder / f"{common_name}.key"
        crt.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return crt, pem
