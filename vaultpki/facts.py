"""What a certificate says and what a pair amounts to, in plain values that need no cryptography to compare."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from vaultpki.model import KeyType, Subject, Usage
from vaultpki.values import dataclass

_SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
_CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"

EKU: Final[Mapping[Usage, frozenset[str]]] = {
    Usage.CLIENT: frozenset({_CLIENT_AUTH}),
    Usage.SERVER: frozenset({_SERVER_AUTH}),
    Usage.BOTH: frozenset({_CLIENT_AUTH, _SERVER_AUTH}),
}
"""The extended key usages, as dotted OIDs, that make each usage exactly (RFC 5280 section 4.2.1.12)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What one certificate says, in plain values.

    `further_names` holds every name that `subject` has no place for: a second CN, other subject attributes, SANs that
    are neither DNS nor IP, and a CN or O that is neither a UTF8String nor a PrintableString. `usages` are dotted EKU
    OIDs, `key_usage` the names RFC 5280 gives the bits, in snake_case; `critical` and `extensions` are the dotted OIDs
    of extensions. `key` is None for a kind of key this program never makes. `signature` is the hash's name, or ed25519.
    `public_key` is the DER of the SubjectPublicKeyInfo, `fingerprint` the SHA-256 of the DER in lower-case hex.
    """

    subject: Subject
    further_names: tuple[str, ...]
    subject_text: str
    issuer_text: str
    serial: int
    not_before: datetime
    not_after: datetime
    usages: frozenset[str]
    key_usage: frozenset[str]
    critical: frozenset[str]
    is_ca: bool
    path_length: int | None
    public_key: bytes
    key: KeyType | None
    signature: str
    subject_key_id: str | None
    authority_key_id: str | None
    fingerprint: str
    der: bytes
    extensions: frozenset[str] = frozenset()

    @property
    def usage(self) -> Usage | None:
        """The usage whose EKUs these are exactly; None where there is none."""
        return next((usage for usage, oids in EKU.items() if oids == self.usages), None)

    @property
    def pem(self) -> str:
        text = base64.b64encode(self.der).decode()
        lines = (text[start : start + 64] for start in range(0, len(text), 64))
        return "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""))


@dataclass(frozen=True, slots=True)
class Stranger:
    """A certificate on a CA's mount that nobody trusts there: its subject, its SHA-256 in hex, and why.

    `reason` is the rest of a sentence about it, such as `it was not signed by the pinned root`.
    """

    subject_text: str
    fingerprint: str
    reason: str

    def sentence(self, ca: str) -> str:
        """Says that it stands on the mount of `ca` and why it is not trusted there."""
        return f"{self.subject_text} on the mount of {ca} is not trusted: {self.reason}"


@dataclass(frozen=True, slots=True)
class Trust:
    """One CA as its cluster knows it: the pinned root, and the issuing certificates below it, newest first.

    `issuing` is what bundles hold, those past their date included, so that a bundle changes only when the cluster's
    records do; `live` are those that may have signed a leaf today. `strangers` is what else its mount shows.
    """

    root: Facts
    issuing: tuple[Facts, ...]
    live: tuple[Facts, ...]
    strangers: tuple[Stranger, ...] = ()

    @property
    def bundle(self) -> str:
        """`X-ca.crt`: the issuing certificates, never the root, which would let in every other CA's clients."""
        return "".join(facts.pem for facts in self.issuing)

    @property
    def chain_bundle(self) -> str:
        """`X-ca-chain.crt`: the issuing certificates and the root."""
        return self.bundle + self.root.pem


@dataclass(frozen=True, slots=True)
class Pair:
    """What the three files of a pair amount to. `issuer_live` is None where nobody could say who is live."""

    missing: tuple[str, ...]
    unreadable: tuple[str, ...]
    leaf: Facts | None
    matches: bool
    issuer_live: bool | None


def same_names(one: Subject, other: Subject) -> bool:
    """Whether two subjects have the same names, the order aside and case and repetition not."""
    return one.common_name == other.common_name and all(
        sorted(mine) == sorted(theirs)
        for mine, theirs in (
            (one.organization, other.organization),
            (one.dns, other.dns),
            (one.ips, other.ips),
        )
    )
