"""`verify --live` on a real cluster: a right one has no fault, each single fault is named, and it only reads."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from html import unescape
from pathlib import Path
from typing import Final

import pytest

from helpers import pages
from helpers.kube import kube_cluster
from helpers.kube.components import API_PORT, ETCD_PEER_PORT, ETCD_PORT, KUBELET_PORT, Programs
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.live_faults import (
    AUTHENTICATION,
    GROUP,
    Fault,
    LiveCluster,
    api_service,
    client_ca,
    cluster_info,
    definition,
    file_of,
    flag,
    kubelet,
    kubelet_of_etcds_clients,
    made,
    no_client_check,
    objects,
    older_pair,
    pod_flags,
    published,
    root_copy,
    run,
    static_pods,
    strange_node,
    webhook,
)
from helpers.kube.trust_bundles import reader, serves_trust_bundles, trust_bundle
from helpers.product import PYTHONPATH
from helpers.vault import servers
from helpers.vault.servers import wait_for
from vaultpki.pki import x509

pytestmark = pytest.mark.conformance

# What a node of every role listens at, and whose clients it lets in.
LISTENERS: Final = (
    f"node-1/kube-apiserver 198.51.100.11:{API_PORT}",
    f"node-1/etcd-server 198.51.100.11:{ETCD_PORT}",
    f"node-1/etcd-peer 198.51.100.11:{ETCD_PEER_PORT}",
    f"node-1/kubelet 198.51.100.11:{KUBELET_PORT}",
    "node-1/kube-controller-manager 198.51.100.11:10257",
    "node-1/kube-scheduler 198.51.100.11:10259",
)
API_SERVER, ETCD, PEER, KUBELET, MANAGER, SCHEDULER = LISTENERS


@pytest.fixture(scope="module")
def live(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    folder = tmp_path_factory.mktemp("live")
    with (
        servers.running("bao", folder / "server", None) as server,
        kube_cluster.cluster(server, programs, folder / "kube", kube_cluster.ONE) as kube,
    ):
        home = kube.control_plane.machine.folder
        token = home / ".vault-token"
        token.touch(mode=0o600)
        token.write_text(kube.cluster.token())
        (folder / "faults").mkdir()
        static_pods(kube)
        yield LiveCluster(kube, folder / "faults")


# The fault; the check that must name it; where; and with which words.
FAULTS: Final[dict[str, tuple[Fault, str, str, str]]] = {
    "root copy of another CA": (
        root_copy(made("own")),
        "copy of a CA",
        "kube-root-ca.crt in default",
        "not a CA of the API",
    ),
    "root copy without the root": (
        root_copy(file_of("kubernetes-ca.crt")),
        "copy of a CA",
        "kube-root-ca.crt in default",
        "lacks",
    ),
    "root copy with a forged root": (
        root_copy(lambda live: file_of("kubernetes-ca-chain.crt")(live) + made("root")(live)),
        "copy of a CA",
        "kube-root-ca.crt in default",
        "which is not a CA of the API server",
    ),
    "no root copy": (root_copy(None), "copy of a CA", "kube-root-ca.crt in default", "is missing"),
    "cluster-info of another CA": (
        objects(cluster_info(made("own"))),
        "copy of a CA",
        "cluster-info in kube-public",
        "not a CA of the API server",
    ),
    "webhook with an expired CA": (
        objects(webhook(made("expired"))),
        "copy of a CA",
        f"ValidatingWebhookConfiguration {GROUP}: webhook one.{GROUP}",
        "expired on",
    ),
    "webhook with a forged CA": (
        objects(webhook(made("kubernetes"))),
        "copy of a CA",
        f"ValidatingWebhookConfiguration {GROUP}: webhook one.{GROUP}",
        "not signed by the cluster's root CA",
    ),
    "webhook without a CA": (
        objects(webhook(lambda _: "")),
        "copy of a CA",
        f"ValidatingWebhookConfiguration {GROUP}: webhook one.{GROUP}",
        "holds no CA",
    ),
    "APIService that checks nobody": (
        objects(api_service(insecureSkipTLSVerify=True)),
        "copy of a CA",
        f"APIService v1.{GROUP}",
        "not to be checked at all",
    ),
    "APIService with a forged root": (
        objects(api_service(caBundle=made("root"))),
        "copy of a CA",
        f"APIService v1.{GROUP}",
        "has the name of the root CA and is not it",
    ),
    "conversion webhook with an expired CA": (
        objects(definition(made("expired"))),
        "copy of a CA",
        f"CustomResourceDefinition things.{GROUP}: conversion webhook",
        "expired on",
    ),
    "trust bundle with a forged root": (
        objects(trust_bundle(made("root"))),
        "copy of a CA",
        f"ClusterTrustBundle {GROUP}",
        "has the name of the root CA and is not it",
    ),
    "extra requestheader CA": (
        published("requestheader-client-ca-file", made("own")),
        "copy of a CA",
        f"requestheader-client-ca-file of {AUTHENTICATION} in kube-system",
        "not a CA of front-proxy",
    ),
    "etcd's CA as published client CA": (
        published("client-ca-file", file_of("etcd-ca.crt")),
        "copy of a CA",
        f"client-ca-file of {AUTHENTICATION} in kube-system",
        "not a CA of kubernetes",
    ),
    "another front proxy": (
        published("requestheader-allowed-names", lambda _: "mallory"),
        "front proxies",
        f"requestheader-allowed-names of {AUTHENTICATION} in kube-system",
        "lets mallory speak for any user",
    ),
    "a node that nobody listed": (objects(strange_node), "node", "stranger", "is not a node of"),
    "kubelet with a certificate of its own": (
        kubelet(tlsCertFile=None, tlsPrivateKeyFile=None),
        "chain",
        KUBELET,
        "which is not a CA of kubelet: it was not signed by the cluster's root CA",
    ),
    "kubelet that lets etcd's clients in": (
        kubelet_of_etcds_clients,
        "client CAs",
        KUBELET,
        "accepts clients of the CA etcd, another trust domain",
    ),
    "kubelet that takes anonymous requests": (
        kubelet(authentication__anonymous__enabled=True),
        "no certificate",
        KUBELET,
        "anonymous requests are on",
    ),
    "kubelet that lets all do all": (
        kubelet(authorization__mode="AlwaysAllow"),
        "flags",
        "node-1/kubelet",
        "authorization.mode is AlwaysAllow",
    ),
    "kubelet with a port for everybody": (
        kubelet(readOnlyPort=10255),
        "flags",
        "node-1/kubelet",
        "readOnlyPort is 10255",
    ),
    "etcd that checks no client": (no_client_check, "stranger", ETCD, "answers 200"),
    "etcd that trusts the root": (
        flag("etcd", ETCD_PORT, "trusted-ca-file", "etcd-ca-chain.crt"),
        "client CAs",
        ETCD,
        "clients of the root CA",
    ),
    "etcd whose peers may be of kubernetes": (
        flag("etcd", ETCD_PORT, "peer-trusted-ca-file", "etcd-ca.crt", "kubernetes-ca.crt"),
        "client CAs",
        PEER,
        "accepts clients of the CA kubernetes, another trust domain",
    ),
    "kube-apiserver that lets etcd's clients in": (
        lambda live: client_ca(live, "kubernetes-ca.crt", "etcd-ca.crt"),
        "another domain",
        API_SERVER,
        "answers",
    ),
    "kube-apiserver whose client CA is the root": (
        lambda live: client_ca(live, "kubernetes-ca-chain.crt"),
        "client CAs",
        API_SERVER,
        "clients of the root CA",
    ),
    "kube-apiserver on an older pair": (older_pair, "on disk", API_SERVER, "a restart is pending"),
    "no --kubelet-certificate-authority": (
        pod_flags("kube-apiserver", "--kubelet-certificate-authority"),
        "flags",
        "node-1/kube-apiserver",
        "--kubelet-certificate-authority is not set",
    ),
    "AlwaysAllow": (
        pod_flags("kube-apiserver", "--authorization-mode", "--authorization-mode=AlwaysAllow"),
        "flags",
        "node-1/kube-apiserver",
        "--authorization-mode is AlwaysAllow",
    ),
    "static pod of etcd without --client-cert-auth": (
        pod_flags("etcd", "--client-cert-auth"),
        "flags",
        "node-1/etcd",
        "--client-cert-auth is not set",
    ),
    "pods without the root": (
        pod_flags("kube-controller-manager", "--root-ca-file", "--root-ca-file=PKI/kubernetes-ca.crt"),
        "flags",
        "node-1/kube-controller-manager",
        "--root-ca-file is",
    ),
}


def test_nothing_is_wrong_with_a_right_cluster(live: LiveCluster) -> None:
    found = live.verify("--dir", live.agents)
    checks = [check for check in found["checks"] if check["kind"] == "live"]
    assert [check for check in checks if check["ok"] is not True] == []
    assert found["ok"] and {check["from"] for check in checks if check["name"] == "client CAs"} == {*LISTENERS}
    names = {check["name"] for check in checks}
    assert names >= {"served certificate", "chain", "on disk", "reported", "stranger", "another domain", "own domain"}
    assert names >= {"copy of a CA", "front proxies", "bundles", "flags", "node"}


def test_the_controller_managers_bundle_is_there_and_right(live: LiveCluster) -> None:
    found = [check for check in live.verify()["checks"] if check["to"].startswith("ClusterTrustBundle ")]
    published = [check for check in found if check["to"].startswith("ClusterTrustBundle kubernetes.io:kube-apiserver")]
    assert found == published and len(published) == serves_trust_bundles(live.kube)
    assert all(check["ok"] for check in published)


def test_bundles_that_are_not_ours_are_no_check(live: LiveCluster) -> None:
    if not serves_trust_bundles(live.kube):
        pytest.skip("this Kubernetes has no ClusterTrustBundles")
    with objects(trust_bundle(made("own")))(live):
        assert not any(GROUP in check["to"] for check in live.verify()["checks"])
    with objects(trust_bundle(lambda live: made("own")(live) + file_of("kubernetes-ca-chain.crt")(live)))(live):
        (check,) = (check for check in live.verify()["checks"] if GROUP in check["to"])
    assert check["ok"]


def test_the_role_of_the_page_is_enough_and_bundles_alone_may_be_missing(live: LiveCluster) -> None:
    kube, served = live.kube, serves_trust_bundles(live.kube)
    for without, left in (("", []), ("clustertrustbundles", ["clustertrustbundles"] if served else [])):
        with reader(kube, "verify-live", without=without) as conf:
            ran = run(kube, kube.control_plane.machine, "--dir", live.agents, "--json", conf=conf)
        checks = [check for check in json.loads(ran.stdout)["checks"] if check["kind"] == "live"]
        assert [check["to"] for check in checks if check["ok"] is None] == left, ran.stdout
        assert [check for check in checks if check["ok"] is False] == [] and ran.returncode == 0
        assert {check["to"] for check in checks} >= {"kube-root-ca.crt in default", "kube-root-ca.crt in kube-system"}
        assert all(check["detail"] == f"the user of {conf} may not read it" for check in checks if check["ok"] is None)


def test_a_report_shows_copies_of_the_running_cluster(live: LiveCluster) -> None:
    kube, page = live.kube, live.folder / "report.html"

    def report(conf: Path) -> tuple[int, str, str]:
        token = f"VAULT_TOKEN={kube.cluster.token('viewer')}"
        words = ("report", "-f", kube.cluster.file, "--from-vault", "--kubeconfig", conf, "-o", page)
        command = ("env", f"PYTHONPATH={PYTHONPATH}", token, sys.executable, "-m", "vaultpki", *words)
        ran = kube.control_plane.machine.run(*command, expect=None)
        return ran.returncode, ran.stderr, unescape(page.read_text())

    code, said, text = report(kube.admin)
    assert "checks failed" not in said and "copies of CAs in its objects" in text, said
    fault, _, where, words = FAULTS["APIService with a forged root"]
    if serves_trust_bundles(kube):
        fault, _, where, words = FAULTS["trust bundle with a forged root"]
    with fault(live):
        code, said, text = report(kube.admin)
    assert code == 3 and "checks failed: run `vaultpki verify -f " in said and f"<td>{where}</td>" in text
    assert words in text
    with reader(kube, "verify-live", without="clustertrustbundles") as conf:
        _, said, _ = report(conf)
    assert ("not checked in the running cluster: clustertrustbundles (the user of" in said) == serves_trust_bundles(
        kube
    )


def test_it_only_reads(live: LiveCluster) -> None:
    since = live.kube.audit_position()
    live.verify("--dir", live.agents)
    # Every other client of this cluster says what it is.
    events = [event for event in live.kube.audit(since) if not event.get("userAgent")]
    assert len(events) > 15 and {event["verb"] for event in events} <= {"get", "list"}
    assert {event["user"].get("username") for event in events} >= {"kubernetes-admin", "system:anonymous"}


def test_without_files_pairs_of_other_domains_are_not_checked(live: LiveCluster) -> None:
    found = live.verify()
    left = [check for check in found["checks"] if check["ok"] is None]
    assert [(check["name"], check["got"]) for check in left] == [("another domain", "unchecked")]


def test_from_another_machine_too(live: LiveCluster) -> None:
    """Its controller manager and scheduler listen on all addresses; `unit/live` has those of kubeadm, on loopback."""
    ran = run(live.kube, live.kube.outside, "--dir", live.agents)
    assert ran.returncode == 0, ran.stdout
    assert all(each in ran.stdout for each in LISTENERS) and "on its own machine only" not in ran.stdout
    # Vault is not to be reached from there, so the files say what is right.
    assert "by the CAs of --dir: " in ran.stdout and ", 0 not, " in ran.stdout
    assert "not checked: reported of reports of nodes" in ran.stdout


AWAY: Final = "https://127.0.0.1:1"


def test_the_sha256_of_the_root_is_enough(live: LiveCluster) -> None:
    chain = file_of("kubernetes-ca-chain.crt")(live).encode()
    (root,) = (each for each in x509.read_certificates(chain) if each.subject_text == each.issuer_text)
    spec = live.kube.cluster.file.with_name("pinned.yaml")
    for sha256, code, words in (
        (root.fingerprint, 0, "by the CAs of ca.root_sha256: "),
        ("0" * 64, 1, "nothing here says which root CA is right"),
    ):
        spec.write_text(f"{live.kube.cluster.file.read_text()}ca: {{root_sha256: '{sha256}'}}\n")
        ran = run(live.kube, live.kube.control_plane.machine, spec=spec, vault=AWAY)
        assert ran.returncode == code and words in ran.stdout + ran.stderr, ran.stdout + ran.stderr


def test_a_cluster_of_many_nodes_is_right(robbed: Kubernetes) -> None:
    agents = robbed.control_plane.node.folder.parent
    ran = run(robbed, robbed.outside, "--dir", agents, "--json")
    checks = [check for check in json.loads(ran.stdout)["checks"] if check["kind"] == "live"]
    assert [check for check in checks if check["ok"] is False] == []
    told = {check["from"].partition(" ")[0] for check in checks if check["name"] == "served certificate"}
    assert told == {
        "cp-1/kube-apiserver",
        "worker-1/kubelet",
        "worker-2/kubelet",
        *(f"etcd-{number}/{name}" for number in (1, 2, 3) for name in ("etcd-server", "etcd-peer")),
    }


def _without_numbers(lines: Iterable[str]) -> list[str]:
    return [re.sub(r"[0-9]+", "N", line) for line in lines]


def test_the_page_shows_what_is_printed(live: LiveCluster) -> None:
    blocks = {block.language: block for block in pages.blocks(pages.text("verify-live"))}
    shown, fault = blocks["console"], blocks["text"]
    (command,) = shown.commands()
    assert command.text == "vaultpki verify --live --kubeconfig operator/admin.conf"
    assert _without_numbers(live.printed()) == _without_numbers(command.shown)
    with kubelet(readOnlyPort=10255)(live):
        assert fault.text.strip() in live.printed()


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named(live: LiveCluster, name: str) -> None:
    fault, check, where, words = FAULTS[name]
    if where.startswith("ClusterTrustBundle ") and not serves_trust_bundles(live.kube):
        pytest.skip("this Kubernetes has no ClusterTrustBundles")
    with fault(live):
        wrong = live.wrong("--dir", live.agents)
    named = [each for each in wrong if each["name"] == check and where in (each["from"], each["to"])]
    assert any(words in each["detail"] for each in named), "\n".join(map(str, wrong))


def test_the_cluster_is_right_again(live: LiveCluster) -> None:
    # The components on loopback take the client CAs that kube-apiserver publishes within moments.
    wait_for(lambda: live.wrong("--dir", live.agents) == [], 60, lambda: str(live.wrong("--dir", live.agents)))
