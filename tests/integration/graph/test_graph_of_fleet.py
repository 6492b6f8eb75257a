"""`vaultpki graph --from-vault`: the reports of all nodes, the CAs and their rotations, from a real server."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from helpers.drawn_scenes import problems
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import vaultpki
from helpers.vault.rotations import Rotation, rotation_of
from vaultpki.ca import fleet
from vaultpki.findings.cluster import judge
from vaultpki.graph.content import Graph, Health, graph
from vaultpki.graph.placement import scene
from vaultpki.records.node_report import CertificateReport
from vaultpki.records.rotation import State
from vaultpki.show.fleet import inventory

pytestmark = pytest.mark.on_node


@pytest.fixture
def rotation(clusters: ClusterFactory) -> Rotation:
    return rotation_of(clusters)


def drawn(rotation: Rotation) -> Graph:
    cluster = rotation.cluster.model
    read = fleet.read(cluster, rotation.vault, rotation.now, rotation.now)
    found = inventory(read, judge(read))
    made = graph(
        cluster, rotation.now, expiries=found.rows, cas=found.ends, rotations=found.rotations, source=found.source
    )
    assert problems(scene(made)) == []
    return made


def test_reports_give_colours_and_records_the_state_of_rotations(rotation: Rotation) -> None:
    first = drawn(rotation)
    pairs = {pair.name: pair for pair in first.pairs}
    ends = f"until {rotation.now + timedelta(days=30):%Y-%m-%d}"
    assert pairs["etcd-server"].health is Health.VALID and pairs["etcd-server"].until.startswith(ends)
    # These nodes report the pairs of one CA only.
    assert (pairs["kube-apiserver"].health, pairs["kube-apiserver"].until) == (Health.UNKNOWN, "")
    assert pairs["admin"].health is Health.UNKNOWN
    assert "reports of 2 nodes read on" in first.about
    assert [domain.rotation for domain in first.domains] == [""] * 4
    assert {domain.health for domain in (*first.domains, first.root)} == {Health.VALID}

    rotation.reach(State.PUBLISHED)
    assert {domain.ca: domain.rotation for domain in drawn(rotation).domains}["etcd"] == "published"

    worse = replace(rotation.nodes[1].report(rotation.now, rotation.record.revision))
    late = {"etcd-server": CertificateReport("etcd", "due", rotation.now + timedelta(days=1))}
    rotation.nodes[1].write(replace(worse, certificates={**worse.certificates, **late}))
    assert {pair.name: pair.health for pair in drawn(rotation).pairs}["etcd-server"] is Health.DUE


def test_a_node_that_never_reported_is_named(rotation: Rotation) -> None:
    cluster = rotation.cluster
    path = cluster.report_path("etcd-2", data="metadata")
    assert cluster.server.api("DELETE", path).status == 204
    file = cluster.file.parent / "fleet.svg"
    ran = vaultpki("graph", "-f", cluster.file, "--from-vault", "-o", file, env=cluster.environment("viewer"))
    assert ran.stderr == "etcd-2: never reported: run `systemctl status vaultpki-agent` on etcd-2\n"
    assert "reports of 1 node read on" in file.read_text()
    both = ("--from-vault", "--dir", cluster.file.parent)
    assert "choose one of" in vaultpki("graph", "-f", cluster.file, *both, expect=2).stderr
