"""What a resident agent asks while an issuing CA is rotated: what a step has changed, and everything in any doubt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from helpers.node.agents_in_rotation import AgentsInRotation
from helpers.node.simulated_agent import ONE_WORKER, SimulatedAgent, delete_entities, put_changes
from helpers.vault.applied_cluster import AppliedCluster
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.handmade_rotation import Rotation, issuer_of, successor
from vaultpki.agent import run
from vaultpki.certificates import ROOT
from vaultpki.records import changes
from vaultpki.records.changes import Changes
from vaultpki.records.rotation import CaRef, RotationRecord, State

pytestmark = pytest.mark.on_node

POLL = 300
POLLED = ["read config/data/changes"]
RECORDS = [
    f"read config/data/rotation/{each}" for each in ("root", "kubernetes", "kubelet", "etcd", "front-proxy", "move")
]
STEP, LIST, REPORT = POLLED + RECORDS, ["list kubernetes/issuers/"], ["update config/data/reports/listed/worker-1"]
SAME = {"records": "aa", "rotations": "bb", "issuers": "cc"}
MOST = 9.5
"""Requests of one node for a command, of which a whole rotation has eleven; `make bench` counts them as well."""


class Agent(SimulatedAgent):
    """One whose requests are told."""

    def after(self, seconds: float = POLL) -> list[str]:
        """A pass after `seconds`, and what it asked: operations with paths below the cluster's prefix."""
        since, prefix = self.cluster.server.audit_position(), f"{self.cluster.prefix}/"
        self.at(self.clock + seconds)
        asked = self.cluster.server.requests(since)
        return [f"{operation} {path.replace(prefix, '', 1)}" for operation, path in asked if prefix in path]


def announce(cluster: AppliedCluster, digests: dict[str, str], *, versions: int = 2) -> None:
    """What commands write around what they change: `changing` and `settled` in turn, the last with these digests."""
    for left in reversed(range(versions)):
        put_changes(cluster, changes.to_json(Changes(settled=left % 2 == 0, digests=digests)))


def is_whole(asked: list[str]) -> bool:
    """Whether everything was asked for, after a login, the certificates of this node too."""
    whole = {"read config/data/cluster", "read config/data/nodes/worker-1", *RECORDS, *LIST, "list root/issuers/"}
    return whole <= {*asked} and "update auth/listed/login" in asked and any(" kubelet/cert/" in each for each in asked)


@pytest.fixture
def rotation(clusters: ClusterFactory) -> Rotation:
    return Rotation.of(clusters.applied(ONE_WORKER), "kubernetes")


@pytest.fixture
def agent(rotation: Rotation) -> Iterator[Agent]:
    """An agent that has looked at everything since the rotation began."""
    announce(rotation.cluster, SAME)
    made = Agent(rotation.cluster, rotation.cluster.equip("worker-1"))
    made.after(0)
    assert made.after() == POLLED
    yield made
    made.runner.stop()


def test_a_step_is_read_with_the_kept_login(rotation: Rotation, agent: Agent) -> None:
    """The records of all rotations, the issuers of the CA whose record has changed, and no more."""
    rotation.turn("cp-1")
    announce(rotation.cluster, SAME, versions=1)
    assert agent.after() == STEP + REPORT
    rotation.write(rotation.record.changed(also=("a" * 64,)))
    announce(rotation.cluster, SAME | {"issuers": "dd"}, versions=1)
    assert agent.after() == STEP + LIST + REPORT
    assert agent.after() == POLLED


def test_an_emergency_that_could_not_be_announced_is_read_with_the_next_step(rotation: Rotation, agent: Agent) -> None:
    other = Rotation.of(rotation.cluster, "kubelet")
    rotation.turn("cp-1")
    # Both were written: three versions in all, as of a node that saw the first of them.
    agent.after()
    other.write(other.record.moved(State.SWITCHED, other.record.since))
    announce(rotation.cluster, SAME, versions=1)
    asked = agent.after()
    assert asked[: len(STEP)] == STEP and "list kubelet/issuers/" in asked and not is_whole(asked)


def revoked(rotation: Rotation, agent: Agent) -> None:
    announce(rotation.cluster, SAME)


def revoked_and_stepped(rotation: Rotation, agent: Agent) -> None:
    announce(rotation.cluster, SAME)
    rotation.turn("cp-1")
    announce(rotation.cluster, SAME)


def told_once(rotation: Rotation, agent: Agent) -> None:
    rotation.turn("cp-1")


def told_by_another_besides(rotation: Rotation, agent: Agent) -> None:
    """Such as an adopter, who may write this record, and wants nodes to read less."""
    rotation.turn("cp-1")
    announce(rotation.cluster, SAME)


def other_records(rotation: Rotation, agent: Agent) -> None:
    rotation.turn("cp-1")
    announce(rotation.cluster, SAME | {"records": "dd"}, versions=1)


def no_digests(rotation: Rotation, agent: Agent) -> None:
    rotation.turn("cp-1")
    announce(rotation.cluster, {}, versions=1)


def set_back(rotation: Rotation, agent: Agent) -> None:
    rotation.set_back(State.PUBLISHED, rotation.record.revision)


def lost(rotation: Rotation, agent: Agent) -> None:
    rotation.lose()
    announce(rotation.cluster, SAME, versions=1)


def token_ended(rotation: Rotation, agent: Agent) -> None:
    """As of a node that was locked: nothing is read with the kept login."""
    rotation.turn("cp-1")
    announce(rotation.cluster, SAME, versions=1)
    delete_entities(rotation.cluster)


def asked_by_a_person(rotation: Rotation, agent: Agent) -> None:
    rotation.turn("cp-1")
    announce(rotation.cluster, SAME, versions=1)
    agent.outcome = type(agent.outcome)()


@pytest.mark.parametrize(
    "happen",
    [
        revoked,
        revoked_and_stepped,
        told_once,
        told_by_another_besides,
        other_records,
        no_digests,
        set_back,
        lost,
        token_ended,
        asked_by_a_person,
    ],
)
def test_where_more_may_have_changed_everything_is_read(
    rotation: Rotation, agent: Agent, happen: Callable[[Rotation, Agent], None]
) -> None:
    rotation.turn("worker-9")
    announce(rotation.cluster, SAME, versions=1)
    assert agent.after() == STEP + REPORT
    happen(rotation, agent)
    asked = agent.after()
    assert is_whole(asked), asked


def test_while_the_root_is_rotated_no_record_is_read_twice(rotation: Rotation, agent: Agent) -> None:
    """A command of the root's changes more than a step, so the next one is not looked at as one first."""
    root, now = issuer_of(rotation.cluster, ROOT, f"{ROOT}-1"), rotation.record.since
    begun = RotationRecord(ROOT, State.PREPARED, 1, now, root, CaRef(f"{ROOT}-2"))
    Rotation(rotation.cluster, begun).write(begun)
    announce(rotation.cluster, SAME, versions=1)
    assert is_whole(agent.after())
    rotation.turn("cp-1")
    announce(rotation.cluster, SAME, versions=1)
    asked = agent.after()
    assert is_whole(asked) and asked.count(RECORDS[0]) == 1, asked


def test_steps_put_off_no_whole_look(rotation: Rotation, agent: Agent) -> None:
    """What somebody made by hand on another mount, and told nobody, is seen within the hour."""
    successor(rotation.cluster, "front-proxy")
    hour = []
    for number in range(12):
        rotation.turn(f"cp-{number}")
        announce(rotation.cluster, SAME, versions=1)
        hour.append(is_whole(agent.after()))
    # The look before was a poll earlier than the first of these.
    assert sum(hour) == 1 and True not in hour[:8], hour
    assert (agent.node.pki / "front-proxy-ca.crt").read_text().count("BEGIN") == 2


def test_a_whole_rotation_costs_a_node_few_requests(clusters: ClusterFactory) -> None:
    """Of etcd, whose members restart by turns: each logs in once, and reports what is new."""
    with AgentsInRotation.standing(clusters) as made:
        agents = [Agent(made.cluster, node) for node in made.nodes]
        asked: list[str] = []
        # All of it long before the hourly look, also if components are slow to start and a turn takes one more poll.
        poll = POLL / 3
        for node in made.nodes:
            node.config.write_text(f"{node.config.read_text()}poll: {poll:.0f}s\n")
        often = timedelta(seconds=run.DAEMON_SHARE * poll + 10)

        def passes() -> None:
            for agent in agents:
                asked.extend(agent.after(made.now.timestamp() - agent.clock))
                while agent.runner.busy:
                    time.sleep(0.2)
                # When a hook has ended, the daemon passes again.
                asked.extend(agent.after(1))

        made.now += often
        passes()
        asked.clear()
        record, commands = made.begin(0), 0
        while record.state is not State.DONE:
            made.now += often
            passes()
            record, commands = made.step().record, commands + 1
        made.now += often
        passes()
    assert all(made.of(node) == {made.default()} for node in made.nodes)
    assert "update auth/listed/login" not in asked, asked
    assert len(asked) / len(agents) / commands <= MOST, asked


def test_a_member_keeps_its_turn_while_an_operator_goes_back_and_on(clusters: ClusterFactory) -> None:
    """It may be about to restart: another one that got the turn then would be away with it."""
    with AgentsInRotation.standing(clusters) as made:
        made.begin(0)
        assert made.step().record.state is State.PUBLISHED
        made.passes()
        assert made.step().record.turn == "member-1"
        made.now += timedelta(seconds=POLL)
        back = made.step(back=True)
        assert back.moved and (back.record.state, back.record.turn) == (State.STEADY, "member-1")
        assert made.begin(0).turn == "member-1"
        # The other one has read all of it, and the first has not.
        made.pass_of(made.nodes[1])
        assert made.step().record.turn == "member-1"
        made.moved(State.SWITCHED)
