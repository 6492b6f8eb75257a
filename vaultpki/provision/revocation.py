"""Decides which certificates on the CA mounts are a node's, so that they may be revoked; pure.

A certificate whose subject names the node is the node's: Vault signs such names for nobody else. One with a shared
name, such as that of kube-scheduler, is known only by the reports of the nodes, which may be false: it counts only if
the node may hold such a certificate, and if no other node reports it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vaultpki.certificates import node_rows, rows
from vaultpki.model import NODE, Cluster, Node, Pool, Row
from vaultpki.pki.facts import Facts, serial_text
from vaultpki.provision.identities import takes
from vaultpki.redact import stamp
from vaultpki.spec.node_report import NodeReport

SerialsByNode = Mapping[str, Mapping[str, int]]
"""The serial numbers that each node reports, by the names of the certificates."""


@dataclass(frozen=True, slots=True)
class StoredCertificate:
    """A certificate on the mount of a CA that has not expired. `revoked` says whether it is revoked already."""

    ca: str
    facts: Facts
    revoked: bool

    @property
    def serial(self) -> str:
        """The serial number as Vault writes it."""
        return serial_text(self.facts.serial)


@dataclass(frozen=True, slots=True)
class Target:
    """A certificate of the node, and the name of its row; several rows may share a subject."""

    name: str
    certificate: StoredCertificate


@dataclass(frozen=True, slots=True)
class Unattributed:
    """Certificates of one name that may be the node's and are left alone: how many, until when, and why."""

    ca: str
    name: str
    count: int
    not_after: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is the node's, in the order of the CAs, and what cannot be told."""

    targets: tuple[Target, ...]
    unattributed: tuple[Unattributed, ...]


def serials(reports: Mapping[str, NodeReport | None]) -> dict[str, dict[str, int]]:
    """Return the serial numbers in the reports of the nodes."""
    return {
        node: {name: int(one.serial, 16) for name, one in report.certificates.items() if one.serial}
        for node, report in reports.items()
        if report is not None
    }


def holder(cluster: Cluster, node: str) -> Node | Pool | None:
    """Return the listed node, or the pool that its name fits; None for a name that cluster.yaml does not know."""
    listed = next((each for each in cluster.nodes if each.name == node), None)
    return listed or next((pool for pool in cluster.pools if takes(pool, node)), None)


def choose(cluster: Cluster, node: str, stored: Sequence[StoredCertificate], reported: SerialsByNode) -> Chosen:
    """Return which of the certificates on the mounts are the node's."""
    who = holder(cluster, node)
    # A node that was taken off cluster.yaml may have had any role.
    possible = node_rows(cluster, who) if who is not None else tuple(row for row in rows(cluster) if row.node_roles)
    targets: list[Target] = []
    left: dict[tuple[str, str, str], list[StoredCertificate]] = {}
    for one in stored:
        if names_node(cluster, node, one.ca, one.facts):
            targets.append(Target(_named(cluster, node, one, reported), one))
            continue
        row = _shared_row(possible, one)
        if row is None:
            continue
        reason = _not_its(cluster, node, row, one.facts.serial, reported)
        if reason is None:
            targets.append(Target(row.name, one))
        elif reason:
            left.setdefault((one.ca, row.name, reason), []).append(one)
    return Chosen(
        tuple(targets),
        tuple(
            Unattributed(ca, name, len(some), max(each.facts.not_after for each in some), reason)
            for (ca, name, reason), some in left.items()
        ),
    )


def names_node(cluster: Cluster, node: str, ca: str, facts: Facts) -> bool:
    """Return whether the subject of a certificate names the node, and no name that others have too."""
    table = [row for row in rows(cluster) if row.ca == ca]
    common = facts.subject.common_name
    own = {row.common_name.replace(NODE, node) for row in table if NODE in row.common_name}
    # Rows may have been other ones when it was signed.
    own |= {node, f"system:node:{node}"}
    if common in own - {row.common_name for row in table}:
        return True
    shared = {name for row in table for name in row.dns if NODE not in name} | set(cluster.api_server.names)
    shared |= {"localhost"} | _service_names(cluster)
    if node not in facts.subject.dns:
        return False
    return node not in shared or set(facts.subject.dns) <= shared


def _service_names(cluster: Cluster) -> set[str]:
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
    return {*names, f"kubernetes.default.svc.{cluster.api_server.dns_domain}"}


def _named(cluster: Cluster, node: str, one: StoredCertificate, reported: SerialsByNode) -> str:
    """Return the name of the row that a certificate with the node's names is of, as far as it can be told."""
    mine = {serial: name for name, serial in reported.get(node, {}).items()}
    fitting = [
        row.name
        for row in rows(cluster)
        if row.ca == one.ca
        and row.node_roles
        and row.usage is one.facts.usage
        and row.common_name.replace(NODE, node) == one.facts.subject.common_name
    ]
    if mine.get(one.facts.serial) in fitting:
        return mine[one.facts.serial]
    return " or ".join(fitting) or one.facts.subject.common_name


def _shared_row(possible: Iterable[Row], one: StoredCertificate) -> Row | None:
    """Return the row of a certificate whose common name nodes share; None if the node can have no such certificate."""
    fitting = (
        row
        for row in possible
        if row.ca == one.ca
        and not any(NODE in name for name in (row.common_name, *row.dns))
        and row.common_name == one.facts.subject.common_name
        and row.usage is one.facts.usage
    )
    return next(fitting, None)


def _not_its(cluster: Cluster, node: str, row: Row, serial: int, reported: SerialsByNode) -> str | None:
    """Return why a certificate with a shared name is left alone; None if it is the node's, "" if it is another's."""
    others = [name for name, found in reported.items() if name != node and serial in found.values()]
    mine = reported.get(node, {}).get(row.name) == serial
    if others:
        return f"{others[0]} reports it too" if mine else ""
    if mine or _only_holder(cluster, node, row, reported):
        return None
    return "no node reports them, and other nodes have certificates of this name"


def _only_holder(cluster: Cluster, node: str, row: Row, reported: SerialsByNode) -> bool:
    """Return whether no other node of the cluster holds, or reports, a certificate of this row."""
    listed = (each.name for each in cluster.nodes if row.node_roles & each.roles and each.name != node)
    pooled = (pool.name for pool in cluster.pools if row.node_roles & pool.roles)
    reporting = (name for name, found in reported.items() if name != node and row.name in found)
    return not any((*listed, *pooled, *reporting))


def sentences(node: str, chosen: Chosen, *, ended: bool = False) -> list[str]:
    """Return what a revocation does not do, and what helps instead; `ended` if the node can get no new certificates."""
    cas = list(dict.fromkeys(target.certificate.ca for target in chosen.targets))
    said = []
    unread = [ca for ca in cas if ca != "etcd"]
    if unread:
        last = max(each.certificate.facts.not_after for each in chosen.targets if each.certificate.ca in unread)
        said.append(
            f"kube-apiserver, kubelets and aggregated API servers read no CRL: they accept the certificates of "
            f"{_and(unread)} until {stamp(last)}, when the last of them expires"
        )
    if "etcd" in cas:
        last = max(each.certificate.facts.not_after for each in chosen.targets if each.certificate.ca == "etcd")
        said.append(
            "etcd refuses them only if it runs with --client-crl-file, a CRL in DER that you keep up to date; without "
            f"it etcd accepts them until {stamp(last)}"
        )
    for one in chosen.unattributed:
        some = "1 certificate" if one.count == 1 else f"{one.count} certificates"
        said.append(
            f"left alone: {some} of {one.name} ({one.ca}), the last of them until {stamp(one.not_after)}: {one.reason}"
        )
    if not ended:
        said.append(f"{node} can still get new certificates: `vaultpki lock {node}` ends all that it can log in with")
    if chosen.targets:
        said.append("`vaultpki ca rotate DOMAIN --emergency` ends every certificate of a CA, also where no CRL is read")
    return said


def to_json(node: str, chosen: Chosen, *, ended: bool = False) -> dict[str, Any]:
    """Return what is revoked as programs read it; `ended` as for `sentences`."""
    return {
        "node": node,
        "revoked": [
            {
                "ca": target.certificate.ca,
                "name": target.name,
                "serial": target.certificate.serial,
                "not_after": stamp(target.certificate.facts.not_after),
            }
            for target in chosen.targets
        ],
        "left_alone": [
            {
                "ca": one.ca,
                "name": one.name,
                "count": one.count,
                "not_after": stamp(one.not_after),
                "reason": one.reason,
            }
            for one in chosen.unattributed
        ],
        "notes": sentences(node, chosen, ended=ended),
    }


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
