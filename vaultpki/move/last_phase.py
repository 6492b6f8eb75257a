"""Ends a move: the old CAs leave the new server, and its root is rotated there, to one whose key it has.

The move's record stays `retired` meanwhile. Where the new server's own records have got to says how far this is: they
are ahead of what follows from the move's record. An abort undoes the root's rotation first.
"""

from __future__ import annotations

from dataclasses import replace

from vaultpki.ca import run as ca_run
from vaultpki.ca import status as ca_status
from vaultpki.ca.mount_writes import reconcile_mount
from vaultpki.ca.run import Step
from vaultpki.ca.scene import Scene
from vaultpki.ca.scene import read_scene as read_ca_scene
from vaultpki.certificates import ROOT, issuing_cas
from vaultpki.errors import StateConflict
from vaultpki.kube.objects import KubeTrust
from vaultpki.move import mounts, prepare
from vaultpki.move.scene import MoveScene
from vaultpki.procedure.gate import Gate
from vaultpki.records.move import MoveRecord
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.rotation.confirmations import Confirmations


def begun(scene: MoveScene) -> bool:
    """Return whether the last phase is under way."""
    found = scene.new.rotations
    return any(mounts.past_move(scene.record, found[ca].record, ca) for ca in issuing_cas(scene.new.server.cluster))


def gate_and_root(scene: MoveScene, pods: KubeTrust | None) -> tuple[Gate | None, RotationRecord | None]:
    """Return what the root's rotation waits for, and its record."""
    own = _ca_scene(scene)
    found = next(each for each in ca_status.status(own, pods) if each.domain == ROOT)
    return found.gate, found.record


def led_on(scene: MoveScene, said: Confirmations) -> Step | None:
    """Take the next step; None once the root's rotation is done, so that the move is."""
    own = _ca_scene(scene)
    if own.record(ROOT).state is State.STEADY:
        # An abort has led the root back, and deleted the one that was made.
        if scene.lost is not None:
            raise StateConflict(
                "an abort has led the root back, and only the old server can vouch for the next one; restore that one "
                "from a backup"
            )
        prepare.new_root(scene.old.server, scene.new.server, scene.record)
        own = _ca_scene(scene)
    if own.record(ROOT).state is State.PREPARED:
        for ca in issuing_cas(own.cluster):
            if own.record(ca).state is State.RETIRED:
                own = own.writing(own.record(ca).moved(State.DONE, own.now))
            own, _, _ = reconcile_mount(own, ca)
    if own.record(ROOT).state is State.DONE:
        ca_run.finish_rotation(own, ROOT)
        return None
    done = ca_run.step(own, said, back=False)
    return None if done.record.domain == ROOT and done.record.state is State.DONE else done


def led_back(scene: MoveScene, said: Confirmations) -> Step | None:
    """Take the next step of the root's way back; None once the root there is the old server's again.

    Raises StateConflict once the old root has gone.
    """
    own = _ca_scene(scene)
    record = own.record(ROOT)
    if record.state is State.DONE:
        raise StateConflict(
            "the old root has left the new server, so there is no way back; go on with `vaultpki move continue`"
        )
    if record.state in (State.PREPARED, State.STEADY):
        return None
    done = ca_run.step(own, said, back=True)
    return None if done.record.domain == ROOT and done.record.state is State.STEADY else done


def above(scene: MoveScene) -> MoveRecord:
    """Return the record of the move with which records of its CAs come after all that the last phase has written."""
    cas = {}
    for domain, ca in scene.record.cas.items():
        found = scene.new.rotations[domain].record
        cas[domain] = replace(ca, revision=max(ca.revision, found.revision if found is not None else 0))
    return replace(scene.record, cas=cas)


def _ca_scene(scene: MoveScene) -> Scene:
    server = scene.new.server
    return read_ca_scene(server.cluster, server.vault, scene.now, notice=scene.new.notice)
