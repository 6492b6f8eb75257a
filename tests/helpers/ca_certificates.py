"""Certificates of a root CA and of the issuing CAs below it, made in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec

from helpers.signed_certificates import extensions, facts, named, signed
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
    public, above = key_of(key).public_key(), key_of(signer or key)
    life = BEGUN, BEGUN + timedelta(days=365 * years)
    said = extensions(public, path_length=path_length)
    return facts(signed(named(subject), public, named(signer or subject), above, life, said, serial))


def root(cluster: str) -> Facts:
    """The root CA of a cluster."""
    return ca(f"{cluster} root CA", key=f"{cluster} root CA", years=10, path_length=None)
