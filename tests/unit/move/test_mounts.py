"""What each server of a move holds: wherever a command was killed, the next one ends in what the record says."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest

from helpers import ca_certificates
from helpers.ca_certificates import BEGUN
from vaultpki.certificates import ca_subject
from vaultpki.errors import StateConflict
from vaultpki.move.mounts import MoveWrite, derived, next_write, past_move
from vaultpki.records.move import LostServer, MovedCa, MoveRecord, ServerPlace
from vaultpki.records.rotation import CA_TABLE, RotationRecord, State
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount
from vaultpki.vault.issuer import FULL, NO_SIGNING, READ_ONLY, number

ROOT = ca_certificates.root("prod")
SIDES = {LostServer.OLD: "etcd-1", LostServer.NEW: "etcd-2"}
SHOWN = frozenset({State.PUBLISHED, State.SWITCHED, State.RETIRED, State.RETRUSTING, State.RETURNING})


def issuer(name: str, *, key: bool) -> MountIssuer:
    facts = ca_certificates.ca(ca_subject("prod", "etcd", number(name)), key=name, signer="prod root CA")
    return MountIssuer(f"i-{name}", name, f"k-{name}" if key else "", frozenset(FULL.split(",")), facts=facts)


SHA = {name: issuer(name, key=True).sha256 for name in SIDES.values()}
FIRST = MoveRecord(
    State.PREPARED,
    3,
    BEGUN,
    1,
    ServerPlace(("https://old.example.com:8200",), "vaultpki/prod"),
    ServerPlace(("https://new.example.com:8200",), "vaultpki/prod"),
    {"etcd": MovedCa("etcd-1", SHA["etcd-1"], "etcd-2", SHA["etcd-2"], revision=5)},
    "aa" * 32,
    "bb" * 32,
)
Holding = tuple[RotationMount, RotationRecord | None]


def fresh(which: LostServer) -> Holding:
    """A server with its own CA alone, as `apply` or the preparation left it."""
    own = issuer(SIDES[which], key=True)
    return RotationMount("p/etcd", ROOT, (own,), {own.key: own.name}, own.id, own.key), None


def carried_out(holding: Holding, write: MoveWrite) -> Holding:
    """What a server makes of a write."""
    mount, found = holding
    issuers = {each.id: each for each in mount.issuers}
    if write.kind == "record":
        assert write.record is not None and (found is None or write.record.revision >= found.revision)
        return mount, write.record
    if write.kind == "default":
        return replace(mount, default=write.target, follows=False), found
    if write.kind == "import":
        (name,) = [name for name, sha256 in SHA.items() if sha256 == write.value]
        made = replace(issuer(name, key=False), id=f"x-{name}", name="")
        default = made.id if mount.follows else mount.default
        return replace(mount, issuers=(*mount.issuers, made), default=default), found
    if write.kind == "delete-issuer":
        assert write.target != mount.default and not issuers.pop(write.target).key
    elif write.kind == "name":
        issuers[write.target] = replace(issuers[write.target], name=write.value)
    else:
        assert write.kind == "usage"
        issuers[write.target] = replace(issuers[write.target], usage=frozenset(write.value.split(",")))
    return replace(mount, issuers=tuple(issuers.values())), found


def steps(record: MoveRecord, holding: Holding, which: LostServer) -> list[Holding]:
    """What the server holds after each write, until there is none."""
    held = [holding]
    while (write := next_write(record, "etcd", held[-1][0], which, held[-1][1])) is not None:
        held.append(carried_out(held[-1], write))
        assert len(held) < 10
        # Never is there a moment in which another CA, or none, signs.
        assert held[-1][0].issuer(held[-1][0].default).name == SIDES[which]  # type: ignore[union-attr]
    return held


def check(record: MoveRecord, holding: Holding, which: LostServer) -> None:
    mount, found = holding
    own, other = SIDES[which], next(name for name in SHA if name != SIDES[which])
    names = {each.name: each for each in mount.issuers}
    assert set(names) == ({own, other} if record.state in SHOWN else {own})
    mute = which is LostServer.OLD and record.state is State.RETIRED
    assert names[own].has(NO_SIGNING if mute else FULL)
    if record.state in SHOWN:
        assert names[other].has(READ_ONLY) and not names[other].key
    if which is LostServer.OLD or record.state in SHOWN:
        assert found is not None and found == derived(record, "etcd", mount, which)
        assert found.revision == 5 + record.revision
        with_key = found.old if which is LostServer.OLD else found.new
        without = found.new if which is LostServer.OLD else found.old
        assert with_key is not None and without is not None
        assert with_key.key == f"k-{own}" and not without.key


@pytest.mark.parametrize("which", LostServer)
def test_from_wherever_a_command_was_killed(which: LostServer) -> None:
    """Every way through the states, with the writes of each cut off anywhere before the next state is written."""
    ways = {*CA_TABLE.onward.items(), *CA_TABLE.home.items()}
    begin = (FIRST, fresh(which))
    seen, left, ends = set[tuple[State, str]](), deque([begin]), set[State]()
    while left:
        record, holding = left.popleft()
        key = record.state, repr((holding[0].issuers, holding[0].default, holding[1] and holding[1].state))
        if key in seen:
            continue
        seen.add(key)
        held = steps(record, holding, which)
        check(record, held[-1], which)
        ends.add(record.state)
        for state, to in ways:
            # At the end the new server is removed as a whole, or the old one is emptied.
            ends_here = to is State.DONE or (to is State.STEADY and which is LostServer.NEW)
            if state is record.state and not ends_here:
                left.extend((record.moved(to, BEGUN), each) for each in held)
    assert ends == {*State} - {State.DONE} - ({State.STEADY} if which is LostServer.NEW else set())


def test_a_mount_that_follows_the_latest_issuer_stops_that_first() -> None:
    mount, found = fresh(LostServer.OLD)
    record = FIRST.moved(State.PUBLISHED, BEGUN)
    held = steps(record, (replace(mount, follows=True), found), LostServer.OLD)
    check(record, held[-1], LostServer.OLD)


def test_a_server_that_lost_its_own_ca_stops_the_move() -> None:
    mount, found = fresh(LostServer.NEW)
    (own,) = mount.issuers
    for broken in (replace(mount, issuers=()), replace(mount, issuers=(replace(own, key=""),))):
        with pytest.raises(StateConflict, match="does not have etcd-2 with its key any more"):
            next_write(FIRST.moved(State.PUBLISHED, BEGUN), "etcd", broken, LostServer.NEW, found)


def test_the_new_server_is_left_alone_once_its_root_is_rotated() -> None:
    """There the records go on by themselves; at any other time a record that is ahead stops the command."""
    record = FIRST.moved(State.RETIRED, BEGUN)
    mount, found = steps(record, fresh(LostServer.NEW), LostServer.NEW)[-1]
    assert found is not None and not past_move(record, found, "etcd")
    ahead = found.moved(State.DONE, BEGUN)
    assert past_move(record, ahead, "etcd")
    assert next_write(record, "etcd", fresh(LostServer.NEW)[0], LostServer.NEW, ahead) is None
    with pytest.raises(StateConflict, match="is newer than the move"):
        next_write(replace(record, state=State.SWITCHED), "etcd", mount, LostServer.NEW, ahead)
    old = steps(record, fresh(LostServer.OLD), LostServer.OLD)[-1][0]
    with pytest.raises(StateConflict, match="is newer than the move"):
        next_write(record, "etcd", old, LostServer.OLD, ahead)
