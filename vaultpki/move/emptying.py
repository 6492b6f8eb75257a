"""Empties the old server once a move is done: what lets nodes in, its policies, and the keys of its CAs.

The store stays, with the record of the move that says where the cluster is.
"""

from __future__ import annotations

from collections.abc import Callable

from vaultpki.certificates import ROOT
from vaultpki.errors import StateConflict
from vaultpki.identity.nodes import read_nodes
from vaultpki.move.scene import MoveScene
from vaultpki.move.server import MoveServer
from vaultpki.provision import destroy
from vaultpki.records.rotation import State
from vaultpki.records.server_facts import ServerFacts
from vaultpki.redact import named


def emptied(old: MoveServer) -> bool:
    """Return whether the old server has no CA of the cluster any more."""
    return f"{old.cluster.mount(ROOT)}/" not in old.vault.api.sys.list_mounted_secrets_engines().data


def refuse_emptying(scene: MoveScene) -> None:
    """Raise StateConflict unless both servers say that the move is done, and everybody can log in at the new one."""
    records = [each.stored.record for each in (scene.old, scene.new)]
    if any(each is None or each.state is not State.DONE for each in records) or records[0] != records[1]:
        raise StateConflict("the servers do not agree yet that the move is done; run `vaultpki move continue` again")
    old, new = scene.old.server, scene.new.server
    there = {each.name for each in read_nodes(new.cluster, new.vault).members if each.credentials != 0}
    left = [
        each.name
        for each in read_nodes(old.cluster, old.vault).members
        if each.credentials != 0 and each.name not in there
    ]
    if left:
        raise StateConflict(
            f"{named(left)} can log in at the old server and not at the new one; enrol "
            f"{'it' if len(left) == 1 else 'them'} there, or lock {'it' if len(left) == 1 else 'them'} here"
        )


def empty(old: MoveServer, progress: Callable[[str], None]) -> None:
    """Remove from the old server all that apply made, but not the store with its records; may be repeated."""
    place = old.place
    where = ServerFacts(place.addresses, place.ca_pem or None, place.namespace)
    store = old.cluster.mount("config")
    destroy.destroy(old.cluster, old.vault, where, progress=progress, keeps=frozenset({store}))
