"""Decides which write comes next until a server of a move holds what the move's record says of a CA; pure.

Each server has the key of one of both CAs, which is and stays its default issuer, and the other CA's certificate
without a key, as long as nodes may trust it. So no state of a move changes by whom a mount signs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from vaultpki.errors import StateConflict
from vaultpki.pki.facts import Facts
from vaultpki.records.move import LostServer, MoveRecord, of_domain
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount
from vaultpki.vault.issuer import FULL, NO_SIGNING, READ_ONLY

_BOTH: Final = frozenset({State.PUBLISHED, State.SWITCHED, State.RETIRED, State.RETRUSTING, State.RETURNING})
"""The states in which each server shows the other one's CA."""


@dataclass(frozen=True, slots=True)
class MoveWrite:
    """One write. `kind` is default, import, name, usage, record or delete-issuer.

    `target` is the id of an issuer, or what the kind needs: the SHA-256 to import, the name, the usage; see `value`.
    """

    kind: str
    target: str = ""
    value: str = ""
    record: RotationRecord | None = None


def next_write(
    record: MoveRecord, domain: str, mount: RotationMount, which: LostServer, found: RotationRecord | None
) -> MoveWrite | None:
    """Return the next write for one CA on the server `which`; None if it holds all that the record says.

    `found` is the record of the CA's rotation there. Raises StateConflict if the server has lost its own CA, or if that
    record is ahead of the move's for no reason of the move.
    """
    return next(_writes(record, domain, mount, which, found), None)


def by_sha256(mount: RotationMount, sha256: str) -> MountIssuer | None:
    """Return the issuer with this certificate; None if the mount does not have it."""
    return next((each for each in mount.issuers if sha256 and each.sha256 == sha256), None)


def derived(record: MoveRecord, domain: str, mount: RotationMount, which: LostServer) -> RotationRecord:
    """Return the record of a CA's rotation as the server `which` has it: each has the key of its own CA alone."""
    refs = {}
    for side, sha256 in (
        (LostServer.OLD, record.cas[domain].old_sha256),
        (LostServer.NEW, record.cas[domain].new_sha256),
    ):
        issuer = by_sha256(mount, sha256)
        key = issuer.key if issuer is not None and side is which else ""
        refs[side] = CaRef("", issuer.id if issuer is not None else "", key)
    return of_domain(record, domain, refs[LostServer.OLD], refs[LostServer.NEW])


def past_move(record: MoveRecord, found: RotationRecord | None, domain: str) -> bool:
    """Return whether the new server's record of a CA is past the move's: the root there is being rotated."""
    ahead = found is not None and found.revision > record.cas[domain].revision + record.revision
    return ahead and record.state is State.RETIRED


def _writes(
    record: MoveRecord, domain: str, mount: RotationMount, which: LostServer, found: RotationRecord | None
) -> Iterator[MoveWrite]:
    ca = record.cas[domain]
    at_old = which is LostServer.OLD
    if not at_old and (record.state not in _BOTH | {State.PREPARED} or past_move(record, found, domain)):
        return
    own = by_sha256(mount, ca.old_sha256 if at_old else ca.new_sha256)
    other = by_sha256(mount, ca.new_sha256 if at_old else ca.old_sha256)
    if own is None or not own.key:
        name = ca.old if at_old else ca.new
        raise StateConflict(
            f"{mount.path} does not have {name} with its key any more, so the move cannot go on; restore it from a "
            "backup of that server"
        )
    if mount.follows or mount.default != own.id:
        yield MoveWrite("default", own.id)
    both = record.state in _BOTH
    if both and other is None:
        yield MoveWrite("import", value=ca.new_sha256 if at_old else ca.old_sha256)
    if both and other is not None:
        name = ca.new if at_old else ca.old
        if other.name != name:
            yield MoveWrite("name", other.id, name)
        if not other.has(READ_ONLY):
            yield MoveWrite("usage", other.id, READ_ONLY)
    wanted = derived(record, domain, mount, which)
    if at_old or both:
        yield from _record(wanted, found, mount.path)
    usage = NO_SIGNING if at_old and record.state is State.RETIRED else FULL
    if not own.revoked and not own.has(usage):
        yield MoveWrite("usage", own.id, usage)
    if not both and other is not None:
        yield MoveWrite("delete-issuer", other.id)


def _record(wanted: RotationRecord, found: RotationRecord | None, path: str) -> Iterator[MoveWrite]:
    if found is not None and found.revision > wanted.revision:
        raise StateConflict(
            f"the record of the rotation of {wanted.domain} beside {path} is newer than the move; find out who wrote it"
        )
    if found != wanted:
        yield MoveWrite("record", record=wanted)


def certificates(record: MoveRecord, domain: str, mount: RotationMount) -> Mapping[str, Facts]:
    """Return the certificates of both CAs on a mount by "old" and "new", as far as they are there."""
    ca = record.cas[domain]
    issuers = {"old": by_sha256(mount, ca.old_sha256), "new": by_sha256(mount, ca.new_sha256)}
    return {side: each.facts for side, each in issuers.items() if each is not None and each.facts is not None}
