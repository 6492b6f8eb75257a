"""Decides with which record a rotation begins, and with which it is withdrawn again; pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Final

from vaultpki.certificates import ROOT, ca_subject
from vaultpki.errors import StateConflict
from vaultpki.model import Cluster
from vaultpki.records.rotation import CaRef, Method, RotationRecord, State
from vaultpki.redact import printable
from vaultpki.rotation.gates import Participant
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount
from vaultpki.vault.issuer import number, successor_name

# Of the CAs that nodes report. They can name only what they hold already; a lying one cannot make the record too large.
_MOST_REPORTED: Final = 100


def first_record(
    cluster: Cluster,
    domain: str,
    method: Method,
    spread: int,
    before: RotationRecord | None,
    mount: RotationMount,
    nodes: Collection[Participant],
    now: datetime,
) -> RotationRecord:
    """Return the record of a rotation that begins; `before` is the one at rest, None if the CA was never rotated.

    Raises StateConflict if the mount has no CA to begin with.
    """
    old = current(cluster, domain, before, mount)
    known = [before.highest] if before is not None else []
    highest = max([*known, *numbers(domain, mount), 1])
    name, highest = successor_name(domain, highest, method, old.name)
    # What nobody trusts any more stays so; what is trusted, is as long as the old CA.
    also = before.trust if before is not None else also_trusted(cluster.name, domain, mount, nodes)
    return RotationRecord(
        domain=domain,
        state=State.PREPARED,
        revision=(before.revision if before is not None else 0) + 1,
        since=now,
        old=old,
        new=CaRef(name, key=old.key if method is Method.SAME_KEY else "", sha256=_incoming(mount)),
        method=method,
        highest=highest,
        also=tuple(sorted(also - {old.sha256})),
        spread=0 if method is Method.EMERGENCY else spread,
        turn=before.turn if before is not None else "",
    )


def _incoming(mount: RotationMount) -> str:
    """Return the SHA-256 of the root from outside that is to come; "" for a CA that is made here."""
    return mount.incoming[0].fingerprint if mount.incoming else ""


def withdrawn(begun: RotationRecord, before: RotationRecord | None, now: datetime) -> RotationRecord:
    """Return the record that takes back one that has just been written; its number is not used again."""
    if before is None:
        return begun.moved(State.STEADY, now, new=None)
    return replace(before, revision=begun.revision + 1, highest=begun.highest)


def own_issuer(cluster: str, domain: str, mount: RotationMount) -> MountIssuer | None:
    """Return the issuer of a CA that was never rotated: the one that `apply` named."""
    fit = [each for each in _by_name(domain, mount) if _fit(cluster, domain, mount, each)]
    return next(iter(fit), None)


def _by_name(domain: str, mount: RotationMount) -> list[MountIssuer]:
    """Return the issuers with the name that `apply` gives, and then those of the key with that name."""
    name = f"{domain}-1"
    named = [each for each in mount.issuers if each.name == name]
    return [*named, *(each for each in mount.issuers if each.key and mount.keys.get(each.key) == name)]


def why_missing(cluster: Cluster, domain: str, mount: RotationMount) -> str:
    """Return why a mount has no CA that was never rotated, and what to do, as a sentence.

    `apply` makes another CA beside one that has lost its name, and cannot mend the chain of one that is there.
    """
    name = ca_subject(cluster.name, domain)
    renamed = [
        each
        for each in mount.issuers
        if _fit(cluster.name, domain, mount, each)
        # A later key has its number there.
        and (domain == ROOT or (each.facts is not None and each.facts.subject.common_name == name))
    ]
    if renamed:
        lost = min(renamed, key=lambda each: (each.id != mount.default, each.id))
        return (
            f"{mount.path} has the CA {name} under the name {lost.name or lost.id}; give its name back: "
            f"`bao write {mount.path}/issuer/{lost.id} issuer_name={domain}-1`, or the same with `vault`"
        )
    for each in _by_name(domain, mount):
        why = mount.why_not(each.facts, name) if each.facts is not None else "its certificate cannot be read"
        signer = printable(each.facts.issuer_text) if each.facts is not None else ""
        if mount.outside and each.facts is not None and domain != ROOT:
            return (
                f"the CA {name} is at {mount.path}, and {why}; put the certificate of {signer} that signed it back "
                f"into ca.root_file of {cluster.file}"
            )
        look = f"`vaultpki plan{cluster.file_option}` says what to do"
        return f"{mount.path}/issuer/{each.id} is not the CA {name}: {why}; {look}"
    return f"{mount.path} has no CA {name}; run `vaultpki apply{cluster.file_option}`"


def also_trusted(cluster: str, domain: str, mount: RotationMount, nodes: Collection[Participant]) -> frozenset[str]:
    """Return the SHA-256 of every CA that nodes of a CA without a record trust: what its mount shows and they report.

    A node trusts what the pinned root signed, whatever stands here; a record that left one out would end that. Of roots
    it trusts those that it has pinned alone.
    """
    if domain == ROOT:
        return frozenset()
    shown = {each.sha256 for each in mount.issuers if _fit(cluster, domain, mount, each)}
    reports = (node.report for node in nodes if node.report is not None)
    held = Counter(sha256 for report in reports if domain in report.bundles for sha256 in report.bundles[domain].sha256)
    return frozenset(shown.union(sha256 for sha256, _ in held.most_common(_MOST_REPORTED)))


def numbers(domain: str, mount: RotationMount) -> Iterator[int]:
    """Yield the numbers in the names of a mount's issuers and keys."""
    for name in [*(each.name for each in mount.issuers), *mount.keys.values()]:
        if re.fullmatch(rf"{domain}-[0-9]{{1,6}}(?:r[0-9]{{1,6}})?", name):
            yield number(name)


def current(cluster: Cluster, domain: str, before: RotationRecord | None, mount: RotationMount) -> CaRef:
    """Return the CA that signs; `before` is the record at rest. Raises StateConflict if the mount has none."""
    if before is not None:
        return before.leaf
    own = own_issuer(cluster.name, domain, mount)
    if own is None:
        raise StateConflict(why_missing(cluster, domain, mount))
    if own.id != mount.default:
        raise StateConflict(
            f"{mount.path} does not sign by its CA {ca_subject(cluster.name, domain)}; run `vaultpki apply"
            f"{cluster.file_option}` first"
        )
    return CaRef(f"{domain}-1", own.id, own.key, own.sha256)


def _fit(cluster: str, domain: str, mount: RotationMount, issuer: MountIssuer) -> bool:
    facts = issuer.facts
    if domain == ROOT:
        return facts is not None and (mount.outside or bool(issuer.key))
    return facts is not None and mount.takes(facts, ca_subject(cluster, domain))
