"""How long a step waits for what reads the files of a CA, and for which components of a node it waits."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.example_cluster import BASE, load
from vaultpki.ca.facts import participants, reload
from vaultpki.identity.nodes import Member
from vaultpki.model import Cluster
from vaultpki.records.node_report import NodeReport


@pytest.mark.parametrize(
    ("ca", "seconds"),
    # kube-apiserver has no leaf of the kubelet's CA, and reads that CA only every five minutes.
    [("kubernetes", 300), ("kubelet", 300), ("etcd", 0), ("front-proxy", 0)],
)
def test_a_step_waits_for_readers_of_leaves_and_of_bundles(ca: str, seconds: int, tmp_path: Path) -> None:
    assert reload(load(tmp_path, BASE), ca) == seconds


def counted(
    cluster: Cluster, node: str, ca: str, versions: dict[str, str] | None, *, credentials: int | None = 1
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a gate waits for on a node, and what it does not know of, by the node's own word; None is no report."""
    holder = next(each for each in cluster.nodes if each.name == node)
    said = None if versions is None else NodeReport(datetime(2026, 11, 27, tzinfo=UTC), kubernetes=versions)
    (found,) = participants(cluster, [Member(node, "listed", holder, credentials, said)], ca)
    return found.readers, found.unversioned


@pytest.mark.parametrize(
    ("version", "waits", "unknown"),
    [
        ("v1.34.4", ("kubernetes/kubelet", "kubernetes/kube-proxy"), ()),
        ("v1.35.4", ("kubernetes/kubelet", "kubernetes/kube-proxy"), ()),
        ("v1.36.3", (), ()),
        ("v1.37.2", (), ()),
        ("", (), ("kubelet", "kube-proxy")),
        (None, (), ("kubelet", "kube-proxy")),
    ],
)
def test_a_gate_waits_by_the_version_that_a_node_reports(
    version: str | None, waits: tuple[str, ...], unknown: tuple[str, ...], tmp_path: Path
) -> None:
    cluster = load(tmp_path, BASE)
    versions = None if version is None else {"kubelet": version, "kube-proxy": version} if version else {}
    assert counted(cluster, "w-1", "kubernetes", versions) == (waits, unknown)
    # The kubelet's CA is the API server's to read.
    assert counted(cluster, "w-1", "kubelet", versions) == ((), ())


def test_a_nodes_word_takes_nothing_off_that_every_version_reads_at_its_start(tmp_path: Path) -> None:
    cluster = load(tmp_path, BASE)
    for version in ("v1.35.4", "v1.36.3", "v1.999.0"):
        names = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")
        versions = dict.fromkeys(names, version)
        assert set(counted(cluster, "cp-1", "etcd", versions)[0]) == {"etcd/etcd", "etcd/kube-apiserver"}
        assert "kubernetes/kube-controller-manager" in counted(cluster, "cp-1", "kubernetes", versions)[0]


def test_the_word_of_one_who_is_locked_counts_nowhere(tmp_path: Path) -> None:
    cluster, versions = load(tmp_path, BASE), {"kubelet": "v1.36.3", "kube-proxy": "v1.36.3"}
    assert counted(cluster, "w-1", "kubernetes", versions, credentials=0) == ((), ("kubelet", "kube-proxy"))
