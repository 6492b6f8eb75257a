"""`plan` and `nodes` warn of the end of a CA in time, under a clock years ahead; leaves end with their CA."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from helpers.node.resident_agent import faketime_library
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import SPEC, AuditedCluster, Ran, changes, vaultpki
from vaultpki.provision import ca_ends

ISSUING = ("kubernetes", "kubelet", "etcd", "front-proxy")


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AuditedCluster:
    """One applied cluster; the last test leaves a rotation in it."""
    return shared_clusters.applied(SPEC)


def ahead(cluster: AuditedCluster, days: float, command: str, *options: str, expect: int = 0) -> Ran:
    """The command with a clock that many days ahead."""
    clock = {"LD_PRELOAD": faketime_library(), "FAKETIME": f"+{days}d"}
    env = {**cluster.environment(), **clock}
    return vaultpki(command, *options, "-f", cluster.file, env=env, expect=expect)


@pytest.mark.on_node
def test_a_mount_without_a_ca_keeps_no_other_from_being_listed(cluster: AuditedCluster) -> None:
    assert cluster.server.api("DELETE", f"{cluster.prefix}/etcd/issuer/etcd-1").status in (200, 204)
    ran = vaultpki("nodes", "-f", cluster.file, "--json", env=cluster.environment("viewer"), expect=3)
    found = json.loads(ran.stdout)
    assert {one["ca"] for one in found["cas"]} == {"root", "kubernetes", "kubelet", "front-proxy"}
    (problem,) = found["findings"]
    assert (problem["name"], problem["command"]) == ("ca-problem", f"vaultpki apply -f {cluster.file}")
    cluster.apply()


def test_a_cluster_of_before_gets_one_update_for_each_issuing_ca(cluster: AuditedCluster) -> None:
    """Release 0.1.0 made CAs that refuse a leaf which would end after them; its leaves ended half a TTL before."""
    for ca in ISSUING:
        path = f"{cluster.prefix}/{ca}/issuer/{ca}-1"
        about = cluster.read(path)
        fields = {name: about[name] for name in ("issuer_name", "usage")} | {"leaf_not_after_behavior": "err"}
        assert cluster.server.api("POST", path, fields).status == 200
    document, writes = cluster.applied()
    assert changes(document) == {
        ("issuer", f"{cluster.prefix}/{ca}"): ("update", {"leaf_not_after_behavior": ("err", "truncate")})
        for ca in ISSUING
    }
    # The record of what was applied is written only if it changes.
    assert len(writes) == len(ISSUING)
    cluster.settled()
    assert cluster.read(f"{cluster.prefix}/root/issuer/root-1")["leaf_not_after_behavior"] == "err"


@pytest.mark.on_node
def test_plan_and_nodes_warn_in_time(cluster: AuditedCluster) -> None:
    """Root 730, 365 and 182 days before its end, issuing CAs 180, 60 and 30: their lives are ten and five years."""
    viewer, now = cluster.client("viewer"), datetime.now(UTC)
    for left, level in ((181, "none"), (179, "notice"), (59, "warning"), (29, "critical"), (-1, "expired")):
        ends = ca_ends.read(cluster.model, viewer, now + timedelta(days=1825 - left))
        assert {end.ca: end.level.value for end in ends} == {"root": "none", **dict.fromkeys(ISSUING, level)}, left
    for words in (("plan", "--detailed-exitcode"), ("nodes",)):
        assert "? etcd CA: it expires on " in ahead(cluster, 1825 - 179, *words).stdout
    said = " ".join(ahead(cluster, 1825 - 59, "plan", "--detailed-exitcode", expect=3).stdout.split())
    assert said.count("! ") == 4 and said.endswith("Nothing to change.")
    for ca in ISSUING:
        assert f"! {ca} CA: it expires on " in said and f"run `vaultpki ca rotate {ca}`" in said
    ran = ahead(cluster, 3650 - 364, "ca", "status", expect=3)
    assert "! root CA: it expires on " in ran.stdout and "expires soon; see above" in ran.stderr
    lines = ahead(cluster, 3650 - 364, "nodes", expect=3).stdout.splitlines()
    assert [line.split(":")[0] for line in lines if line[:2] in ("! ", "? ")] == [
        f"! {ca} CA" for ca in ("root", *ISSUING)
    ]
    vaultpki("ca", "rotate", "etcd", "-f", cluster.file, env=cluster.environment())
    for command, expect in (("plan", 0), ("nodes", 3)):
        said = " ".join(ahead(cluster, 1825 - 59, command, expect=expect).stdout.split())
        assert "`vaultpki ca rotate etcd`" not in said and "continue its rotation with `vaultpki ca continue`" in said
