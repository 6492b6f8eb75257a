"""Locks on the new server of a move whoever is locked on the old one and logs in by a token of an issuer.

The same token lets a node in on both servers. Vault makes the identity of such a node by its first login, so here it is
made before, and disabled.
"""

from __future__ import annotations

from vaultpki.errors import BadAnswer
from vaultpki.identity import jwt_nodes
from vaultpki.identity.ending import locked_names
from vaultpki.identity.jwt_nodes import issuer_of
from vaultpki.move.server import MoveServer
from vaultpki.vault import text


def lock_tokens(old: MoveServer, new: MoveServer) -> None:
    """Disable the identities of these nodes on the new server. A run that was killed is repeated."""
    accessor = jwt_nodes.accessor_of(new.cluster, new.vault)
    if not accessor:
        return
    for name in locked_names(old.cluster, old.vault):
        if issuer_of(old.cluster, name) is not None:
            _disable(new, accessor, name)


def _disable(new: MoveServer, accessor: str, name: str) -> None:
    identity = new.vault.api.secrets.identity
    found = jwt_nodes.find_identity(new.vault, accessor, name)
    if found is not None and found.disabled:
        return
    if found is not None:
        # It has logged in here since: its tokens end with this.
        identity.update_entity(found.id, disabled="true")
    else:
        # By a name, so that a run that is killed before the alias leaves nothing twice.
        made = identity.create_or_update_entity_by_name(
            f"{new.cluster.prefix.replace('/', '-')}-{name}", disabled="true"
        )
        entity = text(made.data, "id") if made.data.get("id") else _id_of(new, name)
        identity.create_or_update_entity_alias(name, entity, accessor)
    found = jwt_nodes.find_identity(new.vault, accessor, name)
    if found is None or not found.disabled:
        raise BadAnswer(f"{new.vault.address} does not show the identity of {name} as disabled; run the command again")


def _id_of(new: MoveServer, name: str) -> str:
    entity = f"{new.cluster.prefix.replace('/', '-')}-{name}"
    return text(new.vault.api.secrets.identity.read_entity_by_name(entity).data, "id")
