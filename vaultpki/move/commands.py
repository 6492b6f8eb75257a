"""What `vaultpki move` does: each command reads both servers, acts, and tells the agents of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime

from vaultpki.ca.announced import announced
from vaultpki.errors import Unavailable
from vaultpki.identity.change_notice import ChangeNotice
from vaultpki.kube.objects import KubeTrust
from vaultpki.move import emptying, lost, run
from vaultpki.move.run import MoveStep
from vaultpki.move.scene import MoveScene, read_scene
from vaultpki.move.server import MoveServer
from vaultpki.records.move import LostServer
from vaultpki.rotation.confirmations import NOTHING_CONFIRMED, Confirmations


def start(old: MoveServer, new: MoveServer, spread: int, now: datetime, without: Sequence[str] = ()) -> MoveStep:
    """Begin a move; see `run.start`. `now` is the old server's time."""
    return _told(old, new, now, lambda scene: run.start(scene, spread, without))


def advance(
    old: MoveServer,
    new: MoveServer,
    now: datetime,
    said: Confirmations = NOTHING_CONFIRMED,
    *,
    back: bool = False,
    without: LostServer | None = None,
) -> MoveStep:
    """Take the next step of the move, or of its rollback; see `run.step`.

    `without` is the server that a person calls lost, which is not asked. Without the old one `now` is the new one's
    time, and there is no way back; without the new one there is no other.
    """
    return _told(old, new, now, lambda scene: run.step(scene, said, back=back), without)


def found(old: MoveServer, new: MoveServer, now: datetime, pods: KubeTrust | None = None) -> MoveStep:
    """Say that a server which was called lost is there again; see `run.found_again`."""
    return _told(old, new, now, lambda scene: run.found_again(scene, pods))


def status(old: MoveServer, new: MoveServer, now: datetime, pods: KubeTrust | None = None) -> MoveStep | None:
    """Return where a move stands, with its whole gate; None if the cluster never moved. Writes nothing.

    If one server is away, the other one's record says it. Raises Unavailable if neither answers.
    """
    try:
        scene = _looked_at(old, new, now)
    except Unavailable:
        away = [which for which, each in ((LostServer.OLD, old), (LostServer.NEW, new)) if not lost.answers(each)]
        if len(away) != 1:
            raise
        scene = _looked_at(old, new, now, away[0])
        if scene.higher is None:
            raise
    return run.standing(scene, pods) if scene.higher is not None else None


def refuse_emptying(old: MoveServer, new: MoveServer, now: datetime) -> None:
    """Raise StateConflict if the old server must not be emptied yet."""
    emptying.refuse_emptying(_looked_at(old, new, now))


def _looked_at(old: MoveServer, new: MoveServer, now: datetime, without: LostServer | None = None) -> MoveScene:
    notices = ChangeNotice(old.cluster, old.vault), ChangeNotice(new.cluster, new.vault)
    return read_scene(old, new, now, notices, without)


def _told(
    old: MoveServer,
    new: MoveServer,
    now: datetime,
    act: Callable[[MoveScene], MoveStep],
    without: LostServer | None = None,
) -> MoveStep:
    with ExitStack() as stack:
        notices = []
        for which, each in ((LostServer.OLD, old), (LostServer.NEW, new)):
            asked = which is not without
            notice = ChangeNotice(each.cluster, each.vault)
            notices.append(stack.enter_context(announced(each.cluster, each.vault)) if asked else notice)
        return act(read_scene(old, new, now, (notices[0], notices[1]), without))
