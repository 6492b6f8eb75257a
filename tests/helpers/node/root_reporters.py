"""Nodes that only report what agents would hold while the root is rotated; a root token writes it for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from helpers.node.reporting_nodes import record_of
from helpers.vault.applied_cluster import AppliedCluster
from vaultpki.certificates import ROOT, node_rows
from vaultpki.readers import READERS
from vaultpki.records import node_report
from vaultpki.records.node_report import BundleReport, CertificateReport, NodeReport, ReaderReport, Seen
from vaultpki.records.rotation import DOMAINS, RotationRecord


@dataclass(frozen=True, slots=True)
class RootReporters:
    """Every listed node of a cluster, which has done at once what the records say."""

    cluster: AppliedCluster

    def report(self, now: datetime) -> None:
        records = {domain: record_of(self.cluster, domain) for domain in DOMAINS}
        before = now - timedelta(seconds=2)
        trust = {domain: record.trust for domain, record in records.items() if record is not None}
        for node in self.cluster.model.nodes:
            readers = [each for each in READERS if each.follows is None and each.role in node.roles]
            held = frozenset[str]().union(*trust.values())
            made = NodeReport(
                time=now,
                agent="0.3.0",
                seen={domain: _seen(record) for domain, record in records.items()},
                certificates={
                    row.name: CertificateReport(
                        row.ca,
                        "ok",
                        now + timedelta(days=30),
                        f"{index + 1:x}",
                        "",
                        _served(records[row.ca]),
                        installed=before,
                    )
                    for index, row in enumerate(node_rows(self.cluster.model, node))
                },
                bundles={domain: BundleReport(sha256s, before) for domain, sha256s in trust.items()},
                readers={
                    f"{domain}/{each.component}": ReaderReport(
                        before, trust.get(domain, held), running=True, healthy=True
                    )
                    for each in readers
                    for domain in (each.ca, ROOT)
                },
                pins=tuple(sorted(trust.get(ROOT, ()))),
            )
            path = self.cluster.report_path(node.name)
            assert self.cluster.server.api("POST", path, {"data": node_report.to_json(made)}).status == 200


def _seen(record: RotationRecord | None) -> Seen:
    revision = record.revision if record is not None else 0
    return Seen(revision, revision)


def _served(record: RotationRecord | None) -> tuple[str, ...]:
    return (record.leaf.sha256,) if record is not None else ()
