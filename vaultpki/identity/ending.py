"""Notes about identities that are being ended or were locked, and the end of their tokens.

A note is written before anything is ended, so a run that was interrupted can be repeated. It holds the role ids by
which Vault finds the tokens of a node. It is removed when all is done; that of a listed node stays then and says
`ended`, with the new role id, as in 0.3.0.

The record of a lock only informs. The server is asked whether a node can log in, and no gate reads the record: whoever
may lock could write it for any node.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vaultpki.errors import BadAnswer, Denied, Refused, StateConflict
from vaultpki.model import VERSION, Cluster
from vaultpki.records import report_paths
from vaultpki.records.paths import LEAVING, LOCKED
from vaultpki.redact import printable, stamp
from vaultpki.values import hosts, names
from vaultpki.vault import Json, Vault, member
from vaultpki.vault.answers import server_time
from vaultpki.vault.kv import version_of

LOGIN_IN_FLIGHT: Final = 10.0
"""Seconds after which a login is through that was under way when its AppRole was deleted or got a new role id."""

# Seconds. A server that was frozen, or whose disk is stalled, takes longer to store anything.
_AT_ONCE: Final = 1.0
_MOST_WAITS: Final = 12

_ROUNDS: Final = 6
# Characters of a display name that are shown.
_LONGEST: Final = 100
_ENDED: Final = "ended"


@dataclass(frozen=True, slots=True)
class Entity:
    """What Vault made of a login. While it is disabled, no token of it works, and its logins are refused."""

    id: str
    disabled: bool


@dataclass(frozen=True, slots=True)
class LockRecord:
    """When a node was locked, by the server's clock, and the display name of the token; None and "" if unknown."""

    since: datetime | None = None
    by: str = ""

    @property
    def sentence(self) -> str:
        """What was done, as words that follow the node's name and `was`."""
        return f"locked{f' at {stamp(self.since)}' if self.since else ''}{f' by {self.by}' if self.by else ''}"


def note_lock(cluster: Cluster, vault: Vault, name: str) -> bool:
    """Record that a node is locked, and by whose token; return False if the token may not.

    A record that is there stays: a locker may create one and not change it.
    """
    owner = vault.owner()
    made = {"version": VERSION, "by": owner.name if owner is not None else ""}
    try:
        change_record(cluster, vault, f"{LOCKED}/{name}", lambda record: record or made)
    except Denied:
        # Another locker may have been faster, and this one may not write over that.
        with contextlib.suppress(Denied):
            return find_lock(cluster, vault, name) is not None
        return False
    return True


def find_lock(cluster: Cluster, vault: Vault, name: str) -> LockRecord | None:
    """Return the record that a node was locked; None if there is none."""
    found = vault.stored(cluster.mount("config"), f"{LOCKED}/{name}")
    record = found.get("data")
    if not isinstance(record, dict):
        return None
    by = record.get("by")
    since = server_time(member(found, "metadata").get("created_time"))
    return LockRecord(since, printable(by[:_LONGEST]) if isinstance(by, str) else "")


def all_locks(cluster: Cluster, vault: Vault) -> dict[str, LockRecord]:
    """Return the records of locks by the nodes' names."""
    names_ = locked_names(cluster, vault)
    found = zip(names_, vault.map(lambda name: find_lock(cluster, vault, name), names_), strict=True)
    return {name: lock for name, lock in found if lock is not None}


def locked_names(cluster: Cluster, vault: Vault) -> tuple[str, ...]:
    """Return the nodes that have a record of a lock."""
    return named_in(cluster, vault, LOCKED)


def remove_locks(cluster: Cluster, vault: Vault, nodes: Iterable[str]) -> None:
    """Remove the records that these nodes were locked."""
    delete = vault.prepare.secrets.kv.v2.delete_metadata_and_all_versions
    vault.many([delete(f"{LOCKED}/{name}", mount_point=cluster.mount("config")) for name in nodes])


def read_note(cluster: Cluster, vault: Vault, name: str) -> frozenset[str]:
    """Return the role ids of a node whose end is unfinished; none for any other node."""
    return _role_ids(vault.stored(cluster.mount("config"), f"{LEAVING}/{name}").get("data"))


def noted(cluster: Cluster, vault: Vault) -> frozenset[str]:
    """Return the nodes that have a note; none if the token may not list them."""
    try:
        return frozenset(named_in(cluster, vault, LEAVING))
    except Denied:
        return frozenset()


def named_in(cluster: Cluster, vault: Vault, folder: str) -> tuple[str, ...]:
    """Return the nodes that a folder of the store has a record of.

    What has another name is no node's, and may not even fit into a path; whoever may lock could write it.
    """
    found = vault.api.secrets.kv.v2.list_secrets(folder, mount_point=cluster.mount("config")).keys
    return tuple(name for name in found if names.fits(name, hosts.node_name))


def is_unfinished(cluster: Cluster, vault: Vault, name: str) -> bool:
    """Return whether the end of a node that has a note was interrupted."""
    return member(vault.stored(cluster.mount("config"), f"{LEAVING}/{name}"), "data").get(_ENDED) is not True


def write_note(cluster: Cluster, vault: Vault, name: str, role_ids: Iterable[str]) -> frozenset[str]:
    """Add role ids to the node's note; returns all that it holds now."""
    added = frozenset(role_ids)

    def more(record: Json) -> Json:
        before = frozenset[str]() if record.get(_ENDED) is True else _role_ids(record)
        return {"version": VERSION, "role_ids": sorted(before | added)}

    return _role_ids(change_record(cluster, vault, f"{LEAVING}/{name}", more))


def await_logins(
    store: Callable[[], None], wait: float = LOGIN_IN_FLIGHT, say: Callable[[str], None] = lambda line: None
) -> None:
    """Wait until logins are through that were under way when an AppRole was deleted or got a new role id.

    Waits for `wait` seconds, and again as long as `store`, which stores anything, takes more than a second then: a
    server that was frozen meanwhile, or whose disk was, goes on with such a login as late as with that. Not at all for
    0. `say` gets a line that tells what is waited for. Raises StateConflict if the server does not become faster; the
    command is then run again.
    """
    if not wait:
        return
    most = f"at most {_MOST_WAITS * wait / 60:.0f} minutes if the server is slow"
    say(f"waiting {wait:.0f} seconds until logins that are under way have ended; {most}")
    for _ in range(_MOST_WAITS):
        time.sleep(wait)
        began = time.monotonic()
        store()
        if time.monotonic() - began < _AT_ONCE:
            return
    raise StateConflict(
        f"the server takes longer than {_AT_ONCE:.0f} s to store anything, so a login with a credential that was ended "
        "may still be under way. Run the command again when the server is faster"
    )


def store_again(cluster: Cluster, vault: Vault, name: str) -> None:
    """Store a record of the store once more as it is; the server then has stored all that it was told before."""
    store = cluster.mount("config")
    found = vault.stored(store, name)
    # Refused if another command has stored it meanwhile, which shows as much.
    with contextlib.suppress(Refused):
        write = vault.api.secrets.kv.v2.create_or_update_secret
        write(name, member(found, "data"), cas=version_of(found), mount_point=store)


def note_ended(cluster: Cluster, vault: Vault, name: str, role_id: str) -> None:
    """Write that all credentials of a listed node have ended, and its role id since."""
    record = {"version": VERSION, "role_ids": [role_id], _ENDED: True}
    change_record(cluster, vault, f"{LEAVING}/{name}", lambda _: record)


def remove_note(cluster: Cluster, vault: Vault, name: str) -> None:
    kv = vault.api.secrets.kv.v2
    kv.delete_metadata_and_all_versions(f"{LEAVING}/{name}", mount_point=cluster.mount("config"))


def change_record(cluster: Cluster, vault: Vault, name: str, change: Callable[[Json], Json]) -> Json:
    """Apply `change` to a record of the store, {} if it does not exist, and return the result.

    Uses check-and-set: what somebody else writes meanwhile is read again and not overwritten.
    """
    store = cluster.mount("config")
    for attempt in range(_ROUNDS):
        found = vault.stored(store, name)
        before = member(found, "data")
        after = change(before)
        if after == before:
            break
        try:
            vault.api.secrets.kv.v2.create_or_update_secret(name, after, cas=version_of(found), mount_point=store)
            break
        except Refused:
            # Both servers answer 400 when the version has changed.
            if attempt == _ROUNDS - 1:
                raise
    return after


def read_accessors(cluster: Cluster, vault: Vault) -> dict[str, str]:
    """Return the accessors of the cluster's auth mounts by the last part of their paths."""
    found = vault.api.sys.list_auth_methods().data
    # Every server and every namespace has it. Without it, no token would be found, and none would end.
    if "token/" not in found:
        raise BadAnswer("the answer to sys/auth does not list token/; check the address and any proxy in between")
    kinds = ("listed", "pooled", "signer", "jwt")
    mounts = {kind: member(found, f"{cluster.prefix}/{kind}/") for kind in kinds}
    return {kind: str(mount["accessor"]) for kind, mount in mounts.items() if mount.get("accessor")}


def find_entity(vault: Vault, accessor: str, alias: str) -> Entity | None:
    """Return the entity of an alias of an auth mount; None if nobody has logged in as that.

    Raises BadAnswer for an answer about another identity: what follows must not end the tokens of somebody else.
    """
    data = vault.api.secrets.identity.lookup_entity(alias_name=alias, alias_mount_accessor=accessor).data
    entity = data.get("id")
    if not entity:
        return None
    named = any(is_alias(each, alias, accessor) for each in data.get("aliases") or ())
    if not named or not report_paths.is_entity(entity):
        raise BadAnswer(
            "the answer to identity/lookup/entity is about another identity than the one asked for; check the "
            "address and any proxy in between"
        )
    return Entity(str(entity), data.get("disabled") is True)


def end_entities(
    vault: Vault,
    accessor: str,
    aliases: Sequence[str],
    *,
    waiting: Callable[[], None] | None = None,
    keep_disabled: bool = False,
) -> None:
    """Delete the entities that Vault made for these aliases of an auth mount, which ends their tokens at once.

    The alias of an AppRole login is its role id. Looks again after `waiting` has returned, which waits for logins that
    were under way when their AppRole was deleted, and not at all without it. `keep_disabled` spares the entities of
    locked nodes: none of their tokens works, and a deleted entity would come back with the next login.
    """
    ids = [alias for alias in aliases if alias]
    if not accessor or not ids:
        return

    def end(alias: str) -> None:
        entity = find_entity(vault, accessor, alias)
        if entity is not None and not (keep_disabled and entity.disabled):
            vault.api.secrets.identity.delete_entity(entity.id)

    vault.map(end, ids)
    if waiting is not None:
        waiting()
        vault.map(end, ids)


def is_alias(alias: object, name: str | None, accessor: str) -> bool:
    """Return whether an entry of an entity's `aliases` is of this auth mount and of this name; of any for None."""
    if not isinstance(alias, dict) or alias.get("mount_accessor") != accessor:
        return False
    return isinstance(alias.get("name"), str) if name is None else alias.get("name") == name


def _role_ids(record: Mapping[str, object] | object) -> frozenset[str]:
    ids = record.get("role_ids") if isinstance(record, Mapping) else None
    return frozenset(map(str, ids)) if isinstance(ids, list) else frozenset()
