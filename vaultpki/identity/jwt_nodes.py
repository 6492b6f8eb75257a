"""Locks and unlocks nodes that log in by a token of an issuer.

Vault holds no credential of such a node, but it makes an identity entity of its first login. While that is disabled,
every login of the node is refused, and no Vault token that it has works. It is never deleted for that: the next login
would make another one.
"""

from __future__ import annotations

from vaultpki.errors import BadAnswer, Denied, StateConflict, TokenTooWeak
from vaultpki.identity.access import takes
from vaultpki.identity.ending import Entity, find_entity, note_lock, read_accessors, remove_locks
from vaultpki.identity.token_rights import missing_right
from vaultpki.model import Cluster
from vaultpki.records.paths import LOCKED
from vaultpki.vault import Vault


def issuer_of(cluster: Cluster, name: str) -> str | None:
    """Return the issuer whose tokens let a node of that name in; None if it fits no pool with `jwt`."""
    return next((pool.jwt.issuer for pool in cluster.pools if pool.jwt and takes(pool, name)), None)


def accessor_of(cluster: Cluster, vault: Vault) -> str:
    """Return the accessor of the cluster's jwt auth mount; empty if there is no such mount."""
    return read_accessors(cluster, vault).get("jwt", "")


def refuse_unknown(cluster: Cluster, name: str) -> None:
    """Raise StateConflict for a name that fits a pool with `jwt`: Vault has no identity of it."""
    if issuer := issuer_of(cluster, name):
        raise StateConflict(
            f"{name} has never logged in, so Vault has no identity of it that could be disabled: block it at {issuer}, "
            "whose tokens let it in"
        )


def find_identity(vault: Vault, accessor: str, name: str) -> Entity | None:
    """Return the identity of a node, whose name is checked; None if there is no jwt mount or it never logged in."""
    return find_entity(vault, accessor, name) if accessor else None


def lock(cluster: Cluster, vault: Vault, accessor: str, name: str, entity: Entity) -> None:
    """Disable the identity of a node: its tokens end at once, and its logins are refused.

    Raises TokenTooWeak, before anything is changed, if the token may not do it. A run that was interrupted is repeated.
    """
    _refuse_weak_token(cluster, vault, name)
    # Noted first: the mount's own list of those who logged in is in nobody's policy.
    if not note_lock(cluster, vault, name):
        raise too_weak(cluster, name)
    _disable(cluster, vault, accessor, name, entity, disabled=True)


def unlock(cluster: Cluster, vault: Vault, name: str) -> bool:
    """Enable the identity of a locked node again; return False if it was not locked.

    `name` is checked. Raises StateConflict if Vault has no such identity, and TokenTooWeak if the token may not do it.
    """
    accessor = accessor_of(cluster, vault)
    try:
        entity = find_identity(vault, accessor, name)
    except Denied:
        raise too_weak(cluster, name) from None
    if entity is None:
        raise _nothing_to_unlock(cluster, name)
    _refuse_weak_token(cluster, vault, name)
    if entity.disabled:
        _disable(cluster, vault, accessor, name, entity, disabled=False)
    remove_locks(cluster, vault, [name])
    return entity.disabled


def too_weak(cluster: Cluster, name: str) -> TokenTooWeak:
    """Return the error for a token that may not disable and enable the identity of this node."""
    return TokenTooWeak(
        f"this token may not disable or enable the identity of {name}, and that was not changed. `vaultpki unlock` and "
        "`vaultpki unenroll` need the policy of the applier. `vaultpki lock` needs that of the locker: "
        f"`vaultpki policy{cluster.file_option} locker`"
    )


def _refuse_weak_token(cluster: Cluster, vault: Vault, name: str) -> None:
    needs = {f"{cluster.mount('config')}/data/{LOCKED}/{name}": "update", "identity/entity/id/x": "update"}
    if missing_right(vault, needs):
        raise too_weak(cluster, name)


def _disable(cluster: Cluster, vault: Vault, accessor: str, name: str, entity: Entity, *, disabled: bool) -> None:
    """Disable or enable the entity, and check it; the server leaves its other fields as they are."""
    try:
        # As text: both servers drop a boolean that a policy allows, and would then allow every value.
        vault.api.secrets.identity.update_entity(entity.id, disabled="true" if disabled else "false")
    except Denied:
        raise too_weak(cluster, name) from None
    found = find_entity(vault, accessor, name)
    if found is None or found.disabled is not disabled:
        state = "disabled" if disabled else "enabled"
        raise BadAnswer(f"Vault does not show the identity of {name} as {state}; run the command again")


def _nothing_to_unlock(cluster: Cluster, name: str) -> StateConflict:
    issuer = issuer_of(cluster, name)
    if issuer is not None:
        return StateConflict(f"{name} is not locked: it has never logged in with a token of {issuer}")
    return StateConflict(
        f"{name} does not log in by a token of an issuer, and only such a node is unlocked. A node with a join file "
        f"gets a new one by `vaultpki enroll{cluster.file_option}`"
    )
