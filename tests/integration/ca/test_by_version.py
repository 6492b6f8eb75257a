"""A rotation waits for components that read a CA only when they start, by the versions that their nodes report."""

from __future__ import annotations

import pytest

from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.rotations import Rotation
from vaultpki.ca.run import Step
from vaultpki.procedures import ca_text
from vaultpki.records.rotation import State

# What nodes report decides.
pytestmark = pytest.mark.on_node

SPEC = """\
api_server: {names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: w-1, roles: [worker], addresses: [10.0.0.21]}
- {name: w-2, roles: [worker], addresses: [10.0.0.22]}
"""
OF_CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


def rotation_of(clusters: ClusterFactory, domain: str, versions: dict[str, str]) -> Rotation:
    """A rotation of a cluster with these versions by node; a node without one does not know its own."""
    cluster = clusters.applied(SPEC)
    for node in cluster.model.nodes:
        cluster.equip(node.name)
    made = Rotation(cluster, domain)
    for each in made.nodes:
        components = OF_CONTROL_PLANE if each.name == "cp-1" else ("kubelet", "kube-proxy")
        each.versions = dict.fromkeys(components, versions[each.name]) if each.name in versions else {}
    return made


def reported(rotation: Rotation, *, without_restart: str = "") -> Step:
    """Every node makes a pass, one of them without a restart of what reads the bundle, and a command goes on."""
    passes(rotation, without_restart)
    return rotation.advance()


def passes(rotation: Rotation, without_restart: str = "") -> None:
    for each in rotation.nodes:
        each.passed(rotation.now, restarts=each.name != without_restart)
    rotation.later(361)


def waits(step: Step) -> list[tuple[str, str]]:
    assert step.gate is not None
    return [(each.node, each.reason) for each in step.gate.waiting]


def said(rotation: Rotation) -> str:
    return "\n".join(ca_text.status_lines(rotation.status(), rotation.now, "cluster.yaml"))


def test_an_older_kubelet_is_waited_for_until_it_was_started_again(clusters: ClusterFactory) -> None:
    """A node's word opens no gate of another, and closes none for longer than its own restart is owed."""
    rotation = rotation_of(clusters, "kubernetes", {"cp-1": "v1.36.3", "w-1": "v1.35.4", "w-2": "v1.37.2"})
    rotation.reach(State.PUBLISHED)
    step = reported(rotation, without_restart="w-1")
    reason = (
        "restart kubelet and kube-proxy there (Kubernetes 1.35 reads this CA only at start). Wait until its "
        "agent has seen it healthy, and run `vaultpki ca continue`"
    )
    assert not step.moved and waits(step) == [("w-1", reason)]
    # The node has the turn now.
    passes(rotation, "w-1")
    assert "Before Kubernetes" not in said(rotation) and "restart kubelet and kube-proxy there" in said(rotation)
    rotation.nodes[-1].versions = dict.fromkeys(("kubelet", "kube-proxy", "kube-apiserver", "etcd"), "v1.999.0")
    assert [node for node, _ in waits(reported(rotation, without_restart="w-1"))] == ["w-1"]
    rotation.reported()
    step = rotation.advance()
    assert step.moved and step.record.state is State.SWITCHED
    assert rotation.moved() is State.RETIRED
    # What still holds the old CA is waited for as well, unless it is upgraded meanwhile.
    step = reported(rotation, without_restart="w-1")
    assert not step.moved and [node for node, _ in waits(step)] == ["w-1"]
    worker = next(each for each in rotation.nodes if each.name == "w-1")
    worker.versions = dict.fromkeys(("kubelet", "kube-proxy"), "v1.36.3")
    step = reported(rotation, without_restart="w-1")
    assert step.moved and step.record.state is State.DONE

    # Of newer versions nothing is said, and a node that does not know its own is named and not waited for.
    rotation.reach(State.PUBLISHED)
    passes(rotation)
    assert "Before Kubernetes" not in said(rotation)
    worker.versions = {}
    passes(rotation)
    assert (
        "Before Kubernetes 1.36, restart kubelet, kube-proxy first, node by node: no step waits for that on nodes that "
        "do not report the version (w-1)."
    ) in said(rotation)
    assert rotation.advance().moved


def test_the_kubelets_ca_is_read_by_kube_apiserver(clusters: ClusterFactory) -> None:
    rotation = rotation_of(clusters, "kubelet", {"cp-1": "v1.35.4", "w-1": "v1.34.4"})
    rotation.reach(State.PUBLISHED)
    reasons = dict(waits(reported(rotation, without_restart="cp-1")))
    assert "w-1" not in reasons and "restart kube-apiserver there (Kubernetes 1.35" in reasons["cp-1"]
    # What is left is the copy of this CA that no agent writes.
    assert [who for who, _ in waits(reported(rotation))] == ["kubelet-serving-ca"]
