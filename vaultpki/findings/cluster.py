"""Judges a whole cluster by what was read of it from Vault: its nodes, its CAs, procedures; one verdict for every view.

Pure: the time is that of the reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from vaultpki.certificates import rows
from vaultpki.findings import nodes
from vaultpki.findings.finding import STILL, Finding, found, named_command, of_ends, to_json
from vaultpki.findings.nodes import NodeRow
from vaultpki.identity.nodes import Member
from vaultpki.pki import foreign_cas
from vaultpki.pki.ca_life import CaExpiry
from vaultpki.procedure.banner import Banner
from vaultpki.procedure.gate import Gate
from vaultpki.procedure.standing import waits_for
from vaultpki.provision.cluster_facts import CaStatus, ClusterFacts
from vaultpki.records.gaps import left_over_sentence
from vaultpki.redact import stamp


@dataclass(frozen=True, slots=True)
class ProcedureView:
    """A procedure as the views of a cluster show it.

    `findings` are what a person must know of it, none where it is at rest. `lines` say where it stands, and what comes
    next. `banner` sums it up; None where it is at rest.
    """

    findings: tuple[Finding, ...] = ()
    lines: tuple[str, ...] = ()
    banner: Banner | None = None


ProceduresInCluster = tuple[Callable[[ClusterFacts], ProcedureView], ...]
"""Those that views show, each by its view of a cluster; every entry point hands over `in_cluster.IN_CLUSTER`."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found of a cluster. `nodes` are in the order in which they need attention.

    `stored` has the report of each of them as it is stored, as JSON text, in the same order. `cas` are findings on CAs,
    `cluster` those about the cluster as a whole, and `views` have those on what is being replaced in steps.
    """

    now: datetime
    nodes: tuple[NodeRow, ...]
    stored: tuple[str, ...]
    cas: tuple[Finding, ...]
    cluster: tuple[Finding, ...]
    views: tuple[ProcedureView, ...] = ()

    @property
    def procedures(self) -> tuple[Finding, ...]:
        """The findings on what is being replaced in steps."""
        return tuple(finding for each in self.views for finding in each.findings)

    @property
    def about_cluster(self) -> tuple[Finding, ...]:
        """The findings that are not about one node, in the order in which they are shown."""
        return (*self.cluster, *self.cas, *self.procedures)

    @property
    def ok(self) -> bool:
        """Whether nothing needs attention: every view and every exit code says so by this alone."""
        nodes = any(row.attention for row in self.nodes)
        return not (nodes or any(finding.attention for finding in self.about_cluster))


def judge(read: ClusterFacts, procedures: ProceduresInCluster) -> Judgement:
    """Return the judgement of a cluster, in which these procedures may be under way."""
    cluster, now, file = read.cluster, read.now, read.cluster.file
    ttls = {row.name: row.ttl or cluster.ttl for row in rows(cluster)}
    # Not by name: an identity that does not belong to a node may have the name of one.
    foreign = foreign_cas.read(cluster)
    recover = {ca.domain: ca.recover for ca in read.cas if ca.recover} if read.cas else None

    def row(each: Member) -> NodeRow:
        revoked, lock = read.revoked, read.locks.get(each.name)
        return nodes.of_member(
            each, ttls, now, revoked, read.revisions, file=file, foreign=foreign, lock=lock, recover=recover
        )

    pairs: list[tuple[NodeRow, str]] = [(row(each), each.stored) for each in read.nodes.members]
    pairs += [(nodes.of_unfit(each, file=file), "") for each in read.nodes.unfit]
    pairs.sort(key=lambda pair: nodes.order(pair[0]))
    return Judgement(
        now,
        tuple(row for row, _ in pairs),
        tuple(stored for _, stored in pairs),
        tuple(of_cas(read.ends, read.cas, file)),
        tuple(_cluster(read, file)),
        tuple(view(read) for view in procedures),
    )


def document(judgement: Judgement) -> dict[str, Any]:
    """Return what is not about one node, as every view has it for programs."""
    return {"findings": [to_json(each) for each in judgement.about_cluster], "ok": judgement.ok}


def of_cas(ends: Iterable[CaExpiry], cas: Iterable[CaStatus], file: str) -> Iterator[Finding]:
    """Yield what needs attention of CAs: one that cannot sign, one whose record is not the newest, one that ends.

    Also one that nodes trust and the server does not have.
    """
    for ca in cas:
        if ca.problem:
            text = f"{ca.domain} CA: {ca.problem}"
            yield found("ca-problem", text, file=file, command=named_command(ca.problem, file))
        for each in ca.left_over:
            text = left_over_sentence(ca.domain, each.sha256, each.nodes)
            yield found("ca-left-over", text, file=file, command=named_command(text, file))
    yield from of_ends(ends, file)


def _cluster(read: ClusterFacts, file: str) -> Iterator[Finding]:
    joined = [each for each in read.nodes.members if each.stored]
    if joined and all(each.locked for each in joined):
        yield found("no-live-credential", "no node of this cluster has a live credential", file=file)
    yield from of_problems(read.problems, file)


def of_problems(problems: Iterable[str], file: str) -> Iterator[Finding]:
    """Yield what could not be read, or is not followed, each with the command that its sentence names."""
    for problem in problems:
        yield found("not-read", problem, file=file, command=named_command(problem, file))


def of_gate(said: str, gate: Gate, begun: datetime, now: datetime, file: str, command: str) -> Finding:
    """Return what stands before a step: agents do it, a person must, or nobody does any more.

    `said` is where the procedure stands, `begun` since when agents could do their part, and `command` goes on with it.
    """
    if gate.waiting:
        return _waiting(said, gate, now - begun, file, command)
    if gate.open(now):
        return found("rotation-ready", f"{said}: every node is ready for the next step", command=command)
    until = f" until {stamp(gate.opens)}" if gate.opens is not None else ""
    return found("rotation-waits", f"{said}: every node is ready; it waits{until}", command=command)


def _waiting(said: str, gate: Gate, lasted: timedelta, file: str, command: str) -> Finding:
    first, text = waits_for(said, gate.waiting)
    if not first.itself:
        return found("rotation-blocked", text, command=named_command(first.reason, file, command))
    return found("rotation-blocked" if lasted > STILL else "rotation-waits", text, command=command)
