"""Decides which foreign CAs count: CAs that are not the cluster's, in the bundles of a domain beside the cluster's own.

The record offers them, and the SHA-256 in agent.yaml lets them in. They are trusted by whoever reads a bundle, and by
nothing else: no leaf of theirs is installed here, no gate counts them, and none becomes a root or an issuing CA.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Final

from vaultpki.certificates import ISSUING_CAS
from vaultpki.errors import CertificateUnreadable, SpecError
from vaultpki.model import Cluster, ForeignCa
from vaultpki.pki.facts import Facts, Trust, UntrustedCa

_KEY_USAGE: Final = "2.5.29.15"

NOT_PINNED: Final = "its SHA-256 is not in `also_trust` of agent.yaml"
"""Why a node does not take a foreign CA that is one, as the rest of a sentence."""

_OWN: Final = "it has the key of a CA of this cluster, which belongs in no bundle but its own"


@dataclass(frozen=True, slots=True)
class ForeignTrust:
    """The foreign CAs of one domain on one node: those that its bundles hold, and those that it does not take."""

    trusted: tuple[Facts, ...] = ()
    ignored: tuple[UntrustedCa, ...] = ()


def accepted_cas(pems: Iterable[str], pins: Collection[str], own: Collection[bytes]) -> ForeignTrust:
    """Return which of the offered certificates a node takes into the bundles of one domain.

    `pems` are texts from the record, each with one certificate. `pins` are the SHA-256 in agent.yaml for this domain,
    `own` the public keys of the cluster's CAs, of every domain. Dates do not count, so that a bundle changes only when
    the record does. Nothing is raised: whoever can write the record must not be able to stop a node.
    """
    trusted: dict[str, Facts] = {}
    ignored: dict[str, UntrustedCa] = {}
    for pem in pems:
        facts = _one(pem)
        if facts is None:
            unreadable = sha256(pem.encode("utf-8", "replace")).hexdigest()
            ignored[unreadable] = UntrustedCa("a certificate", unreadable, "it cannot be read")
        elif why := why_not(facts, pins, own):
            ignored[facts.fingerprint] = UntrustedCa(facts.subject_text, facts.fingerprint, why)
        else:
            trusted[facts.fingerprint] = facts
    return ForeignTrust(tuple(trusted.values()), tuple(ignored.values()))


def why_not(facts: Facts, pins: Collection[str], own: Collection[bytes]) -> str | None:
    """Return why a node does not take it as a foreign CA, as the rest of a sentence; None if it does."""
    checks = (
        (facts.public_key in own, _OWN),
        (not_a_ca(facts) is not None, not_a_ca(facts)),
        (facts.fingerprint not in pins, NOT_PINNED),
    )
    return next((why for fails, why in checks if fails), None)


def ignored_sentence(ca: str, each: UntrustedCa) -> str:
    """Return the sentence about a CA that is offered to the bundles of `ca` in vain, with what to do."""
    what = f"{each.subject_text} (SHA-256 {each.fingerprint}) is offered to the bundles of {ca} and is not trusted here"
    if each.reason == NOT_PINNED:
        return f"{what}: {each.reason}; if you know this CA, write it there, or enroll the node again"
    return f"{what}: {each.reason}; take it out of `ca.also_trust` in cluster.yaml, and run `vaultpki apply`"


def not_a_ca(facts: Facts) -> str | None:
    """Return why it is not a CA certificate, as the rest of a sentence; None if it is one.

    That is what Go's crypto/x509 asks of one: basic constraints that say so, and a key usage, if there is any, that
    allows it to sign certificates (RFC 5280, sections 4.2.1.3 and 4.2.1.9); and that Go can read it.
    """
    if not facts.is_ca:
        return "it is not a CA"
    if _KEY_USAGE in facts.extensions and "key_cert_sign" not in facts.key_usage:
        return "its key usage does not allow it to sign certificates"
    from vaultpki.pki.go_parser import unread_by_go

    odd = unread_by_go(facts)
    return f"it has {odd}" if odd else None


def with_foreign(
    trust: Mapping[str, Trust],
    offered: Mapping[str, Sequence[str]],
    pins: Mapping[str, Sequence[str]],
    further: Iterable[Facts] = (),
) -> dict[str, Trust]:
    """Return each CA's trust with the foreign CAs that its bundles hold, and those that are offered in vain.

    `offered` are certificates as text, and `pins` their SHA-256, by domain. `further` are CAs of the cluster that the
    trust does not show, such as a root that was put aside.
    """
    known = [facts for each in trust.values() for facts in (*each.roots, *each.issuing, *each.between, *each.tops)]
    own = {facts.public_key for facts in (*known, *further)}
    found = {}
    for ca, each in trust.items():
        foreign = accepted_cas(offered.get(ca, ()), pins.get(ca, ()), own)
        found[ca] = replace(each, foreign=foreign.trusted, foreign_ignored=foreign.ignored)
    return found


def read(cluster: Cluster) -> dict[str, tuple[Facts, ...]]:
    """Return the foreign CAs of cluster.yaml by domain; SpecError with file, line and field for one that is no CA."""
    found: dict[str, tuple[Facts, ...]] = {}
    for each in cluster.authority.also_trust:
        facts = _one(each.pem)
        if facts is None:
            raise refused(
                cluster, each, "the file holds a certificate that cannot be read: copy the CA certificate again"
            )
        if why := not_a_ca(facts):
            raise refused(
                cluster, each, f"the file holds {facts.subject_text}, and {why}: name a file of CA certificates only"
            )
        found[each.ca] = (*found.get(each.ca, ()), facts)
    return found


def refuse_own(cluster: Cluster, own: Iterable[Facts]) -> None:
    """Raise SpecError if a foreign CA of cluster.yaml has the key of one of the cluster's own CAs, which are `own`."""
    keys = {facts.public_key: facts for facts in own}
    found = read(cluster)
    for each in cluster.authority.also_trust:
        facts = next(facts for facts in found[each.ca] if facts.fingerprint == each.sha256)
        if facts.public_key in keys:
            raise refused(
                cluster,
                each,
                f"the file holds {facts.subject_text}, which has the key of a CA of this cluster "
                f"({keys[facts.public_key].subject_text}): bundles hold what they need of those; leave it out",
            )


def refuse_expired(cluster: Cluster, published: Mapping[str, Collection[str]], now: datetime) -> None:
    """Raise SpecError if a foreign CA that is new in cluster.yaml is not in date at `now`.

    `published` are those that nodes are offered already, as PEM by domain: one of them may expire there.
    """
    for ca, cas in read(cluster).items():
        for facts in cas:
            if facts.not_after > now or facts.pem in published.get(ca, ()):
                continue
            each = next(one for one in cluster.authority.also_trust if (one.ca, one.sha256) == (ca, facts.fingerprint))
            raise refused(
                cluster,
                each,
                f"{facts.subject_text} expired on {facts.not_after:%Y-%m-%d}, so nobody would accept its "
                "certificates: leave it out",
            )


def refused(cluster: Cluster, each: ForeignCa, problem: str) -> SpecError:
    """Return the error about a foreign CA of cluster.yaml, with its place there."""
    line, where = each.place
    return SpecError(f"{each.source}: {problem}", file=cluster.file, line=line, field=where)


def unused(pins: Mapping[str, Sequence[str]], offered: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield a sentence for each domain with SHA-256 in agent.yaml for which the record offers no certificate."""
    for ca in ISSUING_CAS:
        shown = {facts.fingerprint for pem in offered.get(ca, ()) if (facts := _one(pem)) is not None}
        if left := [pin for pin in pins.get(ca, ()) if pin not in shown]:
            yield (
                f"`also_trust` of agent.yaml has {', '.join(left)} for {ca}, and the cluster does not offer that CA. "
                "If it was removed, take it out there too, so that nobody can bring it back"
            )


def _one(pem: str) -> Facts | None:
    """Return the certificate in a text; None if it is not exactly one that can be read."""
    from vaultpki.pki import x509

    try:
        found = x509.read_certificates(pem.encode("ascii"))
    except (CertificateUnreadable, UnicodeEncodeError):
        return None
    return found[0] if len(found) == 1 else None
