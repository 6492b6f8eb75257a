"""The drafted cluster.yaml has at least the names and keys of today's certificates, for clusters of every shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from helpers.kube.kubeadm_inventory import Values, facts, judged, named, served, taken
from helpers.kube.kubeadm_objects import KubeadmObjects, Shape, leaf
from vaultpki import certificates
from vaultpki.adopt import machine
from vaultpki.adopt.draft import SERVERS, ClusterDraft, draft
from vaultpki.adopt.found import ListenerSeen
from vaultpki.adopt.obstacles import obstacles
from vaultpki.config.cluster import read_cluster
from vaultpki.model import Cluster, KeyType, NodeRole
from vaultpki.places import Layout

OUTSIDE: Final = ("198.51.100.21", "198.51.100.22", "198.51.100.23")
SHAPES: Final = {
    "one": Shape(),
    "two": Shape(planes=2, endpoint="api.example.com:6443"),
    "three": Shape(planes=3, workers=2, endpoint="198.51.100.5:8443", sans=("api.internal", "203.0.113.7")),
    "external": Shape(planes=2, external=OUTSIDE, endpoint="api.example.com"),
    "dual": Shape(dual=True, endpoint="[fd00::5]:6443"),
    "elsewhere": Shape(directory="/srv/certificates", etcd_sans=("etcd.internal", "203.0.113.8")),
    "elliptic": Shape(key="ECDSA-P256"),
    "serving": Shape(serving_by_csr=True, kubelet_sans=("{node}.internal",)),
    **{f"1.{minor}": Shape(version=f"v1.{minor}.1") for minor in (34, 35, 36, 37)},
}


def cluster_of(made: ClusterDraft) -> Cluster:
    assert made.cluster is not None, made.problem
    return made.cluster


def given(cluster: Cluster, node: str, row: str) -> set[str]:
    (holder,) = (each for each in cluster.nodes if each.name == node)
    subject = certificates.resolve(certificates.row_named(cluster, row), cluster, holder).subject
    return {*subject.dns, *subject.ips}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_name_of_today_is_in_the_draft(shape: str) -> None:
    """Compared with the certificates themselves, by the cluster that the text reads back as."""
    objects = KubeadmObjects(SHAPES[shape])
    made, every = judged(taken(objects))
    cluster = read_cluster(made.text, Path("cluster.yaml"))
    assert cluster == cluster_of(made) and cluster.layout is Layout.KUBEADM
    assert not {"name-left-out", "draft-refused"} & named(every).keys()
    for (name, row), signed in objects.leaves.items():
        # The CA of etcd is known only from a disk, and a kubelet's own CA is none of the cluster's.
        if row in SERVERS and not row.startswith("etcd-") and (row != "kubelet" or objects.shape.serving_by_csr):
            subject = facts(signed).subject
            assert given(cluster, name, row) >= {*subject.dns, *subject.ips}, (name, row)


@pytest.mark.parametrize("shape", SHAPES)
def test_names_of_etcd_come_from_the_disk(shape: str, tmp_path: Path) -> None:
    objects = KubeadmObjects(SHAPES[shape])
    made, every = judged(taken(objects, disks={"cp-1": tmp_path}))
    cluster = cluster_of(made)
    assert not [text for text in named(every).get("names-not-seen", []) if "CA of etcd" in text]
    for (name, row), signed in objects.leaves.items():
        if row in ("etcd-server", "etcd-peer"):
            node = f"etcd-{objects.shape.external.index(name) + 1}" if name in objects.shape.external else name
            subject = facts(signed).subject
            assert given(cluster, node, row) >= {*subject.dns, *subject.ips}, (name, row)


def test_roles_and_addresses() -> None:
    made, _ = judged(taken(KubeadmObjects(SHAPES["three"])))
    assert "- {name: cp-2, roles: [control-plane, etcd, worker], addresses: [198.51.100.12]}\n" in made.text
    assert "- {name: w-2, roles: [worker], addresses: [198.51.100.32]}\n" in made.text


def test_external_members_are_nodes_with_that_role_alone() -> None:
    cluster = cluster_of(judged(taken(KubeadmObjects(SHAPES["external"])))[0])
    roles = {node.name: {role.value for role in node.roles} for node in cluster.nodes}
    assert roles["cp-1"] == {"control-plane", "worker"} and roles["etcd-2"] == {"etcd"}
    assert {node.addresses for node in cluster.nodes if NodeRole.ETCD in node.roles} == {
        ("198.51.100.21",),
        ("198.51.100.22",),
        ("198.51.100.23",),
    }


def test_external_members_by_name_have_the_addresses_of_the_name() -> None:
    objects = KubeadmObjects(Shape(external=("etcd-1.example.com",)))
    cluster = cluster_of(judged(taken(objects, resolved={"etcd-1.example.com": ("203.0.113.1",)}))[0])
    assert {node.name: node.addresses for node in cluster.nodes}["etcd-1.example.com"] == ("203.0.113.1",)
    made, every = judged(taken(objects))
    assert "etcd-1.example.com" not in made.text
    assert "no address of etcd-1.example.com is known" in named(every)["name-left-out"][0]


def test_a_worker_does_not_become_etcd_by_its_own_word() -> None:
    """It may write any address into its Node object; two machines with one address are then refused."""

    def change(values: Values) -> None:
        addresses = values["/api/v1/nodes"]["items"][-1]["status"]["addresses"]
        addresses.insert(0, {"type": "InternalIP", "address": "198.51.100.21"})

    made, every = judged(taken(KubeadmObjects(SHAPES["external"]), change=change))
    assert all(node["roles"] == ["worker"] for node in made.nodes if node["name"] == "w-1")
    assert "198.51.100.21" in named(every)["draft-refused"][0]


def test_two_families_of_services_and_nodes() -> None:
    made, _ = judged(taken(KubeadmObjects(SHAPES["dual"])))
    cluster = cluster_of(made)
    assert cluster.api_server.service_cidr == ("10.96.0.0/16", "fd00:1::/112")
    assert cluster.nodes[0].addresses == ("198.51.100.11", "fd00::11")
    assert cluster.api_server.endpoint == "https://[fd00::5]:6443" and cluster.api_server.addresses == ("fd00::5",)


def test_another_folder_is_told_to_whoever_joins_nodes() -> None:
    found = taken(KubeadmObjects(SHAPES["elsewhere"]))
    made, _ = judged(found)
    assert found.directory == "/srv/certificates"
    assert "--dir /srv/certificates to `vaultpki join`" in made.text
    assert "--dir" not in judged(taken(KubeadmObjects(Shape())))[0].text


def test_keys_are_of_the_kind_of_today(tmp_path: Path) -> None:
    rsa = cluster_of(judged(taken(KubeadmObjects(Shape()), disks={"cp-1": tmp_path / "rsa"}))[0])
    keys = {row.name: row.key or rsa.key for row in certificates.rows(rsa)}
    assert keys["kube-apiserver"] is keys["etcd-peer"] is keys["admin"] is KeyType.RSA_2048
    assert keys["kubelet-client"] is KeyType.EC_P256 and rsa.authority.key is KeyType.RSA_3072
    curves = cluster_of(judged(taken(KubeadmObjects(SHAPES["elliptic"]), disks={"cp-1": tmp_path / "ec"}))[0])
    assert {row.key or curves.key for row in certificates.rows(curves)} == {KeyType.EC_P256}
    assert curves.authority.key is KeyType.EC_P256


def test_keys_are_kubeadms_where_no_certificate_was_seen() -> None:
    cluster = cluster_of(judged(taken(KubeadmObjects(Shape()), listeners=()))[0])
    assert cluster.key is KeyType.RSA_2048


def test_names_that_a_stranger_signed_do_not_count() -> None:
    objects = KubeadmObjects(Shape())
    stranger = leaf("kube-apiserver", None, names=["evil.example.com"], addresses=["203.0.113.66"])
    seen = (
        ListenerSeen("cp-1", "kube-apiserver", "198.51.100.11", 6443, facts(stranger)),
        *served(objects, without=["kube-apiserver"]),
    )
    made, every = judged(taken(objects, listeners=seen))
    assert "evil" not in made.text and "203.0.113.66" not in made.text
    assert named(every)["names-not-seen"][0].startswith("kube-apiserver of cp-1: no CA of the cluster")


def test_a_balancers_certificate_of_the_cluster_counts() -> None:
    objects = KubeadmObjects(Shape(planes=2))
    own = leaf("kube-apiserver", objects.ca, names=["cp-2", "lb.example.com"], addresses=["198.51.100.12"])
    seen = (ListenerSeen("", "kube-apiserver", "203.0.113.9", 6443, facts(own)), *served(objects))
    cluster = cluster_of(judged(taken(objects, listeners=seen))[0])
    # What some control plane has already is no name for all of them.
    assert cluster.overrides["kube-apiserver"].extra_names == ("lb.example.com",)
    assert cluster.overrides["kube-apiserver"].extra_addresses == ()


def test_a_kubelets_own_name_is_given_to_each_by_its_own_name() -> None:
    made, every = judged(taken(KubeadmObjects(SHAPES["serving"])))
    assert made.added("kubelet") == ("{node}.internal",)
    assert "name-of-one-kubelet" not in named(every)


def test_a_name_of_one_kubelet_that_all_would_get_is_said() -> None:
    objects = KubeadmObjects(Shape(serving_by_csr=True))
    objects.leaves["w-1", "kubelet"] = leaf(
        "system:node:w-1",
        objects.ca,
        groups=["system:nodes"],
        names=["w-1", "ec2-1.example.com"],
        addresses=["198.51.100.31", "203.0.113.31"],
    )
    made, every = judged(taken(objects))
    assert made.added("kubelet") == ("ec2-1.example.com",)
    assert "ec2-1.example.com" in named(every)["name-of-one-kubelet"][0]
    # Its address is its own.
    assert "{name: w-1, roles: [worker], addresses: [198.51.100.31, 203.0.113.31]}" in made.text


def test_a_kubelet_with_the_address_of_the_api_server_does_not_keep_it() -> None:
    objects = KubeadmObjects(Shape(serving_by_csr=True))
    objects.leaves["w-1", "kubelet"] = leaf(
        "system:node:w-1", objects.ca, names=["w-1"], addresses=["198.51.100.31", "198.51.100.11"]
    )
    made, every = judged(taken(objects))
    assert made.cluster is not None
    assert "address of the API server" in named(every)["name-left-out"][0]


@pytest.mark.parametrize("name", ["*.example.com", "under_score.example.com"])
def test_a_name_that_cluster_yaml_cannot_have_is_said(name: str) -> None:
    made, every = judged(taken(KubeadmObjects(Shape(sans=(name,)))))
    assert made.cluster is not None
    assert name in named(every)["wildcard-name" if name.startswith("*") else "name-left-out"][0]


def test_names_in_use_below_a_wildcard_are_drafted_and_a_person_gives_it_up(tmp_path: Path) -> None:
    objects = KubeadmObjects(Shape(sans=("*.example.com",)))
    root = objects.disk(tmp_path, "cp-1")
    config = objects.kubeconfig("admin", "cp-1")
    for number, host in enumerate(("k8s.example.com", "a.b.example.com", "other.test")):
        (root / f"home/{number}/.kube").mkdir(parents=True)
        (root / f"home/{number}/.kube/config").write_text(config.replace("198.51.100.11:6443", f"{host}:6443"))
    found = replace(taken(objects), machines=(machine.read(str(root)),))
    made, every = judged(found)
    assert made.added("kube-apiserver") == ("k8s.example.com",)
    assert any("in use below it: k8s.example.com" in each for each in named(every)["wildcard-name"])
    given_up = draft(found, Path("cluster.yaml"), given_up=["*.Example.com"])
    assert given_up.added("kube-apiserver") == ("k8s.example.com",)
    assert not {"wildcard-name", "name-left-out"} & named(obstacles(found, given_up)).keys()
    other = draft(found, Path("cluster.yaml"), given_up=["*.example.org"])
    assert "wildcard-name" in named(obstacles(found, other))


def test_the_name_of_the_cluster() -> None:
    objects = KubeadmObjects(Shape())
    assert cluster_of(judged(taken(objects))[0]).name == "kubernetes"
    assert cluster_of(judged(taken(objects), "prod")[0]).name == "prod"


@pytest.mark.parametrize("disk", [False, True])
def test_todays_cas_are_named_with_their_files(disk: bool, tmp_path: Path) -> None:
    objects = KubeadmObjects(SHAPES["elliptic"])
    made, _ = judged(taken(objects, disks={"cp-1": tmp_path / "cp-1"} if disk else {}))
    for file, pem in made.old_cas.items():
        (tmp_path / file).write_text(pem)
    cluster = read_cluster(made.whole, tmp_path / "cluster.yaml")
    # The CA of etcd is known only from a disk.
    known = {"kubernetes": objects.ca, "front-proxy": objects.front} | ({"etcd": objects.etcd} if disk else {})
    assert {each.ca: each.pem for each in cluster.authority.also_trust} == {ca: each.pem for ca, each in known.items()}
    assert "also_trust" not in made.text


def test_a_cluster_that_the_check_refuses_is_no_draft() -> None:
    def change(values: Values) -> None:
        values["/api/v1/nodes"]["items"][1]["metadata"]["name"] = "localhost"

    made, every = judged(taken(KubeadmObjects(Shape()), change=change))
    assert made.cluster is None and "localhost is reserved" in made.problem
    assert "localhost is reserved" in named(every)["draft-refused"][0]


def test_without_kubeadms_configuration_flags_and_certificates_tell() -> None:
    def change(values: Values) -> None:
        values.pop("/api/v1/namespaces/kube-system/configmaps/kubeadm-config")

    found = taken(KubeadmObjects(SHAPES["dual"]), change=change)
    cluster = cluster_of(judged(found)[0])
    assert cluster.api_server.endpoint == "https://198.51.100.11:6443"
    assert cluster.api_server.dns_domain == "cluster.local" and len(cluster.api_server.service_cidr) == 2
    assert replace(found.whole).settings is None
