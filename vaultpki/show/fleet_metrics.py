"""Turns what was read of a cluster, and its judgement, into Prometheus' text format, for node_exporter to read; pure.

No metric has the name of one of an agent's: an agent tells of itself, and this is what Vault knows of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

from prometheus_client import Metric, generate_latest, registry

from vaultpki.findings.catalogue import CATALOGUE, NodeState, Severity
from vaultpki.findings.cluster import Judgement
from vaultpki.pki.ca_life import own
from vaultpki.provision.cluster_facts import ClusterFacts
from vaultpki.redact import printable

METRICS_MARK: Final = "# Written by `vaultpki nodes --metrics`."
"""The first line of the text, by which it is known again."""

_LONGEST: Final = 100

_Samples = Iterable[tuple[Mapping[str, str], float | None]]


def text(read: ClusterFacts, judged: Judgement, written: datetime) -> str:
    """Return the metrics of a cluster; `written` is the time by this machine's clock, which Prometheus compares."""
    return f"{METRICS_MARK}\n{generate_latest(Collected(read, judged, written)).decode()}"


class Collected(registry.Collector):
    """The metrics of a cluster at one moment."""

    def __init__(self, read: ClusterFacts, judged: Judgement, written: datetime) -> None:
        self._read, self._judged, self._written = read, judged, written

    def collect(self) -> Iterator[Metric]:
        cluster = {"cluster": self._read.cluster.name}
        about = "When this file was written, by the clock of the machine that wrote it."
        families = [_metric("written_timestamp_seconds", about, [({}, self._written.timestamp())])]
        families += [*_of_cluster(self._judged), *_of_cas(self._read), *_of_nodes(self._judged)]
        for family in families:
            for sample in family.samples:
                sample.labels.update(cluster)
            yield family


def _of_cluster(judged: Judgement) -> Iterator[Metric]:
    about = "1 if nothing of the cluster needs attention, as exit code 0 of `vaultpki nodes` says."
    yield _metric("ok", about, [({}, int(judged.ok))])
    has = {(each.name, each.severity) for each in judged.about_cluster}
    # The end of a CA is as heavy as it is near.
    known = [
        (kind.name, severity)
        for kind in CATALOGUE
        if (kind.state is None and kind.vault) or kind.name == "ca-expires"
        for severity in (Severity if kind.name == "ca-expires" else (kind.severity,))
    ]
    samples = [
        ({"finding": name, "severity": severity.value}, int((name, severity) in has))
        for name, severity in dict.fromkeys((*known, *sorted(has, key=lambda each: each[0])))
    ]
    yield _metric("finding", "1 while the cluster has this finding; 0 for each other one.", samples)
    states = [row.state for row in judged.nodes]
    counted = [({"state": state.value}, states.count(state)) for state in NodeState]
    yield _metric("nodes", "Nodes in this state.", counted)


def _of_cas(read: ClusterFacts) -> Iterator[Metric]:
    ends = [({"ca": end.ca}, end.not_after.timestamp()) for end in own(read.ends)]
    yield _metric("ca_not_after_timestamp_seconds", "When the CA expires.", ends)
    levels = [({"ca": end.ca, "level": end.level.value}, 1) for end in own(read.ends)]
    yield _metric("ca_level", "1 for how near its end is: none, notice, warning, critical or expired.", levels)
    rotations = [
        ({"ca": ca.domain, "state": ca.record.state.value}, ca.record.since.timestamp())
        for ca in read.cas
        if ca.record is not None and ca.record.active
    ]
    about = "Since when the rotation of the CA is in this state; none if it is not rotated."
    yield _metric("ca_rotation_since_timestamp_seconds", about, rotations)


def _of_nodes(judged: Judgement) -> Iterator[Metric]:
    rows = [({"node": row.node, "pool": row.pool or ""}, row) for row in judged.nodes]
    rows.sort(key=lambda each: (each[0]["node"], each[0]["pool"]))
    # Queries join by cluster and node, and the name of an identity that belongs to no node may be that of one.
    # What joined with a token has no agent that anybody could watch.
    without = ("fits-no-pool", "joined")
    known = [(its, row) for its, row in rows if all(each.name not in without for each in row.findings)]
    about = "1 for each node that Vault knows: the version of its agent, and which issuing CAs its bundles hold."
    info = [({**its, "version": row.version, "generation": row.trust}, 1) for its, row in known]
    yield _metric("node_info", about, info)
    states = [({**its, "state": row.state.value}, 1) for its, row in rows]
    yield _metric("node_state", "1 for the state of the node, as `vaultpki nodes` shows it.", states)
    findings = [
        ({**its, "finding": each.name, "severity": each.severity.value}, 1)
        for its, row in rows
        for each in row.findings
    ]
    yield _metric("node_finding", "1 for each finding that Vault shows of the node.", findings)
    reports = [(its, row.reported.timestamp() if row.reported else None) for its, row in rows]
    about = "When the node last reported; one at rest does once an hour."
    yield _metric("node_last_report_timestamp_seconds", about, reports)
    ends = [(its, row.first_expiry.timestamp() if row.first_expiry else None) for its, row in rows]
    about = "When the first of the certificates expires that the node has reported."
    yield _metric("node_first_expiry_timestamp_seconds", about, ends)
    about = "Live credentials of the node; none where the token may not count them, or the node needs none."
    yield _metric("node_live_credentials", about, [(its, row.credentials) for its, row in rows])


def _metric(name: str, about: str, samples: _Samples) -> Metric:
    """Return a family; of two samples with the same labels, which would spoil the whole file, the last counts."""
    full = f"vaultpki_fleet_{name}"
    found = {
        tuple((label, printable(each[:_LONGEST])) for label, each in labels.items()): value
        for labels, value in samples
        if value is not None
    }
    metric = Metric(full, about, "gauge")
    for named, value in found.items():
        metric.add_sample(full, dict(named), value)
    return metric
