"""One of both servers of a move is gone for good, or only said to be: nodes go on, and nobody loses anybody's trust."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from helpers.node.moving_cluster import MovingCluster
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server
from vaultpki.errors import StateConflict, Unavailable
from vaultpki.move import commands
from vaultpki.node import servers
from vaultpki.records.move import LostServer
from vaultpki.records.rotation import Kept, State

conformance = pytest.mark.conformance

# Nobody uses their certificates.
OPERATORS = ("admin", "super-admin")
AFTER = {State.PUBLISHED: [State.SWITCHED, State.RETIRED, State.DONE]}
AFTER[State.SWITCHED] = AFTER[State.PUBLISHED][1:]
AFTER[State.RETIRED] = AFTER[State.SWITCHED][1:]


@pytest.fixture
def leaving(server: Server, own_server: Server, tmp_path: Path) -> Iterator[MovingCluster]:
    """The old server is one that a test may stop."""
    with MovingCluster.standing(ClusterFactory(own_server, tmp_path), server) as made:
        yield made


@pytest.fixture
def moving(clusters: ClusterFactory, own_server: Server) -> Iterator[MovingCluster]:
    """The new server is one that a test may stop."""
    with MovingCluster.standing(clusters, own_server) as made:
        yield made


def lead(moving: MovingCluster, to: State) -> None:
    moving.begin()
    for state in (State.PUBLISHED, State.SWITCHED, State.RETIRED):
        moving.moved(state)
        if state is to:
            settle(moving)
            return


def settle(moving: MovingCluster) -> None:
    """Everybody has its leaves, and has reported."""
    moving.now += timedelta(seconds=400)
    for _ in range(2):
        # The first one finds out where the second one asks.
        moving.passes()


def by_command(moving: MovingCluster, *command: str, expect: int = 0) -> str:
    """What a person sees."""
    env = {**moving.cluster.environment(), "VAULTPKI_MOVE_TOKEN": moving.new.vault.settings.token or ""}
    return vaultpki("move", *command, "-f", moving.cluster.file, env=env, expect=expect).stdout


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(State.PUBLISHED, id="published"),
        pytest.param(State.SWITCHED, id="switched", marks=conformance),
        pytest.param(State.RETIRED, id="retired", marks=conformance),
    ],
)
def test_the_old_server_is_lost(leaving: MovingCluster, state: State) -> None:
    """Agents alone get to the end: nobody has to visit a node."""
    lead(leaving, state)
    before = leaving.record("new")
    assert before is not None
    leaving.cluster.server.stop()
    assert "The old server is away" in by_command(leaving, "status", expect=3)
    with pytest.raises(Unavailable):
        leaving.step()
    by_command(leaving, "continue", "--old-lost")
    leaving.lost = LostServer.OLD
    told = leaving.record()
    # First it is only said, so that no node can be surprised.
    assert told is not None and told.state is state and told.lost is LostServer.OLD
    assert before.revision + 100 < told.revision < before.revision + 1000
    assert "is lost" in by_command(leaving, "status", expect=3)
    waits = leaving.step()
    assert not waits.moved and waits.gate is not None and any("is lost" in each.reason for each in waits.gate.waiting)
    if state is State.PUBLISHED:
        for _ in range(4):
            leaving.passes()
        # Until the record says so, no node takes a leaf of the CA that it could have by now.
        leaving.of("old")
    for to in AFTER[state]:
        if to is State.RETIRED:
            settle(leaving)
            leaving.of("new")
        leaving.moved(to, said=OPERATORS)
    for _ in range(2):
        leaving.passes()
    assert leaving.roots() == {leaving.new_root()}
    assert all(servers.load(str(node.state)).closed for node in leaving.nodes.values())
    assert not any(leaving.failures.values())
    # It comes back after all: there is nothing to fear from it, and it is emptied.
    leaving.cluster.server.start()
    leaving.lost = None
    leaving.step()
    assert leaving.record("old") == leaving.record("new")
    commands.refuse_emptying(leaving.old, leaving.new, leaving.now)


@pytest.mark.parametrize(
    "state",
    [pytest.param(each, id=each.value, marks=conformance) for each in (State.PUBLISHED, State.SWITCHED)],
)
def test_the_new_server_is_lost(moving: MovingCluster, state: State) -> None:
    lead(moving, state)
    moving.to.stop()
    shown = commands.status(moving.old, moving.new, moving.now)
    assert shown is not None and shown.alone and "the new server is away" in shown.note
    moving.lost = LostServer.NEW
    told = moving.step(back=True)
    assert told.moved and told.record.state is state and told.record.lost is LostServer.NEW
    if state is State.SWITCHED:
        moving.moved(State.RETURNING, back=True)
    moving.moved(State.STEADY, back=True, said=OPERATORS)
    moving.passes()
    moving.of("old")
    for node in moving.nodes.values():
        known = servers.load(str(node.state))
        assert not known.at_new and known.place is None and not (node.state / "move").exists()
    assert not any(moving.failures.values())
    # It comes back, with a record that says that the move is under way: nobody follows it, and it is emptied.
    moving.to.start()
    moving.lost = None
    moving.passes()
    moving.of("old")
    moving.step()
    assert not any(moving.issuers("new").values())
    moving.cluster.at_rest()
    assert moving.begin().record.lost is None
    moving.moved(State.PUBLISHED)
    moving.moved(State.SWITCHED)
    settle(moving)
    moving.of("new")


@pytest.mark.parametrize(
    "state",
    [pytest.param(each, id=each.value, marks=conformance) for each in (State.PUBLISHED, State.SWITCHED)],
)
def test_a_server_that_is_called_lost_by_mistake(
    leaving: MovingCluster, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    """The operator cannot reach it, and nodes can: none takes part in a step, until it is found again."""
    lead(leaving, state)
    leaving.lost = LostServer.OLD
    with pytest.raises(StateConflict, match="the old server answers"):
        leaving.step()
    with monkeypatch.context() as away:
        away.setattr("vaultpki.move.lost.answers", lambda server: server.cluster.vault != leaving.cluster.model.vault)
        assert leaving.step().record.lost is LostServer.OLD
        for _ in range(5):
            leaving.passes()
            done = leaving.step()
            assert not done.moved and done.record.state is state and done.gate is not None
            assert any("still asks the old server" in each.reason for each in done.gate.waiting)
    leaving.lost = None
    leaving.of("old" if state is State.PUBLISHED else "new")
    with pytest.raises(StateConflict, match="was called lost; go on with"):
        leaving.step()
    found = commands.found(leaving.old, leaving.new, leaving.now)
    assert found.moved and found.record.state is State.RETRUSTING and found.record.lost is None
    assert found.record.kept is (Kept.OLD if state is State.PUBLISHED else Kept.NEW)
    assert leaving.record("old") == leaving.record("new") == found.record
    leaving.passes()
    # Each keeps what it has until the next step.
    leaving.of("old" if state is State.PUBLISHED else "new")
    for to in (State.SWITCHED, State.RETIRED):
        leaving.moved(to)
        settle(leaving)
        leaving.of("new")


@conformance
def test_an_old_server_that_is_found_again(leaving: MovingCluster) -> None:
    """It was away for longer than nodes try, and comes back before the next step."""
    lead(leaving, State.PUBLISHED)
    leaving.cluster.server.stop()
    leaving.lost = LostServer.OLD
    leaving.moved(State.SWITCHED)
    leaving.cluster.server.start()
    with pytest.raises(StateConflict, match="the old server answers"):
        leaving.step()
    leaving.passes()
    assert {servers.load(str(node.state)).heeded for node in leaving.nodes.values()} == {LostServer.OLD}
    leaving.lost = None
    assert commands.found(leaving.old, leaving.new, leaving.now).record.kept is Kept.NEW
    for to in (State.RETURNING, State.STEADY):
        leaving.moved(to, back=True)
    leaving.of("old")
    assert leaving.begin().record.number == 2
