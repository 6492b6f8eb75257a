"""What the agent that stays shows to probes and to Prometheus, through what may happen to it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from helpers import dashboard
from helpers.node import resident_agent
from helpers.node.passes import passed_well
from helpers.node.resident_agent import AT_ONCE, PASS, WORKER, faked, figure, get, resident, short_and_long
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server, free_ports, wait_for
from vaultpki.daemon import metrics, own_findings

pytestmark = pytest.mark.on_node


@pytest.fixture
def port() -> int:
    (port,) = free_ports(1)
    return port


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(short_and_long("30s"))


@pytest.fixture
def node(cluster: AppliedCluster, port: int, tmp_path: Path) -> NodeFolder:
    # Not so soon that it asks by itself while a test looks.
    further = f"poll: 10m\nmetrics: 127.0.0.1:{port}\n"
    return cluster.equip("worker-1", folder=tmp_path / "worker-1", further=further)


def test_a_pass_that_is_broken_off_is_told_and_a_vault_that_is_away_is_not(
    server: Server, node: NodeFolder, port: int, tmp_path: Path
) -> None:
    aside, empty = tmp_path / "aside", tmp_path / "empty"
    empty.mkdir()
    with resident(node) as agent:
        wait_for(lambda: get(port, "healthz") == (200, "ok\n"), 30, agent.log.read_text)
        node.pki.rename(aside)
        node.pki.symlink_to(empty)
        time.sleep(metrics.PAUSE)
        assert get(port, "healthz")[1].startswith(f"the files cannot be read: {node.pki}"), get(port, "healthz")
        agent.process.send_signal(signal.SIGHUP)
        said = f"the last pass was cut short: {node.pki}"
        wait_for(lambda: get(port, "healthz")[1].startswith(said), PASS, agent.log.read_text)
        assert get(port, "healthz")[0] == 503
        assert get(port, "livez") == (200, "ok\n")
        figures = get(port, "metrics")[1]
        assert figures.count('state="unknown"} 1.0') == 3 and 'state="ok"' not in figures, figures
        node.pki.unlink()
        aside.rename(node.pki)
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: get(port, "healthz") == (200, "ok\n"), PASS, agent.log.read_text)
        assert get(port, "metrics")[1].count('state="ok"} 1.0') == 4
        # Without a copy of what it holds it cannot go on, and what lies there is as good as before.
        (node.state / "spec.json").unlink()
        node.configure(server.address, f"https://127.0.0.1:{free_ports(1)[0]}")
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: figure(port, "vault_reachable") == 0, 20 + PASS, agent.log.read_text)
        assert get(port, "healthz") == (200, "ok\n")
        assert agent.end() < AT_ONCE


def test_healthz_looks_when_it_is_asked(node: NodeFolder, port: int, tmp_path: Path) -> None:
    """The agent looks every ten minutes; what happens meanwhile is told all the same, and so is that it is over."""

    def healthz() -> tuple[int, str]:
        time.sleep(metrics.PAUSE)
        return get(port, "healthz")

    key, aside = node.pki / "kubelet.key", tmp_path / "aside"
    other = (node.pki / ".vaultpki/kubelet-client").resolve
    with resident(node) as agent:
        wait_for(lambda: get(port, "healthz") == (200, "ok\n"), 30, agent.log.read_text)
        passed = figure(port, "last_pass_timestamp_seconds")
        lying = key.resolve()
        lying.rename(aside)
        assert healthz() == (503, "kubelet: missing\n")
        assert figure(port, "certificate_state", name="kubelet", state="missing") == 1
        shutil.copy(other() / "kubelet-client.key", lying)
        assert healthz() == (503, "kubelet: broken\n")
        lying.unlink()
        os.mkfifo(lying)
        assert healthz() == (503, "kubelet: missing\n")
        lying.unlink()
        aside.rename(lying)
        assert healthz() == (200, "ok\n")
        # Nothing of it was the agent's own look.
        assert figure(port, "last_pass_timestamp_seconds") == passed
        # A host that agent.yaml lists is answered from then on.
        assert get(port, "livez", host="node-1.example.com")[0] == 421
        node.configure(
            f"metrics: 127.0.0.1:{port}", f"metrics: {{address: 127.0.0.1:{port}, hosts: [node-1.example.com]}}"
        )
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: get(port, "livez", host="node-1.example.com")[0] == 200, PASS, agent.log.read_text)
        assert get(port, "metrics", host="node-2.example.com")[0] == 421
        assert agent.end() < AT_ONCE


def test_the_poll_interval_in_force_says_when_an_agent_is_stuck(node: NodeFolder, port: int, tmp_path: Path) -> None:
    env, set_clock = faked(tmp_path)
    set_clock("+0s")
    with resident(node, env=env) as agent:
        wait_for(lambda: get(port, "healthz") == (200, "ok\n"), 30, agent.log.read_text)
        node.configure("poll: 10m", "poll: 1h")
        before = figure(port, "last_pass_timestamp_seconds")
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: figure(port, "last_pass_timestamp_seconds") != before, PASS, agent.log.read_text)
        # Twice 10 minutes and 10 more were the measure before.
        set_clock("+40m")
        assert get(port, "livez") == get(port, "healthz") == (200, "ok\n")
        assert agent.end() < AT_ONCE


def test_what_vault_was_asked_to_sign_is_counted_whatever_it_answered(
    server: Server, node: NodeFolder, port: int
) -> None:
    def refuse(method: str, path: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return (400, {"errors": ["not today"]}) if "/sign/" in path else (status, body)

    def counted() -> bool:
        asked = between.count("/sign/")
        return asked >= 6 and figure(port, "signs_total") == asked

    def renewals() -> set[float | None]:
        return {figure(port, "renewals_total", name=name) for name in WORKER}

    with resident_agent.proxy(server, refuse) as between:
        node.configure(server.address, between.address)
        with resident(node) as agent:
            wait_for(counted, 40, agent.log.read_text)
            assert renewals() == {0}
            between.alter = resident_agent.honest
            agent.process.send_signal(signal.SIGHUP)
            wait_for(lambda: renewals() == {1}, PASS, agent.log.read_text)
            assert counted()
            assert agent.end() < AT_ONCE


def test_whether_vault_is_there_is_shown_once_it_was_asked(node: NodeFolder, port: int) -> None:
    passed_well(node)
    with resident(node) as agent:
        wait_for(lambda: get(port, "healthz") == (200, "ok\n"), 30, agent.log.read_text)
        assert figure(port, "vault_reachable") is None and figure(port, "outage_left_seconds"), get(port, "metrics")[1]
        # With no copy of what it holds the pass ends where Vault turns down the login.
        (node.state / "spec.json").unlink()
        (node.state / "secret-id").write_text("another")
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: figure(port, "vault_reachable") == 1.0, PASS, agent.log.read_text)
        assert agent.said("rejects this node's credential"), agent.log.read_text()
        assert agent.end() < AT_ONCE


def test_the_dashboard_asks_for_what_an_agent_shows(server: Server, node: NodeFolder, port: int) -> None:
    """One certificate is refused, and one hook fails: all that there is to show is shown."""

    def refuse(method: str, path: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return (400, {"errors": ["not today"]}) if "/sign/kube-proxy" in path else (status, body)

    with resident_agent.proxy(server, refuse) as between:
        node.configure(server.address, between.address)
        node.configure("poll: 10m\n", 'poll: 10m\nhooks: {kubelet: [["false"]]}\n')
        with resident(node) as agent:
            wait_for(lambda: figure(port, "finding", finding="hook-failed") == 1, 30, agent.log.read_text)
            text = get(port, "metrics")[1]
            held = resident_agent.leaves(node, ("kubelet", "kubelet-client"))
            x509 = get(port, "metrics/x509")[1]
            assert agent.end() < AT_ONCE
    # No component runs beside this agent that could be behind.
    exported = {**dashboard.exported(text), "vaultpki_reader_behind": {"cluster", "node", "ca", "component"}}
    known = exported | dashboard.recorded(exported)
    for query in (*dashboard.queries(), *dashboard.variables().values()):
        dashboard.check(query, known)
    shown = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    findings = {each.labels["finding"]: each.value for each in shown if each.name == "vaultpki_finding"}
    assert findings.keys() == {kind.name for kind in own_findings.OWN}
    assert {name for name, value in findings.items() if value} == {"missing", "failed", "hook-failed"}, text
    found = {
        sample.labels["filepath"]: (sample.labels, sample.value)
        for family in text_string_to_metric_families(x509)
        for sample in family.samples
        if sample.name == "x509_cert_not_after"
    }
    assert found.keys() == {f"{node.pki}/{stem}.crt" for stem in held}
    for stem, leaf in held.items():
        labels, value = found[f"{node.pki}/{stem}.crt"]
        assert value == leaf.not_after.timestamp() and labels["serial_number"] == str(leaf.serial)
        assert labels["subject_CN"] == leaf.subject.common_name and labels["subject_O"] == "system:nodes"
        assert f"CN={labels['issuer_CN']}" == leaf.issuer_text and labels["filename"] == f"{stem}.crt"
