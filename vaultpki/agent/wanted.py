"""What a node should have by Vault's newest answer, and how its pairs compare with that; changes no file of a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vaultpki.agent import pairs, said, sign_due
from vaultpki.agent.context import Context
from vaultpki.agent.known import Known, compare, trust_now
from vaultpki.agent.pairs import PairFiles, PairStatus
from vaultpki.agent.said import SaidByVault
from vaultpki.node.assignment import Assignment
from vaultpki.pki.facts import Trust


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the node is assigned, the trust in each CA, and its pairs: their files, and how these compare with both."""

    assigned: Assignment
    trust: Mapping[str, Trust]
    on_disk: tuple[PairFiles, ...]
    items: tuple[PairStatus, ...]


def from_answer(context: Context, known: Known, found: SaidByVault) -> Wanted:
    """Return what follows from what Vault says. Raises CertificateRefused if it shows no root that this node trusts."""
    answer, contact, force = found.answer, found.contact, context.options.force
    trust, on_disk, items = known.trust, known.on_disk, known.items
    if trust is None or not contact.by_copy:
        trust = trust_now(context, answer)
        if known.copy is None or answer.certificates != known.copy.certificates or trust != known.trust:
            on_disk = pairs.read(context.folders, answer.certificates, known.on_disk)
            items = compare(context, on_disk, trust, force)
        if not contact.stepped and said.note_revoked(context, contact, items):
            items = compare(context, on_disk, trust, force)
    if sign_due.postpone_late(context, contact, known.copy.fetched if known.copy is not None else None, items):
        items = compare(context, on_disk, trust, force)
    return Wanted(answer, trust, on_disk, items)
