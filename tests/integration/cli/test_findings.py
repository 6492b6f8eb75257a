"""Each finding of the catalogue is made once, on a real server or folder: every view shows it with its command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from helpers.node.reporting_nodes import all_pass
from helpers.node.resident_agent import faketime_library
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import AuditedCluster, vaultpki
from helpers.vault.rotations import Rotation, rotation_of
from vaultpki.findings.catalogue import KINDS
from vaultpki.records import node_report
from vaultpki.records.node_report import BundleReport, CertificateReport, NodeReport, ReaderReport, Seen
from vaultpki.records.rotation import State

# What is read of both servers is in agent/test_report.py.
pytestmark = pytest.mark.on_node

SPEC: Final = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
"""
DAY: Final = timedelta(days=1)
NOW: Final = datetime.now(UTC)


def certificate(days: float = 20, state: str = "ok") -> CertificateReport:
    end = NOW + days * DAY
    return CertificateReport("kubelet", state, end, "1f", not_before=end - 30 * DAY, renew_after=end - 12 * DAY)


def report(**further: Any) -> NodeReport:
    # With a look each hour nobody is silent while the views are made, however slow the machine is.
    since = NOW - timedelta(seconds=30)
    made = NodeReport(since, "0.3.0", certificates={"kubelet": certificate()}, poll=300, look=3600)
    return replace(made, **further)


def with_one(one: CertificateReport) -> NodeReport:
    return report(certificates={"kubelet": one})


# What a node reports that has the finding, by the finding.
REPORTED: Final[dict[str, NodeReport]] = {
    "expired": with_one(certificate(-1)),
    "missing": with_one(CertificateReport("kubelet", "missing")),
    "broken": with_one(certificate(state="broken")),
    "revoked": with_one(certificate(state="revoked")),
    "overdue": with_one(certificate(3, "due")),
    "empty": report(certificates={}),
    "silent": report(time=NOW - 3 * DAY),
    "failed": report(failures=("kubelet",)),
    "hook-failed": report(owed=("kubelet",), failed=("kubelet",)),
    "hook-owed": report(owed=("kubelet",)),
    "reader-behind": report(
        bundles={"kubernetes": BundleReport(frozenset({"a" * 64}), NOW)},
        readers={"kubernetes/kubelet": ReaderReport(NOW - DAY, frozenset({"b" * 64}), running=True, healthy=True)},
    ),
    "server-behind": report(seen={"kubernetes": Seen(0, 4)}),
    "surplus": report(surplus={"old.crt": certificate(20, "surplus")}),
    "agent-old": report(agent="0.2.0"),
}


def api(cluster: AuditedCluster, method: str, path: str, body: dict[str, Any] | None = None) -> None:
    answer = cluster.server.api(method, path, body) if body is not None else cluster.server.api(method, path)
    assert answer.status in (200, 204), (path, answer)


def approle(cluster: AuditedCluster, node: str, logins: int) -> None:
    role = f"auth/{cluster.prefix}/pooled/role/{node}"
    api(cluster, "POST", role, {"token_policies": ["default"]})
    for _ in range(logins):
        api(cluster, "POST", f"{role}/secret-id")


def fresh(stored: NodeReport) -> dict[str, Any]:
    """The report as if this file were read now: other tests may have run for hours since."""
    return node_report.to_json(replace(stored, time=stored.time + (datetime.now(UTC) - NOW)))


def writes(cluster: AuditedCluster, node: str, stored: dict[str, Any]) -> None:
    api(cluster, "POST", cluster.report_path(node), {"data": stored})


def many_credentials(cluster: AuditedCluster) -> None:
    # A node that has gone on for two hours with two.
    approle(cluster, "w-many-credentials", 2)
    writes(cluster, "w-many-credentials", fresh(report(time=NOW + timedelta(hours=2))))


def no_credential(cluster: AuditedCluster) -> None:
    approle(cluster, "w-no-credential", 0)
    writes(cluster, "w-no-credential", fresh(report()))


def locked_and_live(cluster: AuditedCluster) -> None:
    approle(cluster, "w-locked-and-live", 1)
    writes(cluster, "w-locked-and-live", fresh(report()))
    api(cluster, "POST", f"{cluster.prefix}/config/data/locked/w-locked-and-live", {"data": {"by": "somebody"}})


def report_unreadable(cluster: AuditedCluster) -> None:
    approle(cluster, "w-report-unreadable", 1)
    writes(cluster, "w-report-unreadable", {"time": "never"})


def join_file_unused(cluster: AuditedCluster) -> None:
    for node in ("w-join-file-unused", "w-not-joined-again"):
        file = cluster.file.parent / f"{node}.json"
        enroll = ("enroll", "-f", cluster.file, node, "--pool", "autoscaled", "-o", file)
        vaultpki(*enroll, env=cluster.environment())
    writes(cluster, "w-not-joined-again", fresh(report()))


MADE: Final[dict[str, Callable[[AuditedCluster], None]]] = {
    "many-credentials": many_credentials,
    "no-credential": no_credential,
    "locked-and-live": locked_and_live,
    "report-unreadable": report_unreadable,
    "join-file-unused": join_file_unused,
    "not-joined-again": lambda cluster: None,
    "never-reported": lambda cluster: approle(cluster, "w-never-reported", 1),
    # The listed nodes have no login.
    "not-enrolled": lambda cluster: None,
    "fits-no-pool": lambda cluster: approle(cluster, "x-fits-no-pool", 1),
    "ca-problem": lambda cluster: api(cluster, "DELETE", f"{cluster.prefix}/etcd/issuer/etcd-1"),
    # The clock of the views is ahead.
    "ca-expires": lambda cluster: None,
}
ON_THE_NODE: Final = ("vault-away", "bundle")
ROTATIONS: Final = ("rotation-waits", "rotation-blocked", "rotation-ready")
# What needs more than a report: a login that is refused, an issuer of tokens, a backup, a copied folder.
ELSEWHERE: Final = {
    "needs-join": "daemon/test_identities.py",
    "locked": "agent/test_jwt_applied.py",
    "record-not-followed": "agent/test_rotation_records.py",
    "no-live-credential": "show/test_report_of_fleet.py",
    "not-read": "identity/test_lock.py",
    "files-alone": "agent/test_node_folders.py",
    "foreign-ca": "agent/test_foreign_cas.py",
    "ca-left-over": "ca/test_left_over.py",
    "key-not-admitted": "agent/test_token_keys_running.py",
    "token-keys": "agent/test_tampered_token_keys.py",
    "move-waiting": "move/test_move.py",
    "adoption-waits": "agent/test_taken_over.py",
    "adoption-blocked": "agent/test_taken_over.py",
    "adoption-lost": "agent/test_taken_over.py",
    **dict.fromkeys(
        ("signer-silent", "signer-refuses", "signer-stranger", "serving-unapproved", "token-open", "joined"),
        "signer/test_signer_seen.py",
    ),
    "signer-flood": "signer/test_signer_metrics.py",
    "signer-ends": "signer/test_signer_metrics.py",
}


def test_the_catalogue_has_a_case_for_each_finding() -> None:
    assert sorted([*REPORTED, *MADE, *ROTATIONS, *ON_THE_NODE, *ELSEWHERE]) == sorted(KINDS)
    for name, place in ELSEWHERE.items():
        text = (Path(__file__).parent.parent / place).read_text()
        assert f'"{name}"' in text or f'finding="{name}"' in text, f"{place} has no case of {name}"


def findings_in(metrics: str) -> set[tuple[str, str, str]]:
    """The node, the name and the severity of each finding in a file of metrics; no node for one of the cluster."""
    return {
        (sample.labels.get("node", ""), sample.labels["finding"], sample.labels["severity"])
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if "finding" in sample.labels and sample.value
    }


class Views:
    """What `nodes`, the report and the picture say of a cluster."""

    def __init__(self, cluster: AuditedCluster, further: dict[str, str]) -> None:
        env = {**cluster.environment("viewer"), **further}
        ran = vaultpki("nodes", "-f", cluster.file, "--json", env=env, expect={0, 3})
        self.document = json.loads(ran.stdout)
        self.code = 0 if self.document["ok"] else 3
        page = cluster.file.parent / "page.html"
        drawn = vaultpki("graph", "-f", cluster.file, "--from-vault", env=env, expect=self.code)
        told = vaultpki("report", "-f", cluster.file, "--from-vault", "-o", page, env=env, expect=self.code)
        self.page, self.drawn, self.told = unescape(page.read_text()), drawn.stderr, told.stderr
        assert ("Nothing needs attention" in self.page) is self.document["ok"]
        measured = vaultpki("nodes", "-f", cluster.file, "--metrics", "-", env=env).stdout
        assert findings_in(measured) == {(node, one["name"], one["severity"]) for node, one in self.found}
        assert (f'vaultpki_fleet_ok{{cluster="{cluster.name}"}} 1.0' in measured) is self.document["ok"]

    def show(self, command: str) -> bool:
        """Whether each shows the command. A sentence that names it need not name the file too."""
        short = command.partition(" -f ")[0]
        return f"<code>{short}" in self.page and short in self.told and short in self.drawn

    @property
    def found(self) -> list[tuple[str, dict[str, Any]]]:
        nodes = [(each["node"], one) for each in self.document["nodes"] for one in each["findings"]]
        return [*nodes, *(("", one) for one in self.document["findings"])]


def test_every_view_shows_each_finding_with_its_command(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(SPEC)
    for name, stored in REPORTED.items():
        approle(cluster, f"w-{name}", 1)
        writes(cluster, f"w-{name}", fresh(stored))
    for make in MADE.values():
        make(cluster)
    views = Views(cluster, {"LD_PRELOAD": faketime_library(), "FAKETIME": f"+{1825 - 59}d"})
    assert views.code == 3
    by_name: dict[str, list[str]] = {}
    for node, one in views.found:
        by_name.setdefault(one["name"], []).append(node)
        kind = KINDS[one["name"]]
        assert one["command"] and one["run"] == kind.where, one
        assert one["severity"] == ("warning" if kind.name == "ca-expires" else kind.severity.value), one
        # Nodes that were never enrolled come together, with one command for any of them.
        if kind.severity.attention:
            assert views.show(one["command"]), one
    alone = {name: nodes for name, nodes in by_name.items() if nodes != [f"w-{name}"]}
    assert alone == {
        "not-enrolled": ["cp-1", "worker-1"],
        "fits-no-pool": ["x-fits-no-pool"],
        "ca-problem": [""],
        "ca-expires": ["", "", ""],
    }
    assert by_name.keys() == {*REPORTED, *MADE}


def of_rotation(rotation: Rotation) -> tuple[dict[str, Any], Views]:
    views = Views(rotation.cluster, {})
    (one,) = views.document["findings"]
    return one, views


def test_a_rotation_that_waits_for_a_person(clusters: ClusterFactory) -> None:
    """One that agents go on with by themselves needs nobody."""
    rotation = rotation_of(clusters)
    rotation.now -= timedelta(hours=1)
    rotation.reach(State.PUBLISHED)
    one, views = of_rotation(rotation)
    assert (one["name"], one["severity"], views.code) == ("rotation-waits", "info", 0)
    for node in rotation.nodes:
        node.unseen = True
        node.passed(rotation.now)
    one, views = of_rotation(rotation)
    assert (one["name"], one["severity"], views.code) == ("rotation-blocked", "warning", 3)
    assert one["command"] == f"vaultpki ca continue --restarted cp-1/etcd -f {rotation.cluster.file}"
    assert views.show(one["command"])
    for node in rotation.nodes:
        node.unseen = False
    all_pass(rotation.nodes, rotation.now)
    one, views = of_rotation(rotation)
    assert (one["name"], views.code) == ("rotation-ready", 3)
    assert one["command"] == f"vaultpki ca continue -f {rotation.cluster.file} --wait"


def test_a_real_node_says_the_same_in_status_report_and_picture(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(SPEC)
    node = cluster.equip("worker-1")
    node.run()
    folder = node.folder.parent

    def findings(expect: int, *options: str | Path) -> dict[str, str]:
        ran = vaultpki("status", "--json", *options, env={}, expect=expect)
        found = json.loads(ran.stdout)
        rows = found["nodes"] if "nodes" in found else [found["summary"]]
        return {one["name"]: one["command"] for row in rows for one in row["findings"]}

    def shown(expect: int) -> tuple[str, str]:
        page = folder.parent / "folder.html"
        told = vaultpki("report", "-f", cluster.file, "--dir", folder, "-o", page, expect=expect).stderr
        drawn = vaultpki("graph", "-f", cluster.file, "--dir", folder, expect=expect).stderr
        assert ("Nothing needs attention" in page.read_text()) == (expect == 0)
        assert set(drawn.splitlines()[:-1]) <= set(told.splitlines())
        return unescape(page.read_text()), drawn

    assert findings(0, "--dir", folder) == {}
    assert shown(0)[1] == ""
    # The agent.yaml beside it is that of a node, and says nothing of an operator's files.
    cluster.issue("admin", node.folder / "operator")
    assert vaultpki("graph", "-f", cluster.file, "--dir", node.folder / "operator").stderr == ""
    # A hook that failed beside whole pairs.
    hooked = cluster.equip("w-1", pool="autoscaled", further='hooks: {kubelet: [["false"]]}\n')
    hooked.run(expect=3)
    vaultpki("verify", "-f", cluster.file, "--dir", folder)
    assert findings(3, "--dir", folder).keys() == {"hook-failed"}
    page, drawn = shown(3)
    assert "hooks failed: kubelet: run `vaultpki agent --once` on w-1" in drawn
    assert "hooks failed: kubelet: run <code>vaultpki agent --once</code> on w-1" in page
    assert "Hooks that are owed: kubelet." in page and '<span class="state is-warning">failing</span>' in page
    shutil.rmtree(hooked.folder)
    bundle = (node.pki / "kubelet-ca.crt").resolve()
    whole, other = bundle.read_bytes(), (node.pki / "kubernetes-ca.crt").read_bytes()
    for damage in (bundle.unlink, lambda: bundle.write_bytes(whole + other), lambda: bundle.write_bytes(other)):
        damage()
        assert findings(3, "--dir", folder) == {"bundle": "vaultpki agent --once"}
        assert f"{node.pki}/kubelet-ca.crt: " in vaultpki("status", "-c", node.config, "--offline", expect=3).stdout
    # Whatever the damage is, all views take it from the same look.
    page, drawn = shown(3)
    assert "<code>vaultpki agent --once" in page and "kubelet-ca.crt: " in drawn
    # The pair below that CA is well, and `renew` would mend nothing.
    assert "vaultpki renew" not in page + drawn
    kubeconfig = node.pki / "kubelet.conf"
    kubeconfig.resolve().write_text("{}")
    assert findings(3, "--dir", folder)["broken"] == "vaultpki renew kubelet-client"
    # What the finding says to do helps.
    node.run()
    assert findings(0, "--dir", folder) == {} and (node.pki / "kubelet-ca.crt").read_bytes() == whole
    (node.pki / "kubelet.key").unlink()
    other = (node.pki / "kube-proxy.key").read_bytes()
    link = node.pki / "kubelet-client.key"
    link.resolve().write_bytes(other)
    found = findings(3, "--dir", folder)
    assert found == {"missing": "vaultpki renew kubelet", "broken": "vaultpki renew kubelet-client"}
    assert findings(3, "-c", node.config, "--offline") == found
    page, drawn = shown(3)
    assert all(f"<code>{command}" in page and command in drawn for command in found.values())
    node.configure(cluster.server.address, "http://127.0.0.1:9")
    assert findings(3, "-c", node.config) == found | {"vault-away": "vaultpki doctor"}
