"""Makes both servers of a move hold what the record with the higher revision says; every command begins with it.

A command that was killed anywhere is continued by the next one: whatever it had not written follows from the record.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from vaultpki.certificates import ROOT, issuing_cas
from vaultpki.errors import BadAnswer, StateConflict
from vaultpki.move import credentials, hand_over, mounts, prepare
from vaultpki.move.mounts import MoveWrite
from vaultpki.move.scene import MoveScene
from vaultpki.pki.facts import Facts
from vaultpki.provision import authorities
from vaultpki.records.move import LostServer, MoveRecord
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.rotation.mount_steps import RotationMount

# More than any state takes from any other.
_MOST: Final = 20

# In retired the old CA signs no more, and every node has had a hand-over.
_SIGNS: Final = frozenset({State.PUBLISHED, State.SWITCHED, State.RETRUSTING})
_GIVES: Final = _SIGNS | {State.RETIRED}


def levelled(scene: MoveScene) -> MoveScene:
    """Return the scene with both servers as the record says; as it is if there is no move.

    Raises ChangedMeanwhile if another operator was faster, and StateConflict if a server has lost its own CA.
    """
    if scene.higher is None:
        return scene
    scene = scene.copied()
    if scene.record.state is State.PREPARED and not complete(scene.record) and scene.lost is None:
        scene = _prepared(scene)
    if scene.record.state is State.DONE:
        return scene
    cas: dict[str, dict[str, Facts]] = {}
    for domain in issuing_cas(scene.old.server.cluster):
        for which in scene.asked:
            if which is LostServer.NEW and scene.record.state is State.STEADY:
                continue
            scene, mount = _reconciled(scene, domain, which)
            cas.setdefault(domain, {}).update(mounts.certificates(scene.record, domain, mount))
    scene = root_along(scene) if scene.record.state is State.RETURNING and scene.lost is None else scene
    return replace(scene, cas=cas)


def root_along(scene: MoveScene) -> MoveScene:
    """Give the old server's record of the root the new one's revision: nodes take a lower one for restored."""
    theirs = scene.new.rotations[ROOT].record
    return scene if theirs is None else root_raised(scene, theirs.revision, theirs.highest)


def root_raised(scene: MoveScene, revision: int, highest: int = 1) -> MoveScene:
    """Give the old server's record of the root at least this revision; `highest` is for one that it does not have."""
    mine = scene.old.rotations[ROOT].record
    if mine is not None and mine.revision >= revision:
        return scene
    if mine is None:
        mount = scene.mount(LostServer.OLD, ROOT)
        issuer = mounts.by_sha256(mount, scene.record.root)
        if issuer is None:
            raise StateConflict(f"{mount.path} does not have the root any more; restore it from a backup")
        own = CaRef(issuer.name, issuer.id, issuer.key, issuer.sha256)
        mine = RotationRecord(ROOT, State.STEADY, revision, scene.now, own, highest=highest)
    return scene.writing_rotation(LostServer.OLD, replace(mine, revision=revision))


def with_cas(scene: MoveScene) -> MoveScene:
    """Return the scene with the certificates of its CAs as the first server shows them; writes nothing."""
    cas = {}
    for domain in issuing_cas(scene.old.server.cluster):
        cas[domain] = mounts.certificates(scene.record, domain, scene.mount(scene.asked[0], domain))
    return replace(scene, cas=cas)


def complete(record: MoveRecord) -> bool:
    """Return whether the new server has all CAs, so that the record names them."""
    return bool(record.new_root) and all(each.new_sha256 for each in record.cas.values())


def _prepared(scene: MoveScene) -> MoveScene:
    """Have the new server made, and write what it has into the record."""
    old, new = scene.old.server, scene.new.server
    made = prepare.prepare(old, new, scene.record)
    # It has copied the record to the store that it made.
    scene = scene.again(LostServer.NEW)
    return scene.writing(replace(made, revision=scene.record.revision + 1))


def _reconciled(scene: MoveScene, domain: str, which: LostServer) -> tuple[MoveScene, RotationMount]:
    """Make one CA's mount on one server, and the record of its rotation there, what the move's record says."""
    writes = 0
    while True:
        state, mount = scene.side(which), scene.mount(which, domain)
        write = mounts.next_write(scene.record, domain, mount, which, state.rotations[domain].record)
        if write is None:
            return scene, mount
        if writes >= _MOST:
            raise BadAnswer(f"{mount.path} does not become what it is told ({write.kind}): something else writes here")
        writes += 1
        state.notice.begin()
        if write.record is not None:
            scene = scene.writing_rotation(which, write.record)
        else:
            _make(scene, which, domain, mount, write)


def _make(scene: MoveScene, which: LostServer, domain: str, mount: RotationMount, write: MoveWrite) -> None:
    vault, path = scene.side(which).server.vault, mount.path
    if write.kind == "default":
        authorities.make_default(vault, path, write.target)
    elif write.kind == "import":
        authorities.import_keyless(vault, path, _certificate(scene, which, domain, write.value).pem)
    elif write.kind == "name":
        authorities.update_issuer(vault, path, write.target, {"issuer_name": write.value})
    elif write.kind == "usage":
        authorities.update_issuer(vault, path, write.target, {"usage": write.value})
    else:
        authorities.delete_issuer(vault, path, write.target)


def _certificate(scene: MoveScene, which: LostServer, domain: str, sha256: str) -> Facts:
    """Return a CA's certificate, as the other server has it."""
    other = LostServer.NEW if which is LostServer.OLD else LostServer.OLD
    if other not in scene.asked:
        at = scene.side(which).server.cluster.mount(domain)
        raise StateConflict(
            f"{at} lacks the lost server's CA with the SHA-256 {sha256}; import it from {domain}-ca.crt of a node, by "
            f"{at}/issuers/import/cert"
        )
    mount = scene.mount(other, domain)
    issuer = mounts.by_sha256(mount, sha256)
    if issuer is None or issuer.facts is None:
        raise BadAnswer(f"{mount.path} does not show the CA with the SHA-256 {sha256}; check any proxy in between")
    return issuer.facts


def handed_over(scene: MoveScene) -> MoveScene:
    """Sign the hand-over again if it ends soon, and give each node that needs one its credential for the new server.

    The scene has its nodes. In states without a hand-over nothing is done.
    """
    record, old, new = scene.record, scene.old.server, scene.new.server
    if record.state not in _GIVES or scene.lost is not None:
        return scene
    if record.state in _SIGNS and hand_over.is_due(record, scene.now):
        scene = scene.writing(record.changed(hand_over=hand_over.sign(old, record)))
        scene = levelled(scene)
    credentials.give(old, new, scene.record, scene.at_old)
    return scene


def taken_back(scene: MoveScene) -> None:
    """End what a move that is over has left: hand-overs, and credentials that nobody took.

    After an abort the new server is emptied. A lost server is left as it is. Nothing is left to do where an earlier run
    has done it.
    """
    record: MoveRecord = scene.record
    if LostServer.OLD in scene.asked:
        credentials.take_back(scene.old.server, record)
        hand_over.remove_role(scene.old.server)
    if record.state is State.STEADY and LostServer.NEW in scene.asked:
        prepare.remove(scene.new.server, record)
