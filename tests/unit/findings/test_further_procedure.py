"""A procedure that the views have never heard of is shown by all of them, once it is in the tuple that they get."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from helpers import example_cluster
from vaultpki.findings.cluster import ProcedureView, document, judge
from vaultpki.findings.finding import found
from vaultpki.identity.nodes import NodeList
from vaultpki.identity.revoked_list import Revoked
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.procedures.in_cluster import IN_CLUSTER
from vaultpki.provision.cluster_facts import CaStatus, ClusterFacts
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.show.fleet import inventory

NOW = datetime(2026, 11, 26, 10, tzinfo=UTC)


def lamps(read: ClusterFacts) -> ProcedureView:
    """Lamps that are lit one after the other."""
    text = f"the lamps of {read.cluster.name} wait for cp-1"
    return ProcedureView((found("rotation-blocked", text, command="vaultpki ca status"),))


def facts(folder: Path, *cas: CaStatus) -> ClusterFacts:
    cluster = example_cluster.load(folder, example_cluster.WITH_POOL)
    return ClusterFacts(cluster, NOW, NodeList((), ()), Revoked(), {}, (), cas, ())


def test_a_further_procedure_is_judged_and_shown(tmp_path: Path) -> None:
    read = facts(tmp_path)
    assert judge(read, IN_CLUSTER).ok and not inventory(read, judge(read, IN_CLUSTER)).notices
    judged = judge(read, (*IN_CLUSTER, lamps))
    assert not judged.ok and not document(judged)["ok"]
    assert [each.text for each in judged.about_cluster] == [f"the lamps of {read.cluster.name} wait for cp-1"]
    (notice,) = inventory(read, judged).notices
    assert notice.attention and notice.part == "rotation"


def test_every_procedure_is_in_the_tuple(tmp_path: Path) -> None:
    """A rotation that waits for a person is seen in every view: without its module, none would say so."""
    record = RotationRecord("etcd", State.PUBLISHED, 2, NOW, CaRef("etcd-1"), CaRef("etcd-2"))
    waits = CaStatus("etcd", "etcd-1", "", None, record, Gate((Waiting("cp-1", "start etcd there"),)))
    read = facts(tmp_path, waits)
    (finding,) = judge(read, IN_CLUSTER).procedures
    assert finding.name == "rotation-blocked" and finding.attention
    assert [each.banner is not None for each in judge(read, IN_CLUSTER).views] == [True, False, False, False]
    assert not judge(read, ()).procedures
