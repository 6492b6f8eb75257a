"""A cluster moves to another server and back, with real agents: everybody trusts everybody after every pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.faults.drawn import Drawn
from helpers.node.moving_cluster import MovingCluster
from helpers.node.passes import shown
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server
from vaultpki.agent import status
from vaultpki.certificates import ISSUING_CAS
from vaultpki.config.agent import load_agent
from vaultpki.errors import StateConflict
from vaultpki.move import commands, emptying
from vaultpki.node import servers
from vaultpki.procedures import ON_NODES
from vaultpki.records.rotation import State

conformance = pytest.mark.conformance


@pytest.fixture
def moving(clusters: ClusterFactory, own_server: Server) -> Iterator[MovingCluster]:
    with MovingCluster.standing(clusters, own_server) as made:
        yield made


def test_there_to_the_end(moving: MovingCluster) -> None:
    step = moving.begin()
    assert step.moved and step.record.state is State.PREPARED
    assert moving.issuers("old") == {"root": {"root-1"}, **{ca: {f"{ca}-1"} for ca in ISSUING_CAS}}
    both = {ca: {f"{ca}-1", f"{ca}-2"} for ca in ISSUING_CAS}
    with pytest.raises(StateConflict, match="is moving to another server"):
        moving.rotate("etcd")
    moving.moved(State.PUBLISHED)
    moving.of("old")
    views_say_that_it_moves(moving)
    for which in ("old", "new"):
        assert both.items() <= moving.issuers(which).items()
    moving.moved(State.SWITCHED)
    moving.moved(State.RETIRED)
    moving.of("new")
    moving.moved(State.DONE)
    assert moving.record("old") == moving.record("new")
    # The CAs have certificates under the new server's own root.
    assert moving.issuers("new") == {
        "root": {"root-2", "root-2-by-root-1"},
        **{ca: {f"{ca}-2r2"} for ca in ISSUING_CAS},
    }
    moving.passes()
    assert all(servers.load(str(node.state)).closed for node in moving.nodes.values())
    assert moving.roots() == {moving.new_root()}
    with pytest.raises(StateConflict, match="there is no way back"):
        moving.step(back=True)
    commands.refuse_emptying(moving.old, moving.new, moving.now)
    emptying.empty(moving.old, lambda path: None)
    assert emptying.emptied(moving.old) and not any(moving.issuers("old").values())
    # No node asks it for anything, and each says what to write into agent.yaml.
    since = moving.cluster.server.audit_position()
    moving.passes()
    asked = [path for _, path in moving.cluster.server.requests(since) if moving.cluster.name in path]
    assert asked == []
    for node in moving.nodes.values():
        seen = status.of_node(load_agent(node.config), moving.now, ON_NODES)
        assert not seen.faults
        assert any(f"The cluster has moved to {moving.to.address}" in each for each in seen.standings)
    assert not any(moving.failures.values())
    assert moving.step().record.state is State.DONE
    assert moving.checked > 1000


def views_say_that_it_moves(moving: MovingCluster) -> None:
    """They look at one server, and leave what it waits for to the command that looks at both."""
    file, viewer = moving.cluster.file, moving.cluster.environment("viewer")
    found = shown("nodes", "-f", file, env=viewer, expect={0, 3})["findings"]
    (own,) = [each for each in found if each["name"] == "move-waiting"]
    assert own["command"] == f"vaultpki move status -f {file}"
    assert not [each for each in found if each["name"].startswith(("ca-", "rotation-"))]
    text = vaultpki("ca", "status", "-f", file, env=viewer, expect={0, 3}).stdout
    assert "moves from" in text and "ca continue" not in text and "published since" in text


WAYS = {
    "prepared": [State.STEADY],
    "published": [State.STEADY],
    "switched": [State.RETURNING, State.STEADY],
    "retired": [State.RETRUSTING, State.RETURNING, State.STEADY],
    "last phase": [State.RETRUSTING, State.RETURNING, State.STEADY],
}


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param(["switched"], id="sample", marks=pytest.mark.sample),
        # Numbers are not used again.
        pytest.param(["prepared", "published", "switched"], id="early", marks=conformance),
        pytest.param(["retired"], id="retired", marks=conformance),
        pytest.param(["last phase"], id="last phase", marks=conformance),
    ],
)
def test_the_way_back_from_each_state(moving: MovingCluster, ways: list[str]) -> None:
    for number, way in enumerate(ways, start=1):
        assert moving.begin().record.number == number
        for state in (State.PUBLISHED, State.SWITCHED, State.RETIRED):
            if moving.state.value != way:
                moving.moved(state)
            if moving.state.value == way:
                break
        if way == "last phase":
            moving.moved(State.RETIRED, root=State.PUBLISHED)
            moving.passes()
        for state in WAYS[way]:
            moving.moved(state, back=True)
        assert moving.issuers("new") == {ca: set() for ca in ("root", *ISSUING_CAS)}
        assert moving.issuers("old") == {"root": {"root-1"}, **{ca: {f"{ca}-1"} for ca in ISSUING_CAS}}
        moving.passes()
        moving.of("old")
        for node in moving.nodes.values():
            known = servers.load(str(node.state))
            assert not known.at_new and known.place is None and not (node.state / "move").exists()
    moving.cluster.at_rest()


@conformance
def test_forward_again_from_re_trusting(moving: MovingCluster) -> None:
    """From retired back, also out of the last phase, and forward again to the end."""
    moving.begin()
    for state in (State.PUBLISHED, State.SWITCHED, State.RETIRED):
        moving.moved(state)
    moving.moved(State.RETRUSTING, back=True)
    moving.moved(State.SWITCHED)
    moving.moved(State.RETIRED)
    moving.moved(State.RETIRED, root=State.SWITCHED)
    moving.moved(State.RETRUSTING, back=True)
    for state in (State.SWITCHED, State.RETIRED, State.DONE):
        moving.moved(state)
    moving.passes()
    assert all(servers.load(str(node.state)).closed for node in moving.nodes.values())


@conformance
def test_a_node_sleeps_through_three_states(moving: MovingCluster) -> None:
    """It wakes up in retired, and again after an abort; nobody waits for it meanwhile."""
    moving.begin()
    moving.moved(State.PUBLISHED)
    for state in (State.SWITCHED, State.RETIRED):
        moving.moved(state, but=("w-1",))
    moving.of("old", "w-1")
    for _ in range(3):
        moving.pass_of(moving.nodes["w-1"])
    moving.of("new", "w-1")
    moving.passes()
    for state in (State.RETRUSTING, State.RETURNING, State.STEADY):
        moving.moved(state, back=True, but=("worker-1",))
    for _ in range(3):
        moving.pass_of(moving.nodes["worker-1"])
    moving.of("old")


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param(State.RETIRED, id="sample", marks=[pytest.mark.sample, conformance]),
        pytest.param(State.DONE, id="whole", marks=conformance),
    ],
)
def test_commands_that_are_killed(moving: MovingCluster, drawn: Drawn, ends: State) -> None:
    """Each command is killed at a request that is drawn, on either server; nodes pass, and the next one goes on."""
    moving.kills = iter(lambda: drawn.below(20), -1)
    moving.begin()
    for state in (State.PUBLISHED, State.SWITCHED, State.RETIRED, State.DONE):
        moving.moved(state)
        if state is ends:
            break
    assert moving.kills_made > 3
