"""`no_store`: Vault keeps no copy of nodes' certificates; what is said of that, and what works all the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from helpers.node.resident_agent import leaf
from helpers.vault.applied_cluster import AppliedCluster, Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.ca import facts as ca_facts
from vaultpki.pki import x509
from vaultpki.pki.facts import serial_text

SPEC = """\
defaults: {no_store: true}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: w-1, roles: [worker], addresses: [10.0.0.21]}
certificates:
  etcd-peer: {no_store: false}
"""


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AppliedCluster:
    return clusters.applied(SPEC)


def run(cluster: AppliedCluster, *words: str | Path, expect: int = 0) -> Ran:
    env = cluster.server.environment(cluster.token())
    return vaultpki(words[0], "-f", cluster.file, *words[1:], env=env, expect=expect)


def kept(cluster: AppliedCluster, ca: str) -> set[str]:
    """The common names of the leaves that the mount of a CA lists."""
    mount = f"{cluster.prefix}/{ca}"
    listed = cluster.server.api("LIST", f"{mount}/certs")
    # An empty list is a 404.
    return set(_names(cluster, mount, listed.data["keys"] if listed.status == 200 else ()))


def _names(cluster: AppliedCluster, mount: str, serials: Iterable[str]) -> Iterable[str]:
    for serial in serials:
        (facts,) = x509.read_certificates(cluster.read(f"{mount}/cert/{serial}")["certificate"].encode())
        if not facts.is_ca:
            yield facts.subject.common_name


def test_a_node_renews_and_only_a_file_revokes_what_vault_keeps_no_copy_of(
    cluster: AppliedCluster, tmp_path: Path
) -> None:
    nodes = {name: cluster.equip(name) for name in ("cp-1", "w-1")}
    for node in nodes.values():
        node.run()
    run(cluster, "issue", "admin", "--dir", tmp_path / "admin")
    # Operators' stay, as the gates of a rotation need; so does what cluster.yaml says by name.
    assert kept(cluster, "kubernetes") == {"kubernetes-admin"} and kept(cluster, "kubelet") == set()
    assert kept(cluster, "etcd") == {"cp-1"}

    # By its name, by its serial number: nothing is done, and what is missing is said.
    said = run(cluster, "revoke", "w-1", "--yes", expect=3).stderr
    assert "not revoked: kube-proxy, kubelet-client and kubelet, which w-1 reports: Vault keeps no copy" in said
    assert "nothing was revoked: Vault keeps no copy of w-1's certificates" in said
    file = shutil.copy(nodes["w-1"].pki / "kubelet-client.crt", tmp_path / "copied.crt")
    facts = leaf(nodes["w-1"], "kubelet-client")
    serial = serial_text(facts.serial)
    for words in (("revoke", "--serial", serial, "--yes"), ("show", "--serial", serial)):
        said = run(cluster, *words, expect=1).stderr
        assert "Vault keeps no copy of it (no_store)" in said and "revoke --certificate FILE" in said
    document = json.loads(run(cluster, "revoke", "cp-1", "--yes", "--json", expect=3).stdout)
    assert [one["ca"] for one in document["revoked"]] == ["etcd"]
    assert {"kube-apiserver", "etcd-server"} <= {one["name"] for one in document["not_stored"] if one["serial"]}

    # By its file it is, and from then on everybody sees it, its own agent too.
    ran = run(cluster, "revoke", "--certificate", file, "--yes")
    assert "kubelet-client is on the CRL of kubernetes" in ran.stdout
    assert cluster.read(f"{cluster.prefix}/kubernetes/cert/{serial}")["revocation_time"] > 0
    table = json.loads(run(cluster, "nodes", "--json", expect=3).stdout)
    assert "revoked" in json.dumps(next(one for one in table["nodes"] if one["node"] == "w-1"))
    nodes["w-1"].age()
    assert "renewed kubelet-client" in nodes["w-1"].run().stdout
    assert leaf(nodes["w-1"], "kubelet-client").serial != facts.serial
    # A stranger's file is refused.
    assert (
        "no issuing CA"
        in run(
            cluster, "revoke", "--certificate", cluster.server.ca_file.with_name("server.crt"), "--yes", expect=1
        ).stderr
    )


@pytest.mark.on_node
def test_plan_says_what_it_costs_and_the_gate_still_knows_operators(cluster: AppliedCluster, tmp_path: Path) -> None:
    run(cluster, "issue", "admin", "--dir", tmp_path / "admin")
    cluster.file.write_text(cluster.file.read_text().replace("no_store: true", "no_store: false", 1))
    assert "no_store" not in run(cluster, "apply", "--yes").stdout.partition("Impact:")[2]
    cluster.file.write_text(cluster.file.read_text().replace("no_store: false", "no_store: true", 1))
    plan = json.loads(run(cluster, "plan", "--json").stdout)
    (impact,) = (one for one in plan["impact"] if one["effect"] == "not-stored")
    assert "revoke --certificate FILE" in impact["detail"] and "etcd-peer" not in impact["detail"]
    run(cluster, "apply", "--yes")
    pem = cluster.read(f"{cluster.prefix}/kubernetes/issuer/default")["certificate"]
    (ca,) = x509.read_certificates(pem.encode())
    leaves = ca_facts.read_operator_leaves(cluster.model, cluster.client(), ca, "kubernetes", ca.not_before)
    assert [each.name for each in leaves] == ["admin"]
