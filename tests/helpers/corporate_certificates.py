"""A PKI outside, made in memory: a root, CAs between, and what they sign, with any mistake that a test needs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509 as c
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from helpers import signed_certificates
from helpers.signed_certificates import Extension
from vaultpki.pki.facts import Facts

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
YEAR = timedelta(days=365)

_NAMES = {"C": NameOID.COUNTRY_NAME, "O": NameOID.ORGANIZATION_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME}

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def name(common_name: str, **attributes: str) -> c.Name:
    """A subject with this CN, and attributes by their short names before it."""
    before = [c.NameAttribute(_NAMES[key], value) for key, value in attributes.items()]
    return c.Name([*before, c.NameAttribute(NameOID.COMMON_NAME, common_name)])


def named(common_name: str) -> c.Name:
    return name(common_name, C="DE", O="Corp")


class Ca:
    """A CA with its key; `signer` has signed it, itself without one. `facts` and `pem` are its certificate."""

    def __init__(self, common_name: str, signer: Ca | None = None, *, key: Key | None = None, **options: Any) -> None:
        self.key: Key = key or ec.generate_private_key(ec.SECP256R1())
        self.subject = options.pop("subject", None) or named(common_name)
        options.setdefault("path_length", None)
        self.facts = (signer or self).certify(self.key.public_key(), self.subject, **options)

    @property
    def pem(self) -> str:
        return self.facts.pem

    def again(self, signer: Ca, **options: Any) -> Ca:
        """The same CA with another certificate for its key."""
        return Ca("", signer, key=self.key, subject=self.subject, **options)

    def certify(
        self,
        public: Any,
        subject: c.Name,
        *,
        path_length: int | None = 0,
        begins: datetime = NOW - YEAR,
        ends: datetime = NOW + 10 * YEAR,
        ca: bool = True,
        signs: bool = True,
        extensions: Sequence[Extension] = (),
        hashed: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None = None,
    ) -> Facts:
        """The certificate of a public key, signed by this CA; a CA's without `ca=False`."""
        bits = (["key_cert_sign"] if signs else []) + ["crl_sign"] if ca else ["digital_signature"]
        own = signed_certificates.extensions(
            public, self.key.public_key(), ca=ca, path_length=path_length if ca else None, bits=bits
        )
        made = signed_certificates.signed(
            subject, public, self.subject, self.key, (begins, ends), [*own, *extensions], hashed=hashed
        )
        return signed_certificates.facts(made)

    def sign(self, csr: str, **options: Any) -> str:
        """The certificate, as PEM, that this CA signs for a request."""
        asked = c.load_pem_x509_csr(csr.encode())
        return self.certify(asked.public_key(), asked.subject, **options).pem


class Corporate:
    """A root, two CAs below it, and an issuing CA called `cluster domain CA` below those."""

    def __init__(self, cluster: str = "prod", domain: str = "etcd", **options: Any) -> None:
        self.root = Ca("Corp Root")
        self.upper = Ca("Corp Policy CA", self.root)
        self.lower = Ca("Corp Platform CA", self.upper, **options)
        self.name = f"{cluster} {domain} CA"
        self.issuing = Ca("", self.lower, subject=name(self.name), path_length=0)

    @property
    def between(self) -> tuple[Facts, Facts]:
        return self.upper.facts, self.lower.facts
