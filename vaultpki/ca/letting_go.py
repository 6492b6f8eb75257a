"""Finds, once a way back is over, what still holds the CA that it deleted: processes that read bundles when they start.

Whoever kept a copy of that CA's key is let in by them. Agents restart them by turns, as in a rotation.
"""

from __future__ import annotations

from vaultpki.ca.scene import Scene
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.rotation import gates
from vaultpki.rotation.gates import Gate, Participant
from vaultpki.rotation.reasons import Transition


def nodes(scene: Scene, record: RotationRecord) -> tuple[Participant, ...]:
    """Return the nodes with components that read the bundle of the record's CA only when they start."""
    return tuple(each for each in scene.nodes(record.domain) if each.readers)


def gate(scene: Scene, record: RotationRecord, *, keeps: str = "") -> Gate:
    """Return what the end of a way back waits for, as the gate of a step does; `keeps` keeps the turn."""
    return gates.gate(Transition(record, State.STEADY, scene.now, turn=keeps), nodes(scene, record))


def held(scene: Scene, record: RotationRecord) -> Gate | None:
    """Return that gate as long as `ca abort` has not found it open; None if there is nothing to wait for."""
    return gate(scene, record) if record.lingers and nodes(scene, record) else None
