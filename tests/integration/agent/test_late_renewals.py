"""Renewals that fell due while Vault or the machine was away: they wait for their turn, and nothing else does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.node.resident_agent import leaf
from helpers.node.simulated_agent import SimulatedAgent
from helpers.vault.applied_cluster import AppliedCluster, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import free_ports
from vaultpki.agent import run
from vaultpki.agent.context import Outcome
from vaultpki.agent.pairs import PairStatus
from vaultpki.errors import Unavailable
from vaultpki.pki.renewal import Reason

pytestmark = pytest.mark.on_node

SPEC = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
"""
NAMES = {"kubelet", "kubelet-client", "kube-proxy"}
DAY = 86400.0


class Agent(SimulatedAgent):
    """One whose certificates the server grants by the agent's clock, and that may not reach it."""

    def renewing(self, clock: float, **options: Any) -> set[str]:
        """A pass whose certificates end as if the server's clock were where this one is; what it renewed."""
        for item in self.outcome.items:
            path = f"{item.want.mount}/roles/{item.want.role}"
            role = self.cluster.server.api("GET", path).body["data"]
            ttl = int(item.want.ttl + clock - time.time())
            assert self.cluster.server.api("POST", path, {**role, "ttl": ttl, "max_ttl": ttl}).status == 200
        outcome = self.at(clock, **options)
        return set(outcome.renewed)

    def away(self, clock: float) -> None:
        """A pass that does not reach Vault."""
        (dead,) = free_ports(1)
        real = self.cluster.server.address
        self.node.configure(real, f"http://127.0.0.1:{dead}")
        outcome = self.at(clock)
        self.node.configure(f"http://127.0.0.1:{dead}", real)
        assert isinstance(outcome.failures["vault"], Unavailable) and not outcome.renewed, outcome.failures

    @property
    def items(self) -> dict[str, PairStatus]:
        return {item.want.name: item for item in self.outcome.items}

    @property
    def dues(self) -> dict[str, float]:
        found = {name: item.verdict.renew_after for name, item in self.items.items()}
        return {name: when.timestamp() for name, when in found.items() if when is not None}

    def serials(self) -> dict[str, int]:
        return {name: leaf(self.node, name).serial for name in NAMES}

    def said(self, event: str) -> list[str]:
        return [each.text for each in self.outcome.events if each.name == event]

    def status(self) -> dict[str, Any]:
        ran = vaultpki("status", "-c", self.node.config, "--offline", "--json", expect={0, 3})
        document: dict[str, Any] = json.loads(ran.stdout)
        return document


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(SPEC)


@pytest.fixture
def agent(cluster: AppliedCluster, tmp_path: Path) -> Iterator[Agent]:
    made = Agent(cluster, cluster.equip("worker-1", folder=tmp_path / "worker-1"))
    made.at(made.clock)
    made.renewing(made.clock)
    assert set(made.dues) == NAMES and not made.outcome.failures
    yield made
    made.runner.stop()


def test_after_an_outage_they_wait_for_their_turn(agent: Agent) -> None:
    before, dues = agent.serials(), agent.dues
    last = max(dues.values())
    agent.at(min(dues.values()) - 60)
    for late in (0.5, DAY / 2):
        agent.away(last + late)
        assert {name for name, item in agent.items.items() if Reason.DUE in item.verdict.reasons} == NAMES
    back = last + DAY
    outcome = agent.at(back)
    assert outcome.renewed == () and outcome.failures == {} and agent.serials() == before
    for name, until in agent.dues.items():
        assert back < until <= back + 2 * (back - dues[name]), (name, until)
    assert len(agent.said("postponed")) == 3 and all(
        "was due for renewal at " in text for text in agent.said("postponed")
    )

    # Nothing takes it for a fault, and everything says when it comes.
    status = agent.status()
    assert status["ok"] and status["agent"]["state"] == "ok"
    assert {tuple(one["reasons"]) for one in status["certificates"]} == {("postponed",)}
    ran = vaultpki("nodes", "-f", agent.cluster.file, "--json", env=agent.cluster.environment("viewer"), expect={0, 3})
    (row,) = json.loads(ran.stdout)["nodes"]
    assert "overdue" not in row["reasons"], row
    # Said once, and known to a process that starts anew.
    agent.outcome = Outcome()
    agent.at(back + 300)
    assert agent.said("postponed") == [] and agent.outcome.renewed == ()

    for name, until in sorted(agent.dues.items(), key=lambda each: each[1]):
        assert name in agent.renewing(until + 0.5), agent.outcome.failures
    assert not set(agent.serials().values()) & set(before.values())
    assert not agent.outcome.state.postponed and not agent.outcome.failures
    assert all(not item.verdict.postponed for item in agent.items.values())


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "at-boot"])
def test_after_the_machine_was_off_too(agent: Agent, *, stays: bool) -> None:
    """Many machines start at the same moment; the unit that runs before the kubelet makes the first pass."""
    dues = agent.dues
    agent.outcome = Outcome()
    back = max(dues.values()) + DAY
    outcome = agent.at(back, share=run.DAEMON_SHARE if stays else 1.0)
    assert outcome.renewed == () and not outcome.failures
    assert all(back < until <= back + 2 * (back - dues[name]) for name, until in agent.dues.items())


def test_after_a_pause_of_the_process_too(clusters: ClusterFactory, tmp_path: Path) -> None:
    """Then one read with the token that it kept is all that the agent asks before it decides."""
    cluster = clusters.applied(SPEC + "defaults: {ttl: 7d}\n")
    agent = Agent(cluster, cluster.equip("worker-1", folder=tmp_path / "worker-1"))
    agent.at(agent.clock)
    name, due = min(agent.dues.items(), key=lambda each: each[1])
    agent.at(due - 120)
    assert agent.outcome.rest is not None
    since = cluster.server.audit_position()
    agent.at(due + 900)
    assert agent.outcome.renewed == () and len(agent.said("postponed")) == 1 and not agent.outcome.failures
    asked = [path for _, path in cluster.server.requests(since) if path.startswith(cluster.prefix)]
    assert asked[0] == f"{cluster.prefix}/config/data/changes" and len(asked) <= 3, asked
    assert due + 900 < agent.dues[name] <= due + 2700
    assert name in agent.renewing(agent.dues[name] + 0.5)
    agent.runner.stop()


def test_nobody_who_asks_waits(agent: Agent) -> None:
    back = max(agent.dues.values()) + DAY
    assert agent.renewing(back, share=0.0) == NAMES


def test_a_missing_pair_and_renew_wait_for_nothing(agent: Agent) -> None:
    back = max(agent.dues.values()) + DAY
    assert agent.renewing(back) == set() and len(agent.said("postponed")) == 3
    for file in agent.node.pki.glob("kubelet.*"):
        file.unlink()
    assert agent.renewing(back + 300) == {"kubelet"}
    assert agent.renewing(back + 600, share=0.0, force=("kube-proxy",)) == {"kube-proxy"}
    assert set(agent.outcome.state.postponed) == {"kubelet-client"}


def test_near_the_end_nothing_waits(agent: Agent) -> None:
    ends = min(item.not_after.timestamp() for item in agent.items.values() if item.not_after is not None)
    granted = agent.outcome.state.certificates["kubelet"].granted
    assert agent.renewing(ends - granted / 5) == NAMES and not agent.said("postponed")


def test_what_vault_refuses_stays_a_fault(agent: Agent) -> None:
    """If it were postponed, nobody would see until then that something is wrong."""
    due = agent.dues["kubelet"]
    place = f"{agent.cluster.prefix}/kubelet/roles/{agent.items['kubelet'].want.role}"
    role = agent.cluster.server.api("GET", place).body["data"]
    assert agent.cluster.server.api("DELETE", place).status == 204
    try:
        for late in (0.5, 300, DAY / 2, DAY):
            outcome = agent.at(due + late)
            assert "kubelet" in outcome.failures and not agent.items["kubelet"].verdict.postponed, outcome.failures
    finally:
        assert agent.cluster.server.api("POST", place, role).status in (200, 204)
    assert "kubelet" in agent.renewing(due + DAY + 300)
