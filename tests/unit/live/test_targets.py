"""Which listeners are tried, which are left out and why, and how Node objects must agree with cluster.yaml."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from helpers.example_cluster import load
from helpers.node.handmade_files import SPEC
from vaultpki.kube.cluster import LiveNode, PodFlags
from vaultpki.live.checks import days_left, not_checked
from vaultpki.live.listeners import dns_name, listeners, node_checks
from vaultpki.model import Cluster
from vaultpki.verify.matrix import to_json

OWN = """\
certificates:
  extension: {kind: server, ca: kubernetes, common_name: extension, names: [extension.default.svc], roles: [etcd]}
"""
ENDPOINT = "https://api.example.com:6443"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return load(tmp_path, SPEC + OWN)


def live(*nodes: LiveNode) -> tuple[LiveNode, ...]:
    return (LiveNode("worker-1", ("10.0.0.21",), 10250), *nodes)


def test_every_listener_of_the_table_is_tried(cluster: Cluster) -> None:
    made, left = listeners(cluster, live(), "https://10.0.0.11:6443", lambda _: False)
    assert {each.label: each.cas for each in made} == {
        "cp-1/kube-apiserver 10.0.0.11:6443": ("kubernetes", "front-proxy"),
        "cp-1/etcd-server 10.0.0.11:2379": ("etcd",),
        "cp-1/etcd-peer 10.0.0.11:2380": ("etcd",),
        "worker-1/kubelet 10.0.0.21:10250": ("kubernetes",),
        "endpoint/kube-apiserver api.example.com:6443": ("kubernetes", "front-proxy"),
    }
    assert {check.source: check.detail for check in left} == {
        "cp-1/extension": "cluster.yaml does not say where this server listens",
        "cp-1/kube-controller-manager 127.0.0.1:10257": "it listens on its own machine only; run this command there",
        "cp-1/kube-scheduler 127.0.0.1:10259": "it listens on its own machine only; run this command there",
    }
    assert all(check.ok is None and check.got == "unchecked" for check in left)


def test_loopback_is_tried_on_the_nodes_own_machine(cluster: Cluster) -> None:
    made, left = listeners(cluster, (), ENDPOINT, lambda address: address == "10.0.0.11")
    assert {each.name for each in made} >= {"kube-controller-manager", "kube-scheduler"}
    assert [check.source for check in left] == ["cp-1/extension"]


def test_the_flags_say_where_a_component_listens_and_by_which_names(cluster: Cluster) -> None:
    pods = (
        PodFlags("cp-1", "kube-scheduler", ("--bind-address=0.0.0.0", "--secure-port=11259")),
        PodFlags("cp-1", "kube-controller-manager", ("--secure-port=0",)),
        PodFlags("cp-1", "kube-apiserver", ("--tls-sni-cert-key=/a.crt,/a.key:a.example.com,*.b", "--v=2")),
    )
    made, left = listeners(cluster, live(), "https://10.0.0.11:6443", lambda _: False, pods)
    labels = {each.label: each.server_name for each in made}
    assert labels["cp-1/kube-scheduler 10.0.0.11:11259"] == ""
    assert {label: name for label, name in labels.items() if name} == {
        "cp-1/kube-apiserver 10.0.0.11:6443 as a.example.com": "a.example.com",
        "cp-1/kube-apiserver 10.0.0.11:6443 as any.b": "any.b",
    }
    assert "its --secure-port is 0, so it listens nowhere" in {check.detail for check in left}
    # kubeadm's own: on its own machine alone.
    loopback = (PodFlags("cp-1", "kube-scheduler", ("--bind-address=127.0.0.1",)),)
    _, left = listeners(cluster, live(), "https://10.0.0.11:6443", lambda _: False, loopback)
    assert "cp-1/kube-scheduler 127.0.0.1:10259" in {check.source for check in left}


def test_pooled_nodes_are_found_by_their_node_objects(cluster: Cluster) -> None:
    nodes = live(LiveNode("w-7", ("10.0.0.77", "10.0.0.78"), 10350), LiveNode("w-8", (), 10250))
    made, left = listeners(cluster, nodes, ENDPOINT, lambda _: False)
    assert "w-7/kubelet 10.0.0.77:10350" in {each.label for each in made}
    assert ("w-8/kubelet", "its Node object has no address at which it can be reached") in {
        (check.source, check.detail) for check in left
    }


def test_an_endpoint_may_show_the_pair_of_any_control_plane(cluster: Cluster) -> None:
    made, _ = listeners(cluster, (), "https://10.9.9.9", lambda _: False)
    endpoints = [each for each in made if each.label.startswith("endpoint/")]
    assert [(each.address, each.port) for each in endpoints] == [("api.example.com", 6443), ("10.9.9.9", 443)]
    assert [[node for node, _ in each.candidates] for each in endpoints] == [["cp-1"], ["cp-1"]]


def test_node_objects_agree_with_the_spec(cluster: Cluster) -> None:
    nodes = (
        LiveNode("cp-1", ("10.0.0.99",), 10250),
        LiveNode("w-7", ("10.0.0.77",), 10250),
        LiveNode("mallory", ("10.0.0.66",), 10250),
    )
    found = {check.target: (check.ok, check.detail) for check in node_checks(cluster, nodes)}
    assert found["cp-1"] == (False, "is called at 10.0.0.99, which its certificate does not name")
    assert found["w-7"] == (True, "")
    assert found["mallory"][0] is False and "no pool takes its name" in found["mallory"][1]
    assert found["worker-1"] == (None, "has no Node object; its kubelet has not registered")


def test_names_are_sent_and_addresses_are_not() -> None:
    assert [dns_name(each) for each in ("api.example.com", "10.0.0.1", "fd00::1")] == ["api.example.com", "", ""]


def test_what_was_not_checked_is_neither_right_nor_wrong() -> None:
    told = to_json([not_checked("listener", "a", "b", "away")])
    assert told["ok"] is True
    assert told["checks"][0] | {"ok": None, "got": "unchecked", "kind": "live"} == told["checks"][0]


def test_times_are_written_as_people_do() -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    ends = (timedelta(days=30), timedelta(days=2), timedelta(hours=47), timedelta(minutes=61), timedelta(0))
    assert [days_left(now + each, now) for each in ends] == ["30 days", "2 days", "47 hours", "1 hour", "0 hours"]
