"""Gives each node that can log in at the old server a credential for the new one, in its own record at the old one.

It is a wrapped secret id, as in a join file: whoever takes it first has it, so a node that finds it spent says so. Who
has reported at the new server needs none any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from vaultpki.errors import Denied, Refused, SpecError, StateConflict
from vaultpki.identity import reports
from vaultpki.identity.access import pooled_approle
from vaultpki.identity.credentials import JOINING, Identity, count, role_id
from vaultpki.identity.nodes import Member
from vaultpki.model import Pool
from vaultpki.move.server import MoveServer
from vaultpki.records.move import CREDENTIALS, MoveRecord
from vaultpki.records.move_credential import Handed, credential_json, credential_path, read_credential
from vaultpki.vault import Request, member
from vaultpki.vault.answers import wrapping_token
from vaultpki.vault.kv import Stored, changed_meanwhile, read_stored, write_over

_LIFE: Final = timedelta(hours=24)
# A node passes at least hourly, and one that was away for a night finds one that it can still use.
_RENEWED: Final = timedelta(hours=12)


def give(old: MoveServer, new: MoveServer, record: MoveRecord, members: Sequence[Member]) -> int:
    """Write a credential for each of the old server's nodes that needs one; return how many were written.

    `members` are those of the old server. A locked node gets none. Raises StateConflict if the token may not see what
    a node can log in with.
    """
    made = old.vault.map(lambda who: _give(old, new, record, who), [each for each in members if _moves(each)])
    return sum(made)


def intercepted(old: MoveServer, new: MoveServer, record: MoveRecord, who: Member) -> bool:
    """Return whether a node's credential was used, and the node has not reported at the new server since.

    Right after its agent has taken it this is so for a moment. False where the token may not look.
    """
    if not _moves(who):
        return False
    with contextlib.suppress(Denied, StateConflict):
        stand = _stand(old, new, record, who)
        return stand.spent and not stand.reported
    return False


def take_back(old: MoveServer, record: MoveRecord) -> None:
    """Delete all credentials from the old server; those that nobody took open nothing once they have ended.

    Nothing if its store has gone.
    """
    vault, store = old.vault, old.cluster.mount("config")
    delete = vault.prepare.secrets.kv.v2.delete_metadata_and_all_versions
    vault.many([delete(path, mount_point=store) for path in _paths(old, CREDENTIALS)])


def _paths(old: MoveServer, folder: str) -> list[str]:
    listed = old.vault.api.secrets.kv.v2.list_secrets(folder, mount_point=old.cluster.mount("config")).keys
    found: list[str] = []
    for name in listed:
        path = f"{folder}/{name}"
        found += _paths(old, path.rstrip("/")) if name.endswith("/") else [path]
    return found


def _moves(who: Member) -> bool:
    return who.kind != "jwt" and who.holder is not None and not who.locked


@dataclass(frozen=True, slots=True)
class _Stand:
    """How far a node's credential is.

    `reported` is whether the node has reported at the new server. `held` is what lies at the old one; `fresh` says that
    it can be taken for long, `spent` that somebody has taken it.
    """

    reported: bool
    held: Stored[Handed]
    fresh: bool = False
    spent: bool = False


def _identity(who: Member) -> Identity:
    return Identity("listed" if who.kind == "listed" else "pooled", who.name)


def _path(who: Member) -> str:
    return credential_path(who.name, who.holder.name if isinstance(who.holder, Pool) else None)


def _stand(old: MoveServer, new: MoveServer, record: MoveRecord, who: Member) -> _Stand:
    """Look where a node is. Raises StateConflict if the token may not see what it can log in with there."""
    path, store = _path(who), old.cluster.mount("config")
    try:
        held = read_stored(old.vault, store, path, lambda value: read_credential(value, where=f"{store}/{path}"))
    except SpecError:
        # Whoever wrote it: it is written over.
        held = Stored(version=old.vault.stored(store, path).get("metadata", {}).get("version", 0))
    place = reports.place_of(who.holder, who.name) if who.holder is not None else ""
    if _reported(new, place):
        return _Stand(reported=True, held=held)
    found, now = held.record, datetime.now(UTC) + timedelta(seconds=new.vault.clock_offset or 0.0)
    identity = _identity(who)
    if found is None or found.number != record.number or found.node != who.name or now >= found.expires:
        return _Stand(reported=False, held=held)
    if _is_unused(new, identity, found):
        known = role_id(new.cluster, new.vault, identity) == found.role_id
        return _Stand(reported=False, held=held, fresh=known and found.expires - now > _RENEWED)
    live = count(new.cluster, new.vault, identity)
    if live is None:
        raise StateConflict(f"this token may not see what {who.name} can log in with at {new.vault.address}")
    return _Stand(reported=False, held=held, spent=live > 0)


def _reported(new: MoveServer, place: str) -> bool:
    return bool(place) and bool(new.vault.stored(new.cluster.mount("config"), place).get("data"))


def _is_unused(new: MoveServer, identity: Identity, found: Handed) -> bool:
    with contextlib.suppress(Refused, Denied):
        # hvac has no method for it.
        data = member(new.vault.write("sys/wrapping/lookup", {"token": found.wrap_token}), "data")
        return data.get("creation_path") == f"{identity.role(new.cluster)}/secret-id"
    return False


def _give(old: MoveServer, new: MoveServer, record: MoveRecord, who: Member) -> bool:
    """Write a node's credential if it needs one, or delete one that it does not need; return whether it was written."""
    stand, path, store = _stand(old, new, record, who), _path(who), old.cluster.mount("config")
    if stand.reported:
        if stand.held.record is not None:
            old.vault.api.secrets.kv.v2.delete_metadata_and_all_versions(path, mount_point=store)
        return False
    if stand.fresh or stand.spent:
        return False
    identity = _identity(who)
    known = role_id(new.cluster, new.vault, identity)
    if known is None and isinstance(who.holder, Pool):
        # hvac would write lists as one string.
        new.vault.write(identity.role(new.cluster), pooled_approle(new.cluster, who.holder), once=True)
        known = role_id(new.cluster, new.vault, identity)
    if known is None:
        raise StateConflict(
            f"{who.name} has no AppRole at {new.vault.address} any more; run `vaultpki apply` with that server in "
            "`vault`"
        )
    now = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=new.vault.clock_offset or 0.0)
    handed = Handed(
        number=record.number,
        node=who.name,
        pool=who.holder.name if isinstance(who.holder, Pool) else None,
        role_id=known,
        wrap_token=_minted(new, identity),
        expires=(now + _LIFE).replace(microsecond=0),
    )
    if not write_over(old.vault.sending(once=True), store, path, credential_json(handed), stand.held.version):
        raise changed_meanwhile(f"the credential of {who.name}", f"vaultpki move status{old.cluster.file_option}")
    return True


def _minted(new: MoveServer, identity: Identity) -> str:
    """Return a token that wraps a new secret id, which ends soon after it: the node replaces it when it has it."""
    generate, seconds = new.vault.prepare.auth.approle.generate_secret_id, int(_LIFE.total_seconds())
    plain: Request = generate(identity.name, mount_point=identity.mount(new.cluster), wrap_ttl=f"{seconds}s")
    # hvac's method has no TTL.
    answer = new.vault.call(replace(plain, once=True, body={"ttl": f"{seconds + JOINING}s"}))
    return wrapping_token(answer, f"{identity.role(new.cluster)}/secret-id")
