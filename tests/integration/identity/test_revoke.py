"""`revoke` and `unenroll --revoke`: a node's certificates are on the CRLs of their CAs, and nobody else's."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from helpers.node import enrolled_nodes
from helpers.node.resident_agent import leaf
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.certificates import ISSUING_CAS, node_rows
from vaultpki.identity import enrol
from vaultpki.model import Node, Pool
from vaultpki.pki.facts import Facts
from vaultpki.records import node_report
from vaultpki.records.node_report import CertificateReport, NodeReport

SPEC = """\
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: cp-2, roles: [control-plane, etcd], addresses: [10.0.0.12]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
"""
SHARED = (
    *("kube-scheduler", "kube-controller-manager", "kube-apiserver-etcd", "kube-apiserver-kubelet"),
    *("front-proxy-client", "etcd-healthcheck-client"),
)
QUICK = 20
"""Seconds within which all of a node's certificates are on the CRLs, with the start of the command."""


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AppliedCluster:
    return clusters.applied(SPEC)


def held(cluster: AppliedCluster, node: NodeFolder, pool: str | None = None) -> dict[str, tuple[str, Facts]]:
    """CA and certificate of each pair on a node, by the names of the rows."""
    model = cluster.model
    holders: tuple[Node | Pool, ...] = (*model.nodes, *model.pools)
    named = next(each for each in holders if each.name == (pool or node.name))
    return {row.name: (row.ca, leaf(node, row.stem)) for row in node_rows(model, named)}


def report(cluster: AppliedCluster, node: str, told: Mapping[str, tuple[str, Facts]]) -> None:
    """Writes a report of these certificates in a node's name."""
    certificates = {
        name: CertificateReport(ca, "ok", facts.not_after, f"{facts.serial:x}") for name, (ca, facts) in told.items()
    }
    body = {"data": node_report.to_json(NodeReport(datetime.now(UTC), "test", certificates=certificates))}
    assert cluster.server.api("POST", cluster.report_path(node), body).status == 200


def on_crls(cluster: AppliedCluster) -> dict[str, set[int]]:
    """The serial numbers on the CRL of each CA."""
    found = {}
    for ca in ISSUING_CAS:
        text = cluster.read(f"{cluster.prefix}/{ca}/issuer/default/crl")["crl"]
        found[ca] = {entry.serial_number for entry in x509.load_pem_x509_crl(text.encode())}
    return found


def of(told: Mapping[str, tuple[str, Facts]]) -> dict[str, set[int]]:
    serials: dict[str, set[int]] = {ca: set() for ca in ISSUING_CAS}
    for ca, facts in told.values():
        serials[ca].add(facts.serial)
    return serials


def run(cluster: AppliedCluster, *words: str, token: str | None = None, expect: int = 0) -> Ran:
    return vaultpki(
        words[0],
        "-f",
        cluster.file,
        *words[1:],
        env=cluster.server.environment(token or cluster.token()),
        expect=expect,
    )


def test_all_of_a_nodes_certificates_and_no_others(cluster: AppliedCluster, tmp_path: Path) -> None:
    nodes = {name: cluster.equip(name) for name in ("cp-1", "cp-2")}
    for node in nodes.values():
        node.run()
    first = held(cluster, nodes["cp-1"])
    vaultpki("renew", "-c", nodes["cp-1"].config, "kube-apiserver", "kube-scheduler")
    now, others = held(cluster, nodes["cp-1"]), held(cluster, nodes["cp-2"])
    report(cluster, "cp-1", now)
    report(cluster, "cp-2", others)
    assert run(cluster, "revoke", "cp-1", expect=1).stderr.startswith("vaultpki: revoke cannot be undone")
    assert not any(on_crls(cluster).values())

    began = time.monotonic()
    ran = run(cluster, "revoke", "cp-1", "--yes", "--json", expect=3)
    document = json.loads(ran.stdout)
    assert "in doubt" in ran.stderr
    assert f"certificates of etcd to revoke: {len(of(now)['etcd'])}; then its CRL is written" in ran.stderr
    assert time.monotonic() - began < QUICK
    wanted = of(now)
    # Its earlier serving certificate has its name. The scheduler's has not: it may be cp-2's.
    wanted["kubernetes"].add(first["kube-apiserver"][1].serial)
    assert on_crls(cluster) == wanted
    assert sum(map(len, wanted.values())) == len(document["revoked"]) == 10
    # cp-2's own of these names are said, and who reports them.
    alone = {one["name"]: one for one in document["left_alone"]}
    assert {name: one["count"] for name, one in alone.items()} == dict.fromkeys(SHARED, 1) | {"kube-scheduler": 2}
    assert all(one["reported_by"] == ["cp-2"] for one in alone.values())
    left = alone["kube-scheduler"]

    # An independent reader refuses it, and takes that of the other node.
    chain = (nodes["cp-1"].pki / "etcd-ca-chain.crt").read_text()
    crls = tmp_path / "crls.pem"
    crls.write_text(chain + cluster.read(f"{cluster.prefix}/etcd/issuer/default/crl")["crl"])
    for name, expected in (("cp-1", "certificate revoked"), ("cp-2", ": OK")):
        command = ["openssl", "verify", "-crl_check", "-CAfile", crls, nodes[name].pki / "etcdserver.crt"]
        ran = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        assert expected in ran.stdout + ran.stderr

    said = run(cluster, "revoke", "cp-1", "--yes", expect=3).stdout
    assert "cp-1: 10 certificates are on the CRLs of their CAs\n" in said and on_crls(cluster) == wanted
    assert "kube-apiserver, kubelets and aggregated API servers read no CRL" in said
    assert "etcd refuses them only if it runs with --client-crl-file" in said
    assert (
        f"left alone: 2 certificates of kube-scheduler (kubernetes), the last of them until {left['not_after']}: "
        "cp-2 reports 1, and nobody the other 1" in said
    )


def test_too_little_right_and_a_run_that_was_cut_off(cluster: AppliedCluster) -> None:
    """Revoked, but not on a CRL yet: a server that rebuilds by itself writes the next one hours later."""
    node = cluster.equip("cp-1")
    node.run()
    token = enrolled_nodes.enroller_token(cluster)
    since = cluster.server.audit_position()
    for name, said in (("w-1", "there is no certificate to revoke"), ("CP 1", "is not a node name")):
        assert said in run(cluster, "revoke", name, "--yes", expect=1).stderr
    assert "permission denied" in run(cluster, "revoke", "cp-1", "--yes", token=token, expect=1).stderr
    assert cluster.server.writes(since) == []
    told = held(cluster, node)
    report(cluster, "cp-1", told)
    serial = f"{told['etcd-server'][1].serial:x}"
    serial = serial.zfill(len(serial) + len(serial) % 2)
    pairs = ":".join(serial[at : at + 2] for at in range(0, len(serial), 2))
    assert cluster.server.api("POST", f"{cluster.prefix}/etcd/revoke", {"serial_number": pairs}).status == 200
    assert on_crls(cluster)["etcd"] == set()
    since = cluster.server.audit_position()
    run(cluster, "revoke", "cp-1", "--yes")
    assert on_crls(cluster) == of(told)
    asked = [path for operation, path in cluster.server.requests(since) if path.endswith("/revoke")]
    assert len(asked) == len(told) - 1


@pytest.mark.on_node
def test_what_another_node_says_keeps_nothing_from_being_revoked(cluster: AppliedCluster) -> None:
    nodes = {name: cluster.equip(name) for name in ("cp-1", "cp-2")}
    for node in nodes.values():
        node.run()
    mine, others = held(cluster, nodes["cp-1"]), held(cluster, nodes["cp-2"])
    report(cluster, "cp-1", mine)
    # It says that all of cp-1's are its own; so cp-2's own are nobody's.
    report(cluster, "cp-2", mine)
    said = run(cluster, "revoke", "cp-1", "--yes", expect=3).stdout
    assert on_crls(cluster) == of(mine) and not of(mine)["kubernetes"] & of(others)["kubernetes"]
    assert "cp-2 reports 6 of the revoked certificates too" in said
    assert all(f"left alone: 1 certificate of {name}" in said for name in SHARED)
    # A worker's word about the certificates of control planes counts for nothing.
    cluster.equip("w-1", pool="autoscaled")
    report(cluster, "w-1", mine)
    assert "w-1" not in run(cluster, "revoke", "cp-1", "--yes", expect=3).stdout


def test_unenroll_revokes_before_the_report_goes(cluster: AppliedCluster) -> None:
    """A pooled node's kube-proxy certificate is known to be its own only by its report."""
    nodes = {name: cluster.equip(name, pool="autoscaled") for name in ("w-1", "w-2")}
    for name, node in nodes.items():
        node.run()
        report(cluster, name, held(cluster, node, "autoscaled"))
    token = enrolled_nodes.enroller_token(cluster)
    assert "permission denied" in run(cluster, "unenroll", "w-1", "--revoke", token=token, expect=1).stderr
    store = cluster.report_path("w-1", data="metadata")
    assert cluster.server.api("GET", store).status == 200 and not any(on_crls(cluster).values())
    said = run(cluster, "unenroll", "w-1", "--revoke", expect=3).stdout
    assert "left alone: 1 certificate of kube-proxy (kubernetes)" in said and "w-2 reports it" in said
    assert said.startswith("w-1 has no identity any more\n") and "w-1: 3 certificates are on the CRLs" in said
    assert "lock" not in said
    assert on_crls(cluster) == of(held(cluster, nodes["w-1"], "autoscaled"))
    assert cluster.server.api("GET", store).status == 404
    # What names the node can still be revoked later.
    again: dict[str, Any] = json.loads(run(cluster, "revoke", "w-1", "--yes", "--json", expect=3).stdout)
    assert {one["name"] for one in again["revoked"]} == {"kubelet", "kubelet-client"}

    def cut_off() -> None:
        raise KeyboardInterrupt

    # Its identity has ended, and its report still says which certificates are its own: a second run goes on from there.
    with pytest.raises(KeyboardInterrupt):
        enrol.unenroll(cluster.model, cluster.client(), "w-2", wait=0, last=cut_off)
    assert "w-2: 3 certificates are on the CRLs" in run(cluster, "unenroll", "w-2", "--revoke").stdout
    node = cluster.equip("w-3", pool="autoscaled")
    node.run()
    said = run(cluster, "unenroll", "w-3").stdout
    assert said == "w-3 has no identity any more; its certificates end by themselves, at their not_after\n"
