"""What an agent reports of itself, and what `nodes` makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.node import resident_agent
from helpers.vault.applied_cluster import Seat, Site, standing, vaultpki
from helpers.vault.servers import Server, wait_for
from vaultpki import __version__
from vaultpki.spec import report_place


@pytest.fixture
def site(server: Server, tmp_path: Path, cluster_name: str) -> Site:
    return standing(server, tmp_path / "site", cluster_name)


def report(site: Site) -> dict[str, Any]:
    stored: dict[str, Any] = site.read(site.report_path("worker-1"))["data"]
    return stored


def row(site: Site, *, expect: int) -> dict[str, Any]:
    ran = vaultpki("nodes", "-f", site.file, "--json", env=site.environment("viewer"), expect=expect)
    (found,) = json.loads(ran.stdout)["nodes"]
    return dict(found)


def reports_written(site: Site, since: int) -> int:
    path = site.report_path("worker-1")
    return sum(written == path for _, written in site.server.writes(since))


def test_the_first_pass_reports_once_and_all(site: Site) -> None:
    seat, start = site.equip("worker-1"), site.server.audit_position()
    seat.run()
    assert reports_written(site, start) == 1
    said, alone = report(site), json.loads(vaultpki("status", "-c", seat.config, "--json").stdout)
    assert said["poll"] == 0 and said["trust"] == alone["trust"]["generation"] != ""
    assert said["hooks"] == {"owed": [], "failed": [], "waiting": []}
    for one in alone["certificates"]:
        reported = said["certificates"][one["name"]]
        assert {name: reported[name] for name in ("not_before", "not_after", "renew_after", "state")} == {
            name: one[name] for name in ("not_before", "not_after", "renew_after", "state")
        }
    # Both commands say the same of one node.
    there, here = row(site, expect=0), alone["summary"]
    same = ("node", "pool", "roles", "state", "reasons", "message", "first_expiry", "ca_generation", "hooks_owed")
    assert {name: there[name] for name in same} == {name: here[name] for name in same}
    assert (there["agent_version"], there["credentials"]) == (__version__, 1)
    assert abs(there["life_left"] - here["life_left"]) < 0.01


def test_how_hooks_ended_is_reported_after_them(site: Site) -> None:
    seat = site.equip("worker-1", further="hooks: {kubelet: [['false']]}\n")
    start = site.server.audit_position()
    seat.run(expect=3)
    # Before the hook, which may end the process, and after it.
    assert reports_written(site, start) == 2
    assert report(site)["hooks"] == {"owed": ["kubelet"], "failed": ["kubelet"], "waiting": []}
    failing = row(site, expect=3)
    assert (failing["state"], failing["message"]) == ("failing", "hooks failed: kubelet")
    assert failing["hooks_owed"] == ["kubelet"]
    seat.configure("'false'", "'true'")
    seat.age()
    start = site.server.audit_position()
    seat.run()
    assert reports_written(site, start) == 2
    assert report(site)["hooks"] == {"owed": [], "failed": [], "waiting": []}
    assert row(site, expect=0)["state"] == "ok"
    # Nothing changed, so once is enough.
    seat.age()
    start = site.server.audit_position()
    seat.run()
    assert reports_written(site, start) == 1


def test_an_agent_that_stays_says_how_often_it_reports(site: Site) -> None:
    seat: Seat = resident_agent.polling_node(site)
    with resident_agent.resident(seat) as agent:
        agent.await_issued()
        wait_for(lambda: bool(report_of_now(site)), 60, lambda: str(report_of_now(site)))
    assert report(site)["poll"] == 10
    assert row(site, expect=0)["state"] == "ok"


def report_of_now(site: Site) -> dict[str, Any]:
    answer = site.server.api("GET", site.report_path("worker-1"))
    return dict(answer.data["data"]) if answer.status == 200 else {}


def test_where_the_policy_is_of_before_it_reports_where_that_release_reads(site: Site) -> None:
    """An agent of this release under the policy that an applier of 0.1.0 wrote; it says so once."""
    policy = f"sys/policies/acl/{site.prefix}/node/worker-1"
    rules = json.loads(site.read(policy)["policy"])
    place = f"{site.prefix}/config/data/{report_place.listed('worker-1')}"
    former = f"{site.prefix}/config/data/{report_place.former('worker-1')}"
    before = {"path": {path: rule for path, rule in rules["path"].items() if path != place}}
    assert former in before["path"]
    assert site.server.api("PUT", policy, {"policy": json.dumps(before)}).status == 204
    seat = site.equip("worker-1")
    assert "run `vaultpki apply`" in seat.run().stderr
    seat.age()
    assert "vaultpki apply" not in seat.run().stderr
    assert site.server.api("GET", place).status == 404 and site.read(former)["data"]["agent"]
    found = row(site, expect=3)
    assert (found["state"], found["reasons"], found["report"]) == ("failing", ["old-agent"], None)
    assert site.server.api("PUT", policy, {"policy": json.dumps(rules)}).status == 204
    seat.age()
    assert f"the report is written at {report_place.listed('worker-1')} again" in seat.run().stdout
    assert row(site, expect=0)["state"] == "ok"
