"""Moves a cluster to another server: makes both match the record, decides by the gate, and writes the next revision.

Every command may be killed at any request, and the next one continues. Two operators at once never both take a step:
the record is written by check-and-set on the old server before anything else is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vaultpki.errors import StateConflict
from vaultpki.kube.objects import KubeTrust
from vaultpki.move import gates, hand_over, last_phase, lost
from vaultpki.move.beginning import first_record, refuse_beginning, withdrawn
from vaultpki.move.level import complete, handed_over, levelled, taken_back, with_cas
from vaultpki.move.scene import MoveScene, with_nodes
from vaultpki.procedure.gate import Gate
from vaultpki.records.move import LostServer, MoveRecord
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.rotation.confirmations import NOTHING_CONFIRMED, Confirmations


@dataclass(frozen=True, slots=True)
class MoveStep:
    """What a command has done: the record as it is now, and whether a step was made.

    `gate` is what stands before the next step, None if there is none. `root` is the record of the root's rotation at
    the new server as long as that is what goes on. `note` is a sentence about something unusual, and `alone` says that
    one server was not asked: it is away, or lost.
    """

    record: MoveRecord
    gate: Gate | None = None
    moved: bool = False
    root: RotationRecord | None = None
    note: str = ""
    alone: bool = False

    @property
    def ended(self) -> bool:
        """Whether the move is at rest, and nothing is waited for."""
        return not self.record.active and self.gate is None


def start(scene: MoveScene, spread: int, without: Sequence[str] = ()) -> MoveStep:
    """Begin a move, or continue with a beginning that was interrupted. `spread` is in seconds.

    Raises StateConflict if it cannot begin, ChangedMeanwhile if another operator was faster.
    """
    known = scene.higher
    if known is not None and known.active:
        if known.state is not State.PREPARED:
            raise StateConflict(
                f"{scene.old.server.cluster.name} is moving already ({known.state.value}); go on with "
                f"`vaultpki move continue{scene.old.server.cluster.file_option}`"
            )
        return _standing(with_nodes(levelled(scene)), None)
    if known is not None:
        # What an abort has left is removed first.
        scene = levelled(scene)
        if known.state is State.STEADY:
            taken_back(scene)
    begins = refuse_beginning(scene, without)
    first = first_record(scene, begins, spread, without)
    scene = scene.writing(first)
    if why := withdrawn(scene):
        scene.writing(first.moved(State.STEADY, scene.now))
        raise StateConflict(why)
    return replace(_standing(with_nodes(levelled(scene)), None), moved=True)


def standing(scene: MoveScene, pods: KubeTrust | None) -> MoveStep:
    """Return where a move stands, with its whole gate; writes nothing. The scene has a record."""
    record = scene.record
    if scene.lost is not None:
        note = lost.sentence(scene)
        if record.lost is not scene.lost or not record.active:
            # What a step waits for is known with both alone.
            return MoveStep(record, note=note, alone=True)
        return replace(_standing(with_nodes(with_cas(scene)), pods, whole=True), note=note, alone=True)
    if record.state in (State.DONE, State.STEADY):
        return MoveStep(record)
    if record.state is State.PREPARED and not complete(record):
        return MoveStep(record, note="the new server is not prepared yet: run `vaultpki move continue`")
    return _standing(with_nodes(with_cas(scene)), pods, whole=True)


def step(scene: MoveScene, said: Confirmations = NOTHING_CONFIRMED, *, back: bool) -> MoveStep:
    """Take the next step of the move, or of its rollback; else say what it waits for.

    Raises StateConflict if no move is under way, or if there is no such step.
    """
    cluster = scene.old.server.cluster
    if scene.higher is None:
        raise StateConflict(f"{cluster.name} does not move; `vaultpki move start{cluster.file_option}` begins")
    if scene.lost is None:
        lost.refuse_both(scene)
    else:
        lost.refuse(scene)
    scene = levelled(scene)
    record = scene.record
    if record.state.resting:
        if back and record.state is State.DONE:
            raise StateConflict(
                f"the move of {cluster.name} is done, and there is no way back: begin another one, to the old server"
            )
        taken_back(scene)
        return MoveStep(record)
    if (said_so := lost.told(scene)) is not None:
        return replace(_standing(with_nodes(said_so), said.pods), moved=True)
    scene = handed_over(with_nodes(scene))
    record = scene.record
    if record.state is State.RETIRED and last_phase.begun(scene):
        return _of_last_phase(scene, said, back=back)
    to = gates.next_of(record, back=back)
    if to is None:
        raise StateConflict(f"the move is {record.state.value}, and there is no step from there")
    told = gates.confirmed(scene, record, to, said)
    found = gates.gate(scene, told, to, said.pods)
    if not found.open(scene.now):
        told = replace(told, turn=found.turn)
        if told != record:
            # Those whose turn it is read it in the records of the CAs.
            scene = levelled(scene.writing(told.changed()))
        return MoveStep(scene.record, found)
    told = replace(told, turn=found.turn)
    if to is State.DONE:
        return _of_last_phase(scene, replace(said, restarted=(), checked=(), without=()), back=False, begins=True)
    return _moved(scene, told, to, said.pods)


def found_again(scene: MoveScene, pods: KubeTrust | None) -> MoveStep:
    """Write that a server which was called lost is there again; both are there.

    Raises StateConflict if none was, or if no way leads back to it.
    """
    if scene.higher is None:
        raise StateConflict(f"{scene.old.server.cluster.name} does not move; leave out --found")
    return replace(_standing(with_nodes(lost.found(scene)), pods), moved=True)


def _moved(scene: MoveScene, record: MoveRecord, to: State, pods: KubeTrust | None) -> MoveStep:
    """Write the record in the next state, and make both servers match it."""
    if to is State.RETURNING:
        scene = lost.root_ahead(scene)
    after = record.moved(to, scene.now)
    if to is State.PUBLISHED:
        after = replace(after, hand_over=hand_over.sign(scene.old.server, record))
    scene = levelled(scene.writing(after))
    if to.resting:
        taken_back(scene)
        return MoveStep(scene.record, moved=True)
    return replace(_standing(handed_over(scene), pods), moved=True)


def _standing(scene: MoveScene, pods: KubeTrust | None, *, whole: bool = False) -> MoveStep:
    """Return where an active move stands; the scene has its nodes."""
    record = scene.record
    if record.state is State.RETIRED and last_phase.begun(scene):
        waits, root = last_phase.gate_and_root(scene, pods)
        return MoveStep(record, waits, root=root)
    # Without the new server there is only the way back.
    to = gates.next_of(record, back=scene.lost is LostServer.NEW)
    return MoveStep(record, gates.gate(scene, record, to, pods, whole=whole) if to is not None else None)


def _of_last_phase(scene: MoveScene, said: Confirmations, *, back: bool, begins: bool = False) -> MoveStep:
    """Take the next step of the root's rotation at the new server, which ends the move, or lead it back."""
    if back:
        done = last_phase.led_back(scene, said)
        if done is not None:
            return MoveStep(scene.record, done.gate, done.moved, done.record, done.note)
        # The root's way back has written there.
        scene = scene.again(LostServer.NEW)
        record = last_phase.above(scene)
        return _moved(scene, replace(record, turn=""), State.RETRUSTING, said.pods)
    done = last_phase.led_on(scene, said)
    if done is not None:
        return MoveStep(scene.record, done.gate, done.moved or begins, done.record, done.note)
    scene = levelled(scene.writing(lost.done_without(scene, scene.record.moved(State.DONE, scene.now))))
    taken_back(scene)
    return MoveStep(scene.record, moved=True)
