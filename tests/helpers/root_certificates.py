"""Roots, cross certificates and issuing CAs made here, as the servers make them in a rotation of the root."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from helpers.signed_certificates import extensions, facts, named, signed
from vaultpki.pki.facts import Facts

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
YEAR = timedelta(days=365)
NAME = "prod root CA"


class Key:
    """A CA's name and key; `certify` signs any other's, and `root` its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())

    def certify(
        self, other: Key, *, path: int | None = None, end: datetime = NOW + 10 * YEAR, name: str | None = None
    ) -> Facts:
        """The certificate of `other`'s key that this one signed; a path length of None makes it a root's."""
        public = other.key.public_key()
        said = extensions(public, self.key.public_key(), path_length=path)
        return facts(signed(named(name or other.name), public, named(self.name), self.key, (NOW - YEAR, end), said))

    def root(self, **options: Any) -> Facts:
        return self.certify(self, **options)
