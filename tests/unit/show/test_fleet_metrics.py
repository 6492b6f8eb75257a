"""What Vault knows of a cluster as metrics: names and values, and that no name of an identity spoils the file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from helpers import example_cluster
from vaultpki.findings import cluster as whole
from vaultpki.findings.catalogue import KINDS, NodeState
from vaultpki.identity.nodes import Member, NodeList, Unfit
from vaultpki.identity.revoked_list import Revoked
from vaultpki.pki.ca_life import CaLife, expiry
from vaultpki.procedures.in_cluster import IN_CLUSTER
from vaultpki.provision.cluster_facts import CaStatus, ClusterFacts
from vaultpki.records.node_report import CertificateReport, NodeReport
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.show import fleet_metrics

NOW = datetime(2027, 1, 1, tzinfo=UTC)
WRITTEN = NOW + timedelta(seconds=3)
DAY = timedelta(days=1)
Labels = frozenset[tuple[str, str]]


def member(name: str, reported: datetime, end: datetime, *, credentials: int | None = 1) -> Member:
    one = CertificateReport("kubelet", "ok", end, "1f", not_before=end - 30 * DAY, renew_after=end - 12 * DAY)
    report = NodeReport(reported, "0.3.0", certificates={"kubelet": one}, poll=300, trust="5b0c2f6f")
    return Member(name, "listed", None, credentials, report, '{"version":1}')


def facts(folder: Path, *members: Member, unfit: tuple[Unfit, ...] = ()) -> ClusterFacts:
    cluster = example_cluster.load(folder, example_cluster.WITH_POOL)
    ends = (
        expiry(CaLife("root", True, NOW - DAY, NOW + 3650 * DAY, 1), NOW),
        expiry(CaLife("etcd", False, NOW - 1800 * DAY, NOW + 25 * DAY, 1), NOW),
    )
    record = RotationRecord("etcd", State.PUBLISHED, 2, NOW - 3 * DAY, CaRef("etcd-1"), CaRef("etcd-2"))
    cas = (CaStatus("etcd", "etcd-1", "", None, record),)
    return ClusterFacts(cluster, NOW, NodeList(members, unfit), Revoked(), {}, ends, cas, ())


def samples(read: ClusterFacts) -> dict[tuple[str, Labels], float]:
    text = fleet_metrics.text(read, whole.judge(read, IN_CLUSTER), WRITTEN)
    assert text.startswith(f"{fleet_metrics.METRICS_MARK}\n") and text.endswith("\n")
    found: dict[tuple[str, Labels], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # Another sample of the same name, from an agent, would have other labels.
            assert sample.name.startswith("vaultpki_fleet_")
            key = (sample.name.removeprefix("vaultpki_fleet_"), frozenset(sample.labels.items()))
            # node_exporter refuses a whole file in which a sample comes twice.
            assert key not in found, key
            found[key] = sample.value
    return found


def test_every_metric_by_name_and_value(tmp_path: Path) -> None:
    read = facts(tmp_path, member("worker-1", NOW - 3 * DAY, NOW - DAY), Member("cp-1", "listed", None, 0))
    found = samples(read)

    def each(name: str, value: float, /, **labels: str) -> None:
        assert found.pop((name, frozenset({"cluster": "prod", **labels}.items()))) == value, (name, labels)

    each("written_timestamp_seconds", WRITTEN.timestamp())
    each("ok", 0)
    heavy = {"many-credentials": "critical", "ca-problem": "critical", "no-live-credential": "critical"}
    for kind in KINDS.values():
        if kind.state is None and kind.vault:
            each("finding", 0, finding=kind.name, severity=heavy.get(kind.name, kind.severity.value))
    for severity in ("critical", "warning", "info"):
        each("finding", severity == "critical", finding="ca-expires", severity=severity)
    for state in NodeState:
        each("nodes", state in (NodeState.EXPIRED, NodeState.NEW), state=state.value)
    each("ca_not_after_timestamp_seconds", (NOW + 3650 * DAY).timestamp(), ca="root")
    each("ca_not_after_timestamp_seconds", (NOW + 25 * DAY).timestamp(), ca="etcd")
    each("ca_level", 1, ca="root", level="none")
    each("ca_level", 1, ca="etcd", level="critical")
    each("ca_rotation_since_timestamp_seconds", (NOW - 3 * DAY).timestamp(), ca="etcd", state="published")
    worker, cp = {"node": "worker-1", "pool": ""}, {"node": "cp-1", "pool": ""}
    each("node_info", 1, **worker, version="0.3.0", generation="5b0c2f6f")
    each("node_info", 1, **cp, version="", generation="")
    each("node_state", 1, **worker, state="expired")
    each("node_state", 1, **cp, state="new")
    each("node_finding", 1, **worker, finding="expired", severity="critical")
    each("node_finding", 1, **worker, finding="silent", severity="warning")
    each("node_finding", 1, **cp, finding="not-enrolled", severity="info")
    each("node_last_report_timestamp_seconds", (NOW - 3 * DAY).timestamp(), **worker)
    each("node_first_expiry_timestamp_seconds", (NOW - DAY).timestamp(), **worker)
    each("node_live_credentials", 1, **worker)
    each("node_live_credentials", 0, **cp)
    assert found == {}


def test_a_node_that_was_removed_has_no_sample_left(tmp_path: Path) -> None:
    stays, goes = (member(name, NOW, NOW + 20 * DAY) for name in ("worker-1", "worker-2"))
    before, after = samples(facts(tmp_path, stays, goes)), samples(facts(tmp_path, stays))
    named = {key for key in before if ("node", "worker-2") in key[1]}
    assert {name for name, _ in named} == {
        *("node_info", "node_state", "node_last_report_timestamp_seconds"),
        *("node_first_expiry_timestamp_seconds", "node_live_credentials"),
    }
    assert before.keys() - named == after.keys()


@pytest.mark.parametrize("name", ['a"b\\c\nd', "\x1b[2J\u202e", "ü" * 500, "cp-1"])
def test_an_identity_of_any_name_spoils_nothing(tmp_path: Path, name: str) -> None:
    """Whoever enrols nodes of a pool chooses names, also two that are shown alike."""
    twice = (Unfit(name, "pooled", 1), Unfit(name, "jwt", None), Unfit(name[:100] + "x" * 100, "pooled", 1))
    found = samples(facts(tmp_path, member("cp-1", NOW, NOW + 20 * DAY), unfit=twice))
    unfit = [labels for each, labels in found if each == "node_finding" and ("finding", "fits-no-pool") in labels]
    assert unfit and all(("pool", "-") in labels for labels in unfit)
    # So a query that joins by cluster and node finds one.
    assert [dict(labels)["pool"] for each, labels in found if each == "node_info"] == [""]
    assert all(value.isprintable() and len(value) <= 100 for _, labels in found for _, value in labels)
