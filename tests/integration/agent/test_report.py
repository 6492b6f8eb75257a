"""What an agent reports of itself, and what `nodes` makes of it."""

from __future__ import annotations

import json
from typing import Any

from helpers.node import resident_agent
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.servers import wait_for
from vaultpki import __version__
from vaultpki.records import report_paths


def report(cluster: AppliedCluster) -> dict[str, Any]:
    stored: dict[str, Any] = cluster.read(cluster.report_path("worker-1"))["data"]
    return stored


def row(cluster: AppliedCluster, *, expect: int) -> dict[str, Any]:
    ran = vaultpki("nodes", "-f", cluster.file, "--json", env=cluster.environment("viewer"), expect=expect)
    (found,) = json.loads(ran.stdout)["nodes"]
    return dict(found)


def reports_written(cluster: AppliedCluster, since: int) -> int:
    path = cluster.report_path("worker-1")
    return sum(written == path for _, written in cluster.server.writes(since))


def test_the_first_pass_reports_once_and_all(cluster: AppliedCluster) -> None:
    node, start = cluster.equip("worker-1"), cluster.server.audit_position()
    node.run()
    assert reports_written(cluster, start) == 1
    said, alone = report(cluster), json.loads(vaultpki("status", "-c", node.config, "--json").stdout)
    assert said["poll"] == 0 and said["trust"] == alone["trust"]["generation"] != ""
    assert said["hooks"] == {"owed": [], "failed": [], "waiting": []}
    for one in alone["certificates"]:
        reported = said["certificates"][one["name"]]
        assert {name: reported[name] for name in ("not_before", "not_after", "renew_after", "state")} == {
            name: one[name] for name in ("not_before", "not_after", "renew_after", "state")
        }
    # Both commands say the same of one node.
    there, here = row(cluster, expect=0), alone["summary"]
    same = ("node", "pool", "roles", "state", "reasons", "message", "first_expiry", "ca_generation", "hooks_owed")
    assert {name: there[name] for name in same} == {name: here[name] for name in same}
    assert (there["agent_version"], there["credentials"]) == (__version__, 1)
    assert abs(there["life_left"] - here["life_left"]) < 0.01


def test_how_hooks_ended_is_reported_after_them(cluster: AppliedCluster) -> None:
    node = cluster.equip("worker-1", further="hooks: {kubelet: [['false']]}\n")
    start = cluster.server.audit_position()
    node.run(expect=3)
    # Before the hook, which may end the process, and after it.
    assert reports_written(cluster, start) == 2
    assert report(cluster)["hooks"] == {"owed": ["kubelet"], "failed": ["kubelet"], "waiting": []}
    failing = row(cluster, expect=3)
    assert (failing["state"], failing["message"]) == ("failing", "hooks failed: kubelet")
    assert failing["hooks_owed"] == ["kubelet"]
    node.configure("'false'", "'true'")
    node.age()
    start = cluster.server.audit_position()
    node.run()
    assert reports_written(cluster, start) == 2
    assert report(cluster)["hooks"] == {"owed": [], "failed": [], "waiting": []}
    assert row(cluster, expect=0)["state"] == "ok"
    # Nothing changed, so once is enough.
    node.age()
    start = cluster.server.audit_position()
    node.run()
    assert reports_written(cluster, start) == 1


def test_an_agent_that_stays_says_how_often_it_reports(cluster: AppliedCluster) -> None:
    node: NodeFolder = resident_agent.polling_node(cluster)
    with resident_agent.resident(node) as agent:
        agent.await_issued()
        wait_for(lambda: bool(report_of_now(cluster)), 60, lambda: str(report_of_now(cluster)))
    assert report(cluster)["poll"] == 10
    assert row(cluster, expect=0)["state"] == "ok"


def report_of_now(cluster: AppliedCluster) -> dict[str, Any]:
    answer = cluster.server.api("GET", cluster.report_path("worker-1"))
    return dict(answer.data["data"]) if answer.status == 200 else {}


def test_where_the_policy_is_of_before_it_reports_where_that_release_reads(cluster: AppliedCluster) -> None:
    """An agent of this release under the policy that an applier of 0.1.0 wrote; it says so once."""
    policy = f"sys/policies/acl/{cluster.prefix}/node/worker-1"
    rules = json.loads(cluster.read(policy)["policy"])
    place = f"{cluster.prefix}/config/data/{report_paths.listed('worker-1')}"
    former = f"{cluster.prefix}/config/data/{report_paths.former('worker-1')}"
    before = {"path": {path: rule for path, rule in rules["path"].items() if path != place}}
    assert former in before["path"]
    assert cluster.server.api("PUT", policy, {"policy": json.dumps(before)}).status == 204
    node = cluster.equip("worker-1")
    assert "run `vaultpki apply`" in node.run().stderr
    node.age()
    assert "vaultpki apply" not in node.run().stderr
    assert cluster.server.api("GET", place).status == 404 and cluster.read(former)["data"]["agent"]
    found = row(cluster, expect=3)
    assert (found["state"], found["reasons"], found["report"]) == ("failing", ["old-agent"], None)
    assert cluster.server.api("PUT", policy, {"policy": json.dumps(rules)}).status == 204
    node.age()
    assert f"the report is written at {report_paths.listed('worker-1')} again" in node.run().stdout
    assert row(cluster, expect=0)["state"] == "ok"
