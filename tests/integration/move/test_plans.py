"""A plan of either server sees nothing to change in any state of a move, and drift all the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.node.moving_cluster import MovingCluster
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server
from vaultpki.errors import StateConflict
from vaultpki.move.server import MoveServer
from vaultpki.provision import apply
from vaultpki.records.rotation import State
from vaultpki.records.server_facts import ServerFacts


@pytest.fixture
def moving(clusters: ClusterFactory, own_server: Server) -> Iterator[MovingCluster]:
    with MovingCluster.standing(clusters, own_server) as made:
        yield made


def left(server: MoveServer) -> tuple[str, ...]:
    """What a plan says of one server: its changes, and what a person must look at."""
    _, todo = apply.observe_and_plan(server.cluster, server.vault, ServerFacts((), None))
    changes = [f"{each.action} {each.kind} {each.name} {each.fields}" for each in todo.changes]
    dangers = [f"{each.name}: {each.reason}" for each in todo.dangers]
    needed = [f"rotate {each.ca}: {each.fields}" for each in todo.rotations]
    return (*changes, *dangers, *needed, *(f"active {each.domain}" for each in todo.active))


def both(moving: MovingCluster) -> None:
    assert (left(moving.old), left(moving.new)) == ((), ())


def test_in_each_state_of_a_move(moving: MovingCluster) -> None:
    assert left(moving.old) == ()
    moving.begin()
    both(moving)
    moving.moved(State.PUBLISHED)
    both(moving)
    # Drift of either server is shown, and an apply mends it there.
    for server, where in ((moving.cluster.server, moving.old), (moving.to, moving.new)):
        path = f"{where.cluster.prefix}/etcd/roles/etcd-server"
        role = server.api("GET", path).data
        assert server.api("POST", path, {**role, "ttl": "1h"}).status in (200, 204)
        (seen,) = left(where)
        assert "update role" in seen and path.replace("/roles", "") in seen
        apply.apply(where.cluster, where.vault, ServerFacts((), None), first=None, progress=lambda change: None)
    both(moving)
    moving.moved(State.SWITCHED)
    both(moving)
    moving.moved(State.RETIRED)
    both(moving)
    # What the old CA must not do any more, no apply gives it back.
    usage = moving.cluster.read(f"{moving.cluster.prefix}/etcd/issuer/etcd-1")["usage"]
    assert "issuing-certificates" not in usage
    moving.moved(State.DONE)
    assert left(moving.new) == ()
    with pytest.raises(StateConflict, match="has moved from this server to"):
        left(moving.old)


def test_on_the_way_back(moving: MovingCluster) -> None:
    moving.begin()
    moving.moved(State.PUBLISHED)
    moving.moved(State.SWITCHED)
    moving.moved(State.RETURNING, back=True)
    both(moving)
    moving.moved(State.STEADY, back=True)
    assert left(moving.old) == ()


def test_after_an_abort_before_anything_was_switched(moving: MovingCluster) -> None:
    moving.begin()
    moving.moved(State.PUBLISHED)
    moving.passes()
    moving.moved(State.STEADY, back=True)
    moving.passes()
    moving.passes()
    assert left(moving.old) == ()
