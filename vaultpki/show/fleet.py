"""Turns what was read of a cluster from Vault, and its judgement, into what the page and the picture show; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Final

from vaultpki.certificates import node_rows
from vaultpki.findings.cluster import Judgement
from vaultpki.findings.nodes import NodeRow
from vaultpki.graph.content import ExpirySummary, count
from vaultpki.identity.nodes import Member
from vaultpki.model import Cluster
from vaultpki.pki import foreign_cas
from vaultpki.pki.ca_life import own
from vaultpki.provision.cluster_facts import ClusterFacts
from vaultpki.show import attention
from vaultpki.show.attention import Notice
from vaultpki.show.inventory import FAULTS, CaFound, HolderPair, HolderSummary, Inventory

# The row that a kubelet which joined by token has by a request instead.
_OF_KUBELET: Final = "kubelet-client"


def inventory(read: ClusterFacts, judged: Judgement, joined: Collection[NodeRow] = ()) -> Inventory:
    """Return the certificates that nodes report, the CAs and their rotations.

    What a node reports is its own word; what was revoked is told by the mounts of the CAs too. `joined` are the nodes
    that joined by token: of them Vault knows the certificate with which the kubelet logs in.
    """
    rows = {(row.node, row.pool): row for row in judged.nodes}
    pairs: list[HolderPair] = []
    holders: list[HolderSummary] = []
    for member in read.nodes.members:
        row = rows[member.name, member.pool]
        pool = "" if member.pool in (None, "-") else str(member.pool)
        holders.append(HolderSummary(member.name, member.roles, pool, row, silent=member.report is None))
        pairs += _pairs(read.cluster, member, row)
    reported = sum(not holder.silent for holder in holders)
    for row in joined:
        holders.append(HolderSummary(row.node, row.roles, row.pool or "", row))
        fault = next((FAULTS[each.name] for each in row.findings if each.name in FAULTS), None)
        pairs.append(HolderPair(row.node, _OF_KUBELET, "kubernetes", row.first_expiry, fault))
    return Inventory(
        pairs=tuple(pairs),
        holders=tuple(holders),
        ends={end.ca: ExpirySummary(end.not_after, due=end.level.attention) for end in own(read.ends)},
        source=f"reports of {count(reported, 'node')}"
        + (f" and {count(len(joined), 'node')} that joined with a token" if joined else ""),
        cas=tuple(_cas(read)),
        notices=attention.worst_first(_notices(judged)),
        rotations={ca.domain: ca.record.state.value for ca in read.cas if ca.record is not None and ca.record.active},
    )


def _notices(judged: Judgement) -> Iterator[Notice]:
    yield from attention.of_cluster(judged.cluster, "certificates")
    yield from attention.of_cluster(judged.cas, "cas")
    yield from attention.of_cluster(judged.procedures, "rotation")
    yield from attention.of_nodes(judged.nodes, "certificates")


def _pairs(cluster: Cluster, member: Member, row: NodeRow) -> Iterator[HolderPair]:
    if member.holder is None:
        return
    reported = member.report.certificates if member.report is not None else {}
    for wanted in node_rows(cluster, member.holder):
        one = reported.get(wanted.name)
        if one is None:
            yield HolderPair(member.name, wanted.name, wanted.ca)
        else:
            fault = FAULTS.get(row.wrong.get(wanted.name, ""))
            yield HolderPair(member.name, wanted.name, wanted.ca, one.not_after, fault, one.issuer_key_id)


def _cas(read: ClusterFacts) -> Iterator[CaFound]:
    """Yield each CA: its end, and what `ca status` knows of it."""
    ends = {end.ca: CaFound(end.ca, end.ca, "", end.not_after, end.level, end.sentence) for end in own(read.ends)}
    if not read.cas:
        yield from ends.values()
    else:
        known = {ca.domain for ca in read.cas}
        yield from (end for name, end in ends.items() if name not in known)
    for ca in read.cas:
        found = ends.get(ca.domain) or CaFound(ca.domain, ca.name, "", ca.not_after)
        yield replace(found, name=ca.name, sha256=ca.sha256, key=ca.key, problem=ca.problem)
    for domain, cas in foreign_cas.read(read.cluster).items():
        yield from (CaFound.of_foreign(domain, facts, read.now) for facts in cas)
