"""A CA that is not the cluster's, as kubeadm makes one (CN=kubernetes, no path length), and what it signs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from cryptography import x509 as c
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from helpers.signed_certificates import extensions, facts, named, signed, usage
from vaultpki.pki.facts import Facts

BEGUN = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


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

    @cached_property
    def facts(self) -> Facts:
        # Once: ECDSA signs the same bytes differently each time.
        public, own = self.key.public_key(), named(self.common_name, self.organization)
        life = self.begun, self.begun + timedelta(days=365 * self.years)
        return facts(signed(own, public, own, self.key, life, extensions(public, ca=self.is_ca, bits=self.usage), 1))

    @property
    def pem(self) -> str:
        return self.facts.pem

    @property
    def sha256(self) -> str:
        return self.facts.fingerprint

    def client(self, folder: Path, common_name: str, organization: Collection[str] = ()) -> tuple[Path, Path]:
        """A client certificate of this CA and its key, as files."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        said = [
            (c.BasicConstraints(ca=False, path_length=None), True),
            (usage("digital_signature"), True),
            (c.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
            (c.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False),
        ]
        life = now - timedelta(minutes=5), now + timedelta(days=1)
        leaf = signed(named(common_name, organization), key.public_key(), named(self.common_name), self.key, life, said)
        crt, pem = folder / f"{common_name}.crt", folder / f"{common_name}.key"
        crt.write_bytes(leaf.public_bytes(Encoding.PEM))
        pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return crt, pem
