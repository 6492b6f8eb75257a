"""What a node's agent sees of the version of its kubelet, and what follows from it: real processes and programs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.node.components import Component
from helpers.node.node_components import free_port
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.handmade_rotation import Rotation
from vaultpki.agent import readers_seen, run
from vaultpki.config.agent import load_agent
from vaultpki.host import log
from vaultpki.node import state
from vaultpki.records import node_report
from vaultpki.records.node_report import NodeReport

pytestmark = pytest.mark.on_node

SPEC = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: w-1, roles: [worker], addresses: [10.0.0.21]}
"""
KUBELET = "kubernetes/kubelet"


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AppliedCluster:
    return clusters.applied(SPEC)


@pytest.fixture
def node(cluster: AppliedCluster) -> NodeFolder:
    node = cluster.equip("w-1")
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


def passed(node: NodeFolder) -> list[log.Event]:
    if (node.state / "spec.json").exists():
        node.age(1e7)
    outcome = run.run(load_agent(node.config), run.PassOptions(settle=False))
    assert not outcome.failures
    return list(outcome.events)


def report(cluster: AppliedCluster) -> NodeReport:
    found = node_report.read(cluster.read(cluster.report_path("w-1"))["data"])
    assert found is not None
    return found


def behind(node: NodeFolder) -> dict[str, str]:
    return readers_seen.behind(state.load(str(node.state)))


def test_an_older_kubelet_counts_as_reading_its_ca_at_its_start(
    cluster: AppliedCluster, node: NodeFolder, kubelet: Component
) -> None:
    passed(node)
    told = report(cluster)
    assert told.kubernetes == {"kubelet": "v1.35.4"}
    assert told.readers[KUBELET].sound and told.readers[KUBELET].sha256 == told.bundles["kubernetes"].sha256
    rotation = Rotation.of(cluster, "kubernetes")
    both = {rotation.old.sha256, rotation.new.sha256}
    said = [event.text for event in passed(node) if event.name == "advice"]
    (advice,) = said
    assert advice == (
        "kubernetes-ca changed: restart kubelet on this node, one node at a time, because Kubernetes 1.35 reads it "
        "only at start; on Kubernetes before 1.36, restart kube-proxy"
    )
    told = report(cluster)
    assert told.bundles["kubernetes"].sha256 == both and told.readers[KUBELET].sha256 == {rotation.old.sha256}
    assert behind(node)[KUBELET].startswith("kubelet of Kubernetes 1.35 was not started again since the bundle")
    assert "kubelet of Kubernetes 1.35 was not started again" in vaultpki("status", "-c", node.config, expect=3).stdout
    kubelet.restart()
    passed(node)
    assert report(cluster).readers[KUBELET].sha256 == both and behind(node) == {}


def test_the_version_of_a_process_is_that_of_the_program_that_it_was_started_with(
    cluster: AppliedCluster, node: NodeFolder, kubelet: Component
) -> None:
    passed(node)
    # The package is upgraded, and nobody has restarted it.
    kubelet.upgrade("v1.36.3")
    passed(node)
    assert report(cluster).kubernetes == {"kubelet": "v1.35.4"} and KUBELET in report(cluster).readers
    kubelet.restart()
    passed(node)
    # From this version on nothing is to be restarted.
    assert report(cluster).kubernetes == {"kubelet": "v1.36.3"} and report(cluster).readers == {}
    Rotation.of(cluster, "kubernetes")
    said = [event.text for event in passed(node) if event.name == "advice"]
    assert said == ["kubernetes-ca changed: on Kubernetes before 1.36, restart kube-proxy"]
    assert behind(node) == {}


def test_a_kubelet_that_is_stopped_keeps_its_version(
    cluster: AppliedCluster, node: NodeFolder, kubelet: Component
) -> None:
    """Its start is still owed: a stop opens no gate."""
    passed(node)
    kubelet.stop()
    passed(node)
    told = report(cluster)
    assert told.kubernetes == {"kubelet": "v1.35.4"} and not told.readers[KUBELET].running


def test_an_agent_that_cannot_tell_says_nothing(cluster: AppliedCluster, node: NodeFolder, kubelet: Component) -> None:
    (kubelet.folder / "kubelet").chmod(0o777)
    kubelet.restart()
    passed(node)
    assert report(cluster).kubernetes == {} and report(cluster).readers == {}


def test_hooks_of_an_older_kubelet_wait_for_the_nodes_turn(
    cluster: AppliedCluster, node: NodeFolder, kubelet: Component
) -> None:
    node.config.write_text(f'{node.config.read_text()}\nhooks: {{kubernetes-ca: [["true"]]}}\n')
    passed(node)
    rotation = Rotation.of(cluster, "kubernetes")
    passed(node)
    assert report(cluster).waiting == ("kubernetes",) and report(cluster).owed == ("kubernetes-ca",)
    rotation.turn("w-1")
    passed(node)
    assert report(cluster).waiting == () and report(cluster).owed == ()


def test_hooks_of_a_newer_kubelet_wait_for_no_turn(
    cluster: AppliedCluster, node: NodeFolder, kubelet: Component
) -> None:
    kubelet.upgrade("v1.37.2")
    kubelet.restart()
    node.config.write_text(f'{node.config.read_text()}\nhooks: {{kubernetes-ca: [["true"]]}}\n')
    passed(node)
    Rotation.of(cluster, "kubernetes")
    passed(node)
    assert report(cluster).waiting == () and report(cluster).owed == ()
