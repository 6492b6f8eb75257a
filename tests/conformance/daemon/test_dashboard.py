"""The dashboard's queries before Prometheus itself: on a fleet in trouble, and on a real agent that it scrapes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers import dashboard
from helpers.node import resident_agent
from helpers.node.resident_agent import resident
from helpers.prometheus import answer, prometheus
from helpers.promtool import promtool
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server, free_ports, wait_for
from vaultpki.host.systemd import recipe

pytestmark = [pytest.mark.conformance, pytest.mark.on_node]

HOUR = 3600
# The fleet is looked at after two hours. A sample a minute; time begins at 0.
MINUTES = 120
THEN = MINUTES * 60


def on(node: str, /, **labels: str) -> str:
    found = {"job": "vaultpki", "instance": node, "cluster": "prod", "node": node, **labels}
    return ", ".join(f'{name}="{value}"' for name, value in found.items())


def certificate(node: str, name: str, not_after: int, granted: int, renew_after: int) -> dict[str, str]:
    its = on(node, name=name)
    return {
        f"vaultpki_certificate_not_after_timestamp_seconds{{{its}}}": f"{not_after}x{MINUTES}",
        f"vaultpki_certificate_ttl_granted_seconds{{{its}}}": f"{granted}x{MINUTES}",
        f"vaultpki_certificate_ttl_asked_seconds{{{its}}}": f"{granted}x{MINUTES}",
        f"vaultpki_certificate_renew_after_timestamp_seconds{{{its}}}": f"{renew_after}x{MINUTES}",
    }


def node(name: str, cluster: str = "prod", until: int = MINUTES) -> dict[str, str]:
    return {
        f"vaultpki_build_info{{{on(name, version='1', cluster=cluster)}}}": f"1x{until}",
        f"vaultpki_node_info{{{on(name, cluster=cluster)}}}": f"1x{until}",
        f"vaultpki_last_pass_timestamp_seconds{{{on(name, cluster=cluster)}}}": f"0+60x{until}",
    }


def ca(node: str, ca: str, not_after: int, notice: int, warning: int) -> dict[str, str]:
    levels = {"notice": notice, "warning": warning, "critical": not_after - 60}
    end = f"vaultpki_ca_not_after_timestamp_seconds{{{on(node, ca=ca)}}}"
    return {end: f"{not_after}x{MINUTES}"} | {
        f"vaultpki_ca_level_timestamp_seconds{{{on(node, ca=ca, level=level)}}}": f"{when}x{MINUTES}"
        for level, when in levels.items()
    }


FLEET = {
    **node("well"),
    **certificate("well", "kubelet", THEN + 20 * HOUR, 24 * HOUR, THEN + 8 * HOUR),
    f"vaultpki_agent_state{{{on('well', state='ok')}}}": f"1x{MINUTES}",
    f"vaultpki_certificate_state{{{on('well', name='kubelet', state='ok')}}}": f"1x{MINUTES}",
    f"vaultpki_vault_reachable{{{on('well')}}}": f"1x{MINUTES}",
    f"vaultpki_ca_rotation_behind{{{on('well', ca='etcd')}}}": f"0x{MINUTES}",
    **node("gone", until=60),
    **node("refused"),
    f"vaultpki_agent_state{{{on('refused', state='needs-join')}}}": f"1x{MINUTES}",
    **certificate("refused", "kubelet", THEN + HOUR, 10 * HOUR, THEN - 2 * HOUR),
    f"vaultpki_certificate_last_error_timestamp_seconds{{{on('refused', name='kubelet')}}}": f"{THEN - 60}x{MINUTES}",
    **node("broken"),
    f"vaultpki_certificate_state{{{on('broken', name='kube-proxy', state='missing')}}}": f"1x{MINUTES}",
    f"vaultpki_hook_owed{{{on('broken', hook='kubelet')}}}": f"1x{MINUTES}",
    f"vaultpki_hook_owed_since_timestamp_seconds{{{on('broken', hook='kubelet')}}}": f"{THEN - 1000}x{MINUTES}",
    f"vaultpki_hook_attempts{{{on('broken', hook='kubelet')}}}": f"7x{MINUTES}",
    # One that waits for its turn in a rotation.
    f"vaultpki_hook_owed_since_timestamp_seconds{{{on('well', hook='etcd-ca')}}}": f"{THEN - 1000}x{MINUTES}",
    f"vaultpki_hook_attempts{{{on('well', hook='etcd-ca')}}}": f"0x{MINUTES}",
    f"vaultpki_vault_reachable{{{on('broken')}}}": f"0x{MINUTES}",
    f"vaultpki_ca_rotation_behind{{{on('broken', ca='etcd')}}}": f"1x{MINUTES}",
    **ca("well", "etcd", THEN + 40 * HOUR, THEN - HOUR, THEN - 60),
    # Another node's longest certificates ask for the warning later.
    **ca("broken", "etcd", THEN + 40 * HOUR, THEN - HOUR, THEN + HOUR),
    **ca("well", "root", THEN + 900 * HOUR, THEN + HOUR, THEN + 2 * HOUR),
    **node("failing"),
    **certificate("failing", "kubelet", THEN + 59 * 60, 10 * HOUR, THEN + HOUR),
    f"vaultpki_finding{{{on('failing', finding='failed')}}}": f"1x{MINUTES}",
    # Which nobody has chosen.
    **node("stranger", "test"),
    f"vaultpki_agent_state{{{on('stranger', state='needs-join', cluster='test')}}}": f"1x{MINUTES}",
}
FLEET |= {f"vaultpki_last_pass_timestamp_seconds{{{on('well')}}}": f"{THEN - 2 * HOUR}x{MINUTES}"}

Expected = dict[str, float]


def reason(of: str, text: str, /, **labels: str) -> str:
    return f"{{{on(of, reason=text, **labels)}}}"


# By panel and query.
EXPECTED: dict[tuple[str, int], Expected] = {
    ("Nodes that need attention", 1): {
        '{cluster="prod", node="gone", reason="the agent does not answer"}': 60 * 60,
        "vaultpki_agent_state" + reason("refused", "Vault rejects its credential", state="needs-join"): 1,
        reason("refused", "a renewal is overdue", name="kubelet"): 2 * HOUR,
        "vaultpki_certificate_state"
        + reason("broken", "a certificate is missing", name="kube-proxy", state="missing"): 1,
        reason("broken", "a hook fails", hook="kubelet"): 1000,
        "vaultpki_finding" + reason("failing", "failed", finding="failed"): 1,
        "vaultpki_vault_reachable" + reason("broken", "Vault is unreachable"): 0,
        "vaultpki_ca_rotation_behind"
        + reason("broken", "the record of a rotation is older than before, or cannot be read", ca="etcd"): 1,
        reason("well", "the agent is stuck"): 2 * HOUR,
    },
    ("Nodes that need attention", 0): {"{}": 5},
    ("Nodes", 0): {"{}": 4},
    ("Agents that do not answer", 0): {"{}": 1},
    ("Renewals that fail", 0): {"{}": 1},
    ("Hooks owed", 0): {"{}": 1},
    ("First certificate expires in", 0): {"{}": 59 * 60},
    ("Least life left", 0): {"{}": 59 / 600},
    ("First CA expires in", 0): {"{}": 40 * HOUR},
    ("Certificates that expire first", 0): {
        f"{{{on('failing', name='kubelet')}}}": 59 * 60,
        f"{{{on('refused', name='kubelet')}}}": HOUR,
        f"{{{on('well', name='kubelet')}}}": 20 * HOUR,
    },
    ("Certificates that expire first", 1): {
        f"{{{on('failing', name='kubelet')}}}": 59 / 600,
        f"{{{on('refused', name='kubelet')}}}": 0.1,
        f"{{{on('well', name='kubelet')}}}": 20 / 24,
    },
    ("Certificates that expire first", 2): {
        f"{{{on('failing', name='kubelet')}}}": HOUR,
        f"{{{on('refused', name='kubelet')}}}": -2 * HOUR,
        f"{{{on('well', name='kubelet')}}}": 8 * HOUR,
    },
    ("CAs", 0): {'{cluster="prod", ca="etcd"}': 40 * HOUR, '{cluster="prod", ca="root"}': 900 * HOUR},
    ("CAs", 1): {'{cluster="prod", ca="etcd"}': 2, '{cluster="prod", ca="root"}': 0},
    ("Nodes that cannot reach Vault", 0): {"{}": 1},
    ("Hooks owed", 1): {
        f"{{{on('broken', hook='kubelet')}}}": 1000,
        f"{{{on('well', hook='etcd-ca')}}}": 1000,
    },
    ("Hooks owed", 2): {
        f"vaultpki_hook_attempts{{{on('broken', hook='kubelet')}}}": 7,
        f"vaultpki_hook_attempts{{{on('well', hook='etcd-ca')}}}": 0,
    },
}


def chosen(query: dashboard.Query, cluster: str) -> str:
    """The query for one cluster and all of its nodes."""
    return query.text.replace("$cluster", cluster).replace("$node", ".+")


def numbered() -> dict[tuple[str, int], dashboard.Query]:
    """Every query by its panel; two panels may have one title, then their queries are counted on."""
    found: dict[tuple[str, int], dashboard.Query] = {}
    for query in dashboard.queries():
        found[query.panel, sum(panel == query.panel for panel, _ in found)] = query
    return found


# The alert of each reason for attention, in the order of the query; for findings the unit tests compare them.
ALERTS = (
    "AgentGone",
    "NeedsJoin",
    "CertificateMissing",
    "RenewalOverdue",
    "HookOwed",
    "VaultUnreachable",
    "AgentStuck",
    "RotationRecordBehind",
    "Tampered",
    "AgentFails",
)


def unalerted() -> Iterator[str]:
    """What is red on the dashboard and has no alert that fires."""
    found = {key: f"({chosen(query, 'prod')})" for key, query in numbered().items()}
    reasons = found["Nodes that need attention", 1][1:-1].split("\nor ")
    for reason_, alert in zip(reasons, ALERTS, strict=True):
        fires = f'ALERTS{{alertname="Vaultpki{alert}", alertstate="firing"}}'
        yield f"({reason_}) unless on (cluster, node) {fires}"
    expires = 'ALERTS{alertname=~"VaultpkiCertificateExpire.+", alertstate="firing"}'
    yield f"{found['Certificates that expire first', 0]} < 3600 unless on (cluster, node, name) {expires}"
    yield f"{found['Certificates that expire first', 1]} < 0.1667 unless on (cluster, node, name) {expires}"
    # A level that has begun a minute ago does not fire yet.
    ends = 'ALERTS{alertname=~"VaultpkiCaExpire.+"}'
    yield f"{found['CAs', 0]} < 2592000 unless on (cluster, ca) {ends}"
    yield f"{found['CAs', 1]} >= 3 unless on (cluster, ca) {ends}"


def test_prometheus_takes_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": chosen(query, "prod")}
        for number, query in enumerate([*dashboard.queries(), *dashboard.variables().values()])
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", file)


def test_a_fleet_in_trouble_is_shown_as_it_is(tmp_path: Path) -> None:
    queries = numbered()
    asked = [
        {
            "expr": chosen(queries[key], "prod"),
            "eval_time": f"{MINUTES}m",
            "exp_samples": [{"labels": labels, "value": value} for labels, value in expected.items()],
        }
        for key, expected in EXPECTED.items()
    ]
    # Of a cluster that is well nothing needs attention.
    asked.append({"expr": chosen(queries["Nodes that need attention", 1], "other"), "eval_time": f"{MINUTES}m"})
    inputs = [{"series": name, "values": values} for name, values in FLEET.items()]
    asked += [{"expr": query, "eval_time": f"{MINUTES}m"} for query in unalerted()]
    tests = [{"interval": "1m", "input_series": inputs, "promql_expr_test": asked}]
    file, rules = tmp_path / "test.yaml", tmp_path / "alerts.yaml"
    rules.write_text(recipe("alerts.yaml"))
    file.write_text(yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", file)


# Where an agent that is well but for a hook and a refused certificate has nothing to show.
EMPTY = {"Shorter than cluster.yaml asks for", "Rotation records that are behind", "Components that are behind"}


def test_every_panel_shows_a_real_agent(clusters: ClusterFactory, server: Server, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    cluster = clusters.applied(resident_agent.SPEC.replace("defaults: {ttl: 30s}\n", ""))
    hooks = 'hooks: {kubelet: [["false"]]}\n'
    node = cluster.equip("worker-1", further=f"poll: 10s\nmetrics: 127.0.0.1:{port}\n{hooks}")

    def refuse(method: str, path: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return (400, {"errors": ["not today"]}) if "/sign/kube-proxy" in path else (status, body)

    (tmp_path / "prometheus").mkdir()
    job = {"job_name": "vaultpki", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    with (
        resident_agent.proxy(server, refuse) as between,
        prometheus(tmp_path / "prometheus", job) as at,
    ):
        node.configure(server.address, between.address)
        with resident(node) as agent:
            queries = dashboard.queries()

            def empty() -> set[str]:
                with contextlib.suppress(AssertionError):
                    return {query.panel for query in queries if not answer(at, chosen(query, cluster.name))}
                return {"no answer"}

            wait_for(lambda: empty() == EMPTY, 90, lambda: f"{empty()}\n{agent.log.read_text()}", 1)
            found = {query.panel: answer(at, chosen(query, cluster.name)) for query in queries}
            named = found["Nodes that need attention"]
            reasons = {one["metric"]["reason"]: one["metric"] for one in named}
            assert reasons.keys() == {"a certificate is missing", "failed"} and len(named) == 2, named
            assert reasons["a certificate is missing"]["name"] == "kube-proxy"
            assert {one["node"] for one in reasons.values()} == {"worker-1"}
            legends = {name for query in queries for name in re.findall(r"\{\{(\w+)\}\}", query.legend)}
            assert legends <= {name for samples in found.values() for one in samples for name in one["metric"]}
