"""What holders of small rights make of reports: an enroller, a node of a pool, a lying control plane, a locked node."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers.node import enrolled_nodes
from helpers.node.reporting_nodes import Reporter, record_of, shown
from helpers.vault.applied_cluster import AppliedCluster, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.rotations import SPEC, Rotation, rotation_of
from vaultpki.certificates import resolve, rows
from vaultpki.errors import SpecError, StateConflict
from vaultpki.identity import ending, enrol, nodes
from vaultpki.identity.access import pooled_approle
from vaultpki.pki import x509
from vaultpki.records import node_report, report_paths
from vaultpki.records.node_report import CertificateReport, NodeReport, Seen
from vaultpki.records.rotation import Method, State

POOL = "autoscaled"


def made_by_an_enroller(cluster: AppliedCluster, name: str, *, keep: bool) -> str:
    """A token of an AppRole of any name on the mount of pools, made with the enroller's printed policy alone.

    Unless it is to be kept, its secret id is destroyed after the login, so that no list shows a credential.
    """
    token, api = cluster.token("enroller"), cluster.server.api
    role = f"auth/{cluster.prefix}/pooled/role/{name}"
    pool = next(pool for pool in cluster.model.pools if pool.name == POOL)
    assert api("POST", role, pooled_approle(cluster.model, pool), token=token).status == 204
    role_id = api("GET", f"{role}/role-id", token=token).data["role_id"]
    wrapping = enrolled_nodes.wrapped(cluster, f"{role}/secret-id", token=token)
    secret_id = api("POST", "sys/wrapping/unwrap", token=wrapping).data["secret_id"]
    own = enrolled_nodes.login(cluster, "pooled", role_id, secret_id)
    assert own is not None
    if not keep:
        assert api("POST", f"{role}/secret-id/destroy", {"secret_id": secret_id}, token=own).status == 204
    return own


def as_if_done(rotation: Rotation, name: str) -> dict[str, Any]:
    """The report of a node that has done all that the rotation waits for."""
    held = frozenset(facts.fingerprint for facts in shown(rotation.cluster, rotation.domain).values())
    revision = rotation.record.revision
    liar = Reporter(rotation.cluster, name, rotation.domain, trust=held, started=held, highest=revision)
    return node_report.to_json(liar.report(rotation.now, revision))


def written(cluster: AppliedCluster, name: str, report: dict[str, Any], token: str) -> set[str]:
    """The places at which this token writes the report, of all that there are."""
    places = [report_paths.former(name), report_paths.listed(name), report_paths.pooled(POOL, name)]
    places += [report_paths.by_token(POOL, name)]
    store = f"{cluster.prefix}/config/data"
    statuses = {
        place: cluster.server.api("POST", f"{store}/{place}", {"data": report}, token=token).status for place in places
    }
    assert set(statuses.values()) <= {200, 403}
    return {place for place, status in statuses.items() if status == 200}


def test_an_approle_called_as_a_listed_node_opens_no_gate(clusters: ClusterFactory) -> None:
    """Two members of etcd that trust the new CA on disk and have restarted nothing; their reports are forged."""
    rotation = rotation_of(clusters)
    rotation.begin()
    assert rotation.advance().moved and rotation.record.state is State.PUBLISHED
    for node in rotation.nodes:
        node.passed(rotation.now, restarts=False)
    for name in ("cp-1", "etcd-2"):
        token = made_by_an_enroller(rotation.cluster, name, keep=False)
        assert written(rotation.cluster, name, as_if_done(rotation, name), token) == {report_paths.pooled(POOL, name)}
    rotation.later()
    step = rotation.advance()
    assert not step.moved and step.gate is not None and rotation.record.state is State.PUBLISHED
    assert {each.node for each in step.gate.waiting} == {"cp-1", "etcd-2"}
    assert all("restart" in each.reason for each in step.gate.waiting)
    said = vaultpki("nodes", "-f", rotation.cluster.file, env=rotation.cluster.environment("viewer"), expect=3).stdout
    assert said.count("fits no pool, and counts nowhere; `vaultpki apply` ends it") == 2
    plan = vaultpki("plan", "-f", rotation.cluster.file, env=rotation.cluster.environment("viewer")).stdout
    assert "2 nodes lose their identity at once" in " ".join(plan.split()) and "fit no pool" in plan
    assert "now listed" not in plan
    # The true nodes open it.
    assert rotation.moved() is State.SWITCHED


def test_names_that_fit_no_pool_block_nothing_and_are_named(clusters: ClusterFactory) -> None:
    rotation = rotation_of(clusters)
    cluster, names = rotation.cluster, ("cp-1", "kubernetes", "admin")
    report = as_if_ahead(rotation)
    for name in names:
        written(cluster, name, report, made_by_an_enroller(cluster, name, keep=True))
    found = nodes.read_nodes(cluster.model, rotation.vault)
    assert [(each.name, each.kind) for each in found.members] == [("cp-1", "listed"), ("etcd-2", "listed")]
    assert sorted((each.name, each.credentials) for each in found.unfit) == [(name, 1) for name in sorted(names)]
    shown_ = {line.sentence.partition("; ")[2] for line in found.unfit}
    assert shown_ == {f"{command} ends it" for command in ("`vaultpki apply`", *ends("kubernetes"), *ends("admin"))}
    assert rotation.begin().state is State.PREPARED
    rotation.abort()
    # Nor an emergency.
    assert rotation.begin(Method.EMERGENCY).state is State.RETIRED
    # One is ended by the command that is named, the rest by apply; the listed node stays.
    vaultpki("unenroll", "-f", cluster.file, "kubernetes", env=cluster.environment())
    left = nodes.read_nodes(cluster.model, rotation.vault).unfit
    assert [each.name for each in left] == ["admin", "cp-1"]
    cluster.apply()
    assert nodes.read_nodes(cluster.model, rotation.vault).unfit == ()
    assert cluster.server.api("GET", cluster.report_path("cp-1")).status == 200


def ends(name: str) -> tuple[str, ...]:
    return (f"`vaultpki unenroll {name}`",)


def as_if_ahead(rotation: Rotation) -> dict[str, Any]:
    """A report that names revisions which no record has."""
    report = Reporter(rotation.cluster, "cp-1", rotation.domain, highest=50).report(rotation.now, 50)
    return node_report.to_json(report)


@pytest.mark.on_node
def test_a_pool_that_cluster_yaml_lacks_still_stops_a_rotation(clusters: ClusterFactory) -> None:
    """Its nodes live and would be left behind; a name that fits none of the applied pools is none of them."""
    rotation = rotation_of(clusters)
    cluster = rotation.cluster
    made_by_an_enroller(cluster, "kubernetes", keep=True)
    made_by_an_enroller(cluster, "w-1", keep=True)
    cluster.write(SPEC.replace(f'pools:\n- {{name: {POOL}, roles: [worker], node_names: "w-*"}}\n', ""))
    for method in (Method.NEW_KEY, Method.SAME_KEY):
        with pytest.raises(SpecError, match=r"nodes: w-1 can log in and is not in"):
            rotation.begin(method)
    assert record_of(cluster, rotation.domain) is None
    cluster.write(SPEC)
    assert rotation.begin().state is State.PREPARED


@pytest.mark.on_node
def test_no_report_hides_an_operators_certificate_from_the_gate(clusters: ClusterFactory, tmp_path: Path) -> None:
    rotation = rotation_of(clusters, "kubernetes")
    cluster = rotation.cluster
    cluster.issue("admin", tmp_path / "operator")
    admin = next(resolve(row, cluster.model, None) for row in rows(cluster.model) if row.name == "admin")
    rotation.begin()
    rotation.reach_on(State.SWITCHED)
    mount = f"{cluster.prefix}/kubernetes"
    serials = cluster.server.api("LIST", f"{mount}/certs").data["keys"]
    (serial,) = (each for each in serials if issued_to(cluster, f"{mount}/cert/{each}") == admin.subject.common_name)
    # Both say that it is theirs, a listed node and one of the pool, each in a row of its own.
    liar = rotation.nodes[0]
    liar.further = {}
    rotation.reported()
    report = liar.report(rotation.now, rotation.record.revision)
    name, own = next(iter(report.certificates.items()))
    liar.further = {"certificates": {**report.certificates, name: replace(own, serial=serial.replace(":", ""))}}
    rotation.reported()
    since = cluster.server.audit_position()
    for looks in range(2):
        step = rotation.advance()
        assert not step.moved and step.gate is not None, looks
        assert [each.node for each in step.gate.waiting] == ["admin"]
    # A certificate is read once by a command that looks again and again.
    read = [path for _, path in cluster.server.requests(since) if "/cert/" in path]
    assert len(read) == len(set(read)) + 1 and read.count(f"{mount}/cert/{serial}") == 2


def issued_to(cluster: AppliedCluster, path: str) -> str:
    return x509.read_certificates(cluster.read(path)["certificate"].encode())[0].subject.common_name


@pytest.mark.on_node
def test_what_a_locked_node_says_counts_nowhere(clusters: ClusterFactory) -> None:
    rotation = rotation_of(clusters, "kubernetes")
    cluster, cp = rotation.cluster, rotation.nodes[0]
    token = made_by_an_enroller(cluster, "w-1", keep=True)
    leaf = CertificateReport("kubernetes", "ok", rotation.now + timedelta(days=9), "1f")
    ahead = NodeReport(rotation.now, "0.2.0", {"kubernetes": Seen(50, 50)}, {"kubelet-client": leaf})
    assert written(cluster, "w-1", node_report.to_json(ahead), token) == {report_paths.pooled(POOL, "w-1")}
    # It claims a revision that nobody wrote, which keeps rotations from beginning until it is locked.
    cp.highest = 40
    cp.write(cp.report(rotation.now, 40))
    for name in ("cp-1", "w-1"):
        enrol.lock(cluster.model, rotation.vault, name, wait=0)
    assert rotation.begin().state is State.PREPARED
    step = rotation.advance()
    assert step.moved and step.gate is not None
    assert {each.node: each.reason for each in step.gate.waiting}["cp-1"] == (
        "is locked, or its credential has expired. Enrol it and join it again: `vaultpki enroll cp-1`. Or go on "
        "without it: `--without cp-1`"
    )
    assert ("w-1", "is locked, or its credential has expired") in {(x.node, x.reason) for x in step.gate.excused}
    rotation.nodes[1].passed(rotation.now)
    rotation.later(361)
    assert rotation.advance(without=("cp-1",)).record.state is State.SWITCHED
    lines = json.loads(
        vaultpki("nodes", "-f", cluster.file, "--json", env=cluster.environment("viewer"), expect=3).stdout
    )["nodes"]
    assert {line["node"] for line in lines if "locked" in line["reasons"]} == {"cp-1", "w-1"}


@pytest.mark.on_node
def test_a_forged_record_of_a_lock_excuses_nobody(clusters: ClusterFactory) -> None:
    """Gates ask the server who can log in, and never read the record; views show that there is a live credential."""
    rotation = rotation_of(clusters, "kubernetes")
    cluster, api = rotation.cluster, rotation.cluster.server.api
    rotation.begin()
    assert rotation.advance().moved
    before = rotation.advance().gate
    assert before is not None and {each.node for each in before.waiting} == {"cp-1", "etcd-2"}
    for node in ("cp-1", "etcd-2"):
        path = f"{cluster.prefix}/config/data/locked/{node}"
        assert api("POST", path, {"data": {"by": "nobody"}}, token=cluster.token("locker")).status == 200
    mark = cluster.server.audit_position()
    rotation.later()
    after = rotation.advance().gate
    assert after is not None and (after.waiting, after.excused) == (before.waiting, before.excused)
    assert not [path for _, path in cluster.server.requests(mark) if "/locked" in path]
    env = cluster.environment("viewer")
    lines = json.loads(vaultpki("nodes", "-f", cluster.file, "--json", env=env, expect=3).stdout)["nodes"]
    assert {line["node"] for line in lines if "locked-and-live" in line["reasons"]} == {"cp-1", "etcd-2"}
    # Whoever sees that the credential is right ends the finding, and not the node's logins.
    said = vaultpki("unlock", "cp-1", "-f", cluster.file, env=cluster.environment()).stdout
    assert said == "cp-1 is unlocked: it keeps the credential that it has\n"
    assert set(ending.all_locks(cluster.model, rotation.vault)) == {"etcd-2"}
    assert len(enrolled_nodes.accessors(cluster, "cp-1", "listed")) == 1
    enrol.lock(cluster.model, rotation.vault, "etcd-2", wait=0)
    with pytest.raises(StateConflict, match="gets a new one by `vaultpki enroll"):
        enrol.unlock(cluster.model, rotation.vault, "etcd-2")
