"""`ca.also_trust` on a real server: a foreign CA comes into the bundles of nodes that pin it, and into no others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from helpers.foreign_ca import ForeignCa
from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.node.passes import held, passed, row, status
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.handmade_rotation import tell_nodes
from helpers.vault.plan_commands import AuditedCluster
from vaultpki.certificates import ISSUING_CAS
from vaultpki.config.agent import load_agent
from vaultpki.pki import x509
from vaultpki.verify import handshake

NODES = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: etcd-2, roles: [etcd], addresses: [10.0.0.12]}
"""
OLD, OLD_ETCD = ForeignCa(), ForeignCa("etcd-ca")
FILES = {"old-ca.crt": OLD.pem, "old-etcd-ca.crt": OLD_ETCD.pem}
SPEC = f"{NODES}ca: {{also_trust: {{kubernetes: [old-ca.crt], etcd: [old-etcd-ca.crt]}}}}\n"
PINS = f"also_trust: {{kubernetes: [{OLD.sha256}], etcd: [{OLD_ETCD.sha256}]}}\n"


# What is offered stands in a record, and nodes decide.
pytestmark = pytest.mark.on_node


@pytest.fixture(scope="module")
def applied(shared_clusters: ClusterFactory) -> AuditedCluster:
    return shared_clusters.applied(NODES, FILES)


@pytest.fixture
def plain(applied: AuditedCluster) -> Iterator[AuditedCluster]:
    """A cluster without foreign CAs, and their files beside it; a test may apply what it likes."""
    yield applied
    applied.write(NODES)
    applied.apply()


def again(node: NodeFolder) -> tuple[str, ...]:
    """A pass that asks Vault, as a person makes it; returns what it says."""
    return tuple(event.text for event in passed(node, share=0.0).events)


def refusal(
    node: NodeFolder, client: tuple[Path, Path], *, server: str = "kube-apiserver", ca: str = "kubernetes"
) -> str:
    """Why a server of the node refuses a client; it checks clients against the bundle of `ca`."""
    pair = node.pki / f"{server}.crt", node.pki / f"{server}.key"
    listening = handshake.context(server=True, pair=pair, trusted=[node.pki / f"{ca}-ca.crt"])
    # The client's own view of the server is not what is asked here.
    return handshake.shake(listening, handshake.context(server=False, pair=client, trusted=[]), "api.example.com")


def findings(document: Mapping[str, Any]) -> dict[str, str]:
    return {each["name"]: each["message"] for each in document["findings"]}


def record(cluster: AppliedCluster, **fields: Any) -> None:
    """Somebody who may write to the config store writes the cluster's record."""
    path = f"{cluster.prefix}/config/data/cluster"
    before = cluster.read(path)["data"]
    assert cluster.server.api("POST", path, {"data": {**before, **fields}}).status == 200
    tell_nodes(cluster)


def unpinned(cluster: AuditedCluster, tmp_path: Path) -> None:
    """Without its SHA-256 in agent.yaml a node goes on without it."""
    node = cluster.equip("cp-1", folder=tmp_path / "unpinned")
    said = again(node)
    client = OLD.client(tmp_path, "kubernetes-admin", ["system:masters"])
    assert refusal(node, client) != "" and OLD.sha256 not in held(node, "kubernetes-ca.crt")
    assert f"CN=kubernetes (SHA-256 {OLD.sha256}) is offered to the bundles of kubernetes" in " ".join(said)
    said_by_node = findings(status(node, "--offline", expect=3)["summary"])["foreign-ca"]
    said_of_it = row(cluster, "cp-1")
    assert said_of_it["state"] == "failing" and "foreign-ca" in said_of_it["reasons"]
    # One judgement in both views.
    assert findings(said_of_it)["foreign-ca"] == said_by_node or said_by_node in {
        each["message"] for each in said_of_it["findings"]
    }
    failed = json.loads(vaultpki("verify", "-f", cluster.file, "--dir", node.pki, "--json", expect={1, 3}).stdout)
    assert any("lacks CN=kubernetes" in each["detail"] for each in failed["checks"])

    node.config.write_text(node.config.read_text() + PINS)
    again(node)
    assert refusal(node, client) == "" and OLD_ETCD.sha256 in held(node, "etcd-ca.crt")
    assert row(cluster, "cp-1")["state"] == "ok" and status(node, "--offline")["ok"]
    assert json.loads(vaultpki("verify", "-f", cluster.file, "--dir", node.pki, "--json").stdout)["ok"]


def test_from_cluster_yaml_into_the_bundles_and_out_again(clusters: ClusterFactory, tmp_path: Path) -> None:
    """By a saved plan, which knows the files."""
    cluster = clusters.written(SPEC, FILES)
    env, saved = cluster.environment(), tmp_path / "plan"
    vaultpki("plan", "-f", cluster.file, "-o", saved, env=env)
    (cluster.folder / "old-ca.crt").write_text(ForeignCa().pem)
    ran = vaultpki("apply", saved, env=env, expect={1, 3})
    assert "old-ca.crt of ca.also_trust has changed since the plan was saved" in ran.stderr
    (cluster.folder / "old-ca.crt").write_text(OLD.pem)
    vaultpki("apply", saved, "--yes", env=env)
    cluster.settled()
    unpinned(cluster, tmp_path)
    enroller = Enroller(cluster, cluster.token())
    join_file = enroller.join_file("cp-1", tmp_path / "join.json", replace=True)
    assert json.loads(join_file.read_text())["also_trust"] == {
        "kubernetes": [OLD.sha256],
        "etcd": [OLD_ETCD.sha256],
    }
    node = NodeFolder("cp-1", tmp_path / "cp-1")
    enrolled_nodes.join(node, join_file)
    assert load_agent(node.config).also_trust == {"kubernetes": (OLD.sha256,), "etcd": (OLD_ETCD.sha256,)}
    for ca, foreign in (("kubernetes", {OLD.sha256}), ("etcd", {OLD_ETCD.sha256}), ("kubelet", set())):
        assert held(node, f"{ca}-ca.crt") & {OLD.sha256, OLD_ETCD.sha256} == foreign
        assert held(node, f"{ca}-ca-chain.crt") - {cluster.root_sha256} == held(node, f"{ca}-ca.crt")
    person, robber = OLD.client(tmp_path, "kubernetes-admin", ["system:masters"]), OLD_ETCD.client(tmp_path, "root")
    assert refusal(node, person) == "" and refusal(node, robber) != ""
    assert refusal(node, person, server="etcdserver", ca="etcd") != ""
    assert refusal(node, robber, server="etcdserver", ca="etcd") == ""
    looked = status(node, "--offline")
    assert [ca["also_trusted"][0]["sha256"] for ca in looked["cas"] if ca["also_trusted"]] == [
        OLD.sha256,
        OLD_ETCD.sha256,
    ]
    assert row(cluster, "cp-1")["state"] == "ok"
    report = cluster.read(cluster.report_path("cp-1"))["data"]
    assert report["foreign_cas"] == {"kubernetes": [OLD.sha256], "etcd": [OLD_ETCD.sha256]}
    # The gates of rotations count what bundles hold: a foreign CA is no CA of the cluster.
    assert not {OLD.sha256, OLD_ETCD.sha256} & {each for one in report["bundles"].values() for each in one["sha256"]}
    assert report["bundles"]["root"]["sha256"] == [cluster.root_sha256]
    verified = vaultpki("verify", "-f", cluster.file, "--dir", node.pki, "--json")
    assert json.loads(verified.stdout)["ok"]

    cluster.write(NODES)
    shown = vaultpki("plan", "-f", cluster.file, env=cluster.environment()).stdout
    assert "- foreign CA of etcd" in shown and OLD_ETCD.sha256 in shown
    assert "takes CN=etcd-ca" in shown and "out of the bundles of etcd" in " ".join(shown.split())
    cluster.apply()
    again(node)
    assert not {OLD.sha256, OLD_ETCD.sha256} & {each for ca in ISSUING_CAS for each in held(node, f"{ca}-ca.crt")}
    assert refusal(node, person) != "" and refusal(node, robber, server="etcdserver", ca="etcd") != ""
    looked = status(node, "--offline")
    assert "take it out there too" in findings(looked["summary"])["foreign-ca"]
    # The pins stay, and without a certificate they mean nothing.
    assert "also_trust" in node.config.read_text() and row(cluster, "cp-1")["state"] == "ok"
    assert "foreign_cas" not in cluster.read(cluster.report_path("cp-1"))["data"]


def test_who_can_write_the_record_brings_no_ca_in(plain: AuditedCluster, tmp_path: Path) -> None:
    cluster = plain
    assert "also_trust" not in cluster.read(f"{cluster.prefix}/config/data/cluster")["data"]
    node = cluster.equip("cp-1", folder=tmp_path / "cp-1", further=f"also_trust: {{etcd: [{OLD.sha256}]}}\n")
    again(node)
    before = {ca: held(node, f"{ca}-ca.crt") for ca in ISSUING_CAS}
    named = ForeignCa(f"{cluster.name} kubernetes CA")
    root = cluster.read(f"{cluster.prefix}/root/issuer/default")["certificate"]
    etcd = cluster.read(f"{cluster.prefix}/etcd/issuer/default")["certificate"]
    # OLD is pinned for etcd, and so comes into no other bundle.
    record(cluster, also_trust={"kubernetes": [named.pem, OLD.pem, root, etcd, "no certificate"], "kubelet": [OLD.pem]})
    again(node)
    assert {ca: held(node, f"{ca}-ca.crt") for ca in ISSUING_CAS} == before
    ignored = cluster.read(cluster.report_path("cp-1"))["data"]["foreign_cas_ignored"]
    assert len(ignored["kubernetes"]) == 5 and ignored["kubelet"] == [OLD.sha256]
    shown = vaultpki("plan", "-f", cluster.file, env=cluster.environment()).stdout
    assert OLD.sha256 in shown and f"CN={cluster.name} kubernetes CA" in shown
    for hostile in ({"etcd": [OLD.pem] * 9}, {"etcd": ["x" * 20_000]}, ["etcd"]):
        record(cluster, also_trust=hostile)
        again(node)
        assert {ca: held(node, f"{ca}-ca.crt") for ca in ISSUING_CAS} == before
    cluster.apply()
    again(node)
    assert {ca: held(node, f"{ca}-ca.crt") for ca in ISSUING_CAS} == before and status(node, "--offline")["ok"]


def test_a_foreign_ca_with_the_name_of_our_own_signs_nothing_here(plain: AuditedCluster, tmp_path: Path) -> None:
    """Such as the CA of the same cluster in another Vault, from which it is moved."""
    cluster = plain
    namesake = ForeignCa(f"{cluster.name} etcd CA")
    (cluster.folder / "former.crt").write_text(f"Subject: etcd\n{namesake.pem}")
    cluster.write(f"{NODES}ca: {{also_trust: {{etcd: [former.crt]}}}}\n")
    cluster.apply()
    pins = f"also_trust: {{etcd: [{namesake.sha256}]}}\n"
    node = cluster.equip("etcd-2", folder=tmp_path / "etcd-2", further=pins)
    again(node)
    own = cluster.read(f"{cluster.prefix}/etcd/issuer/default")["certificate"]
    assert held(node, "etcd-ca.crt") == {namesake.sha256, x509.fingerprint(own.encode())}
    leaf, issuer = x509.read_certificates((node.pki / "etcdserver.crt").read_bytes())
    assert issuer.fingerprint == x509.fingerprint(own.encode())
    report = cluster.read(cluster.report_path("etcd-2"))["data"]
    assert report["bundles"]["etcd"]["sha256"] == [issuer.fingerprint]
    # A leaf of it is another CA's, whatever name that has.
    crt, key = namesake.client(tmp_path, "etcd-2")
    serial = leaf.serial
    (node.pki / "etcdserver.crt").resolve().write_bytes(crt.read_bytes() + namesake.pem.encode())
    (node.pki / "etcdserver.key").resolve().write_bytes(key.read_bytes())
    again(node)
    replaced = x509.read_certificates((node.pki / "etcdserver.crt").read_bytes())
    assert replaced[1].fingerprint == issuer.fingerprint and replaced[0].serial != serial


def test_hooks_of_what_reads_it_at_start_wait_for_a_person(plain: AuditedCluster, tmp_path: Path) -> None:
    """No record gives turns for a foreign CA, and every member of etcd would restart at once."""
    cluster, log = plain, tmp_path / "restarts"
    hooks = f"hooks: {{etcd-ca: [[sh, -c, 'echo etcd >> {log}']], kubernetes-ca: [[sh, -c, 'echo api >> {log}']]}}\n"
    node = cluster.equip("etcd-2", folder=tmp_path / "etcd-2", further=PINS + hooks)
    again(node)
    log.write_text("")
    cluster.write(SPEC)
    shown = " ".join(vaultpki("plan", "-f", cluster.file, env=cluster.environment()).stdout.split())
    assert "+ foreign CA of etcd: CN=etcd-ca" in shown or "+ foreign CA of etcd" in shown
    cluster.apply()
    node.age()
    ran = node.run(expect={0, 3})
    said = ran.stdout + ran.stderr
    assert OLD_ETCD.sha256 in held(node, "etcd-ca.crt")
    # A member of etcd alone has no reader of kubernetes' bundle that would need a start.
    assert log.read_text().split() == ["api"] and "Run on one node after the other: `vaultpki agent --once`" in said
    assert "foreign-ca" in findings(status(node, "--offline", expect=3)["summary"])
    assert row(cluster, "etcd-2")["reasons"] == ["foreign-ca"]
    node.age()
    node.run(expect={0, 3})
    assert log.read_text().split() == ["api"]
    again(node)
    assert log.read_text().split() == ["api", "etcd"] and status(node, "--offline")["ok"]
    assert row(cluster, "etcd-2")["state"] == "ok"
    # What the cluster's own CAs make of a bundle is not held back.
    cluster.write(NODES)
    cluster.apply()
    node.age()
    node.run(expect={0, 3})
    assert log.read_text().split() == ["api", "etcd", "api"] and OLD_ETCD.sha256 not in held(node, "etcd-ca.crt")
    again(node)
    assert log.read_text().split() == ["api", "etcd", "api", "etcd"]


def test_plan_refuses_what_cannot_be_a_foreign_ca(plain: AuditedCluster) -> None:
    cluster = plain
    own = cluster.read(f"{cluster.prefix}/root/issuer/default")["certificate"]
    ended = ForeignCa("ended", years=0)
    for file, pem, why in (
        ("own.crt", own, "has the key of a CA of this cluster"),
        ("ended.crt", ended.pem, "expired on 2026-05-01"),
    ):
        (cluster.folder / file).write_text(pem)
        cluster.write(f"{NODES}ca:\n  also_trust:\n    kubelet:\n    - old-ca.crt\n    - {file}\n")
        ran = vaultpki("plan", "-f", cluster.file, env=cluster.environment(), expect={1, 2})
        assert f"cluster.yaml:11: ca.also_trust.kubelet[1]: {file}: " in ran.stderr and why in ran.stderr
