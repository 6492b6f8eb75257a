"""How many requests an hour an agent sends where something is wrong, by its own pace at a simulated clock."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest

from helpers.node.resident_agent import SPEC, leaves, short_and_long
from helpers.node.simulated_agent import SimulatedAgent, delete_entities, settle
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.agent.context import Outcome
from vaultpki.config.agent import load_agent
from vaultpki.daemon import pace
from vaultpki.errors import VaultpkiError
from vaultpki.node import assignment

# The pace is the agent's own, by a simulated clock.
pytestmark = pytest.mark.on_node

HOUR = 3600.0


@dataclass(slots=True)
class Agent(SimulatedAgent):
    """One that passes as often as the daemon does."""

    urgent: datetime | None = None
    failed: int = 0
    passes: int = 0
    said: set[str] = field(default_factory=set)

    def run(self) -> float:
        """One pass; the seconds until the next."""
        self.passes += 1
        outcome: Outcome | None = None
        try:
            outcome = self.at(self.clock)
            self.urgent = outcome.urgent
            self.said |= {str(error) for error in outcome.failures.values()}
        except VaultpkiError as error:
            self.said.add(str(error))
        self.failed = self.failed + 1 if outcome is None or outcome.failures else 0
        config = load_agent(self.node.config)
        fetched = assignment.fetched(config.state)
        return pace.pause(config, outcome, self.failed, self.urgent, fetched, self.clock)

    def requests(self, seconds: float = HOUR, before: Callable[[], object] = lambda: None) -> int:
        """How many requests so many seconds of passes send; `before` each of them something is done."""
        server, end, asked, wait = self.cluster.server, self.clock + seconds, 0, 0.0
        self.passes = 0
        while self.clock + wait < end:
            self.clock += wait
            before()
            since = server.audit_position()
            wait = self.run()
            asked += sum(self.cluster.prefix in path for _, path in server.requests(since))
        return asked


# A look at everything asks so much at most, a pass that fails comes so often in its first hour, and one at each poll.
LOOK, FAILING, POLLS = 21, 20, 15


def spoil_state(node: NodeFolder) -> None:
    """Nothing can be kept in the state folder: a folder is where each file belongs."""
    for name in ("spec.json", "agent.json"):
        (node.state / name).unlink()
        (node.state / name / "x").mkdir(parents=True)


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(short_and_long("30d"))


@pytest.fixture
def agent(cluster: AppliedCluster, tmp_path: Path) -> Iterator[Agent]:
    """An agent that has everything and is at rest."""
    settle(cluster)
    made = Agent(cluster, cluster.equip("worker-1", folder=tmp_path / "worker-1"))
    made.clock += made.run()
    assert made.outcome is not None and not made.outcome.failures
    yield made
    made.runner.stop()


def test_what_changes_or_is_refused_at_each_poll_costs_a_look_each(agent: Agent) -> None:
    assert agent.requests() <= POLLS + LOOK and agent.said == set()
    for fault in (settle, delete_entities):
        asked = agent.requests(before=functools.partial(fault, agent.cluster))
        assert POLLS < asked <= POLLS * LOOK, (fault, asked)


def test_a_pair_that_cannot_be_installed_is_not_asked_for(agent: Agent) -> None:
    for name in ("kubelet.crt", "kubelet.key"):
        (agent.node.pki / name).unlink()
        (agent.node.pki / name).write_text("somebody's own")
    assert agent.requests() <= FAILING + LOOK and "was not made by vaultpki" in " ".join(agent.said)


def test_a_state_folder_in_which_nothing_can_be_kept_costs_a_look_each_time(agent: Agent) -> None:
    spoil_state(agent.node)
    assert agent.requests() <= FAILING * LOOK and "spec.json" in " ".join(agent.said)


def test_the_worst_is_an_expired_certificate_that_cannot_be_replaced(clusters: ClusterFactory) -> None:
    """A look in half a minute, so that the node is back soon after whatever is wrong has been mended."""
    cluster = clusters.applied(SPEC)
    agent = Agent(cluster, cluster.equip("worker-1"))
    agent.run()
    spoil_state(agent.node)
    agent.clock += HOUR
    agent.requests(HOUR / 10)
    assert agent.requests(HOUR / 10) <= 16 * LOOK and 10 <= agent.passes <= 16


@pytest.mark.parametrize("places", ["config/data/changes", "config auth", "config root kubernetes auth"])
def test_a_server_that_limits_requests_is_asked_less_and_nothing_expires(agent: Agent, places: str) -> None:
    """The agent says so, and goes on once the limit is gone."""
    api, prefix = agent.cluster.server.api, agent.cluster.prefix
    serials = leaves(agent.node)
    limits = [f"auth/{prefix}/listed" if place == "auth" else f"{prefix}/{place}" for place in places.split()]
    # With them the server says how long to wait; without, a pass tries for 15 seconds.
    assert api("POST", "sys/quotas/config", {"enable_rate_limit_response_headers": True}).status == 204
    limit = {"path": limits[0], "rate": 1, "interval": "1h"}
    assert api("POST", "sys/quotas/rate-limit/test", limit, token=agent.cluster.token()).status == 403
    for number, place in enumerate(limits):
        limit = {"path": place, "rate": 1, "interval": "1h"}
        assert api("POST", f"sys/quotas/rate-limit/test-{number}", limit).status == 204
    try:
        # The audit log has none that the limit refused: each pass sends one.
        assert agent.requests() <= LOOK and agent.passes <= FAILING
        assert any("cannot answer now (429" in text for text in agent.said)
    finally:
        for number in range(len(limits)):
            api("DELETE", f"sys/quotas/rate-limit/test-{number}")
    agent.clock += HOUR
    agent.run()
    assert agent.outcome is not None and not agent.outcome.failures and leaves(agent.node) == serials
