"""Says what the record of an adoption asks of one machine, or why the machine stays as it is; pure.

A record may be missing, or older than one that was read before: somebody deleted it, or the server was restored from a
snapshot. Other machines may then have gone on, so nothing that others rely on is taken away here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vaultpki.node.assignment import Assignment
from vaultpki.procedure.phases import Side
from vaultpki.records.adoption import WRITE_BACK, AdoptionRecord, AdoptionState
from vaultpki.records.adoption_report import Held
from vaultpki.rotation.adoption_states import LEAVES_OF, TRUSTED, WHILE_AWAY
from vaultpki.takeover.arrangement import HOME, Arrangement, FolderKind, arrangement
from vaultpki.takeover.journal import Journal

_S = AdoptionState


@dataclass(frozen=True, slots=True)
class AskedOfMachine:
    """What is asked of a machine: `target` is what it shall be, None if nothing changes.

    `stays` is why the record is not followed, with what to do, as a sentence about this machine; "" if it is. With a
    target too, that one only adds trust.
    """

    target: Arrangement | None
    stays: str = ""


def asked(
    wanted: Assignment, known: Journal, highest: int, kind: FolderKind | None, *, trusts_both: bool = False
) -> AskedOfMachine:
    """Return what is asked of a machine.

    `wanted` is what the agent read last, `known` the machine's journal, `highest` the highest revision of the record
    that was ever read here, 0 for none, and `kind` the folder of certificates that is in place. `trusts_both` is
    whether kubeadm's own bundles hold both CAs, as on a machine that joined while everybody trusted both.
    """
    record, ahead = wanted.adoption.record, wanted.adoption.not_followed
    if ahead:
        return AskedOfMachine(None, _ahead(ahead, highest))
    if record is None:
        return _without_record(known)
    if record.revision >= highest:
        # Without its journal a machine is led nowhere: its steps say what is lost.
        lost = known.reached is None and kind is not FolderKind.KUBEADM
        if not lost and not follows(record.state, known.reached, trusts_both=trusts_both):
            return AskedOfMachine(None, _jumped(record.state, known.reached))
        return AskedOfMachine(arrangement(record.state))
    return AskedOfMachine(_more_trust(record, known, kind), _behind(record, highest))


def way_home(known: Journal) -> tuple[Arrangement, ...]:
    """Return what a machine is led through, one after the other, until it is as kubeadm left it.

    What CSRs are signed with stays a copy until no file holds two CAs, and certificates of the old CAs come back while
    both are trusted.
    """
    stood = {known.asked, known.reached} - {None, _S.PREPARED}
    if not stood:
        return (HOME,)
    returning = () if stood == {_S.PUBLISHED} else (arrangement(_S.RETURNING),)
    # Once its steps have begun, RETURNING was whole before.
    if known.asked is _S.PREPARED and known.reached in (_S.RETURNING, _S.PUBLISHED):
        returning = ()
    return (*returning, arrangement(_S.PREPARED), HOME)


def _without_record(known: Journal) -> AskedOfMachine:
    """Return the way home for a machine in PREPARED: an abort deletes the record once every machine has come there."""
    stands = known.asked or known.reached
    if stands is None or stands is _S.DONE:
        return AskedOfMachine(None)
    if stands is _S.PREPARED:
        return AskedOfMachine(way_home(known)[0])
    return AskedOfMachine(
        None,
        f"Vault has no record of the adoption any more, and this machine is {stands.value}. Somebody deleted the "
        "record, or the server was restored from a snapshot. The machine stays as it is. Restore a later snapshot or "
        "the record. Or if no machine uses the new CAs any more, put kubeadm's files back here: `vaultpki adopt node "
        "--leave`",
    )


def _more_trust(record: AdoptionRecord, known: Journal, kind: FolderKind | None) -> Arrangement | None:
    """Return what adds the trust that an older record asks for; None if nothing is to be added.

    The certificates in use stay those that they are, and so does everything else that is trusted.
    """
    stands = known.asked or known.reached
    wanted = arrangement(record.state).trust
    if stands is _S.DONE:
        # What the old CAs need is deleted.
        return None
    held = arrangement(stands).trust if stands is not None else Held.OLD
    if kind is FolderKind.AGENT:
        lacks = wanted is not Held.NEW and (held is Held.NEW or _is_half_way(_S.RETRUSTING, known))
        return arrangement(_S.RETRUSTING) if lacks else None
    lacks = wanted is not Held.OLD and (held is Held.OLD or _is_half_way(_S.PUBLISHED, known))
    return arrangement(_S.PUBLISHED) if lacks else None


def _is_half_way(state: AdoptionState, known: Journal) -> bool:
    return known.asked is state and known.reached is not state


def follows(state: AdoptionState, reached: AdoptionState | None, *, trusts_both: bool) -> bool:
    """Return whether a machine that has done the steps of `reached` last, None for none, may be led to a state.

    It is not led past one that every machine does before the next begins: whoever may write the record could else have
    nodes show certificates that nobody trusts yet, or delete what the way back needs. What only adds trust is always
    followed. One that joined late, or comes back with both CAs, begins where the others are.
    """
    if reached is None:
        return state in (_LATE if trusts_both else _EARLY)
    trusts_both = TRUSTED[reached] is Side.BOTH and LEAVES_OF[reached] is Side.OLD
    if state in WHILE_AWAY[reached] or (trusts_both and state in _LATE):
        return True
    ended = _S.DONE in (state, reached)
    return not ended and LEAVES_OF[state] is LEAVES_OF[reached] and TRUSTED[reached] in TRUSTED[state]


_EARLY: Final = frozenset({_S.PREPARED, _S.PUBLISHED, _S.RETURNING})
"""The states that a machine follows first which is as kubeadm left it, and trusts the old CAs alone."""

_LATE: Final = _EARLY | {_S.SWITCHED, _S.CLOSED}
"""The same for one that trusts both CAs. In CLOSED it may have got its certificate of the old CA just before."""


def _jumped(state: AdoptionState, reached: AdoptionState | None) -> str:
    stands = f"has done the steps of {reached.value} last" if reached is not None else "is as kubeadm left it"
    return (
        f"the record of the adoption says {state.value}, and this machine {stands}. No adoption that waits for this "
        "machine leads from there to that state. The machine stays as it is, and nothing is deleted here. Find out "
        f"who wrote the record, and {WRITE_BACK}. A machine that was no part of the cluster then is made anew "
        "(`kubeadm reset`), and joins again"
    )


def _behind(record: AdoptionRecord, highest: int) -> str:
    return (
        f"this machine has read revision {highest} of the adoption's record, and Vault has revision {record.revision} "
        f"({record.state.value}). Vault was restored from a snapshot, or somebody changed the record. Until it has a "
        "later one this machine takes no trust away and exchanges no certificates. Restore a later snapshot, or "
        f"{WRITE_BACK}"
    )


def _ahead(revision: int, highest: int) -> str:
    return (
        f"this machine has read revision {highest} of the adoption's record, and does not follow revision {revision}. "
        "No adoption comes so far ahead, so no vaultpki wrote it. The machine stays as it is. Find out who wrote "
        f"that record, and {WRITE_BACK}"
    )
