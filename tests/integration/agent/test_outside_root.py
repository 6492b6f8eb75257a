"""A node below a PKI outside, with two CAs between: its files, and what a server that changes its mind does to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.vault.applied_cluster import NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_root import OutsideRoot, put_outside
from vaultpki.certificates import ROOT, bundle, chain_bundle
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts

SPEC = """\
api_server: {names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}
"""


def held(node: NodeFolder, file: str) -> tuple[Facts, ...]:
    return x509.read_certificates((node.pki / file).read_bytes())


@pytest.fixture
def outside(clusters: ClusterFactory, request: pytest.FixtureRequest) -> OutsideRoot:
    return put_outside(clusters, SPEC, pin=getattr(request, "param", "root"))


@pytest.mark.parametrize("outside", ["root", "upper", "lower"], indirect=True)
def test_the_files_of_a_node_have_the_chain(outside: OutsideRoot, tmp_path: Path) -> None:
    node = outside.equip("cp-1")
    node.run()
    ends = {"root": ("lower", "upper", "root"), "upper": ("lower", "upper", "root"), "lower": ("lower",)}
    above = tuple(
        getattr(outside, each).facts
        for each in ends[{outside.root: "root", outside.upper: "upper", outside.lower: "lower"}[outside.pin]]
    )
    for ca in ("kubernetes", "kubelet", "etcd", "front-proxy"):
        (issuing,) = held(node, bundle(ca))
        assert issuing.subject_text == f"CN={outside.cluster.name} {ca} CA"
        assert held(node, chain_bundle(ca)) == (issuing, *above)
    for name, ca in (("kube-apiserver", "kubernetes"), ("etcdserver", "etcd"), ("kubelet", "kubelet")):
        leaf, *behind = held(node, f"{name}.crt")
        assert (*behind,) == held(node, bundle(ca)) and x509.signed_by(leaf, behind[0])
    # What the gates of a rotation read of a node: the anchor alone is a root of this cluster.
    report = outside.cluster.read(outside.cluster.report_path("cp-1"))["data"]
    assert report["pins"] == [outside.pin.facts.fingerprint]
    assert report["bundles"]["root"]["sha256"] == [outside.pin.facts.fingerprint]
    # A second pass has nothing to do and nothing to say.
    before = node.snapshot()
    ran = node.run()
    assert node.snapshot() == before and "not trusted" not in ran.stderr
    vaultpki("status", "-c", node.config)
    # It joins by its join file too: the root has a name of its owner's, and the issuing CAs say which cluster it is.
    node, enroller = NodeFolder("cp-1", tmp_path / "cp-1"), Enroller(outside.cluster, outside.cluster.token())
    node.folder.mkdir()
    file = enroller.join_file("cp-1", tmp_path / "join.json", replace=True)
    renamed = enrolled_nodes.edited(file, tmp_path / "renamed.json", cluster="another")
    said = enrolled_nodes.join(node, renamed, expect=1).stderr
    assert "the join file is for cluster another" in said, said
    vaultpki("doctor", file, expect={0, 3})
    enrolled_nodes.join(node, file)
    vaultpki("status", "-c", node.config)


@pytest.mark.on_node
def test_a_server_that_hides_a_ca_between_changes_no_file(outside: OutsideRoot) -> None:
    node = outside.equip("cp-1")
    node.run()
    files = {path: path.read_bytes() for path in node.pki.glob("*-ca-chain.crt")}
    assert files
    listed = outside.api("LIST", f"{outside.cluster.prefix}/{ROOT}/issuers")["keys"]
    for issuer in listed:
        shown = outside.api("GET", f"{outside.cluster.prefix}/{ROOT}/issuer/{issuer}")["certificate"]
        if x509.fingerprint(shown.encode()) != outside.pin.facts.fingerprint:
            outside.forget(ROOT, issuer)
    vaultpki("renew", "-c", node.config, "kube-apiserver")
    assert {path: path.read_bytes() for path in node.pki.glob("*-ca-chain.crt")} == files
    # Also where the node has nothing left but its files.
    (node.state / "spec.json").unlink()
    vaultpki("agent", "-c", node.config, "--once")
    assert {path: path.read_bytes() for path in node.pki.glob("*-ca-chain.crt")} == files


def test_a_renewed_ca_between_reaches_the_files(outside: OutsideRoot) -> None:
    node = outside.equip("cp-1")
    node.run()
    renewed = outside.lower.again(outside.upper, begins=outside.lower.facts.not_before)
    outside.write_chain(outside.root, outside.upper, renewed)
    outside.cluster.apply()
    since = outside.cluster.server.audit_position()
    outside.cluster.apply()
    assert outside.cluster.server.writes(since) == []
    vaultpki("agent", "-c", node.config, "--once")
    # The one before has left the mount and the files: everything below it has the new one above it.
    assert held(node, chain_bundle("etcd"))[1:] == (renewed.facts, outside.upper.facts, outside.root.facts)
