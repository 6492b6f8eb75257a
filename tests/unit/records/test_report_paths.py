"""Where each kind of node reports, and what of a report counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vaultpki.records import node_report, report_paths
from vaultpki.records.node_report import CertificateReport, NodeReport

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
ENTITY = "2190d53d-36ee-4dfc-d7c8-dbe461b41810"


def test_no_two_identities_share_a_place() -> None:
    names = ("w-1", "listed", "pooled", "jwt", ENTITY)
    places = [report_paths.listed(name) for name in names]
    places += [report_paths.former(name) for name in names]
    of_pools = (report_paths.pooled, report_paths.by_token)
    places += [make(pool, name) for make in of_pools for pool in names for name in names]
    assert len(set(places)) == len(places)
    assert report_paths.pooled("spot", "w-1") == "reports/pooled/spot/w-1"
    assert report_paths.by_token("spot", ENTITY) == f"reports/jwt/spot/{ENTITY}"
    assert report_paths.listed("cp-1") == "reports/listed/cp-1"


@pytest.mark.parametrize("text", ["", "c-1", "c-*", ENTITY.upper(), f"{ENTITY}/", "../listed", None, 7])
def test_what_is_no_entity(text: object) -> None:
    assert report_paths.is_entity(ENTITY) and not report_paths.is_entity(text)


def test_an_entity_of_a_namespace() -> None:
    """OpenBao appends the namespace's own id."""
    assert report_paths.is_entity(f"{ENTITY}.Ab3xY")
    for text in (f"{ENTITY}.", f"{ENTITY}./", f"{ENTITY}..", f"{ENTITY}.a/b", f"{ENTITY}.a.b"):
        assert not report_paths.is_entity(text), text


def test_of_certificates_a_report_counts_only_for_what_the_node_may_hold() -> None:
    ends = NOW + timedelta(days=1)
    told = NodeReport(
        NOW,
        certificates={
            "kubelet": CertificateReport("kubelet", "ok", ends, "1"),
            "kubelet-client": CertificateReport("etcd", "ok", ends, "2"),
            "kube-scheduler": CertificateReport("kubernetes", "ok", ends + timedelta(days=9), "3"),
        },
    )
    kept = node_report.with_own_rows_only(told, {"kubelet": "kubelet", "kubelet-client": "kubernetes"})
    assert list(kept.certificates) == ["kubelet"] and node_report.last_expiry(kept) == ends
    assert node_report.last_expiry(node_report.with_own_rows_only(told, {})) is None
