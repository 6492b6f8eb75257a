"""What a node's agent sees of the version of its kubelet, and what follows from it: real processes and programs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.node.components import Component
from helpers.node.node_components import free_port
from helpers.node.passes import passed_well, report, said
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.handmade_rotation import Rotation
from vaultpki.agent import readers_seen
from vaultpki.node import state

pytestmark = pytest.mark.on_node

SPEC = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: w-1, roles: [worker], addresses: [10.0.0.21]}
"""
KUBELET = "kubernetes/kubelet"


@pytest.fixture
def cluster(handed_on: AppliedCluster) -> AppliedCluster:
    return handed_on


@pytest.fixture
def node(cluster: AppliedCluster, tmp_path: Path) -> NodeFolder:
    node = cluster.equip("w-1", folder=tmp_path / "w-1")
    passed(node)
    return node


@pytest.fixture
def kubelet(node: NodeFolder, tmp_path: Path) -> Iterator[Component]:
    flags = [f"--kubeconfig={node.pki}/kubelet.conf", f"--healthz-port={free_port()}"]
    made = Component("kubelet", tmp_path / "kubelet", flags, version="v1.35.4")
    # A start is known to a hundredth of a second: one in the same hundredth may be of the program of before.
    time.sleep(0.1)
    with made.supervised():
        made.serves()
        yield made


def passed(node: NodeFolder) -> list[str]:
    """A pass; the advice that it gives."""
    return said(passed_well(node, share=1.0), "advice")


def behind(node: NodeFolder) -> dict[str, str]:
    return readers_seen.behind(state.load(str(node.state)))


def test_an_older_kubelet_counts_as_reading_its_ca_at_its_start(
    cluster: AppliedCluster, node: NodeFolder, kubelet: Component
) -> None:
    passed(node)
    told = report(cluster, node)
    assert told.kubernetes == {"kubelet": "v1.35.4"}
    assert told.readers[KUBELET].sound and told.readers[KUBELET].sha256 == told.bundles["kubernetes"].sha256
    rotation = Rotation.of(cluster, "kubernetes")
    both = {rotation.old.sha256, rotation.new.sha256}
    (advice,) = passed(node)
    assert advice == (
        "kubernetes-ca changed: restart kubelet on this node, one node at a time, because Kubernetes 1.35 reads it "
        "only at start; on Kubernetes before 1.36, restart kube-proxy"
    )
    told = report(cluster, node)
    assert told.bundles["kubernetes"].sha256 == both and told.readers[KUBELET].sha256 == {rotation.old.sha256}
    assert behind(node)[KUBELET].startswith("kubelet of Kubernetes 1.35 was not started again since the bundle")
    assert "kubelet of Kubernetes 1.35 was not started again" in vaultpki("status", "-c", node.config, expect=3).stdout
    kubelet.restart()
    passed(node)
    assert report(cluster, node).readers[KUBELET].sha256 == both and behind(node) == {}


def test_the_version_of_a_process_is_that_of_the_program_that_it_was_started_with(
    cluster: AppliedCluster, node: NodeFolder, kubelet: Component
) -> None:
    passed(node)
    # The package is upgraded, and nobody has restarted it.
    kubelet.upgrade("v1.36.3")
    passed(node)
    assert report(cluster, node).kubernetes == {"kubelet": "v1.35.4"} and KUBELET in report(cluster, node).readers
    kubelet.restart()
    passed(node)
    # From this version on nothing is to be restarted.
    assert report(cluster, node).kubernetes == {"kubelet": "v1.36.3"} and report(cluster, node).readers == {}
    Rotation.of(cluster, "kubernetes")
    assert passed(node) == ["kubernetes-ca changed: on Kubernetes before 1.36, restart kube-proxy"]
    assert behind(node) == {}


def test_a_kubelet_that_is_stopped_keeps_its_version(
    cluster: AppliedCluster, node: NodeFolder, kubelet: Component
) -> None:
    """Its start is still owed: a stop opens no gate."""
    passed(node)
    kubelet.stop()
    passed(node)
    told = report(cluster, node)
    assert told.kubernetes == {"kubelet": "v1.35.4"} and not told.readers[KUBELET].running


def test_an_agent_that_cannot_tell_says_nothing(cluster: AppliedCluster, node: NodeFolder, kubelet: Component) -> None:
    (kubelet.folder / "kubelet").chmod(0o777)
    kubelet.restart()
    passed(node)
    assert report(cluster, node).kubernetes == {} and report(cluster, node).readers == {}


def test_hooks_of_an_older_kubelet_wait_for_the_nodes_turn(
    cluster: AppliedCluster, node: NodeFolder, kubelet: Component
) -> None:
    node.config.write_text(f'{node.config.read_text()}\nhooks: {{kubernetes-ca: [["true"]]}}\n')
    passed(node)
    rotation = Rotation.of(cluster, "kubernetes")
    passed(node)
    assert report(cluster, node).waiting == ("kubernetes",) and report(cluster, node).owed == ("kubernetes-ca",)
    rotation.turn("w-1")
    passed(node)
    assert report(cluster, node).waiting == () and report(cluster, node).owed == ()


def test_hooks_of_a_newer_kubelet_wait_for_no_turn(
    cluster: AppliedCluster, node: NodeFolder, kubelet: Component
) -> None:
    kubelet.upgrade("v1.37.2")
    kubelet.restart()
    node.config.write_text(f'{node.config.read_text()}\nhooks: {{kubernetes-ca: [["true"]]}}\n')
    passed(node)
    Rotation.of(cluster, "kubernetes")
    passed(node)
    assert report(cluster, node).waiting == () and report(cluster, node).owed == ()
