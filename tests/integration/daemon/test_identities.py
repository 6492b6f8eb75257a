"""Two resident agents where one should be, and credentials that end while one runs."""

from __future__ import annotations

import json
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.node import resident_agent
from helpers.node.resident_agent import (
    AT_ONCE,
    POLL,
    Watcher,
    figure,
    leaf,
    leaves,
    polling_node,
    resident,
    short_and_long,
    signs,
)
from helpers.vault.applied_cluster import NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server, free_ports, wait_for


@pytest.mark.on_node
def test_a_second_agent_for_the_same_folders_ends_at_once(clusters: ClusterFactory) -> None:
    """The same directory is enough, and so is the same state folder; other commands work beside the first agent."""
    cluster = clusters.applied(resident_agent.SPEC)
    node = polling_node(cluster)
    text = node.config.read_text()
    with resident(node) as one:
        one.await_issued()
        assert_second(node, node.config, node.state, one.process.pid)
        for kept, own in ((node.pki, "state"), (node.state, "pki")):
            another = node.folder / f"{own}.yaml"
            another.write_text(text.replace(str(node.folder / own), str(node.folder / f"other-{own}")))
            assert_second(node, another, kept, one.process.pid)
        assert "renewed kubelet\n" in vaultpki("renew", "-c", node.config, "kubelet").stdout
        node.run()
        assert one.process.poll() is None
        # One that a SIGHUP sends to where another stays goes on as it can, and says so.
        other = polling_node(cluster, "worker-2")
        own = other.config.read_text()
        with resident(other) as neighbour:
            neighbour.await_issued()
            other.config.write_text(own.replace(str(other.pki), str(node.pki)))
            neighbour.process.send_signal(signal.SIGHUP)
            neighbour.await_said(f"{node.pki}: another resident agent", POLL)
            other.config.write_text(own)
            neighbour.process.send_signal(signal.SIGHUP)
            neighbour.await_said("well again", 2 * POLL)
            assert neighbour.end() < AT_ONCE
        one.process.kill()
        one.process.wait()
    # However the first one ended, the next one comes in.
    with resident(node, log=node.folder / "next.log") as following:
        following.await_said("has started", 20)
        time.sleep(1)
        assert following.process.poll() is None and following.end() < AT_ONCE


def assert_second(node: NodeFolder, config: Path, kept: Path, pid: int) -> None:
    began = time.monotonic()
    ran = vaultpki("agent", "-c", config, "--log-format", "json", expect=1)
    assert time.monotonic() - began < AT_ONCE
    told = json.loads(ran.stderr)["message"]
    assert told.startswith(f"{kept}: another resident agent (process {pid}) keeps this node's certificates; stop it"), (
        told
    )


@pytest.mark.on_node
def test_agents_of_two_nodes_in_one_directory(server: Server, clusters: ClusterFactory) -> None:
    """The second one says so and ends."""
    cluster = clusters.applied(short_and_long("30s"))
    nodes = [polling_node(cluster, node) for node in ("worker-1", "worker-2")]
    nodes[1].configure(str(nodes[1].pki), str(nodes[0].pki))
    with resident(nodes[0]) as one:
        one.await_issued()
        since = server.audit_position()
        with resident(nodes[1]) as other:
            assert other.process.wait(20) == 1
            assert other.said(f"{nodes[0].pki}: another resident agent"), other.log.read_text()
        assert signs(server, cluster.prefix, since) == []
        leaves(nodes[0])
        assert one.end() < AT_ONCE


def test_a_rejected_credential_needs_a_join(server: Server, tmp_path: Path, clusters: ClusterFactory) -> None:
    """The agent reports one state, in one sentence, tries few logins, and continues after a join while it runs.

    `lock` ends the token that it keeps, too.
    """
    cluster = clusters.applied(resident_agent.SPEC)
    (port,) = free_ports(1)
    node = polling_node(cluster, further=f"metrics: 127.0.0.1:{port}\n")
    poll, login = f"{cluster.prefix}/config/data/changes", f"auth/{cluster.prefix}/listed/login"
    with resident(node) as agent:
        agent.await_issued()
        begun = server.audit_position()

        def asked() -> list[str]:
            return [path for _, path in server.requests(begun)]

        wait_for(lambda: poll in asked(), 3 * POLL, agent.log.read_text)
        # It is at rest, with the token of its first pass.
        assert login not in asked()
        since = server.audit_position()
        vaultpki("lock", "-f", cluster.file, "worker-1", env=cluster.environment("locker"))
        told = agent.await_said("rejects this node's credential", 2 * POLL)
        new = "`vaultpki enroll worker-1`"
        assert f"({new}, then `vaultpki join -c {node.config} join.json` here)" in told[0]["message"], told
        state = agent.status(expect=3)
        assert state["agent"]["state"] == "needs-join" and state["vault"]["reachable"], state
        wait_for(lambda: figure(port, "agent_state", state="needs-join") == 1, 5, str)
        assert figure(port, "vault_reachable") == 1
        wait_for(lambda: leaf(node, "kubelet").not_after < datetime.now(UTC), 40, lambda: "still good")
        logins = [path for _, path in server.requests(since) if path == login]
        # Vault locks out who comes five times within 15 minutes, and the new join file's login with it.
        assert len(logins) <= 3, logins
        enrol = vaultpki(
            *("enroll", "-f", cluster.file, "worker-1", "--yes", "-o", tmp_path / "join.json"),
            env=cluster.environment(),
        )
        assert enrol.returncode == 0
        vaultpki("join", "-c", node.config, tmp_path / "join.json")
        wait_for(lambda: agent.said("well again") != [], POLL, agent.log.read_text)
        with Watcher(node).watching():
            time.sleep(20)
        assert agent.status(expect=0)["agent"]["state"] == "ok"
        assert len(agent.said("rejects this node's credential")) == 1, agent.log.read_text()
        assert agent.process.poll() is None and agent.end() < AT_ONCE


@pytest.mark.on_node
def test_a_join_between_two_passes_is_noticed(clusters: ClusterFactory, tmp_path: Path) -> None:
    """The agent of a node that was unenrolled and joined again continues with the new role id."""
    pool = 'pools:\n- {name: autoscaled, roles: [worker], node_names: "w-*"}\n'
    cluster = clusters.applied(short_and_long("80s", "kube-proxy") + pool)
    node = cluster.equip("w-1", pool="autoscaled", further="poll: 1h\n")
    join_file = tmp_path / "join.json"
    with resident(node) as agent:
        agent.await_issued()
        for words in (("unenroll",), ("enroll", "--pool", "autoscaled", "-o", join_file)):
            vaultpki(*words, "-f", cluster.file, "w-1", env=cluster.environment())
        vaultpki("join", "-c", node.config, join_file)
        # It asks for nothing until the first certificate is due.
        assert not agent.said("rejects this node's credential"), agent.log.read_text()
        agent.await_said("renewed kube-proxy", 90)
        assert agent.status(expect=0)["agent"]["state"] == "ok"
        assert agent.process.poll() is None and agent.end() < AT_ONCE
