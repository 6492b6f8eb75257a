"""What does not belong on a CA's mount adds no trust and takes none away, and is told by the agent and by `plan`."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helpers.node.resident_agent import proxy
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import SPEC, AuditedCluster
from vaultpki.agent import run
from vaultpki.agent.context import Outcome
from vaultpki.certificates import ISSUING_CAS
from vaultpki.config.agent import load_agent
from vaultpki.pki import x509
from vaultpki.procedures import ON_NODES

ETCD = ("etcdserver", "etcd-peer", "etcd-healthcheck-client")


CAS = ("root", *ISSUING_CAS)


@dataclass(frozen=True, slots=True)
class Equipped:
    """A cluster, and a node with all its certificates and a hook that restarts etcd in earnest."""

    cluster: AuditedCluster
    node: NodeFolder
    restarts: Path

    @classmethod
    def made(cls, clusters: ClusterFactory) -> Equipped:
        cluster = clusters.applied(SPEC)
        restarts = cluster.folder / "restarts"
        further = f"hooks: {{etcd-ca: [[sh, -c, 'echo restarted >> {restarts}']]}}\n"
        node = cluster.equip("cp-1", further=further)
        node.run()
        restarts.write_text("")
        return cls(cluster, node, restarts)


@pytest.fixture(scope="module")
def equipped(shared_clusters: ClusterFactory) -> Equipped:
    return Equipped.made(shared_clusters)


@pytest.fixture
def cluster(equipped: Equipped) -> Iterator[AuditedCluster]:
    """The one of most of these tests: afterwards it has its own CAs again, and no others."""
    cluster = equipped.cluster
    own = {ca: set(cluster.read_names(f"{cluster.prefix}/{ca}/issuers")) for ca in CAS}
    yield cluster
    for ca, known in own.items():
        for issuer in set(cluster.read_names(f"{cluster.prefix}/{ca}/issuers")) - known:
            assert cluster.server.api("DELETE", f"{cluster.prefix}/{ca}/issuer/{issuer}").status in (200, 204)
    # One that the root signed within a day is installed again, rather than a new one.
    cluster.apply()


@pytest.fixture
def node(cluster: AuditedCluster, equipped: Equipped) -> NodeFolder:
    return equipped.node


@pytest.fixture
def own(clusters: ClusterFactory) -> Equipped:
    """A cluster and a node for one test."""
    return Equipped.made(clusters)


def certificate(cluster: AppliedCluster, ca: str) -> str:
    pem: str = cluster.read(f"{cluster.prefix}/{ca}/issuer/default")["certificate"]
    return pem


def brought(cluster: AppliedCluster, ca: str, pem: str) -> str:
    """The id of the issuer that this certificate, which is public, becomes on the mount of a CA."""
    answer = cluster.server.api("POST", f"{cluster.prefix}/{ca}/issuers/import/cert", {"pem_bundle": pem})
    assert answer.status == 200, answer
    (made,) = answer.data["imported_issuers"]
    return str(made)


def made_default(cluster: AppliedCluster, ca: str, issuer: str) -> None:
    assert cluster.server.api("POST", f"{cluster.prefix}/{ca}/config/issuers", {"default": issuer}).status == 200


def deleted(cluster: AppliedCluster, ca: str) -> None:
    """The mount's own issuer is gone."""
    assert cluster.server.api("DELETE", f"{cluster.prefix}/{ca}/issuer/{ca}-1").status in (200, 204)


def bundles(node: NodeFolder) -> dict[str, bytes]:
    """Every bundle, and by its generation's place whether it was laid down anew."""
    found = {path.name: path.read_bytes() for path in node.pki.glob("*-ca*.crt")}
    return found | {"place": str((node.pki / "etcd-ca.crt").resolve()).encode()}


def pairs(node: NodeFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in node.pki.glob("*.pem")}


def passed(node: NodeFolder, *force: str, clock: float | None = None) -> Outcome:
    """A pass in this process that asks Vault, and does not wait for watchers."""
    node.age()
    return run.run(
        load_agent(node.config), run.PassOptions(ON_NODES, settle=False, force=frozenset(force)), clock=clock
    )


def told(done: Outcome) -> list[dict[str, Any]]:
    return [{"level": event.level, **event.fields} for event in done.events if event.name == "stranger"]


def instead(cluster: AppliedCluster, issuer: str) -> None:
    made_default(cluster, "etcd", issuer)
    deleted(cluster, "etcd")


@pytest.mark.parametrize("ca", ["kubernetes", "root"])
def test_a_ca_of_the_cluster_on_another_mount_changes_nothing(
    cluster: AuditedCluster, node: NodeFolder, equipped: Equipped, tmp_path: Path, ca: str
) -> None:
    """Beside the mount's own, which stays the default; then as the default; then in its place."""
    trusted, held = bundles(node), pairs(node)
    pem = certificate(cluster, ca)
    issuer = brought(cluster, "etcd", pem)
    why = f"its name is not CN={cluster.name} etcd CA alone"
    if ca == "root":
        why = "it is the root CA, which belongs on its own mount alone"
    about = {"ca": "etcd", "sha256": x509.fingerprint(pem.encode()), "reason": why}
    danger = {"name": f"issuer {cluster.prefix}/etcd/issuer/{issuer}", "reason": f"foreign and dangerous: {why}"}
    for act in ("beside", "default too", "instead"):
        if act == "default too":
            made_default(cluster, "etcd", issuer)
        elif act == "instead":
            deleted(cluster, "etcd")
        for _ in range(2):
            done = passed(node)
            assert not done.failures and done.renewed == () and "bundles" not in {event.name for event in done.events}
            assert told(done) == [{"level": "warning", **about}]
            assert bundles(node) == trusted and pairs(node) == held
        assert equipped.restarts.read_text() == ""
        # A node that comes now takes no more from it.
        other = cluster.equip("cp-1", folder=tmp_path / act)
        done = passed_first(other)
        lies = (other.pki / "etcd-ca.crt").read_bytes() if (other.pki / "etcd-ca.crt").exists() else None
        assert lies == (None if act == "instead" else trusted["etcd-ca.crt"])
        assert {"kube-apiserver", "kube-scheduler"} <= set(done.renewed)
        assert (set(ETCD) & {path.stem for path in other.pki.glob("*.crt")} == set()) is (act != "beside")
        shown = cluster.plan()
        assert shown["dangers"] == [danger]
        assert [(change["kind"], change["name"]) for change in shown["changes"]] == (
            [] if act == "beside" else [("issuer", f"{cluster.prefix}/etcd")]
        )
    node.age()
    line = f"CN={cluster.name} {ca} CA on the mount of etcd is not trusted: {why}"
    assert node.run().stderr == f"vaultpki: {line}; find out who put it there\n"
    report = cluster.read(cluster.report_path("cp-1"))["data"]
    assert report["strangers"] == [line] and report["failures"] == []
    for options in ([], ["--verbose"]):
        ran = vaultpki("plan", "-f", cluster.file, *options, env=cluster.environment("viewer"))
        assert f"! {danger['name']}: {danger['reason']}\n" in ran.stdout.replace("\n    ", " ")
        assert ran.stdout.count(issuer) == 1


def passed_first(node: NodeFolder) -> Outcome:
    return run.run(load_agent(node.config), run.PassOptions(ON_NODES, settle=False))


@pytest.mark.on_node
def test_a_node_that_renews_goes_on_with_the_other_domains(own: Equipped) -> None:
    cluster, node = own.cluster, own.node
    trusted, held = bundles(node), pairs(node)
    instead(cluster, brought(cluster, "etcd", certificate(cluster, "kubernetes")))
    done = passed(node, "*")
    etcd = {"etcd-server", "etcd-peer", "etcd-healthcheck-client", "kube-apiserver-etcd"}
    assert set(done.failures) == etcd and {"kube-apiserver", "kube-scheduler", "front-proxy-client"} <= {*done.renewed}
    assert bundles(node) == trusted
    now = pairs(node)
    assert {name for name in held if held[name] == now[name]} == {
        *(f"{stem}.pem" for stem in ETCD),
        "kube-apiserver-etcd.pem",
    }


def test_a_stranger_comes_and_goes_and_a_ca_that_is_gone_stays_trusted(own: Equipped) -> None:
    """As a CA that goes away with no stranger in its place; apply makes a new certificate for the key that is left."""
    cluster, node = own.cluster, own.node
    trusted = bundles(node)["etcd-ca.crt"]
    stranger = brought(cluster, "etcd", certificate(cluster, "kubernetes"))
    deleted(cluster, "etcd")
    assert not passed(node).failures and (node.pki / "etcd-ca.crt").read_bytes() == trusted
    # The copy of what Vault said is lost, and the bundle is all that knows.
    (node.state / "spec.json").unlink()
    assert not run.run(load_agent(node.config), run.PassOptions(ON_NODES, settle=False)).failures
    assert (node.pki / "etcd-ca.crt").read_bytes() == trusted
    # The bundle is lost, and the copy is all that knows.
    (node.pki / "etcd-ca.crt").unlink()
    assert not passed(node).failures and (node.pki / "etcd-ca.crt").read_bytes() == trusted
    # What somebody wrote into the bundle is no trust of ours.
    bundle = node.pki / "etcd-ca.crt"
    bundle.write_bytes(trusted + certificate(cluster, "kubelet").encode())
    assert not passed(node).failures and bundle.read_bytes() == trusted
    # One that the root signed within a day is taken for one whose answer was lost, unless it is revoked.
    serial = f"{x509.read_certificates(trusted)[0].serial:x}"
    serial = ":".join(textwrap.wrap(serial.zfill(len(serial) + len(serial) % 2), 2))
    assert cluster.server.api("POST", f"{cluster.prefix}/root/revoke", {"serial_number": serial}).status == 200
    cluster.apply()
    assert cluster.server.api("DELETE", f"{cluster.prefix}/etcd/issuer/{stranger}").status in (200, 204)
    done = passed(node)
    assert not done.failures and told(done) == [] and done.renewed == ()
    both = bundle.read_bytes()
    assert len(both) > len(trusted) and trusted in both
    for _ in range(2):
        done = passed(node, clock=time.time() + 3700)
        assert not done.failures and done.renewed == () and bundle.read_bytes() == both
    passed(node, "etcd-peer")
    leaf, signer = x509.read_certificates((node.pki / "etcd-peer.crt").read_bytes())
    assert signer.pem.encode() in both.replace(trusted, b"") and x509.signed_by(leaf, signer)


def test_a_later_key_of_the_ca_counts_beside_the_first(own: Equipped) -> None:
    cluster, node = own.cluster, own.node
    mount, name = f"{cluster.prefix}/etcd", f"{cluster.name} etcd CA 2"
    before = bundles(node)["etcd-ca.crt"]
    api = cluster.server.api
    csr = api("POST", f"{mount}/intermediate/generate/internal", {"common_name": name, "key_type": "ec"}).data["csr"]
    body = {"csr": csr, "common_name": name, "ttl": "8760h", "max_path_length": 0, "not_before_duration": "10m"}
    pem = api("POST", f"{cluster.prefix}/root/root/sign-intermediate", body).data["certificate"]
    assert api("POST", f"{mount}/intermediate/set-signed", {"certificate": pem}).status == 200
    done = passed(node)
    assert told(done) == [] and not done.failures
    # Newest first, but both may have begun in one second.
    made = pem.strip().encode() + b"\n"
    assert bundles(node)["etcd-ca.crt"] in (made + before, before + made)
    shown = cluster.plan()
    assert shown["dangers"] == [] and len(shown["unmanaged"]) == 1


def test_another_root_on_the_root_mount_is_told(cluster: AuditedCluster, node: NodeFolder) -> None:
    body = {"common_name": "other", "issuer_name": "other"}
    pem = cluster.server.api("POST", f"{cluster.prefix}/root/root/generate/internal", body).data["certificate"]
    done = passed(node)
    assert not done.failures and [(one["ca"], one["reason"]) for one in told(done)] == [
        ("root", "it is not the pinned root CA")
    ]
    assert x509.fingerprint(pem.encode()) == told(done)[0]["sha256"]
    assert cluster.plan()["dangers"] == [
        {
            "name": f"issuer {cluster.prefix}/root/issuer/other",
            "reason": "foreign and dangerous: it is not the cluster's root CA",
        }
    ]
    ran = cluster.apply()
    assert f"! issuer {cluster.prefix}/root/issuer/other: foreign and dangerous" in ran.stdout


@pytest.mark.on_node
def test_one_in_the_place_of_the_mounts_own_is_told(cluster: AuditedCluster) -> None:
    """By its name it passes for ours; by its certificate it does not."""
    stranger = brought(cluster, "etcd", certificate(cluster, "kubernetes"))
    instead(cluster, stranger)
    patched = cluster.server.api("POST", f"{cluster.prefix}/etcd/issuer/{stranger}", {"issuer_name": "etcd-1"})
    assert patched.status in (200, 204)
    (danger,) = cluster.plan()["dangers"]
    assert danger["name"] == f"issuer {cluster.prefix}/etcd/issuer/etcd-1"
    assert f"its name is not CN={cluster.name} etcd CA alone" in danger["reason"]


@pytest.mark.on_node
def test_a_server_that_lies_of_every_ca_changes_no_bundle(
    cluster: AuditedCluster, node: NodeFolder, equipped: Equipped
) -> None:
    """It answers for each issuing CA with another one's certificate, or with what is none."""
    trusted, held = bundles(node), pairs(node)
    known = {ca: certificate(cluster, ca) for ca in ISSUING_CAS}
    turned = dict(zip(ISSUING_CAS, [*ISSUING_CAS[1:], ISSUING_CAS[0]], strict=True))
    garbled = {ca: known[ca].replace("M", "N", 1) for ca in ISSUING_CAS}
    for lies in ({ca: known[turned[ca]] for ca in ISSUING_CAS}, garbled):

        def lie(method: str, path: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            for ca, pem in lies.items():  # noqa: B023 - it is over before the next one
                if f"/{ca}/issuer/" in path and "certificate" in body.get("data", {}):
                    return status, {**body, "data": {**body["data"], "certificate": pem}}
            return status, body

        with proxy(cluster.server, lie) as between:
            node.configure(cluster.server.address, between.address)
            done = passed(node)
            assert not done.failures and done.renewed == () and {one["ca"] for one in told(done)} == {*ISSUING_CAS}
            assert bundles(node) == trusted and pairs(node) == held
            node.configure(between.address, cluster.server.address)
    assert equipped.restarts.read_text() == ""
    done = passed(node)
    assert not done.failures and told(done) == [] and bundles(node) == trusted


@pytest.mark.on_node
def test_a_name_that_would_steer_a_terminal_is_told_harmlessly(cluster: AuditedCluster) -> None:
    """The name of an issuer is the server's to say."""
    steering = "x\x1b[2J\nPlan: 0 to create"
    issuer = brought(cluster, "etcd", certificate(cluster, "kubernetes"))

    def lie(method: str, path: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        info = body.get("data", {}).get("key_info", {})
        if issuer in info:
            info[issuer]["issuer_name"] = steering
        return status, body

    with proxy(cluster.server, lie) as between:
        ran = vaultpki("plan", "-f", cluster.file, env=cluster.environment("viewer") | {"VAULT_ADDR": between.address})
    assert "\x1b" not in ran.stdout + ran.stderr
    name = f"issuer {cluster.prefix}/etcd/issuer/x\\x1b[2J\\nPlan: 0 to create"
    told = f"! {name}: foreign and dangerous: its name is not CN={cluster.name} etcd CA alone"
    shown = ran.stdout.replace("\n    ", " ").splitlines()
    assert [line for line in shown if line.startswith("! ") and "VAULT_ADDR names" not in line] == [told]
    assert [line for line in shown if line.startswith("Plan")] == []


@pytest.mark.on_node
def test_an_operator_takes_no_stranger_either(cluster: AuditedCluster, tmp_path: Path) -> None:
    folder = tmp_path / "operator"
    cluster.issue("admin", folder)
    bundle = (folder / "etcd-ca.crt").read_bytes()
    instead(cluster, brought(cluster, "etcd", certificate(cluster, "kubernetes")))
    ran = cluster.issue("super-admin", folder)
    assert (folder / "etcd-ca.crt").read_bytes() == bundle
    assert f"! CN={cluster.name} kubernetes CA on the mount of etcd is not trusted" in ran.stderr
    cluster.issue("admin", tmp_path / "fresh")
    assert not (tmp_path / "fresh" / "etcd-ca.crt").exists() and (tmp_path / "fresh" / "kubernetes-ca.crt").exists()
    # What it needs itself has to be there.
    instead_of_kubernetes = brought(cluster, "kubernetes", certificate(cluster, "kubelet"))
    made_default(cluster, "kubernetes", instead_of_kubernetes)
    deleted(cluster, "kubernetes")
    before = (folder / "admin.crt").read_bytes()
    ran = cluster.issue("admin", tmp_path / "other", expect=1)
    assert "shows no issuing CA of this cluster" in ran.stderr and ran.stderr.count("\n") == 1
    cluster.issue("admin", folder, expect=1)
    assert (folder / "admin.crt").read_bytes() == before


@pytest.mark.on_node
def test_plan_tells_dangers_by_its_exit_code(cluster: AuditedCluster) -> None:
    command = ("plan", "-f", cluster.file, "--detailed-exitcode")
    environment = cluster.environment()
    vaultpki(*command, env=environment)
    issuer = brought(cluster, "front-proxy", certificate(cluster, "etcd"))
    vaultpki(*command, env=environment, expect=3)
    vaultpki("plan", "-f", cluster.file, env=environment)
    made_default(cluster, "front-proxy", issuer)
    vaultpki(*command, env=environment, expect=4)
    ran = vaultpki("apply", "-f", cluster.file, "--yes", "--json", env=environment)
    (danger,) = json.loads(ran.stdout)["dangers"]
    assert issuer in danger["name"]
