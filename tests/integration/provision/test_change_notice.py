"""The record that agents poll: what commands write it, in which order, and who mends it after one that was killed."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.faults.kill_points import died
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import SPEC, AuditedCluster

pytestmark = pytest.mark.on_node

OTHER = SPEC.replace("names: [api.example.com]", "names: [api.example.com, k8s.example.com]")


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AuditedCluster:
    """One cluster for these tests, each of which leaves it settled."""
    return shared_clusters.applied(SPEC)


@pytest.fixture
def before(cluster: AuditedCluster) -> int:
    """The version of the record when a test begins."""
    return read(cluster)[1]


def path(cluster: AuditedCluster) -> str:
    return f"{cluster.prefix}/config/data/changes"


def read(cluster: AuditedCluster) -> tuple[str, int]:
    """What the record says, and its version."""
    found = cluster.read(path(cluster))
    return found["data"]["state"], found["metadata"]["version"]


def interrupt(cluster: AuditedCluster) -> None:
    """The record as a command leaves it that is killed."""
    value = cluster.read(path(cluster))["data"]
    assert cluster.server.api("POST", path(cluster), {"data": {**value, "state": "changing"}}).status == 200


def planned(cluster: AuditedCluster) -> list[dict[str, Any]]:
    """The only change of a plan, that of the record."""
    (change,) = cluster.plan()["changes"]
    assert (change["kind"], change["name"]) == ("config", path(cluster).replace("/data/", "/"))
    fields: dict[str, Any] = change["fields"]
    return [fields]


def written(cluster: AuditedCluster, since: int) -> list[str]:
    return [where for _, where in cluster.server.writes(since) if where != "sys/capabilities-self"]


def test_the_first_apply_writes_it_last_and_the_second_not_at_all(clusters: ClusterFactory) -> None:
    cluster = clusters.written(SPEC)
    document, writes = cluster.applied()
    assert [where for _, where in writes].index(path(cluster)) == len(writes) - 1
    assert read(cluster) == ("settled", 1)
    assert path(cluster).replace("/data/", "/") not in [change["name"] for change in document["changes"]]
    assert cluster.applied()[1] == [] and cluster.plan()["unmanaged"] == []
    cluster.destroy()
    assert cluster.server.api("GET", path(cluster)).status == 404


def test_an_apply_tells_agents_before_and_after(cluster: AuditedCluster, before: int) -> None:
    cluster.write(OTHER)
    since = cluster.server.audit_position()
    cluster.apply()
    writes = written(cluster, since)
    at = [place for place, where in enumerate(writes) if where == path(cluster)]
    followed = [place for place, where in enumerate(writes) if "/config/data/" in where and place not in at]
    assert len(at) == 2 and followed and at[0] < min(followed) and at[1] == len(writes) - 1
    assert read(cluster) == ("settled", before + 2)
    # What nodes do not follow tells nobody.
    policy = f"sys/policies/acl/{cluster.prefix}/viewer"
    assert cluster.server.api("POST", policy, {"policy": "{}"}).status == 204
    cluster.apply()
    assert read(cluster) == ("settled", before + 2)


def test_a_plan_shows_what_is_wrong_with_it_and_an_apply_mends_it(cluster: AuditedCluster, before: int) -> None:
    interrupt(cluster)
    assert planned(cluster) == [{"state": {"from": "changing", "to": "settled"}}]
    text = vaultpki("plan", "-f", cluster.file, env=cluster.environment("viewer")).stdout
    assert "~ config " in text and "a command was interrupted" in text and "Plan: 0 to create, 1 to update" in text
    assert "Done: 1 changes, " in cluster.apply().stdout
    # Somebody has changed what nodes follow, and told nobody.
    pool = f"{cluster.prefix}/config/data/pools/autoscaled"
    as_applied = cluster.read(pool)["data"]
    assert cluster.server.api("POST", pool, {"data": {**as_applied, "more": "by hand"}}).status == 200
    assert [change["name"] for change in cluster.plan()["changes"]] == [pool.replace("/data/", "/")]
    assert cluster.server.api("POST", pool, {"data": as_applied}).status == 200
    assert cluster.plan()["changes"] == [] and read(cluster) == ("settled", before + 2)
    assert cluster.server.api("DELETE", f"{cluster.prefix}/etcd/issuer/default").status in (200, 204)
    cluster.apply()
    assert read(cluster) == ("settled", before + 4)
    assert cluster.server.api("DELETE", path(cluster).replace("data", "metadata")).status == 204
    assert planned(cluster)[0]["state"] == {"from": None, "to": "settled"}
    cluster.apply()
    cluster.settled()


def test_a_revocation_tells_agents(cluster: AuditedCluster) -> None:
    cluster.equip("worker-1").run()
    since = cluster.server.audit_position()
    vaultpki("revoke", "-f", cluster.file, "worker-1", "--yes", env=cluster.environment())
    writes = written(cluster, since)
    assert writes[0] == writes[-1] == path(cluster) and len(writes) > 3
    assert cluster.plan()["changes"] == []


def test_killed_at_each_write(cluster: AuditedCluster) -> None:
    record, versions = f"{cluster.prefix}/config/data/cluster", []

    # Before each of its writes, and after the last; the first is the question what the token may do.
    for at in range(0, 100, 2):
        text = SPEC.replace("{names:", f'{{endpoint: "https://api.example.com:{6443 + at}", names:')
        before, mark = cluster.read(record)["data"], read(cluster)
        cluster.write(text)
        dead = died(cluster.applied_here, at)
        changed = cluster.read(record)["data"] != before
        # Whoever has looked at the record as it was before looks again.
        assert not changed or read(cluster) != mark
        left = cluster.left_to_apply()
        assert left or read(cluster)[0] == "settled"
        cluster.applied_here()
        assert read(cluster)[0] == "settled"
        assert not cluster.left_to_apply()
        versions.append(read(cluster)[1])
        if not dead:
            break
    cluster.write(SPEC)
    cluster.apply()
    assert len(versions) >= 5 and versions == sorted(set(versions))
