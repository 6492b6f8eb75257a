"""Decides which certificates on the CA mounts are a node's, so that they may be revoked; pure.

A certificate whose subject names the node is the node's: Vault signs such names for nobody else. One with a shared
name, such as that of kube-scheduler, is known only by the reports of the nodes, which may be false. What a node reports
in a row of its own is its, whoever reports it too: no word of another node keeps a certificate from being revoked. What
it does not report is left alone and named, so that a person can decide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from vaultpki.certificates import SERVICE_ACCOUNT, all_rows, node_rows, rows, stored
from vaultpki.identity.access import holder_of
from vaultpki.model import NODE, Cluster, Row
from vaultpki.pki import service_account
from vaultpki.pki.facts import Facts, serial_text
from vaultpki.records.node_report import NodeReport
from vaultpki.redact import stamp

_SHOWN: Final = 5

SerialsByNode = Mapping[str, Mapping[str, int]]
"""The serial numbers that each node reports, by the names of the certificates."""


@dataclass(frozen=True, slots=True)
class StoredCertificate:
    """A certificate of a CA that has not expired. `revoked` says whether it is revoked already.

    `kept` says whether the mount of the CA has a copy; else it is known from a file.
    """

    ca: str
    facts: Facts
    revoked: bool
    kept: bool = True

    @property
    def serial(self) -> str:
        """The serial number as Vault writes it."""
        return serial_text(self.facts.serial)


@dataclass(frozen=True, slots=True)
class Target:
    """A certificate of the node, and the name of its row; several rows may share a subject.

    `claimants` are other nodes that report the same certificate: one of them says what is not so.
    """

    name: str
    certificate: StoredCertificate
    claimants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unattributed:
    """Certificates of one name that may be the node's and are left alone: how many, and until when.

    `claimants` are the nodes that report some of them; `unclaimed` is how many nobody reports.
    """

    ca: str
    name: str
    count: int
    not_after: datetime
    claimants: tuple[str, ...] = ()
    unclaimed: int = 0

    @property
    def reason(self) -> str:
        """Why they are left alone, as one sentence."""
        claimed = self.count - self.unclaimed
        if not claimed:
            return "no node reports them, and other nodes have certificates of this name"
        said = f"{_verb(self.claimants, 'report')} {'it' if self.count == 1 else claimed if self.unclaimed else 'them'}"
        return f"{said}, and nobody the other {self.unclaimed}" if self.unclaimed else said


@dataclass(frozen=True, slots=True)
class NotKept:
    """A certificate of the node of which Vault keeps no copy, so that it cannot be revoked by its serial number.

    Without a serial number it is not known whether there is one: cluster.yaml has `no_store` for its row.
    """

    ca: str
    name: str
    serial: str = ""
    not_after: datetime | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is the node's, in the order of the CAs, and what cannot be told."""

    targets: tuple[Target, ...]
    unattributed: tuple[Unattributed, ...]
    not_kept: tuple[NotKept, ...] = ()

    @property
    def in_doubt(self) -> bool:
        """Whether certificates were left alone, or another node reports some of the revoked ones too."""
        return bool(self.unattributed) or any(target.claimants for target in self.targets)

    @property
    def out_of_reach(self) -> bool:
        """Whether the node reports certificates that are not revoked, since Vault keeps no copy of them."""
        return any(one.serial for one in self.not_kept)


def serials(reports: Mapping[str, NodeReport | None]) -> dict[str, dict[str, int]]:
    """Return the serial numbers in the reports of the nodes."""
    return {
        node: {name: int(one.serial, 16) for name, one in report.certificates.items() if one.serial}
        for node, report in reports.items()
        if report is not None
    }


def surplus(report: NodeReport | None) -> frozenset[tuple[str, int]]:
    """Return CA and serial number of the certificates that a node reports and its record does not name."""
    held = report.surplus.values() if report is not None else ()
    return frozenset((one.ca, int(one.serial, 16)) for one in held if one.serial)


def choose(
    cluster: Cluster,
    node: str,
    found: Sequence[StoredCertificate],
    reported: SerialsByNode,
    kept: Collection[tuple[str, int]] = (),
) -> Chosen:
    """Return which of the certificates on the mounts are the node's; `kept` are those of its `surplus`.

    A surplus certificate may be of any row that nodes have, since it is of what the node once was. It counts unless
    another node reports it in a row of its own.
    """
    # A node that was taken off cluster.yaml may have had any role.
    possible = node_rows(cluster, holder_of(cluster, node))
    claims = _claims(node, reported)
    mine = reported.get(node, {})
    targets: list[Target] = []
    left: dict[tuple[str, str], list[tuple[StoredCertificate, tuple[str, ...]]]] = {}
    for one in found:
        if names_node(cluster, node, one.ca, one.facts):
            targets.append(Target(_named(cluster, node, one, reported), one))
            continue
        fitting, left_over = _shared_rows(possible, one), (one.ca, one.facts.serial) in kept
        if not fitting and left_over:
            fitting = [row for row in _shared_rows(all_rows(cluster), one) if row.node_roles]
        if not fitting:
            continue
        others = tuple(name for name, row in claims.get(one.facts.serial, ()) if _may_hold(cluster, name, row, one))
        own = next((row for row in fitting if mine.get(row.name) == one.facts.serial), None)
        if own is not None:
            targets.append(Target(own.name, one, others))
        elif not others and (left_over or all(_only_holder(cluster, node, row) for row in fitting)):
            targets.append(Target(fitting[0].name, one))
        elif not one.revoked:
            left.setdefault((one.ca, fitting[0].name), []).append((one, others))
    return Chosen(tuple(targets), tuple(_unattributed(ca, name, some) for (ca, name), some in left.items()))


def not_kept(
    cluster: Cluster, node: str, found: Sequence[StoredCertificate], report: NodeReport | None, now: datetime
) -> tuple[NotKept, ...]:
    """Return the node's certificates of which Vault keeps no copy, as far as its report and cluster.yaml tell."""
    known = {(one.ca, one.facts.serial) for one in found}
    reported = report.certificates if report is not None else {}
    missing = []
    for row in node_rows(cluster, holder_of(cluster, node)):
        one = reported.get(row.name)
        if one is not None and one.serial and (one.not_after is None or one.not_after > now):
            serial = int(one.serial, 16)
            if (row.ca, serial) not in known:
                missing.append(NotKept(row.ca, row.name, serial_text(serial), one.not_after))
                continue
        if not stored(row, cluster):
            missing.append(NotKept(row.ca, row.name))
    for place, one in report.surplus.items() if report is not None else ():
        lives = one.not_after is None or one.not_after > now
        if one.serial and lives and (one.ca, int(one.serial, 16)) not in known:
            missing.append(NotKept(one.ca, place, serial_text(int(one.serial, 16)), one.not_after))
    return tuple(missing)


def _claims(node: str, reported: SerialsByNode) -> dict[int, list[tuple[str, str]]]:
    """Return by serial number the other nodes that report it, sorted, each with the row in which it does."""
    found: dict[int, list[tuple[str, str]]] = {}
    for name in sorted(reported.keys() - {node}):
        for row, serial in reported[name].items():
            found.setdefault(serial, []).append((name, row))
    return found


def _may_hold(cluster: Cluster, node: str, row: str, one: StoredCertificate) -> bool:
    """Return whether a node may have the certificate in the row of this name; else its claim says nothing of it.

    A serial number alone is no claim: it is unique on one CA only, and whoever presents a certificate shows its own.
    """
    return any(each.name == row for each in _shared_rows(node_rows(cluster, holder_of(cluster, node)), one))


def _unattributed(ca: str, name: str, some: Sequence[tuple[StoredCertificate, tuple[str, ...]]]) -> Unattributed:
    claimants = sorted({node for _, nodes in some for node in nodes})
    unclaimed = sum(not nodes for _, nodes in some)
    return Unattributed(ca, name, len(some), max(one.facts.not_after for one, _ in some), tuple(claimants), unclaimed)


def names_node(cluster: Cluster, node: str, ca: str, facts: Facts) -> bool:
    """Return whether the subject of a certificate names the node, and no name that others have too."""
    table = [row for row in rows(cluster) if row.ca == ca]
    common = facts.subject.common_name
    if ca == SERVICE_ACCOUNT:
        key = service_account.key_name(common)
        return key is not None and key.node == node
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
        for row in all_rows(cluster)
        if row.ca == one.ca
        and row.node_roles
        and row.usage is one.facts.usage
        and (row.ca == SERVICE_ACCOUNT or row.common_name.replace(NODE, node) == one.facts.subject.common_name)
    ]
    if mine.get(one.facts.serial) in fitting:
        return mine[one.facts.serial]
    return " or ".join(fitting) or one.facts.subject.common_name


def _shared_rows(possible: Iterable[Row], one: StoredCertificate) -> list[Row]:
    """Return the rows of a certificate whose common name nodes share; none if the node can have no such certificate."""
    return [
        row
        for row in possible
        if row.ca == one.ca
        and not any(NODE in name for name in (row.common_name, *row.dns))
        and row.common_name == one.facts.subject.common_name
        and row.usage is one.facts.usage
    ]


def _only_holder(cluster: Cluster, node: str, row: Row) -> bool:
    """Return whether no other node of the cluster may hold a certificate of this row."""
    listed = (each.name for each in cluster.nodes if row.node_roles & each.roles and each.name != node)
    pooled = (pool.name for pool in cluster.pools if row.node_roles & pool.roles)
    return not any((*listed, *pooled))


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
            "etcd refuses them only if it runs with --client-crl-file, a CRL in DER that you keep up to date. Without "
            f"it etcd accepts them until {stamp(last)}"
        )
    for one in chosen.unattributed:
        some = "1 certificate" if one.count == 1 else f"{one.count} certificates"
        said.append(
            f"left alone: {some} of {one.name} ({one.ca}), the last of them until {stamp(one.not_after)}: "
            f"{one.reason}; if {node} may hold {'it' if one.count == 1 else 'one of them'}, `vaultpki ca rotate "
            f"{one.ca} --emergency` ends {'it' if one.count == 1 else 'them'}"
        )
    said += _not_kept_sentences(node, chosen)
    twice = [target for target in chosen.targets if target.claimants]
    if twice:
        names = sorted({name for target in twice for name in target.claimants})
        other, sound = (names[0], "it is") if len(names) == 1 else ("one of them", "they are")
        said.append(
            f"{_verb(names, 'report')} {len(twice)} of the revoked certificates too, so {node} or {other} says what is "
            f"not so. Run `vaultpki renew` there if {sound} sound, or revoke there too"
        )
    if not ended:
        said.append(
            f"{node} can still get new certificates, and its agent replaces these when it next asks Vault: "
            f"`vaultpki lock {node}` ends all that it can log in with"
        )
    if chosen.targets:
        said.append("`vaultpki ca rotate DOMAIN --emergency` ends every certificate of a CA, also where no CRL is read")
    return said


def _not_kept_sentences(node: str, chosen: Chosen) -> list[str]:
    said = []
    reported = [one for one in chosen.not_kept if one.serial]
    if reported:
        last = max((one.not_after for one in reported if one.not_after is not None), default=None)
        until = f" until {stamp(last)}" if last is not None else " until they expire"
        said.append(
            f"not revoked: {_and([one.name for one in reported])}, which {node} reports: Vault keeps no copy of "
            f"{'it' if len(reported) == 1 else 'them'} (no_store), so valid{until}; `vaultpki revoke --certificate "
            "FILE` revokes one whose file you have, and `vaultpki ca rotate DOMAIN --emergency` ends all of a CA"
        )
    others = [one.name for one in chosen.not_kept if not one.serial]
    if others:
        said.append(
            f"Vault keeps no copy of certificates of {_and(others)} (no_store): one that {node} may have is not known, "
            "and stays valid until it expires"
        )
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
                **({"reported_by": list(target.claimants)} if target.claimants else {}),
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
                "reported_by": list(one.claimants),
            }
            for one in chosen.unattributed
        ],
        "not_stored": [
            {
                "ca": one.ca,
                "name": one.name,
                "serial": one.serial or None,
                "not_after": stamp(one.not_after) if one.not_after is not None else None,
            }
            for one in chosen.not_kept
        ],
        "notes": sentences(node, chosen, ended=ended),
    }


def _verb(names: Sequence[str], verb: str) -> str:
    """Return the first few names as the subject of a verb."""
    some = list(names[:_SHOWN])
    rest = [f"{len(names) - len(some)} more"] if len(names) > len(some) else []
    return f"{_and([*some, *rest])} {verb}{'s' if len(names) == 1 else ''}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
