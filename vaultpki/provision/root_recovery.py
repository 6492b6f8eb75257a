"""Decides how the root's rotation goes on after the server was restored from a snapshot, or has lost its record; pure.

As `rotation_recovery` for issuing CAs. Nodes that have read a newer record trust every root that they know, and drop
none, until a newer one is written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from vaultpki.certificates import ROOT, ca_subject
from vaultpki.pki import trust
from vaultpki.provision.gates import Participant, Waiting
from vaultpki.provision.rotation import number
from vaultpki.provision.rotation_recovery import behind
from vaultpki.provision.rotation_start import numbers
from vaultpki.provision.rotation_steps import MountIssuer, RotationMount
from vaultpki.spec.rotation_record import CaRef, RotationRecord, State

_SWITCHED: Final = frozenset({State.SWITCHED, State.RETIRED, State.RETRUSTING, State.RETURNING})


@dataclass(frozen=True, slots=True)
class Recovery:
    """The record to go on with, None if nodes are waited for or nothing can be done; `note` is one sentence."""

    record: RotationRecord | None
    note: str
    waiting: tuple[Waiting, ...] = ()


def recovered(
    cluster: str,
    record: RotationRecord | None,
    mount: RotationMount,
    nodes: Collection[Participant],
    companions: Mapping[str, RotationRecord | None],
    now: datetime,
) -> Recovery:
    """Return the record with which the root goes on, for nodes of which one at least has read a newer one.

    `companions` are the records of the issuing CAs. Without the new root on the server, the way is back to the old one.
    """
    ahead = behind(ROOT, record, nodes)
    aware = [node for node in nodes if node.report is not None and node.report.seen]
    if 2 * len(ahead) < len(aware):
        why = (
            "says that it has read a newer record of the root, and most nodes have not: its report or its state is "
            "false; join it anew, or go on without it (`--without {0}`)"
        )
        return Recovery(None, "", tuple(Waiting(node.name, why.format(node.name)) for node in ahead))
    base = record if record is not None else _rebuilt(cluster, mount, now)
    lost = _lost(mount, ahead, base)
    if base is None or lost:
        return Recovery(
            None,
            "the server was restored from a snapshot, and has lost the root that its nodes trust; restore a newer "
            "snapshot, or make new join files for every node (`vaultpki enroll --all --replace`)",
        )
    state = base.state
    if state in _SWITCHED:
        whole = all(own is not None and own.active for own in companions.values())
        state = State.RETRUSTING if whole else State.PUBLISHED
    highest = max(node.report.seen[ROOT].highest for node in ahead if node.report is not None)
    note = (
        "the server shows an older record of the root than nodes have read: it was restored from a snapshot, or "
        f"somebody deleted it; it goes on as {state.value}, with a newer record"
    )
    return Recovery(replace(base.moved(state, now), revision=highest + 1), note)


def _lost(mount: RotationMount, ahead: Collection[Participant], base: RotationRecord | None) -> bool:
    """Return whether nodes trust no root that the server could go on with."""
    shown = {each.sha256 for each in mount.issuers}
    usable = shown & base.trust if base is not None else set()
    return any(node.report is not None and node.report.pins and not usable & {*node.report.pins} for node in ahead)


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
    if facts is None or kind != ROOT or not count.isdigit() or trust.no_root(facts) is not None:
        return False
    return facts.subject.common_name == ca_subject(cluster, ROOT, int(count))
