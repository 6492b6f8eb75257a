"""Reads all that a command of a move decides by: the record on both servers, and who takes part, by both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from vaultpki.ca.facts import participants, read_mount, read_root, refuse_unknown
from vaultpki.certificates import ROOT, issuing_cas
from vaultpki.identity.change_notice import ChangeNotice
from vaultpki.identity.nodes import Member, read_nodes
from vaultpki.move.server import MoveServer
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.provision.rotation_records import read_move_record, read_records, write_move_record, write_record
from vaultpki.records.move import LostServer, MoveRecord
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.rotation import root_gates
from vaultpki.rotation.gates import Participant
from vaultpki.rotation.mount_steps import RotationMount
from vaultpki.vault.kv import Stored

_AT_BOTH = frozenset(State) - {State.STEADY, State.PREPARED}
"""The states in which nodes may have a credential at the new server."""


@dataclass(frozen=True, slots=True)
class ServerRecords:
    """What one server says: the move's record, and the records of rotations by their CAs."""

    server: MoveServer
    stored: Stored[MoveRecord]
    notice: ChangeNotice
    rotations: Mapping[str, Stored[RotationRecord]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MoveScene:
    """A move as a command found it on both servers; `now` is the old server's time.

    `root` is the old server's root, None once the move is done. `members` are the nodes as both servers know them, each
    with its newer report, and `counted` the same by domain as gates count them. `at_old` are those of the old server,
    and `at_new` those of the new one by their names, with the reports that lie there. `cas` are the certificates of
    both CAs by domain, by "old" and "new", as far as the old server shows them. `lost` is the server that is not asked
    at all, since a person has called it lost or it is away; then `now`, `root` and `members` are the other one's.
    """

    old: ServerRecords
    new: ServerRecords
    now: datetime
    root: Facts | None = None
    members: tuple[Member, ...] = ()
    counted: Mapping[str, tuple[Participant, ...]] = field(default_factory=dict, repr=False)
    at_old: tuple[Member, ...] = field(default=(), repr=False)
    at_new: Mapping[str, Member] = field(default_factory=dict, repr=False)
    cas: Mapping[str, Mapping[str, Facts]] = field(default_factory=dict, repr=False)
    lost: LostServer | None = None

    @property
    def asked(self) -> tuple[LostServer, ...]:
        """The servers that are asked; the first of them has the seat of the record."""
        return tuple(each for each in LostServer if each is not self.lost)

    @property
    def higher(self) -> MoveRecord | None:
        """The record with the higher revision of both servers'; None if there is none."""
        found = [each.stored.record for each in (self.old, self.new) if each.stored.record is not None]
        return max(found, key=lambda record: record.revision, default=None)

    @property
    def record(self) -> MoveRecord:
        """The same; ValueError if there is none."""
        found = self.higher
        if found is None:
            raise ValueError("there is no record of a move")
        return found

    def side(self, which: LostServer) -> ServerRecords:
        return self.old if which is LostServer.OLD else self.new

    def mount(self, which: LostServer, domain: str) -> RotationMount:
        """Read the mount of a CA on one of the servers."""
        server = self.side(which).server
        if self.root is None:
            raise ValueError("a move that is done has no mounts to look at")
        return read_mount(server.cluster, server.vault, domain, self.root)

    def writing(self, record: MoveRecord, seat: LostServer | None = None) -> MoveScene:
        """Write a record on the old server over the one that was read, and copy it; Refused if somebody was faster.

        It is written on `seat` first, if that is given.
        """
        seat = seat or self.asked[0]
        state = self.side(seat)
        state.notice.begin()
        stored = write_move_record(state.server.cluster, state.server.vault, record, state.stored.version)
        return self.having(seat, replace(state, stored=stored)).copied()

    def copied(self) -> MoveScene:
        """Write the record with the higher revision over the lower one, on the server that is behind.

        The new server has none before `prepare` made its store, and none after an abort.
        """
        scene, record = self, self.record
        for which in self.asked:
            state = scene.side(which)
            mine = state.stored.record
            gone = which is LostServer.NEW and (mine is None or record.state is State.STEADY)
            if gone or (mine is not None and mine.revision >= record.revision):
                continue
            stored = write_move_record(state.server.cluster, state.server.vault, record, state.stored.version)
            scene = scene.having(which, replace(state, stored=stored))
        return scene

    def having(self, which: LostServer, state: ServerRecords) -> MoveScene:
        """Return the scene with this of one server."""
        return replace(self, old=state) if which is LostServer.OLD else replace(self, new=state)

    def again(self, which: LostServer) -> MoveScene:
        """Return the scene with the records of one server as they are now."""
        server = self.side(which).server
        found = replace(self.side(which), stored=read_move_record(server.cluster, server.vault))
        if found.stored.record is not None:
            found = replace(found, rotations=read_records(server.cluster, server.vault))
        return self.having(which, found)

    def writing_rotation(self, which: LostServer, record: RotationRecord) -> MoveScene:
        """Write the record of a CA's rotation on one server, over the one that was read."""
        state = self.side(which)
        state.notice.begin()
        version = state.rotations[record.domain].version
        stored = write_record(state.server.cluster, state.server.vault, record, version)
        return self.having(which, replace(state, rotations={**state.rotations, record.domain: stored}))


def read_scene(
    old: MoveServer,
    new: MoveServer,
    now: datetime,
    notices: tuple[ChangeNotice, ChangeNotice],
    lost: LostServer | None = None,
) -> MoveScene:
    """Read the records of both servers, from their active nodes; `notices` are those of both. `lost` is not asked.

    Raises SpecError for a record that no vaultpki wrote, and Unavailable if a server is away: a command needs both,
    but the one that is `lost`.
    """
    for which, server in ((LostServer.OLD, old), (LostServer.NEW, new)):
        if which is not lost:
            server.vault.pin_to_leader()
    # As records have it.
    now = now.replace(microsecond=0)
    sides = [ServerRecords(server, Stored(), notice) for server, notice in zip((old, new), notices, strict=True)]
    scene = MoveScene(sides[0], sides[1], now, lost=lost)
    for which in scene.asked:
        scene = scene.again(which)
    if lost is LostServer.OLD:
        known = scene.higher
        done = known is None or known.state is State.DONE
        return scene if known is None or done else replace(scene, root=_old_root(new, known, now))
    if scene.old.stored.record is None:
        # A move begins with what was rotated before.
        scene = replace(scene, old=replace(scene.old, rotations=read_records(old.cluster, old.vault)))
    if scene.higher is not None and scene.record.state is State.DONE:
        # The old server may be empty by now.
        return scene
    return replace(scene, root=read_root(old.cluster, old.vault, now))


def _old_root(new: MoveServer, record: MoveRecord, now: datetime) -> Facts:
    """Return the old server's root as the new one shows it; once it has left there, the one that signs there now."""
    mount, pki = new.cluster.mount(ROOT), new.vault.api.secrets.pki
    for id_ in pki.list_issuers(mount_point=mount).keys:
        answer = pki.read_issuer(id_, mount_point=mount)
        for facts in x509.read_certificates(str(answer.data.get("certificate") or "").encode()):
            if facts.fingerprint == record.root:
                return facts
    return read_root(new.cluster, new.vault, now)


def with_nodes(scene: MoveScene) -> MoveScene:
    """Return the scene with who takes part, by both servers: every live credential counts, wherever it is.

    Raises SpecError if a node can log in that cluster.yaml does not name.
    """
    cluster = scene.old.server.cluster
    here = _members(scene, LostServer.OLD)
    at_both = scene.higher is not None and scene.record.state in _AT_BOTH
    there = {each.name: each for each in _members(scene, LostServer.NEW)} if at_both else {}
    members = tuple(_both(each, there[each.name]) if each.name in there else each for each in here)
    members += tuple(each for name, each in sorted(there.items()) if name not in {one.name for one in here})
    counted = {ca: participants(cluster, members, ca) for ca in issuing_cas(cluster)}
    counted[ROOT] = root_gates.without_leaves(counted["kubernetes"])
    return replace(scene, members=members, counted=counted, at_old=here, at_new=there)


def _members(scene: MoveScene, which: LostServer) -> tuple[Member, ...]:
    """Return the nodes that one server knows; none of one that is not asked."""
    if which not in scene.asked:
        return ()
    server = scene.side(which).server
    found = read_nodes(server.cluster, server.vault)
    refuse_unknown(server.cluster, server.vault, found)
    return found.members


def _both(old: Member, new: Member) -> Member:
    """Return a node as both servers know it, with its newer report."""
    reported = [each for each in (old, new) if each.report is not None]
    newer = max(reported, key=lambda each: each.report.time, default=old)  # type: ignore[union-attr]
    known = None if None in (old.credentials, new.credentials) else (old.credentials or 0) + (new.credentials or 0)
    ends = [each.join_until for each in (old, new) if each.join_until is not None]
    return replace(
        old,
        credentials=known,
        report=newer.report,
        stored=newer.stored,
        disabled=old.disabled and new.disabled,
        join_until=max(ends, default=None) if not reported else None,
        secret_ids=(*old.secret_ids, *new.secret_ids),
    )
