"""Decides how the root's rotation goes on after the server was restored from a snapshot, or has lost its record; pure.

As `recovery` for issuing CAs. Nodes that have read a newer record trust every root that they know, and drop
none, until a newer one is written. It leads back only: to re-trusting, to published where the issuing CAs have not
followed, in which nodes trust both roots too, or to rest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from vaultpki.certificates import ROOT, ca_subject
from vaultpki.errors import StateConflict
from vaultpki.pki import trust
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.rotation.gates import Participant
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount
from vaultpki.rotation.recovery import ahead, next_revision
from vaultpki.rotation.start import numbers
from vaultpki.vault.issuer import number

_SWITCHED: Final = frozenset({State.SWITCHED, State.RETIRED, State.RETRUSTING, State.RETURNING})


def recovered(
    cluster: str,
    record: RotationRecord | None,
    mount: RotationMount,
    nodes: Collection[Participant],
    companions: Mapping[str, RotationRecord | None],
    aside: Collection[str],
    now: datetime,
) -> RotationRecord:
    """Return the record with which the root goes on.

    `companions` are the records of the issuing CAs, `aside` the nodes whose word does not count. Without the new root
    on the server, the rollback leads to the old one. Raises StateConflict if nodes trust no root that the server has,
    and as `next_revision`.
    """
    base = record if record is not None else _rebuilt(cluster, mount, now)
    if base is None or _lost(mount, ahead(ROOT, record, nodes, aside), base):
        raise StateConflict(
            "the server was restored from a snapshot, and has lost the root that its nodes trust. Restore a newer "
            "snapshot, or make new join files for every node (`vaultpki enroll --all --replace`)"
        )
    state = base.state
    if state in _SWITCHED:
        whole = all(own is not None and own.active for own in companions.values())
        state = State.RETRUSTING if whole else State.PUBLISHED
    elif state is State.PREPARED:
        state = State.STEADY
    excused = tuple(sorted({*aside, *base.excused}))
    return replace(base.moved(state, now), revision=next_revision(ROOT, record, nodes, aside), excused=excused)


def _lost(mount: RotationMount, aware: Collection[Participant], base: RotationRecord) -> bool:
    """Return whether nodes trust no root that the server could go on with."""
    shown = {each.sha256 for each in mount.issuers}
    usable = shown & base.trust
    return any(node.report is not None and node.report.pins and not usable & {*node.report.pins} for node in aware)


def _rebuilt(cluster: str, mount: RotationMount, now: datetime) -> RotationRecord | None:
    """Return a record for a mount whose record is lost, by the names of its roots; None if it has none."""
    roots = sorted((each for each in mount.issuers if _own_root(cluster, each)), key=lambda each: number(each.name))
    if not roots:
        return None
    refs = [CaRef(each.name, each.id, each.key, each.sha256) for each in roots[-2:]]
    state = State.STEADY
    if len(refs) > 1:
        state = State.RETRUSTING if mount.default == refs[1].issuer else State.PUBLISHED
    highest = max([*numbers(ROOT, mount), 1])
    return RotationRecord(ROOT, state, 1, now, refs[0], refs[1] if len(refs) > 1 else None, highest=highest)


def _own_root(cluster: str, issuer: MountIssuer) -> bool:
    facts, (kind, _, count) = issuer.facts, issuer.name.rpartition("-")
    if facts is None or kind != ROOT or not count.isdigit():
        return False
    if not trust.named(facts, ca_subject(cluster, ROOT)):
        # One from outside has no key there.
        return not issuer.key and trust.no_ca_above(facts, signature=False) is None
    return trust.no_root(facts) is None and facts.subject.common_name == ca_subject(cluster, ROOT, int(count))
