"""What a plan says of identities that end, and that an apply ends them: at once, all of them, whatever cuts it off."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from helpers.faults.kill_points import NEVER, begun, ended
from helpers.node import enrolled_nodes
from helpers.vault.applied_cluster import AppliedCluster
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import AuditedCluster, changes, vaultpki
from vaultpki.identity import enrol

SPEC = enrolled_nodes.SPEC
BATCH = '- {name: batch, roles: [worker], node_names: "batch-*"}\n'
WORKER_1 = "- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}\n"


@dataclass(frozen=True)
class Joined:
    """A pooled node with all that it holds: it has logged in, and has reported."""

    cluster: AuditedCluster
    name: str
    role_id: str
    secret_id: str
    token: str

    def lives(self) -> bool:
        return enrolled_nodes.works(self.cluster, self.token)

    def ended_wholly(self) -> None:
        api, p = self.cluster.server.api, self.cluster.prefix
        assert api("GET", f"auth/{p}/pooled/role/{self.name}").status == 404
        assert enrolled_nodes.entity(self.cluster, "pooled", self.role_id) is None
        assert not self.lives() and enrolled_nodes.login(self.cluster, "pooled", self.role_id, self.secret_id) is None
        assert api("GET", f"{p}/config/metadata/leaving/{self.name}").status == 404
        assert self.name not in reports_at(self.cluster, "reports/pooled"), "its report"


def reports_at(cluster: AppliedCluster, folder: str) -> set[str]:
    """The names of all reports below a folder of the store."""
    listed = cluster.server.api("LIST", f"{cluster.prefix}/config/metadata/{folder}")
    found = set[str]()
    for key in listed.data["keys"] if listed.status == 200 else ():
        found |= reports_at(cluster, f"{folder}/{key.rstrip('/')}") if key.endswith("/") else {key}
    return found


def join(cluster: AuditedCluster, name: str, pool: str) -> Joined:
    vault, model = cluster.client(), cluster.model
    who = enrol.holder(model, name, pool)
    file = enrol.enroll(model, vault, name, who, enrol.place(model, vault), wrap_ttl=300)
    secret_id = cluster.server.api("POST", "sys/wrapping/unwrap", token=file.wrap_token).data["secret_id"]
    token = enrolled_nodes.login(cluster, "pooled", file.role_id, secret_id)
    assert token is not None and enrolled_nodes.works(cluster, token)
    report = {"data": {"time": "now"}}
    assert cluster.server.api("POST", cluster.report_path(name), report, token=token).status == 200
    return Joined(cluster, name, file.role_id, secret_id, token)


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AuditedCluster:
    return clusters.applied(SPEC)


def shown(cluster: AuditedCluster, *options: str) -> str:
    """The plan as a person sees it, with its lines joined."""
    said = vaultpki("plan", "-f", cluster.file, *options, env=cluster.environment("viewer")).stdout
    assert max(map(len, said.splitlines())) <= 100
    return re.sub(r"\n +", " ", said)


def test_a_pool_that_goes_or_is_narrowed_takes_its_nodes_with_it_and_no_others(cluster: AuditedCluster) -> None:
    gone = [join(cluster, f"batch-{number:02}", "batch") for number in range(12)]
    narrowed, stays = join(cluster, "w-1", "autoscaled"), join(cluster, "w-a1", "autoscaled")
    # While the pools are the same, no AppRole of a pool is read, nor the report of a pooled node.
    start = cluster.server.audit_position()
    cluster.plan()
    asked = [path for _, path in cluster.server.requests(start)]
    roles = f"auth/{cluster.prefix}/pooled/role"
    assert any(path.rstrip("/") == roles for path in asked)
    assert not [path for path in asked if path.startswith((f"{roles}/w-", f"{roles}/b")) or "/reports/pooled" in path]
    cluster.server.api("POST", cluster.report_path("worker-1"), {"data": {"time": "now"}})
    cluster.write(SPEC.replace(BATCH, "").replace("w-*", "w-a*").replace(WORKER_1, ""))
    said = shown(cluster)
    names = ", ".join(f"batch-{number:02}" for number in range(10))
    assert "- pool batch (worker): its record, policy, role\n" in said
    assert "~ pool autoscaled: node_names w-* -> w-a*\n" in said
    assert f"- 13 identities of pooled nodes: {names} and 3 more (no pool has the name)\n" in said
    assert f"13 nodes lose their identity at once and can renew nothing: {names} and 3 more" in said
    assert "certificates that they have stay valid for at most 30d" in said
    assert "- node worker-1 (worker): its record, policy, AppRole\n" in said
    assert (
        "worker-1 loses its identity at once and can renew nothing; its certificates stay valid for at most 30d" in said
    )
    document = cluster.plan()
    ends = [name for kind, name in changes(document) if kind == "approle" and "/pooled/" in name]
    assert sorted(ends) == [f"{cluster.prefix}/pooled/{node.name}" for node in (*gone, narrowed)]
    impact = {each.get("node") or each["nodes"]: each["effect"] for each in document["impact"]}
    assert impact.items() >= {13: "loses-access", "worker-1": "loses-access"}.items()
    cluster.applied()
    for node in (*gone, narrowed):
        node.ended_wholly()
    assert stays.lives() and cluster.server.api("GET", cluster.report_path("w-a1")).status == 200
    cluster.settled()


def test_what_an_earlier_apply_orphaned_is_shown_and_ended(cluster: AuditedCluster) -> None:
    """As an apply left it that knew nothing of this: the pools are gone, their AppRoles and its memory are there."""
    by_name, by_policy = join(cluster, "batch-1", "batch"), join(cluster, "w-1", "autoscaled")
    server, p = cluster.server, cluster.prefix
    theirs = f"auth/{p}/pooled/role/theirs_1"
    assert server.api("POST", theirs, {"token_policies": "root-of-all"}).status == 204
    fits = f"auth/{p}/pooled/role/w-2"
    assert server.api("POST", fits, {"token_policies": "root-of-all"}).status == 204
    cluster.write(SPEC.replace(BATCH, "").replace("name: autoscaled", "name: spot"))
    for pool in ("batch", "autoscaled"):
        for path in (f"sys/policies/acl/{p}/pool/{pool}", f"{p}/config/metadata/pools/{pool}"):
            assert server.api("DELETE", path).status == 204
        assert server.api("DELETE", f"{p}/kubelet/roles/kubelet-{pool}").status == 204
    memory = {key: value for key, value in cluster.read(f"{p}/config/data/applied")["data"].items() if key != "pools"}
    memory["objects"] = "\n".join(
        line
        for line in memory["objects"].splitlines()
        if not line.endswith(
            ("pool/batch", "pool/autoscaled", "pools/batch", "pools/autoscaled", "-batch", "-autoscaled")
        )
    )
    assert server.api("POST", f"{p}/config/data/applied", {"data": memory}).status == 200
    said = shown(cluster)
    assert "- 2 identities of pooled nodes: batch-1, theirs_1 (no pool has the name)\n" in said
    assert f"- 1 identity of pooled nodes: w-1 (no such pool has its policy {p}/pool/autoscaled)\n" in said
    assert "- 1 identity of pooled nodes: w-2 (no such pool has its policy root-of-all)\n" in said
    cluster.applied()
    by_name.ended_wholly()
    by_policy.ended_wholly()
    assert server.api("GET", theirs).status == server.api("GET", fits).status == 404
    # A pool under another name is another pool, which its nodes may join.
    new = join(cluster, "w-1", "spot")
    cluster.settled()
    assert new.lives()


@pytest.mark.conformance
def test_a_removal_cut_off_anywhere_goes_on_when_repeated(clusters: ClusterFactory) -> None:
    """Each cut on a cluster of its own, all at once: a rerun looks twice with ten seconds between, like any."""

    def prepared() -> Joined:
        cluster = clusters.applied(SPEC)
        node = join(cluster, "batch-1", "batch")
        cluster.write(SPEC.replace(BATCH, ""))
        return node

    # Before every other request that writes.
    points = (*range(0, 44, 4), NEVER)
    nodes = [prepared() for _ in points]
    children = [begun(node.cluster.applied_here, at) for at, node in zip(points, nodes, strict=True)]
    cut = [ended(child) for child in children]
    # It was cut at least a few times on either side of the AppRole's end, and not at all once.
    gone = [clusters.server.api("GET", f"auth/{n.cluster.prefix}/pooled/role/batch-1").status == 404 for n in nodes]
    halves = [c and g and n.lives() for c, g, n in zip(cut, gone, nodes, strict=True)]
    assert not cut[-1] and any(halves) and any(c and not g for c, g in zip(cut, gone, strict=True))
    for node, half in zip(nodes, halves, strict=True):
        if half:
            said = shown(node.cluster)
            assert "batch-1 (locked, or a run that was interrupted has not ended all)" in said
            assert "Nothing to change" not in said
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda node: node.cluster.applied_here(), nodes))
    for node in nodes:
        node.ended_wholly()
        assert shown(node.cluster).endswith("\nNothing to change.\n")


@pytest.mark.on_node
def test_a_note_of_an_unenroll_that_was_cut_off_is_left_to_it(cluster: AuditedCluster) -> None:
    node = join(cluster, "w-1", "autoscaled")
    note = {"data": {"version": 1, "role_ids": [node.role_id]}}
    assert cluster.server.api("POST", f"{cluster.prefix}/config/data/leaving/w-1", note).status == 200
    assert cluster.applied()[1] == [] and node.lives()
    # Cut off after the AppRole's end, there is nothing but the note to find its tokens by.
    assert cluster.server.api("DELETE", f"auth/{cluster.prefix}/pooled/role/w-1").status == 204
    assert "w-1 (locked, or a run that was interrupted has not ended all)" in shown(cluster)
    cluster.applied()
    node.ended_wholly()
    assert cluster.plan()["changes"] == []
