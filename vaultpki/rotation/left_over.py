"""Finds CAs that nodes trust and the server does not have, and how they leave; pure.

A recovery leaves them where they are: nodes may hold certificates of them. None is named by a later step, so a person
has them taken out (`ca recover DOMAIN --drop SHA256`). That goes on as a rotation does from switched on, from such a CA
to the one that signs: every leaf is replaced, then nobody trusts it, in the order and by the gates of every rotation.
It begins only where the gate before switched would be open, as far as it is about the CA that signs: everybody trusts
that one. So the states are those that tests/models/rotation.py explores.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from vaultpki.certificates import ROOT
from vaultpki.errors import ArgumentError, StateConflict
from vaultpki.model import Cluster
from vaultpki.records.gaps import LeftOver
from vaultpki.records.rotation import SPREAD, CaRef, Method, RotationRecord, State
from vaultpki.redact import first_few
from vaultpki.rotation.gates import Participant
from vaultpki.rotation.mount_steps import RotationMount
from vaultpki.rotation.start import also_trusted, current, numbers
from vaultpki.vault.issuer import successor_name


def left_over(
    record: RotationRecord | None, mount: RotationMount, nodes: Collection[Participant]
) -> tuple[LeftOver, ...]:
    """Return the CAs of an issuing CA's mount that have gone from it and that nodes keep, since no record drops them.

    None while the CA is rotated: its states say what becomes of each. A pooled node alone makes none of it.
    """
    if record is not None and (record.active or record.domain == ROOT):
        return ()
    shown = {each.sha256 for each in mount.issuers}
    domain = mount.path.rpartition("/")[2]
    holders: dict[str, list[Participant]] = {}
    for node in nodes:
        bundle = node.report.bundles.get(domain) if node.report is not None and node.bundle else None
        for sha256 in bundle.sha256 if bundle is not None else ():
            if sha256 not in shown and (record is None or sha256 in record.also):
                holders.setdefault(sha256, []).append(node)
    return tuple(
        LeftOver(sha256, tuple(sorted(node.name for node in found)))
        for sha256, found in sorted(holders.items())
        if any(node.kind == "listed" for node in found)
    )


def dropping(
    cluster: Cluster,
    domain: str,
    before: RotationRecord | None,
    mount: RotationMount,
    nodes: Collection[Participant],
    dropped: Collection[str],
    now: datetime,
) -> RotationRecord:
    """Return the record by which the CAs with these SHA-256 leave; `before` is the one at rest, None if there is none.

    Raises ArgumentError for one that no node holds or that the server has, and StateConflict if another one would leave
    too.
    """
    there = {each.sha256 for each in left_over(before, mount, nodes)}
    if unknown := sorted(set(dropped) - there):
        has = f"those are {', '.join(sorted(there))}" if there else "there is none"
        raise ArgumentError(
            f"{first_few(unknown)} is no CA of {domain} that nodes trust and the server does not have; {has}"
        )
    leaf = current(cluster, domain, before, mount)
    trust = before.trust if before is not None else also_trusted(cluster.name, domain, mount, nodes)
    if others := sorted(trust - {leaf.sha256, *dropped}):
        raise StateConflict(
            f"nodes trust {first_few(others)} beside {leaf.name} too, which would leave with it. Name it with --drop "
            f"too. Or if the server has it, take all of them out: `vaultpki ca rotate {domain}`"
        )
    first, *further = sorted(dropped)
    known = before.highest if before is not None else 1
    name, highest = successor_name(domain, max([known, *numbers(domain, mount)]), Method.NEW_KEY, leaf.name)
    return RotationRecord(
        domain=domain,
        state=State.SWITCHED,
        revision=(before.revision if before is not None else 0) + 1,
        since=now,
        old=CaRef(name, sha256=first),
        new=leaf,
        highest=highest,
        also=tuple(further),
        spread=SPREAD,
        drops=True,
    )


def before_dropping(record: RotationRecord, before: RotationRecord | None) -> RotationRecord:
    """Return a record whose gate to switched asks nodes that have read `before` whether all trust the CA that signs."""
    return replace(record, state=State.RETURNING, revision=before.revision if before is not None else 0)
