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
    name = f"{domain}-1"
    named = [each for each in mount.issuers if each.name == name]
    keyed = [each for each in mount.issuers if each.key and mount.keys.get(each.key) == name]
    fit = [each for each in [*named, *keyed] if _fit(cluster, domain, mount, each)]
    return next(iter(fit), None)


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
    if own is None or own.id != mount.default:
        what = "has no CA" if own is None else "does not sign by its CA"
        raise StateConflict(
            f"{mount.path} {what} {ca_subject(cluster.name, domain)}; run `vaultpki apply -f {cluster.file}` first"
        )
    return CaRef(f"{domain}-1", own.id, own.key, own.sha256)


def _fit(cluster: str, domain: str, mount: RotationMount, issuer: MountIssuer) -> bool:
    facts = issuer.facts
    if domain == ROOT:
        return facts is not None and (mount.outside or bool(issuer.key))
    return facts is not None and mount.takes(facts, ca_subject(cluster, domain))
