"""Judges a whole cluster by what was read of it from Vault: its nodes, its CAs, a rotation; one verdict for every view.

Pure: the time is that of the reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from vaultpki.ca.fleet import ClusterFacts
from vaultpki.ca.status import CaStatus, under_way
from vaultpki.certificates import rows
from vaultpki.findings import nodes
from vaultpki.findings.adoption import of_adoption
from vaultpki.findings.finding import STILL, Finding, found, named_command, of_ends, to_json
from vaultpki.findings.nodes import NodeRow
from vaultpki.pki import foreign_cas
from vaultpki.pki.ca_life import CaExpiry
from vaultpki.procedure.gate import Gate
from vaultpki.procedure.standing import and_more, waits_for
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS
from vaultpki.redact import printable, stamp
from vaultpki.rotation import left_over
from vaultpki.token_keys.standing import KeyStepDone


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found of a cluster. `nodes` are in the order in which they need attention.

    `stored` has the report of each of them as it is stored, as JSON text, in the same order. `cas` are findings on CAs,
    `rotation` is the one on a rotation that is under way, `keys` on one of service-account keys, `adoption` on an
    adoption. `cluster` are those about the
    cluster as a whole.
    """

    now: datetime
    nodes: tuple[NodeRow, ...]
    stored: tuple[str, ...]
    cas: tuple[Finding, ...]
    rotation: Finding | None
    cluster: tuple[Finding, ...]
    adoption: Finding | None = None
    keys: Finding | None = None

    @property
    def about_cluster(self) -> tuple[Finding, ...]:
        """The findings that are not about one node, in the order in which they are shown."""
        return (*self.cluster, *self.cas, *filter(None, (self.rotation, self.keys, self.adoption)))

    @property
    def ok(self) -> bool:
        """Whether nothing needs attention: every view and every exit code says so by this alone."""
        nodes = any(row.attention for row in self.nodes)
        return not (nodes or any(finding.attention for finding in self.about_cluster))


def judge(read: ClusterFacts) -> Judgement:
    """Return the judgement of a cluster."""
    cluster, now, file = read.cluster, read.now, read.cluster.file
    ttls = {row.name: row.ttl or cluster.ttl for row in rows(cluster)}
    # Not by name: an identity that does not belong to a node may have the name of one.
    foreign = foreign_cas.read(cluster)
    pairs: list[tuple[NodeRow, str]] = [
        (nodes.of_member(each, ttls, now, read.revoked, read.revisions, file=file, foreign=foreign), each.stored)
        for each in read.nodes.members
    ]
    pairs += [(nodes.of_unfit(each, file=file), "") for each in read.nodes.unfit]
    pairs.sort(key=lambda pair: nodes.order(pair[0]))
    return Judgement(
        now,
        tuple(row for row, _ in pairs),
        tuple(stored for _, stored in pairs),
        tuple(of_cas(read.ends, read.cas, file)),
        _rotation(under_way(read.cas) or next((ca for ca in read.cas if ca.gate is not None), None), now, file),
        tuple(_cluster(read, file)),
        of_adoption(read.adopted, read.nodes.members, now, file),
        _keys(read.keys, now, file),
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
            text = left_over.sentence(ca.domain, each.sha256, each.nodes)
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


def _rotation(ca: CaStatus | None, now: datetime, file: str) -> Finding | None:
    """Return where a rotation stands: it goes on by itself, or it waits for a person."""
    if ca is None or ca.record is None or ca.gate is None:
        return None
    record = ca.record
    # At the end of a rollback, processes may hold the CA that it deleted; `ca abort` goes on until they do not.
    onward = "continue" if record.active else "abort"
    command = f"vaultpki ca {onward} -f {file} --wait"
    said = f"rotation of {record.domain}, {record.state.value} since {stamp(record.since)}"
    return _standing(said, ca.gate, record.since + timedelta(seconds=record.spread), now, file, command)


def _keys(keys: KeyStepDone | None, now: datetime, file: str) -> Finding | None:
    """Return where a rotation of service-account keys stands, or what is left to do after one."""
    if keys is None or keys.record is None:
        return None
    record, command = keys.record, f"vaultpki ca continue -f {file} --wait"
    said = f"{SERVICE_ACCOUNT_KEYS}, {record.state.value} since {stamp(record.since)}"
    if keys.differing:
        first = keys.differing[0]
        text = printable(f"{said}: {first.node}{and_more(keys.differing)}: {first.reason}")
        return found("rotation-blocked", text, command=named_command(first.reason, file))
    if keys.gate is not None:
        return _standing(f"rotation of {said}", keys.gate, record.since, now, file, command)
    left = (*keys.counting, *keys.joining, *keys.restarts)
    if not left:
        return None
    text = printable(f"{said}: {left[0].node}{and_more(left)} {left[0].reason}")
    return found("rotation-waits" if all(each.itself for each in left) else "rotation-blocked", text, command=command)


def _standing(said: str, gate: Gate, begun: datetime, now: datetime, file: str, command: str) -> Finding:
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
