"""The flags of a running cluster: the page's are right, each change is named, and what is not shown is not checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers import pages
from helpers.example_cluster import load
from helpers.node.handmade_files import SPEC
from vaultpki.kube import cluster as kube_cluster
from vaultpki.kube.cluster import LiveCluster
from vaultpki.kube.flags import COMPONENTS
from vaultpki.live.flags import flag_checks
from vaultpki.model import Cluster, Signer, TokenPool
from vaultpki.verify.on_disk import Check

STATIC = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler")


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return load(tmp_path, SPEC)


def pod(component: str, flags: list[str], *, static: bool = True, node: str = "cp-1") -> dict[str, Any]:
    notes = {"kubernetes.io/config.mirror": "abc"} if static else {}
    container = {"command": [f"/usr/local/bin/{component}", *flags[:1]], "args": flags[1:]}
    return {"metadata": {"annotations": notes}, "spec": {"nodeName": node, "containers": [container]}}


def live(pki: str, changed: Mapping[str, list[str]] | None = None, **kubelet: Any) -> LiveCluster:
    found = {name: list(pages.flags(name, pki)) for name in STATIC} | dict(changed or {})
    configuration = pages.configuration("kubelet", pki) | kubelet
    pods = kube_cluster.static_pods([pod(name, flags) for name, flags in found.items()], COMPONENTS)
    return LiveCluster(pods=tuple(pods), kubelets={"worker-1": configuration})


def wrong(cluster: Cluster, found: LiveCluster) -> list[Check]:
    return [check for check in flag_checks(cluster, found, {}) if check.ok is not True]


@pytest.mark.parametrize("pki", ["/etc/kubernetes/pki", "/opt/pki"])
def test_the_flags_of_the_page_are_right_in_any_folder(cluster: Cluster, pki: str) -> None:
    assert wrong(cluster, live(pki)) == []


@pytest.fixture
def signing(cluster: Cluster) -> Cluster:
    """The same with a signer, and nodes that join with a token."""
    return replace(cluster, signer=Signer(7 * 86400), token_pools=(TokenPool("joined", "j-*", ("10.0.0.0/16",)),))


@pytest.mark.parametrize(
    ("controllers", "off"),
    [
        ("*,bootstrapsigner,tokencleaner", []),
        ("*,-csrapproving", ["csrapproving"]),
        ("*,-certificatesigningrequest-cleaner-controller", ["csrcleaner"]),
        ("csrapproving,csrcleaner", []),
        ("namespace", ["csrapproving", "csrcleaner"]),
    ],
)
def test_a_signer_needs_two_controllers(cluster: Cluster, signing: Cluster, controllers: str, off: list[str]) -> None:
    pki = "/etc/kubernetes/pki"
    flags = [*pages.flags("kube-controller-manager", pki), f"--controllers={controllers}"]
    found = live(pki, {"kube-controller-manager": flags})
    assert wrong(cluster, found) == []
    said = [check.detail for check in wrong(signing, found)]
    assert [name for name in ("csrapproving", "csrcleaner") if f"switches {name} off" in "".join(said)] == off


def test_a_kubelet_that_joined_with_a_token_asks_by_itself(signing: Cluster) -> None:
    asks = {"rotateCertificates": True, "serverTLSBootstrap": True}
    assert wrong(signing, LiveCluster(pods=live("/etc/kubernetes/pki").pods, kubelets={"j-1": asks})) == []
    (check,) = wrong(signing, LiveCluster(pods=live("/etc/kubernetes/pki").pods, kubelets={"j-1": {}}))
    assert (check.source, check.target) == ("j-1/kubelet", "docs/signer.md")


def test_a_file_of_authorizers_is_not_shown(cluster: Cluster) -> None:
    """It stands in place of the mode, so the API server's flags alone say neither that it is right nor wrong."""
    pki = "/etc/kubernetes/pki"
    server = [flag for flag in pages.flags("kube-apiserver", pki) if not flag.startswith("--authorization-mode=")]
    (check,) = wrong(cluster, live(pki, {"kube-apiserver": [*server, "--authorization-config=/etc/authorizers.yaml"]}))
    assert (check.source, check.ok) == ("cp-1/kube-apiserver", None)
    assert check.target == "the file of its --authorization-config"


@pytest.fixture
def kubeadm(tmp_path: Path) -> Cluster:
    return load(tmp_path, f"layout: kubeadm\n{SPEC.replace('[control-plane, etcd]', '[control-plane, etcd, worker]')}")


@pytest.mark.parametrize("pki", ["/etc/kubernetes/pki", "/opt/pki"])
def test_kubeadms_folders_are_known(kubeadm: Cluster, pki: str) -> None:
    etcd = ["cert-file=server.crt", "key-file=server.key", "trusted-ca-file=ca.crt", "peer-trusted-ca-file=ca.crt"]
    etcd += ["peer-cert-file=peer.crt", "peer-key-file=peer.key"]
    flags = ["--client-cert-auth", "--peer-client-cert-auth"]
    flags += [f"--{name}={pki}/etcd/{value}" for name, value in (each.split("=") for each in etcd)]
    pods = tuple(kube_cluster.static_pods([pod("etcd", flags)], COMPONENTS))
    found = flag_checks(kubeadm, LiveCluster(pods=pods), {})
    assert [check.detail for check in found if check.ok is not None] == [""]


@pytest.mark.parametrize(
    ("file", "words"),
    [("/opt/pki/ca.crt", ""), ("/opt/pki/etcd/ca.crt", "does not write"), ("/opt/other/ca.crt", "does not write")],
)
def test_other_components_tell_kubeadms_folder_for_a_kubelet(kubeadm: Cluster, file: str, words: str) -> None:
    """The only file of that folder that it names is `ca.crt`, and etcd's folder has one too."""
    server = pod(
        "kube-apiserver", ["--tls-cert-file=/opt/pki/apiserver.crt", "--tls-private-key-file=/opt/pki/apiserver.key"]
    )
    configuration = pages.configuration("kubelet", "/opt/pki") | {
        "tlsCertFile": "/var/lib/kubelet/pki/kubelet.crt",
        "tlsPrivateKeyFile": "/var/lib/kubelet/pki/kubelet.key",
        "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": file}},
    }
    pods = tuple(kube_cluster.static_pods([server], COMPONENTS))
    checks = flag_checks(kubeadm, LiveCluster(pods=pods, kubelets={"worker-1": configuration}), {})
    (found,) = (check for check in checks if check.source == "worker-1/kubelet")
    assert words in found.detail and found.ok is not bool(words), found.detail


@pytest.mark.parametrize(
    ("component", "old", "new", "words"),
    [
        ("kube-apiserver", "--kubelet-certificate-authority", None, "--kubelet-certificate-authority is not set"),
        ("kube-apiserver", "--client-ca-file", "--client-ca-file=PKI/kubernetes-ca-chain.crt", "the root in this file"),
        ("kube-apiserver", "--client-ca-file", "--client-ca-file=PKI/etcd-ca.crt", "does not write this file for it"),
        ("kube-apiserver", "--etcd-cafile", "--etcd-cafile=/tmp/pki/etcd-ca.crt", "does not write this file for it"),
        ("kube-apiserver", "--enable-admission-plugins", None, "lacks NodeRestriction"),
        ("kube-apiserver", "--authorization-mode", "--authorization-mode=AlwaysAllow", "is AlwaysAllow"),
        ("kube-apiserver", "--requestheader-allowed-names", None, "may speak for any user"),
        ("etcd", "--client-cert-auth", None, "lets in any client"),
        ("etcd", "--peer-client-cert-auth", None, "lets in any peer"),
        ("etcd", "--peer-client-cert-auth", "--listen-client-urls=http://10.0.0.11:2379", "let in without TLS"),
        ("kube-controller-manager", "--root-ca-file", "--root-ca-file=PKI/kubernetes-ca.crt", "need the root"),
    ],
)
def test_each_wrong_flag_is_named(cluster: Cluster, component: str, old: str, new: str | None, words: str) -> None:
    pki = "/etc/kubernetes/pki"
    flags = [word for word in pages.flags(component, pki) if not word.startswith(old)]
    assert len(flags) < len(pages.flags(component, pki))
    (found,) = wrong(cluster, live(pki, {component: [*flags, *([new.replace("PKI", pki)] if new else [])]}))
    assert found.source == f"cp-1/{component}" and words in found.detail and found.ok is False


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tlsCertFile": ""}, "tlsCertFile is not set, so it serves a certificate of its own making"),
        ({"tlsPrivateKeyFile": "/etc/kubernetes/pki/etcd-peer.key"}, "tlsPrivateKeyFile is /etc"),
        ({"authentication": {"x509": {"clientCAFile": "/etc/kubernetes/pki/kubernetes-ca-chain.crt"}}}, "the root in"),
        ({"authentication": {}}, "authentication.x509.clientCAFile is not set, so no client certificate is accepted"),
        ({"authentication": {"anonymous": {"enabled": True}}}, "authentication.anonymous.enabled is True"),
        ({"authorization": {"mode": "AlwaysAllow"}}, "authorization.mode is AlwaysAllow"),
        ({"rotateCertificates": True}, "rotateCertificates is True"),
        ({"serverTLSBootstrap": True}, "serverTLSBootstrap is True"),
        ({"readOnlyPort": 10255}, "readOnlyPort is 10255"),
    ],
)
def test_each_wrong_setting_of_a_kubelet_is_named(cluster: Cluster, change: dict[str, Any], words: str) -> None:
    (found,) = wrong(cluster, live("/etc/kubernetes/pki", **change))
    assert found.source == "worker-1/kubelet" and words in found.detail


def test_what_is_not_shown_is_not_checked(cluster: Cluster) -> None:
    ordinary = kube_cluster.static_pods([pod("etcd", ["--client-cert-auth"], static=False)], COMPONENTS)
    found = LiveCluster(pods=tuple(ordinary), unread={"kubelet of worker-1": "the API server answers 502"})
    assert {(check.source, check.ok, check.got) for check in flag_checks(cluster, found, {})} == {
        *((f"cp-1/{component}", None, "unchecked") for component in STATIC),
        ("worker-1/kubelet", None, "unchecked"),
    }


@pytest.mark.parametrize(
    "item",
    [
        None,
        [],
        {"spec": {"containers": "many"}},
        {"metadata": {"annotations": ["kubernetes.io/config.mirror"]}, "spec": {"containers": [{"command": 7}]}},
        {"metadata": {"annotations": {"kubernetes.io/config.mirror": 1}}, "spec": {"containers": [{"command": [[]]}]}},
    ],
)
def test_odd_objects_are_left_out(item: object) -> None:
    assert list(kube_cluster.static_pods([item], COMPONENTS)) == []
    assert list(kube_cluster.nodes([item])) == []
    assert list(kube_cluster.webhooks([item], "X")) == list(kube_cluster.api_services([item])) == []
    assert list(kube_cluster.conversions([item])) == list(kube_cluster.root_copies([item])) == []
    assert kube_cluster.kubelet_configuration(item) is None
    assert kube_cluster.allowed_names(item) is None


def test_only_addresses_of_other_machines_are_taken_from_nodes() -> None:
    told = ["10.0.0.9", "127.0.0.1", "169.254.169.254", "::", "ff02::1", "fe80::1", "::1", "evil.example", 7]
    status = {
        "addresses": [{"type": "InternalIP", "address": each} for each in told],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 70000}},
    }
    (node,) = kube_cluster.nodes([{"metadata": {"name": "w-\x1b[31m1"}, "status": status}])
    assert node.addresses == ("10.0.0.9",) and node.port == 10250 and node.name == "w-?[31m1"
