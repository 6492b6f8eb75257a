"""Decides whether a move may begin, and with which record."""

from __future__ import annotations

from collections.abc import Sequence

from vaultpki.ca import issuing, set_back
from vaultpki.ca.scene import Scene, keys_in_the_way, read_scene, refuse_active
from vaultpki.certificates import ROOT, issuing_cas
from vaultpki.errors import StateConflict
from vaultpki.identity.adoption_record import refuse_adoption
from vaultpki.model import Cluster
from vaultpki.move import prepare
from vaultpki.move.scene import MoveScene
from vaultpki.move.server import MoveServer
from vaultpki.provision.rotation_records import read_records
from vaultpki.records.move import MovedCa, MoveRecord
from vaultpki.records.rotation import Method, State
from vaultpki.rotation import start
from vaultpki.vault import HEALTH


def refuse_beginning(scene: MoveScene, without: Sequence[str]) -> Scene:
    """Return the old server's CAs; raise StateConflict if the cluster cannot move now."""
    old, new = scene.old.server, scene.new.server
    cluster, vault = old.cluster, old.vault
    if why := _not_built(cluster):
        raise StateConflict(f"{cluster.name} {why}, and such a cluster cannot move yet")
    if _same(old, new):
        raise StateConflict(
            f"`move` in {cluster.file} names the server and the prefix that the cluster has; write where it goes"
        )
    own = read_scene(cluster, vault, scene.now, notice=scene.old.notice)
    set_back.refuse_no_member(own, without)
    set_back.refuse(own, without)
    refuse_adoption(cluster, vault)
    refuse_active(cluster, own.records)
    if why := keys_in_the_way(cluster, vault):
        raise StateConflict(why)
    for ca in issuing_cas(cluster):
        issuing.refuse_beginning(own, ca, Method.NEW_KEY)
    prepare.refuse_occupied(new, None)
    return own


def _not_built(cluster: Cluster) -> str:
    """Return what a move does not carry over yet, as the rest of a sentence; "" if it has nothing of that."""
    if cluster.authority.outside is not None:
        return "has a root from outside"
    if cluster.service_account_keys:
        return "has service-account keys of its own"
    if cluster.signer is not None or cluster.token_pools:
        return "has its certificate requests signed by Vault"
    return ""


def _same(old: MoveServer, new: MoveServer) -> bool:
    """Return whether both are one place of one server, whatever their addresses are."""
    ids = [str(each.vault.call(HEALTH).body.get("cluster_id") or "") for each in (old, new)]
    places = [(each.place.namespace, each.place.prefix) for each in (old, new)]
    return bool(ids[0]) and ids[0] == ids[1] and places[0] == places[1]


def first_record(scene: MoveScene, own: Scene, spread: int, without: Sequence[str]) -> MoveRecord:
    """Return the record with which a move begins; numbers and revisions go on from those of the move before."""
    known, cas = scene.higher, {}
    for ca in issuing_cas(own.cluster):
        before = own.records[ca].record
        begun = start.first_record(
            own.cluster, ca, Method.NEW_KEY, spread, before, own.mount(ca), own.nodes(ca), scene.now
        )
        cas[ca] = MovedCa(
            old=begun.old.name,
            old_sha256=begun.old.sha256,
            new=begun.new.name if begun.new is not None else "",
            new_sha256="",
            revision=before.revision if before is not None else 0,
            highest=begun.highest - 1,
            also=begun.also,
        )
    return MoveRecord(
        state=State.PREPARED,
        revision=(known.revision if known is not None else 0) + 1,
        since=scene.now,
        number=(known.number if known is not None else 0) + 1,
        old=scene.old.server.place,
        new=scene.new.server.place,
        cas=cas,
        root=own.root.fingerprint,
        new_root="",
        spread=spread,
        excused=tuple(sorted(set(without))),
    )


def withdrawn(scene: MoveScene) -> str:
    """Return why a move that has just begun is taken back: a rotation began at the same time; "" if none did."""
    cluster, vault = scene.old.server.cluster, scene.old.server.vault
    records = read_records(cluster, vault)
    active = [ca for ca in (ROOT, *issuing_cas(cluster)) if (found := records[ca].record) is not None and found.active]
    if active:
        return f"the rotation of {active[0]} began at the same time, so the move was not begun; let that end first"
    return keys_in_the_way(cluster, vault)
