"""Hooks of the resident agent: each runs once for each change, and none delays a certificate."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from helpers.node import resident_agent
from helpers.node.passes import passed_well
from helpers.node.resident_agent import AT_ONCE, PASS, POLL, Watcher, polling_node, resident, short_and_long
from helpers.vault.applied_cluster import NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server, wait_for
from vaultpki.node import state

pytestmark = pytest.mark.on_node


def test_a_pass_that_only_runs_a_hook_asks_vault_nothing(server: Server, clusters: ClusterFactory) -> None:
    """Nor does it delay the next pass that asks."""
    poll = 2 * POLL
    # Long enough for the pause for watchers, and over before the pass that follows would ask again.
    further = f"hooks: {{kubelet: [[sleep, '{0.6 * poll}']]}}\n"
    node = polling_node(clusters.applied(short_and_long("30s")), further=further)
    node.configure(f"poll: {POLL}s", f"poll: {poll}s")
    with resident_agent.proxy(server) as between:
        node.configure(server.address, between.address)

        def asked() -> list[float]:
            return [when for when, _, path in between.asked if path.endswith("/config/data/changes")]

        with resident(node) as agent:
            agent.await_said("ran the hooks of kubelet", 40)
            wait_for(lambda: len(asked()) >= 2, 2 * poll, agent.log.read_text)
            assert agent.end() < AT_ONCE
    assert asked()[1] - asked()[0] < 1.25 * poll, asked()


def test_a_hook_is_owed_over_a_kill_and_retried(clusters: ClusterFactory, tmp_path: Path) -> None:
    """Each runs once for each change that it has not worked for."""
    cluster = clusters.applied(short_and_long("30d"))
    log, proxy_pem = tmp_path / "hooks", cluster.folder / "nodes/worker-1/pki/kube-proxy.pem"
    # The second time it is run, it works.
    fails_once = f"echo kubelet >> {log}; test $(grep -c kubelet {log}) -ge 2"
    node = polling_node(
        cluster,
        further="hooks:\n"
        f"  kubelet: [[sh, -c, {json.dumps(fails_once)}]]\n"
        f"  kubernetes-ca: [[sh, -c, 'sleep 3; test -s {proxy_pem} && echo ca >> {log}']]\n",
    )
    with resident(node) as agent:
        agent.await_issued()
        # Killed while the first hook runs: it is still owed, by the file that came.
        wait_for(lambda: owed(node) != [], 10, lambda: "nothing owed")
        agent.process.kill()
        agent.process.wait()
    assert owed(node) == ["kubelet", "kubernetes-ca"]
    with resident(node) as agent:
        failed = agent.await_said("hook 1 of kubelet (sh) failed with exit code 1", 20)
        assert failed[0]["level"] == "warning"
        told = agent.status(expect=3)
        assert told["agent"]["hooks_owed"] == ["kubelet"], told["agent"]
        agent.await_said("ran the hooks of kubelet", 20)
        wait_for(lambda: owed(node) == [], 20, lambda: str(owed(node)))
        assert agent.end() < AT_ONCE
    ran = log.read_text().split()
    # What the kill cut off ran once more, and then never again.
    assert 1 <= ran.count("ca") <= 2 and ran[0] == "ca" and ran.count("kubelet") >= 2, ran


def test_a_hook_that_hangs_delays_no_certificate(clusters: ClusterFactory, tmp_path: Path) -> None:
    """It is written into agent.yaml while the agent runs, and ends with the agent."""
    pids_file = tmp_path / "pids"
    # A process group: the shell, and what it started.
    hangs = f"echo $$ >> {pids_file}; sleep 1000 & echo $! >> {pids_file}; wait"
    cluster = clusters.applied(resident_agent.SPEC)
    node = polling_node(cluster, further="hook_timeout: 1h\nhooks: {kubelet: [['true']]}\n")
    passed_well(node)
    with resident(node) as agent, Watcher(node).watching() as watched:
        agent.await_said("has started", 20)
        node.configure("[['true']]", f"[[sh, -c, {json.dumps(hangs)}]]")
        agent.process.send_signal(signal.SIGHUP)
        agent.await_said("was read again", 5)
        wait_for(pids_file.exists, 30, agent.log.read_text)
        renewed = {name: len(seen) for name, seen in watched.serials.items()}
        wait_for(
            lambda: all(len(watched.serials[name]) > count for name, count in renewed.items()), 30, agent.log.read_text
        )
        pids = [int(pid) for pid in pids_file.read_text().split()]
        assert len(pids) == 2 and all(map(alive, pids))
        # Noted at the end of the pass that began the hook, and still so in later ones.
        wait_for(lambda: owed(node) == ["kubelet"], 10, agent.log.read_text)
        took = agent.end()
        assert took < AT_ONCE, took
        # SIGKILL is sent by then; a busy kernel takes its time.
        wait_for(lambda: not any(map(alive, pids)), 5, lambda: f"one of {pids} lives on")


def owed(node: NodeFolder) -> list[str]:
    return sorted(state.load(str(node.state)).owed)


def alive(pid: int) -> bool:
    """Whether the process is there, and no zombie that waits for its parent."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_a_new_hook_that_failed_in_renew_stays_owed(clusters: ClusterFactory, tmp_path: Path) -> None:
    """Beside an agent that read agent.yaml before its line was there; until it has succeeded or the line is gone."""
    cluster = clusters.applied(short_and_long("30d"))
    node = polling_node(cluster)
    mended, text = tmp_path / "mended", node.config.read_text()
    with resident(node) as agent:
        agent.await_issued()
        node.config.write_text(f"{text}hooks: {{kubelet: [[test, -e, {mended}]]}}\n")
        vaultpki("renew", "-c", node.config, "kubelet", expect=3)
        # By itself, at the next pass.
        agent.await_said("was read again, because it has changed and a hook is owed", POLL + PASS)
        agent.await_said("hook 1 of kubelet (test) failed", PASS)
        assert owed(node) == ["kubelet"]
        mended.touch()
        agent.await_said("ran the hooks of kubelet", 60)
        wait_for(lambda: owed(node) == [], 20, agent.log.read_text)
        mended.unlink()
        vaultpki("renew", "-c", node.config, "kubelet", expect=3)
        # An agent.yaml that nobody can read says nothing about its lines.
        node.config.write_text(f"{text}hooks: {{kubelet: [[test, -e, {mended}]\n")
        agent.process.send_signal(signal.SIGHUP)
        agent.await_said("the hooks that are owed wait until it can be read", 20)
        assert owed(node) == ["kubelet"]
        node.config.write_text(text)
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: owed(node) == [], 20, agent.log.read_text)
        agent.end()
