"""Goes on with a move though one of its servers is gone for good, as a person says, and leads back if it was not.

Which server is lost is first written as a revision of its own on the other one, far above what the lost one may hold.
No step is taken before every node has read that, and has seen for itself that it does not reach that server. So a
mistake takes nothing from anybody; and a server that is found again leads to the state in which nodes trust both CAs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from vaultpki.certificates import ROOT
from vaultpki.errors import StateConflict, Unavailable
from vaultpki.move import last_phase
from vaultpki.move.level import levelled, root_raised
from vaultpki.move.scene import MoveScene, with_nodes
from vaultpki.move.server import MoveServer
from vaultpki.provision.rotation_records import read_move_record
from vaultpki.records.move import LostServer, MoveRecord
from vaultpki.records.rotation import Kept, State

# How far above all that is known. Nodes follow no record that is more than MOST_AHEAD above what they have read.
_ABOVE: Final = {LostServer.OLD: 400, LostServer.NEW: 200}
_FOUND: Final = "`vaultpki move continue --found`"


def answers(server: MoveServer) -> bool:
    """Return whether a server answers at all, if only to refuse this token."""
    try:
        read_move_record(server.cluster, server.vault)
    except Unavailable:
        return False
    except Exception:  # noqa: BLE001 - whatever it says, it is there
        return True
    return True


def refuse_both(scene: MoveScene) -> None:
    """Raise StateConflict while a server counts as lost: then nodes ignore it, and a command must not count on both."""
    record = scene.record
    if record.lost is None or not record.active or _is_last(scene):
        return
    option = "continue --old-lost" if record.lost is LostServer.OLD else "abort --new-lost"
    raise StateConflict(
        f"the {record.lost.value} server of the move was called lost; go on with `vaultpki move {option}`, or, since "
        f"it is there again, run {_FOUND}"
    )


def refuse(scene: MoveScene) -> None:
    """Raise StateConflict unless the move can go on without the server that the scene does not have."""
    lost, record = scene.lost, scene.higher
    if lost is None:
        return
    here = scene.side(scene.asked[0]).server
    if record is None:
        raise StateConflict(f"there is no record of a move at {here.vault.address}, so nothing says how to go on")
    if not _is_last(scene) and record.active and answers(scene.side(lost).server):
        found = f"if it was called lost, run {_FOUND}" if record.lost is lost else "leave that option out"
        raise StateConflict(f"the {lost.value} server answers ({scene.side(lost).server.vault.address}); {found}")
    if record.lost not in (None, lost):
        raise StateConflict(f"the server {here.vault.address} was called lost before; run {_FOUND}, with both there")
    if lost is LostServer.OLD and record.state in (State.PREPARED, State.STEADY):
        raise StateConflict(
            f"the move is {record.state.value}, and no node knows the new server yet; restore the old one from a backup"
        )
    if lost is LostServer.NEW and record.state in (State.RETIRED, State.DONE):
        raise StateConflict(
            f"the move is {record.state.value}: nodes trust the new server's CAs alone, so there is no way back "
            "without it; restore that one from a backup"
        )


def told(scene: MoveScene) -> MoveScene | None:
    """Write that a server is lost, in the state that stands; None if the record says so, or need not.

    Where a node has read more than the server that is left, or is on its way back to the lost one, each keeps its leaf
    until all trust both CAs again.
    """
    record, lost = scene.record, scene.lost
    if lost is None or record.lost is lost or not record.active or _is_last(scene):
        return None
    scene = with_nodes(scene)
    read = [each.report.move for each in scene.members if each.report is not None and each.report.move is not None]
    most = record.revision + _ABOVE[lost]
    ahead = any(record.revision < each.revision <= most and each.number == record.number for each in read)
    back = lost is LostServer.OLD and record.state is State.RETURNING
    after = _kept(record, scene) if ahead or back else record.changed()
    return levelled(scene.writing(replace(after, revision=most + 1, lost=lost)))


def found(scene: MoveScene) -> MoveScene:
    """Write that both servers are there again: nodes trust both CAs, and each keeps the leaf that it holds."""
    record = scene.record
    if record.lost is None or not record.active:
        raise StateConflict("no server of a move is called lost; leave out --found")
    if _is_last(scene):
        raise StateConflict(
            "the root is being replaced at the new server already; go on with `vaultpki move continue`, which empties "
            "the old one at the end"
        )
    seat = LostServer.NEW if record.lost is LostServer.OLD else LostServer.OLD
    scene = _same_root(scene)
    return levelled(scene.writing(replace(_kept(record, scene), lost=None), seat))


def done_without(scene: MoveScene, record: MoveRecord) -> MoveRecord:
    """Return the record of a move that is done, far above what a server may hold that is lost."""
    return record if scene.lost is None else replace(record, revision=record.revision + _ABOVE[scene.lost])


def root_ahead(scene: MoveScene) -> MoveScene:
    """Put the old server's record of the root above what nodes may have read at the new one, which is lost."""
    mine = scene.old.rotations[ROOT].record
    if scene.lost is not LostServer.NEW or scene.record.state is not State.SWITCHED:
        return scene
    return root_raised(scene, (mine.revision if mine is not None else 0) + _ABOVE[LostServer.NEW])


def sentence(scene: MoveScene) -> str:
    """Return that one server is not asked, and what to do, as a sentence without its full stop."""
    lost = scene.lost
    if lost is None:
        return ""
    server, option = scene.side(lost).server, "continue --old-lost" if lost is LostServer.OLD else "abort --new-lost"
    called = ", and was called lost" if scene.higher is not None and scene.record.lost is lost else ""
    return (
        f"the {lost.value} server is away ({server.vault.address}){called}; a step waits until it answers. If it will "
        f"never come back: `vaultpki move {option}`"
    )


def _kept(record: MoveRecord, scene: MoveScene) -> MoveRecord:
    kept = Kept.NEW if record.at_new else Kept.OLD
    return record.moved(State.RETRUSTING, scene.now, kept=kept)


def _is_last(scene: MoveScene) -> bool:
    return LostServer.NEW in scene.asked and scene.record.state is State.RETIRED and last_phase.begun(scene)


def _same_root(scene: MoveScene) -> MoveScene:
    """Give both servers' records of the root the same revision: nodes take a lower one for restored."""
    mine, theirs = scene.old.rotations[ROOT].record, scene.new.rotations[ROOT].record
    if theirs is None:
        return scene
    if mine is not None and mine.revision > theirs.revision:
        return scene.writing_rotation(LostServer.NEW, replace(theirs, revision=mine.revision))
    return root_raised(scene, theirs.revision, theirs.highest)
