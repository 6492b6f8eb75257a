"""What rotations of CAs are to the views of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from vaultpki.certificates import ROOT
from vaultpki.findings.cluster import ProcedureView, of_gate
from vaultpki.findings.finding import Finding
from vaultpki.graph.content import ca_title
from vaultpki.identity import root_pin
from vaultpki.places import file_option
from vaultpki.procedure.banner import Banner, banner
from vaultpki.procedures import ca_text
from vaultpki.provision.cluster_facts import ClusterFacts, under_way
from vaultpki.redact import stamp


def view(read: ClusterFacts) -> ProcedureView:
    """Return where rotations of CAs stand."""
    return ProcedureView(tuple(_findings(read)), tuple(_lines(read)), _banner(read))


def _findings(read: ClusterFacts) -> Iterator[Finding]:
    """Yield where a rotation stands: it goes on by itself, or it waits for a person.

    Nothing while a CA is to be recovered: that is a finding, and no step is taken before.
    """
    ca = under_way(read.cas) or next((ca for ca in read.cas if ca.gate is not None), None)
    if ca is None or ca.record is None or ca.gate is None or any(each.recover for each in read.cas):
        return
    record, file = ca.record, read.cluster.file
    # At the end of a rollback, processes may hold the CA that it deleted; `ca abort` goes on until they do not.
    onward = "continue" if record.active else "abort"
    command = f"vaultpki ca {onward}{file_option(file)} --wait"
    said = f"rotation of {record.domain}, {record.state.value} since {stamp(record.since)}"
    yield of_gate(said, ca.gate, record.since + timedelta(seconds=record.spread), read.now, file, command)


def _lines(read: ClusterFacts) -> Iterator[str]:
    """Yield where the rotation stands that is under way; else what a rollback has left behind."""
    active, now, file = under_way(read.cas), read.now, read.cluster.file
    if active is not None and active.record is not None:
        pin = root_pin.advice(read.cluster, active.record)
        recover = any(each.recover for each in read.cas)
        yield from ca_text.record_lines(active.record, active.gate, now, file, pin=pin, stands=recover)
        return
    for ca in read.cas:
        # After a rollback, processes may still hold the CA that it deleted.
        if ca.record is not None and ca.gate is not None:
            yield from ca_text.record_lines(ca.record, ca.gate, now, file)


def _banner(read: ClusterFacts) -> Banner | None:
    """Return the banner of the rotation that is under way; None if there is none."""
    active = under_way(read.cas)
    if active is None or active.record is None:
        return None
    record = active.record
    what = f"{'The ' if record.domain == ROOT else ''}{ca_title(record.domain, read.cluster.name)} is"
    title = f"{what} being rotated: {record.state.value}"
    gate = None if any(each.recover for each in read.cas) else active.gate
    return banner(title, record.since, ca_text.state_sentence(record), gate, read.now, read.cluster.file)
