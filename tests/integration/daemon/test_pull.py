"""Who asks Vault at once, and who only when something is due: `--once`, `--if-due` and SIGHUP; and `status`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from helpers.node.passes import passed_well
from helpers.node.resident_agent import leaf, resident, short_and_long
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import wait_for
from vaultpki.node import backoff, state

# When an agent asks, by its own clock and signals.
pytestmark = pytest.mark.on_node

FURTHER = "certificates:\n  kubelet: {{extra_names: [{name}]}}\n"
QUIET = "poll: 24h\n"


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    """Each test applies further names of its own."""
    return shared_clusters.applied(short_and_long("30d"))


@pytest.fixture
def node(cluster: AppliedCluster, tmp_path: Path) -> NodeFolder:
    return cluster.equip("worker-1", folder=tmp_path / "worker-1", further=QUIET)


def apply(cluster: AppliedCluster, name: str) -> None:
    cluster.write(short_and_long("30d") + FURTHER.format(name=name))
    cluster.apply()


def dns(node: NodeFolder) -> tuple[str, ...]:
    return leaf(node, "kubelet").subject.dns


def test_once_asks_and_if_due_does_not(cluster: AppliedCluster, node: NodeFolder) -> None:
    passed_well(node)
    apply(cluster, "once.example.com")
    since, before = cluster.server.audit_position(), node.snapshot()
    assert node.run().stdout.startswith("nothing to do until ")
    assert cluster.server.requests(since) == [] and node.snapshot() == before
    assert "renewed kubelet" in vaultpki("agent", "-c", node.config, "--once").stdout
    assert "once.example.com" in dns(node)
    said = vaultpki("agent", "-c", node.config, "--if-due", expect=2).stderr
    assert "--if-due is for --once" in said


def test_status_says_when_vault_was_asked(cluster: AppliedCluster, node: NodeFolder) -> None:
    command = ("status", "-c", node.config, "--offline")
    found = json.loads(vaultpki(*command, "--json", expect=3).stdout)["vault"]
    assert found == {"reachable": None, "error": None, "asked": None, "answered": None}
    passed_well(node)
    found = json.loads(vaultpki(*command, "--json").stdout)["vault"]
    assert found["asked"] == found["answered"] is not None
    assert f"the agent last asked Vault at {found['asked']}" in vaultpki(*command).stdout.splitlines()
    node.configure(cluster.server.address, "https://127.0.0.1:9")
    time.sleep(1.1)
    vaultpki("agent", "-c", node.config, "--once", expect=1)
    later = json.loads(vaultpki(*command, "--json", expect=3).stdout)["vault"]
    assert later["answered"] == found["answered"] < later["asked"]
    assert f"and last had an answer at {found['answered']}" in vaultpki(*command, expect=3).stdout


def test_once_and_sighup_make_a_resident_agent_ask_at_once(cluster: AppliedCluster, node: NodeFolder) -> None:
    once = ("agent", "-c", node.config, "--once")
    with resident(node) as agent:
        agent.await_issued()
        apply(cluster, "a.example.com")
        assert "renewed kubelet" in vaultpki(*once).stdout
        # Who made it: the log is the agent's.
        assert "a.example.com" in dns(node) and agent.said("renewed kubelet")
        assert vaultpki(*once).stdout == "the agent asked Vault; nothing was to be done\n"
        apply(cluster, "b.example.com")
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "b.example.com" in dns(node), 30, agent.log.read_text)
        # A timer's pass is its own, and asks nobody.
        assert vaultpki(*once, "--if-due").stdout.startswith("nothing to do until ")
        # The hook runs in the background there, and is waited for.
        mended = node.folder / "mended"
        with node.config.open("a") as file:
            file.write(f"hooks: {{kubelet: [[sh, -c, 'sleep 0.5; test -e {mended}']]}}\n")
        apply(cluster, "c.example.com")
        ran = vaultpki(*once, expect=3)
        assert "renewed kubelet" in ran.stdout and "hook 1 of kubelet (sh) failed" in ran.stderr
        # Nobody who has mended a hook waits for the pause of the agent that stays.
        mended.touch()
        assert "ran the hooks of kubelet" in vaultpki(*once).stdout
        assert state.load(str(node.state)).owed == {}
        apply(cluster, "d.example.com")
        assert vaultpki(*once).stdout.splitlines()[-1] == "the hooks of kubelet are done"
        agent.end()
    apply(cluster, "e.example.com")
    assert "renewed kubelet" in vaultpki(*once).stdout


def test_the_former_name_still_works(cluster: AppliedCluster, node: NodeFolder) -> None:
    with resident(node) as agent:
        agent.await_issued()
        found = json.loads(vaultpki("pull", "-c", node.config, "--json").stdout)
        assert found == {"pid": agent.process.pid, "events": [], "failures": {}, "ok": True}
        # What is wrong with agent.yaml is told.
        node.configure(QUIET, "pole: 24h\n")
        assert "pole" in vaultpki("pull", "-c", node.config, expect=1).stderr
        node.configure("pole: 24h\n", QUIET)
        agent.end()
    said = vaultpki("pull", "-c", node.config, expect=1).stderr
    assert "no resident agent of" in said and "use `vaultpki agent --once`" in said


def test_a_loop_of_sighup_makes_few_looks(cluster: AppliedCluster, node: NodeFolder) -> None:
    """Such as of a hook that reloads the agent; agent.yaml is read again each time."""
    with resident(node) as agent:
        agent.await_issued()
        since = cluster.server.audit_position()
        for _ in range(60):
            agent.process.send_signal(signal.SIGHUP)
            time.sleep(0.1)
        logins = [path for _, path in cluster.server.requests(since) if path.endswith("/login")]
        assert 2 <= len(logins) <= backoff.PULLS_AT_ONCE + 1, len(logins)
        assert len(agent.said("was read again")) > 2 * backoff.PULLS_AT_ONCE
        agent.end()


def test_no_other_process_is_signalled(node: NodeFolder) -> None:
    """Neither one that has the agent's number by now, nor one that a note names with a start of its own."""
    with resident(node) as agent:
        agent.await_issued()
        agent.process.kill()
        agent.process.wait()
    note = node.state / "resident.json"
    with subprocess.Popen(["sleep", "60"]) as other:
        value = json.loads(note.read_text())
        for pid in (other.pid, os.getpid(), 1, 2**22):
            note.write_text(json.dumps({**value, "pid": pid}))
            assert re.search("no resident agent of", vaultpki("pull", "-c", node.config, expect=1).stderr)
        for garbage in ("", "{", "[]", '{"version": 1, "pid": true, "started": -1}'):
            note.write_text(garbage)
            assert "no resident agent of" in vaultpki("pull", "-c", node.config, expect=1).stderr
        assert other.poll() is None
        other.kill()
