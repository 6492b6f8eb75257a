"""What an agent reports of itself, and what `nodes` makes of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers.node import enrolled_nodes, resident_agent
from helpers.node.passes import passed_well, row, status
from helpers.vault.applied_cluster import AppliedCluster
from helpers.vault.servers import wait_for
from vaultpki import __version__
from vaultpki.findings.nodes import of_member
from vaultpki.identity.nodes import members
from vaultpki.identity.revoked_list import Revoked
from vaultpki.node.secret_id import SecretIdFiles


@pytest.fixture
def cluster(shared: AppliedCluster) -> AppliedCluster:
    """The shared one, without what nodes of earlier tests had and said."""
    role = f"auth/{shared.prefix}/listed/role/worker-1"
    for accessor in enrolled_nodes.accessors(shared, "worker-1", "listed"):
        body = {"secret_id_accessor": accessor}
        assert shared.server.api("POST", f"{role}/secret-id-accessor/destroy", body).status == 204
    shared.server.api("DELETE", shared.report_path("worker-1", data="metadata"))
    return shared


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "worker-1"


def report(cluster: AppliedCluster) -> dict[str, Any]:
    stored: dict[str, Any] = cluster.read(cluster.report_path("worker-1"))["data"]
    return stored


def reports_written(cluster: AppliedCluster, since: int) -> int:
    path = cluster.report_path("worker-1")
    return sum(written == path for _, written in cluster.server.writes(since))


def test_the_first_pass_reports_once_and_all(cluster: AppliedCluster, folder: Path) -> None:
    node, start = cluster.equip("worker-1", folder=folder), cluster.server.audit_position()
    node.run()
    assert reports_written(cluster, start) == 1
    said, alone = report(cluster), status(node)
    assert said["poll"] == 0 and said["trust"] == alone["trust"]["generation"] != ""
    assert said["hooks"] == {"owed": [], "failed": [], "waiting": []}
    for one in alone["certificates"]:
        reported = said["certificates"][one["name"]]
        assert {name: reported[name] for name in ("not_before", "not_after", "renew_after", "state")} == {
            name: one[name] for name in ("not_before", "not_after", "renew_after", "state")
        }
    # Both commands say the same of one node.
    there, here = row(cluster, "worker-1", expect=0), alone["summary"]
    same = ("node", "pool", "roles", "state", "reasons", "message", "first_expiry", "ca_generation", "hooks_owed")
    assert {name: there[name] for name in same} == {name: here[name] for name in same}
    assert (there["agent_version"], there["credentials"]) == (__version__, 1)
    assert abs(there["life_left"] - here["life_left"]) < 0.01


def test_a_second_credential_that_the_node_does_not_know(cluster: AppliedCluster, folder: Path) -> None:
    """Whoever has one of a node can mint another, which then lives beside the node's own."""
    node = cluster.equip("worker-1", folder=folder)
    passed_well(node)
    files, kept = SecretIdFiles(str(node.state)), enrolled_nodes.accessors(cluster, "worker-1", "listed")
    files.note_minted(str(files.current()), time.time() - 25 * 86400, 60 * 86400)
    passed_well(node)
    # The one before, of which it does not know the accessor, is destroyed some minutes later.
    passed_well(node, clock=time.time() + 400)
    (own,) = report(cluster)["credentials_in_use"]
    assert enrolled_nodes.accessors(cluster, "worker-1", "listed") == [own] != kept
    role_id = str(cluster.server.api("GET", f"auth/{cluster.prefix}/listed/role/worker-1/role-id").data["role_id"])
    token = enrolled_nodes.login(cluster, "listed", role_id, str(files.current()))
    enrolled_nodes.minted(cluster, "listed", "worker-1", str(token))
    passed_well(node)

    def found(minutes: int) -> list[str]:
        (member,) = (each for each in members(cluster.model, cluster.client("viewer")) if each.name == "worker-1")
        judged = of_member(member, {}, datetime.now(UTC) + timedelta(minutes=minutes), Revoked())
        return [each.name for each in judged.findings]

    assert (found(0), found(11)) == ([], ["many-credentials"])


@pytest.mark.on_node
def test_how_hooks_ended_is_reported_after_them(cluster: AppliedCluster, folder: Path) -> None:
    node = cluster.equip("worker-1", folder=folder, further="hooks: {kubelet: [['false']]}\n")
    start = cluster.server.audit_position()
    node.run(expect=3)
    # Before the hook, which may end the process, and after it.
    assert reports_written(cluster, start) == 2
    assert report(cluster)["hooks"] == {"owed": ["kubelet"], "failed": ["kubelet"], "waiting": []}
    failing = row(cluster, "worker-1", expect=3)
    assert (failing["state"], failing["message"]) == ("failing", "hooks failed: kubelet")
    assert failing["hooks_owed"] == ["kubelet"]
    node.configure("'false'", "'true'")
    node.age()
    start = cluster.server.audit_position()
    node.run()
    assert reports_written(cluster, start) == 2
    assert report(cluster)["hooks"] == {"owed": [], "failed": [], "waiting": []}
    assert row(cluster, "worker-1", expect=0)["state"] == "ok"
    # Nothing changed, so once is enough.
    node.age()
    start = cluster.server.audit_position()
    node.run()
    assert reports_written(cluster, start) == 1


@pytest.mark.on_node
def test_an_agent_that_stays_says_how_often_it_reports(cluster: AppliedCluster, folder: Path) -> None:
    node = cluster.equip("worker-1", folder=folder, further="poll: 10s\n")
    with resident_agent.resident(node) as agent:
        agent.await_issued()
        wait_for(lambda: bool(report_of_now(cluster)), 60, lambda: str(report_of_now(cluster)))
    assert report(cluster)["poll"] == 10
    assert row(cluster, "worker-1", expect=0)["state"] == "ok"


def report_of_now(cluster: AppliedCluster) -> dict[str, Any]:
    answer = cluster.server.api("GET", cluster.report_path("worker-1"))
    return dict(answer.data["data"]) if answer.status == 200 else {}
