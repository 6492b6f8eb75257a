"""What a node's agent sees and reports of etcd, whoever restarts it: real processes, and records made by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.node import node_components
from helpers.node.node_components import NodeComponents
from helpers.node.passes import passed_well, report
from helpers.node.resident_agent import PASS, resident
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.handmade_rotation import Rotation
from helpers.vault.servers import wait_for
from vaultpki.agent import readers_seen
from vaultpki.model import NodeRole
from vaultpki.node import state
from vaultpki.records.node_report import NodeReport, ReaderReport
from vaultpki.records.rotation import State

pytestmark = pytest.mark.on_node

SPEC = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: etcd-1, roles: [etcd], addresses: [10.0.0.11]}
"""


@pytest.fixture
def cluster(handed_on: AppliedCluster) -> AppliedCluster:
    return handed_on


@pytest.fixture
def member(cluster: AppliedCluster, tmp_path: Path) -> Iterator[NodeComponents]:
    node = cluster.equip("etcd-1", folder=tmp_path / "etcd-1")
    passed_well(node, share=1.0)
    with node_components.standing(node, frozenset({NodeRole.ETCD})) as components:
        yield components


def etcd(cluster: AppliedCluster, node: NodeFolder) -> ReaderReport:
    return report(cluster, node).readers["etcd/etcd"]


def current(told: NodeReport) -> bool:
    """Whether etcd was started with the bundle, as a gate compares it."""
    started = told.readers["etcd/etcd"].started
    return started is not None and started >= told.bundles["etcd"].installed


def status(node: NodeFolder) -> dict[str, str]:
    return readers_seen.behind(state.load(str(node.state)))


def test_a_restart_counts_when_it_is_seen_and_not_when_a_hook_has_succeeded(
    cluster: AppliedCluster, member: NodeComponents
) -> None:
    node = member.node
    node.config.write_text(f'{node.config.read_text()}\nhooks: {{etcd-ca: [["true"]]}}\n')
    passed_well(node, share=1.0)
    assert current(report(cluster, node)) and etcd(cluster, node).healthy
    rotation = Rotation.of(cluster, "etcd")
    rotation.turn("etcd-1")
    old, both = {rotation.old.sha256}, {rotation.old.sha256, rotation.new.sha256}
    passed_well(node, share=1.0)
    told = report(cluster, node)
    # As with a kubelet that is stopped.
    assert told.owed == () and told.bundles["etcd"].sha256 == both
    assert told.readers["etcd/etcd"].sha256 == old and not current(told) and told.readers["etcd/etcd"].running
    assert "etcd was not started again since" in vaultpki("status", "-c", node.config, expect=3).stdout
    # Somebody restarts it by hand, and it is not healthy at first.
    member["etcd"].answers(500, "[-]etcd failed")
    member["etcd"].restart()
    passed_well(node, share=1.0)
    assert current(report(cluster, node)) and etcd(cluster, node).sha256 == both and not etcd(cluster, node).healthy
    assert "500" in etcd(cluster, node).problem and "500" in status(node)["etcd/etcd"]
    member["etcd"].answers(200, "ok")
    passed_well(node, share=1.0)
    assert etcd(cluster, node).healthy and etcd(cluster, node).problem == "" and status(node) == {}
    # What is not there is not running, and nothing of the process before counts for the next one.
    member["etcd"].stop()
    passed_well(node, share=1.0)
    assert (etcd(cluster, node).running, etcd(cluster, node).healthy, etcd(cluster, node).started) == (
        False,
        False,
        None,
    )
    assert "no process of etcd" in etcd(cluster, node).problem
    member["etcd"].start()
    member["etcd"].serves()
    passed_well(node, share=1.0)
    assert current(report(cluster, node)) and etcd(cluster, node).healthy


def test_the_wall_clock_may_be_set_before_a_bundle_comes(cluster: AppliedCluster, member: NodeComponents) -> None:
    """Neither way does a start count that came before the bundle, or not count that came after it."""
    node, rotation = member.node, None
    for minutes in (-4, 4):
        passed_well(node, share=1.0)
        if rotation is None:
            rotation = Rotation.of(cluster, "etcd")
        else:
            rotation.move(State.SWITCHED)
            rotation.move(State.RETIRED)
        passed_well(node, share=1.0, clock=time.time() + minutes * 60)
        assert not current(report(cluster, node))
        member["etcd"].restart()
        passed_well(node, share=1.0)
        assert current(report(cluster, node))


def test_a_resident_agent_looks_again_while_a_rotation_waits_and_reports_at_once(
    cluster: AppliedCluster, member: NodeComponents
) -> None:
    """With a poll of an hour, and without a request until there is something to report."""
    node = member.node
    node.config.write_text(f"{node.config.read_text()}\npoll: 1h\n")
    Rotation.of(cluster, "etcd")
    node.age(1e7)
    with resident(node) as agent:
        wait_for(lambda: len(report(cluster, node).bundles["etcd"].sha256) == 2, PASS, agent.log.read_text)
        assert not current(report(cluster, node))
        time.sleep(1.2 * readers_seen.AGAIN)
        since = cluster.server.audit_position()
        time.sleep(1.2 * readers_seen.AGAIN)
        assert cluster.server.requests(since) == []
        member["etcd"].restart()
        wait_for(
            lambda: current(report(cluster, node)) and etcd(cluster, node).healthy,
            PASS + readers_seen.AGAIN,
            agent.log.read_text,
        )
