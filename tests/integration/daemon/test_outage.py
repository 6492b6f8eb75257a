"""Vault frozen, sealed or gone: the pairs stay, the agent stays, says by when the first one ends, and comes back."""

from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.faults.hostile_server import Guest, serving
from helpers.node import resident_agent
from helpers.node.resident_agent import AT_ONCE, POLL, Resident, Watcher, leaves, resident
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server, free_ports, wait_for
from vaultpki.disk.store import OLD_FILES_GRACE

PASS = OLD_FILES_GRACE + 5


@pytest.fixture
def cluster(own_server: Server, tmp_path: Path) -> AppliedCluster:
    return ClusterFactory(own_server, tmp_path).applied(resident_agent.SPEC)


def node_of(cluster: AppliedCluster, number: int, *addresses: str) -> NodeFolder:
    """A node whose agent.yaml names these addresses before the real one."""
    node = cluster.equip(f"worker-{number}", further=f"poll: {POLL}s\n")
    real = cluster.server.address
    node.configure(f"['{real}']", json.dumps([*addresses, real]))
    return node


def ended(node: NodeFolder) -> bool:
    return all(found.not_after <= datetime.now(UTC) for found in leaves(node).values())


def good(node: NodeFolder) -> bool:
    return all(found.not_after > datetime.now(UTC) for found in leaves(node).values())


def silence(guest: Guest) -> None:
    guest.request()
    guest.wait()


def test_it_sits_out_every_outage(cluster: AppliedCluster, own_server: Server) -> None:
    (dead,) = free_ports(1)
    with serving(silence) as silent:
        # One has a single address; the other knows a dead and a silent one besides, and asks those first.
        single = node_of(cluster, 1)
        several = node_of(cluster, 2, f"http://127.0.0.1:{dead}", silent.address)
        with resident(single) as one, resident(several) as other:
            agents = (one, other)
            for agent in agents:
                agent.await_issued()
            with Watcher(single).watching(), Watcher(several).watching():
                frozen(cluster, own_server, agents)
            sealed_until_all_have_ended(own_server, agents)
            own_server.stop()
            time.sleep(2)
            for agent in agents:
                assert agent.process.poll() is None
            own_server.start()
            for agent in agents:
                wait_for(lambda agent=agent: good(agent.node), POLL + PASS, agent.log.read_text)  # type: ignore[misc]
            for agent in agents:
                # The pass that made it so may not be over yet.
                wait_for(lambda agent=agent: agent.status(expect={0, 3})["ok"], PASS, agent.log.read_text)  # type: ignore[misc]
                assert agent.end() < AT_ONCE


def frozen(cluster: AppliedCluster, server: Server, agents: tuple[Resident, ...]) -> None:
    """Connections are taken and never answered, for less than the certificates bear; a signal ends it then too."""
    server.freeze()
    try:
        waiting = node_of_frozen(agents[0])
        with resident(waiting) as third:
            third.await_said("has started", 20)
            time.sleep(1)
            assert third.end() < AT_ONCE
        for agent in agents:
            assert agent.await_said("the first certificate here ends at", POLL + PASS)
    finally:
        server.thaw()
    for agent in agents:
        agent.await_said("well again", POLL + PASS)


def node_of_frozen(agent: Resident) -> NodeFolder:
    """A copy of the node, which knows nothing of Vault's but what its credential is."""
    node = NodeFolder(agent.node.name, agent.node.folder.with_name("third"))
    node.state.mkdir(parents=True, mode=0o700)
    shutil.copy(agent.node.state / "secret-id", node.state)
    node.config.write_text(agent.node.config.read_text().replace(str(agent.node.folder), str(node.folder)))
    return node


def sealed_until_all_have_ended(server: Server, agents: tuple[Resident, ...]) -> None:
    told = [len(agent.said("ends at")) for agent in agents]
    server.seal()
    for agent, before in zip(agents, told, strict=True):
        (said, *_) = agent.await_said("is sealed", POLL + PASS)
        assert said["level"] == "error"
        agent.await_said("the first certificate here ends at", 2, before + 1)
    for agent in agents:
        wait_for(lambda agent=agent: ended(agent.node), 40, lambda: "still good")  # type: ignore[misc]
        state = agent.status(expect=3)
        assert state["agent"]["state"] == "backing-off" and not state["vault"]["reachable"], state
        assert "sealed" in state["vault"]["error"]
        assert {one["state"] for one in state["certificates"]} == {"expired"}
        # Told once, however often it was tried, and again as certificates expire.
        agent.await_said("expired: kube-proxy, kubelet, kubelet-client", PASS)
        events = [event["event"] for event in agent.said("is sealed")]
        assert events.count("failed") <= 2 and 1 <= events.count("still-wrong") <= 3, agent.log.read_text()
