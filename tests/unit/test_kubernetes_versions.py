"""Which versions are told apart, and what each reads only when it starts."""

from __future__ import annotations

import pytest

from vaultpki import kubernetes_versions, readers
from vaultpki.kubernetes_versions import TRIED
from vaultpki.model import NodeRole
from vaultpki.places import Layout

CONTROL_PLANE, ETCD, WORKER = NodeRole.CONTROL_PLANE, NodeRole.ETCD, NodeRole.WORKER
ALL = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "etcd")

# By CA and role: what reads the bundle only when it starts whatever its version is, and what does before 1.36.
AT_START = {
    ("kubernetes", CONTROL_PLANE): (["kube-controller-manager"], ["kube-scheduler"]),
    ("kubernetes", WORKER): ([], ["kubelet", "kube-proxy"]),
    ("kubelet", CONTROL_PLANE): ([], ["kube-apiserver"]),
    ("kubelet", WORKER): ([], []),
    ("etcd", CONTROL_PLANE): (["kube-apiserver"], []),
    ("etcd", ETCD): (["etcd"], []),
    ("front-proxy", CONTROL_PLANE): ([], []),
}


@pytest.mark.parametrize("minor", [33, *TRIED, 38, None])
@pytest.mark.parametrize(("ca", "role"), AT_START)
def test_what_reads_a_ca_only_at_its_start(ca: str, role: NodeRole, minor: int | None) -> None:
    versions = {} if minor is None else dict.fromkeys(ALL, minor)
    always, older = AT_START[ca, role]
    found = [each.component for each in readers.start_only(ca, {role}, Layout.DOCUMENT, versions)]
    expected = [*always, *older] if minor is not None and minor < 36 else always
    assert sorted(found) == sorted(expected)
    # What a person must know of is what no version is known of.
    since, unknown = readers.once_start_only(readers.readers_of(ca, {role}), versions)
    assert [each for each in unknown if each not in always] == (older if minor is None else [])
    assert since in (0, 36)


def test_each_component_counts_by_its_own_version() -> None:
    """The kubelet may be up to three versions older than its kube-apiserver, and kube-proxy than both."""
    mixed = {"kubelet": 35, "kube-proxy": 36}
    assert [each.component for each in readers.start_only("kubernetes", {WORKER}, versions=mixed)] == ["kubelet"]
    assert readers.once_start_only(readers.readers_of("kubernetes", {WORKER}), {"kubelet": 35}) == (36, ["kube-proxy"])


def test_the_bundle_with_the_root_is_the_controller_managers_in_each_version() -> None:
    for minor in TRIED:
        found = readers.start_only("kubernetes", {CONTROL_PLANE}, versions=dict.fromkeys(ALL, minor))
        assert [each.component for each in found if each.chain] == ["kube-controller-manager"]


def test_versions_are_asked_of_what_they_decide_about() -> None:
    assert readers.versioned({WORKER}) == ("kubelet", "kube-proxy")
    assert readers.versioned({WORKER}, Layout.KUBEADM) == ("kubelet",)
    assert set(readers.versioned({CONTROL_PLANE})) == {"kube-controller-manager", "kube-scheduler", "kube-apiserver"}
    assert readers.versioned({ETCD}) == ()


@pytest.mark.parametrize(
    ("version", "minor"),
    [
        ("v1.34.4", 34),
        ("v1.35.4", 35),
        ("v1.36.3", 36),
        ("v1.37.2", 37),
        ("v1.37.0-rc.1", 37),
        ("v1.34.3-eks-1a2b3c4", 34),
        ("v1.35.4+k3s1", 35),
        ("v1.100.0", 100),
        ("1.36.3", None),
        ("v1.36", None),
        ("v2.0.0", None),
        ("v0.36.3", None),
        ("v1.036.3", None),
        ("v1.36.3\n", None),
        ("v1.36.3 of mine", None),
        (f"v1.36.3-{'x' * 65}", None),
        ("v1.9999.1", None),
        ("", None),
    ],
)
def test_a_version(version: str, minor: int | None) -> None:
    assert kubernetes_versions.minor(version) == minor
    assert kubernetes_versions.is_version(version) is (minor is not None)


@pytest.mark.parametrize("version", [None, 36, 1.36, ["v1.36.3"], {}])
def test_what_is_no_text_is_no_version(version: object) -> None:
    assert not kubernetes_versions.is_version(version)


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("registry.k8s.io/kube-apiserver:v1.36.3", "v1.36.3"),
        ("mirror.example.com:5000/k8s/kube-apiserver:v1.35.4", "v1.35.4"),
        ("mirror.example.com:5000/k8s/kube-apiserver", ""),
        (f"registry.k8s.io/kube-apiserver:v1.34.4@sha256:{'0' * 64}", "v1.34.4"),
        (f"registry.k8s.io/kube-apiserver@sha256:{'0' * 64}", ""),
        ("rancher/hardened-kubernetes:v1.34.3-rke2r1-build20251210", "v1.34.3-rke2r1-build20251210"),
        ("kube-apiserver:latest", ""),
        ("", ""),
    ],
)
def test_the_tag_of_an_image(image: str, version: str) -> None:
    assert kubernetes_versions.tagged(image) == version


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("Kubernetes v1.37.2\n", "v1.37.2"),
        ("Kubernetes v1.35.4", "v1.35.4"),
        ("Python 3.13.5\n", ""),
        ("v1.36.3\n", ""),
        ("Kubernetes \n", ""),
        ("Kubernetes v0.0.0-master+$Format:%H$\n", ""),
    ],
)
def test_what_a_program_says(output: str, version: str) -> None:
    assert kubernetes_versions.said(output) == version


def test_the_oldest_version_is_named() -> None:
    assert kubernetes_versions.oldest(["kubelet", "kube-proxy"], {"kubelet": 35, "kube-proxy": 34}) == "Kubernetes 1.34"
    assert kubernetes_versions.oldest(["kubelet"], {"kube-proxy": 34}) == ""
