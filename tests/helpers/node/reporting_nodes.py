"""Nodes that only report what agents would hold after a pass; the server's root token writes it for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from helpers.vault.applied_cluster import AppliedCluster
from vaultpki.certificates import node_rows
from vaultpki.kubernetes_versions import minors
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.readers import start_only
from vaultpki.records import node_report
from vaultpki.records import rotation as rotation_record
from vaultpki.records.node_report import BundleReport, CertificateReport, NodeReport, ReaderReport, Seen
from vaultpki.records.rotation import DOMAINS, RotationRecord


def record_of(cluster: AppliedCluster, domain: str) -> RotationRecord | None:
    """The record of a CA, as the server has it."""
    answer = cluster.server.api("GET", f"{cluster.prefix}/config/data/rotation/{domain}")
    if answer.status == 404:
        return None
    return rotation_record.read(answer.data["data"], domain, where=domain)


def shown(cluster: AppliedCluster, domain: str) -> dict[str, Facts]:
    """The certificates on the mount of a CA, by the names of their issuers or their ids."""
    listed = cluster.server.api("LIST", f"{cluster.prefix}/{domain}/issuers").body.get("data", {}).get("key_info", {})
    found = {}
    for id_, issuer in listed.items():
        answer = cluster.server.api("GET", f"{cluster.prefix}/{domain}/issuer/{id_}")
        # One that an operator has deleted since is gone for an agent too.
        if answer.status == 200:
            found[issuer["issuer_name"] or id_] = x509.read_certificates(answer.data["certificate"].encode())[0]
    return found


@dataclass(slots=True)
class Reporter:
    """A node of a cluster. It holds what an agent would: bundles, one CA for all its leaves, what its readers hold.

    `versions` are those of Kubernetes that its components run with, such as v1.36.3. Its agent sees none if `unseen`.
    """

    cluster: AppliedCluster
    name: str
    domain: str
    trust: frozenset[str] = frozenset()
    started: frozenset[str] = frozenset()
    leaf: str = ""
    highest: int = 0
    further: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    unseen: bool = False

    def passed(self, now: datetime, *, restarts: bool = True) -> None:
        """A pass: follows the record as the design says, restarts its readers, and reports; not what it cannot see."""
        record, there = record_of(self.cluster, self.domain), shown(self.cluster, self.domain)
        fingerprints = frozenset(facts.fingerprint for facts in there.values())
        revision = record.revision if record is not None else 0
        if record is None or revision < self.highest or record.kept is not None:
            self.trust |= fingerprints
        else:
            self.trust = (self.trust | fingerprints) & record.trust or self.trust
        wanted = there.get(record.leaf.name if record is not None else f"{self.domain}-1")
        if wanted is not None and revision >= self.highest and (record is None or record.kept is None):
            self.leaf = wanted.subject_key_id or ""
        self.highest = max(self.highest, revision)
        if restarts:
            self.started = self.trust
        self.write(self.report(now, revision))

    def report(self, now: datetime, revision: int) -> NodeReport:
        node = next(each for each in self.cluster.model.nodes if each.name == self.name)
        before = now - timedelta(seconds=2)
        rows = [row for row in node_rows(self.cluster.model, node) if row.ca == self.domain]
        readers = start_only(self.domain, node.roles, versions=minors(self.versions))
        record = record_of(self.cluster, self.domain)
        new = record.new.sha256 if record is not None and record.new is not None else ""
        made = NodeReport(
            time=now,
            agent="0.3.0",
            seen=dict.fromkeys(DOMAINS, Seen(0, 0)) | {self.domain: Seen(revision, self.highest)},
            certificates={
                row.name: CertificateReport(
                    self.domain, "fresh", now + timedelta(days=30), f"{index + 1:x}", self.leaf, (new,) if new else ()
                )
                for index, row in enumerate(rows)
            },
            bundles={self.domain: BundleReport(self.trust, before)},
            readers={f"{self.domain}/{each.component}": self._reader(before) for each in readers},
            kubernetes=self.versions,
        )
        return replace(made, **self.further)

    def _reader(self, installed: datetime) -> ReaderReport:
        if self.unseen:
            return ReaderReport(None, problem="no process of it was seen")
        started = installed if self.started == self.trust else installed - timedelta(hours=1)
        return ReaderReport(started, self.started, running=True, healthy=True)

    def write(self, report: NodeReport) -> None:
        path = self.cluster.report_path(self.name)
        assert self.cluster.server.api("POST", path, {"data": node_report.to_json(report)}).status == 200


def all_pass(nodes: Iterable[Reporter], now: datetime) -> None:
    """Every node makes a pass."""
    for node in nodes:
        node.passed(now)
