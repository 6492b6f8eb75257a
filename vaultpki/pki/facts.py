"""What a certificate says and what a pair on disk is, as plain values that are compared without `cryptography`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from vaultpki.model import KeyType, Subject, Usage
from vaultpki.values.pem import of_der

_SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
_CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"

# None of TLS, and none at all would mean every usage (RFC 5280 section 4.2.1.12). Below the arc that Microsoft gives to
# OIDs made of a random GUID, since components in Go read no number of more than 31 bits, as those below 2.25 have.
_FOR_SERVICE_ACCOUNTS = "1.2.840.113556.1.8000.2554.36053.40850.21179.19567.38580.13369536.15269217"

EKU: Final[Mapping[Usage, frozenset[str]]] = {
    Usage.CLIENT: frozenset({_CLIENT_AUTH}),
    Usage.SERVER: frozenset({_SERVER_AUTH}),
    Usage.BOTH: frozenset({_CLIENT_AUTH, _SERVER_AUTH}),
    Usage.SIGNING: frozenset({_FOR_SERVICE_ACCOUNTS}),
}
"""The extended key usages, as dotted OIDs, that make each usage exactly (RFC 5280 section 4.2.1.12)."""


BADLY_ENCODED: Final = " in another encoding than UTF8String"
"""The end of each of `Facts.further_names` whose value is neither a UTF8String nor a PrintableString."""


def serial_text(serial: int) -> str:
    """Return a serial number as Vault writes it: pairs of hex digits, with colons."""
    digits = f"{serial:x}"
    digits = digits.zfill(len(digits) + len(digits) % 2)
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))


@dataclass(frozen=True, slots=True)
class Facts:
    """What one certificate says, in plain values.

    `further_names` holds every name that `subject` has no field for: a second CN, other subject attributes, SANs that
    are neither DNS nor IP, and a CN or O that is neither a UTF8String nor a PrintableString. `usages` are dotted EKU
    OIDs, `key_usage` the names of the bits in RFC 5280, in snake_case; `critical` and `extensions` are the dotted OIDs
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
        """Return the usage that has exactly these EKUs; None if there is none."""
        return next((usage for usage, oids in EKU.items() if oids == self.usages), None)

    @property
    def pem(self) -> str:
        return of_der(self.der)


@dataclass(frozen=True, slots=True)
class UntrustedCa:
    """A certificate on a CA's mount that is not trusted: its subject, its SHA-256 in hex, and why.

    `reason` is the rest of a sentence about it, such as `it was not signed by the pinned root`.
    """

    subject_text: str
    fingerprint: str
    reason: str

    def sentence(self, ca: str) -> str:
        """Return a sentence that names the mount of `ca` and the reason."""
        return f"{self.subject_text} on the mount of {ca} is not trusted: {self.reason}"


@dataclass(frozen=True, slots=True)
class Replacement:
    """When the leaves of a CA are replaced: from `since` on, spread over `spread` seconds."""

    since: datetime
    spread: float


@dataclass(frozen=True, slots=True)
class Trust:
    """The trust in one CA: the pinned root, and the issuing certificates below it, newest first.

    `root` is what the owner of the cluster names as anchor: a self-signed CA, or an intermediate of a PKI outside.
    `between` are the CAs in the chains from `issuing` to it. `tops` are the self-signed CAs that signed an intermediate
    that is pinned. Both stand in the bundle for clients only, and no leaf may be of them.

    `further_roots` are trusted as `root` is: while the root is rotated there are two. `crosses` are certificates by
    which one of them vouches for another, served behind the CAs of that one; None leaves what is served as it is.
    `foreign` are CAs that are not the cluster's and that the bundles hold too; they count nowhere else.
    `foreign_ignored` are those that the cluster's record offers and this node does not take.

    `issuing` is what bundles hold, expired ones included, so that a bundle changes only when the cluster's records do;
    `live` are those in date, whose leaves are valid. `untrusted` is what else the mount shows. `signers` are those of
    `live` whose leaves are installed, and `serving` is the one that is then served behind them, if a rotation names it;
    `replaced` is the one that it replaces.
    Leaves of `outgoing`, CAs by their SHA-256, are replaced. With `frozen` each leaf stays with the CA that signed it;
    with `kept`, after a recovery, a node that has none also waits.
    """

    root: Facts
    issuing: tuple[Facts, ...]
    live: tuple[Facts, ...]
    untrusted: tuple[UntrustedCa, ...] = ()
    signers: tuple[Facts, ...] = ()
    outgoing: Mapping[str, Replacement] = field(default_factory=dict)
    frozen: bool = False
    kept: bool = False
    serving: Facts | None = None
    replaced: Facts | None = None
    further_roots: tuple[Facts, ...] = ()
    crosses: tuple[Facts, ...] | None = ()
    between: tuple[Facts, ...] = ()
    tops: tuple[Facts, ...] = ()
    foreign: tuple[Facts, ...] = ()
    foreign_ignored: tuple[UntrustedCa, ...] = ()

    @property
    def roots(self) -> tuple[Facts, ...]:
        """Return every trusted root."""
        return (self.root, *self.further_roots)

    @property
    def bundle(self) -> str:
        """The content of `X-ca.crt`: the issuing certificates, then those of foreign CAs.

        The root would let in the clients of every other CA.
        """
        return "".join(facts.pem for facts in (*self.issuing, *self.foreign))

    @property
    def chain_bundle(self) -> str:
        """The content of `X-ca-chain.crt`: what the other bundle has, the CAs above the cluster's, and the roots."""
        return self.bundle + "".join(facts.pem for facts in (*self.between, *self.roots, *self.tops))


@dataclass(frozen=True, slots=True)
class Pair:
    """What the three files of a pair are. `issuer_live` is None if the live issuers are not known.

    `issuer` is the live CA that signed the leaf, and `served` is the chain after it in its file.
    """

    missing: tuple[str, ...]
    unreadable: tuple[str, ...]
    leaf: Facts | None
    matches: bool
    issuer_live: bool | None
    issuer: Facts | None = None
    served: tuple[Facts, ...] = ()


def same_names(one: Subject, other: Subject) -> bool:
    """Return whether two subjects have the same names in any order; case and repetition count."""
    return one.common_name == other.common_name and all(
        sorted(mine) == sorted(theirs)
        for mine, theirs in (
            (one.organization, other.organization),
            (one.dns, other.dns),
            (one.ips, other.ips),
        )
    )
