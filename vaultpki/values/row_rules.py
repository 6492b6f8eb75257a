"""Checks a cluster's own rows, and that the fixed parts of the table are unchanged, in cluster.yaml and in records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vaultpki.certificates import ISSUING_CAS, TABLE, laid_out, pool_role
from vaultpki.model import NODE, Certificate, NodeRole, Pool, Row
from vaultpki.places import Layout
from vaultpki.values.names import quoted

SHORTEST_LEAF: Final = 30
"""The shortest TTL of any certificate, in seconds."""

_NODES = "system:nodes"
# Kubernetes binds this group by itself, to reading metrics and health only (rbac/bootstrappolicy).
_HARMLESS = "system:monitoring"
OF_TABLE: Final = {row.name: row for row in TABLE}
"""The rows of the table by name."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a row: the key of cluster.yaml (empty: the whole row), a sentence, the index in its list."""

    key: str
    text: str
    item: int | None = None


def own_row_problem(row: Row, *, node: str, reads_as: Callable[[str, str], bool]) -> Problem | None:
    """Return why a cluster may not have this row beside the table; None if it may.

    `node` is the text in the row that stands for the node's name. `reads_as` returns whether the first text equals the
    second one for some node that gets the row.
    """
    if not row.usage.tls or row.ca not in ISSUING_CAS:
        return Problem("kind", "only the table has certificates that are not for TLS: write client, server or both")
    if not row.usage.server and (row.dns or row.ips):
        key = "names" if row.dns else "addresses"
        return Problem(
            key, f"servers check the common name of a client alone, so kind client has no {key}: leave it out"
        )
    if row.usage.server and not (row.dns or row.ips):
        return Problem("", "clients check the names and addresses of a server: add names or addresses")
    if row.kubeconfig and not row.usage.client:
        return Problem("kubeconfig", "a kubeconfig is for clients, and this is kind server: write kind client or both")
    if row.kubeconfig and row.ca != "kubernetes":
        return Problem("kubeconfig", f"kube-apiserver rejects clients of CA {row.ca}: write ca: kubernetes")
    return _group_problem(row, node) or _name_problem(row, node, reads_as)


def _identity(node: str) -> str:
    return f"system:node:{node}"


def _group_problem(row: Row, node: str) -> Problem | None:
    groups = {group.lower(): built_in for built_in in TABLE for group in built_in.organization}
    for index, said in enumerate(row.organization):
        group = said.lower()
        problem = None
        if group == "system:masters":
            problem = "system:masters bypasses every RBAC rule: use the super-admin certificate instead"
        elif group == _NODES:
            if row.common_name != _identity(node):
                problem = f"{_NODES} is the group of the nodes: write common_name: {quoted(_identity(NODE))} with it"
        elif group in groups:
            problem = f"{group} is the group of {groups[group].name}: choose a group of your own"
        elif group.startswith("system:") and group != _HARMLESS:
            problem = f"{quoted(said)} is reserved for Kubernetes, like all groups of system:; choose another group"
        if problem is not None:
            return Problem("organization", problem, index)
    return None


def _name_problem(row: Row, node: str, reads_as: Callable[[str, str], bool]) -> Problem | None:
    for built_in in TABLE:
        if built_in.ca == row.ca and reads_as(row.common_name, built_in.common_name):
            problem = f"{built_in.common_name} is the identity of {built_in.name}: choose another common name"
            return Problem("common_name", problem)
    if row.common_name.lower().startswith("system:") and row.common_name != _identity(node):
        return Problem(
            "common_name",
            f"{quoted(row.common_name)} is reserved for Kubernetes, like all names of system: except "
            f"{_identity(NODE)}; choose another common name",
        )
    return None


def held_problem(
    certificate: Certificate,
    *,
    node: str,
    roles: frozenset[NodeRole],
    pool: Pool | None,
    layout: Layout = Layout.DOCUMENT,
) -> str | None:
    """Return the field of a node's certificate whose value no cluster.yaml could produce; None if there is none.

    `node` is the node's name, as in the certificate. `pool` is its pool, None for a listed node.
    """
    row = OF_TABLE.get(certificate.name)
    if row is not None and not row.usage.tls:
        # It stands apart from what is for TLS in a node's record.
        return "name"
    if pool is not None and certificate.subject.ips:
        return "ips"
    own = row is None
    if row is None:
        row = Row(
            name=certificate.name,
            usage=certificate.usage,
            source=certificate.name,
            common_name=certificate.subject.common_name,
            organization=certificate.subject.organization,
            dns=certificate.subject.dns,
            ips=certificate.subject.ips,
            ca=certificate.ca,
            stem=certificate.stem,
            kubeconfig=certificate.kubeconfig,
            node_roles=roles,
        )
        problem = own_row_problem(row, node=node, reads_as=lambda text, other: text.lower() == other.lower())
        if problem is None and _passes_for_the_api(row):
            return "dns"
        if problem is not None:
            return {"names": "dns", "addresses": "ips", "": "usage", "kind": "usage"}.get(problem.key, problem.key)
    elif (key := _changed(certificate, row, node, roles, pool) or _misplaced(certificate, layout)) is not None:
        return key
    allowed = {row.name} if pool is None else {pool_role(row, pool)}
    # A pool's record does not show whether a cluster's own row has addresses on other nodes.
    if own and pool is not None:
        allowed |= {row.name, f"{row.name}-{pool.name}"}
    return None if certificate.role in allowed else "role"


def _passes_for_the_api(row: Row) -> bool:
    """Return whether clients of the API server would accept this certificate, by the names that are in every cluster.

    A node does not know the other names of the API server. Control-plane nodes may have these names.
    """
    names = _literal(OF_TABLE["kube-apiserver"].dns, "{node}")
    exposed = row.usage.server and row.ca == "kubernetes" and NodeRole.CONTROL_PLANE not in row.node_roles
    return exposed and any(dns in names or dns.startswith("kubernetes.default.svc.") for dns in row.dns)


def _changed(
    certificate: Certificate, row: Row, node: str, roles: frozenset[NodeRole], pool: Pool | None
) -> str | None:
    """Return the first field that differs from the table although cluster.yaml cannot change it."""
    subject = certificate.subject
    if not row.node_roles & roles:
        return "name"
    for key, is_so in (
        ("usage", certificate.usage is row.usage),
        ("common_name", subject.common_name == row.common_name.replace(NODE, node)),
        ("organization", subject.organization == row.organization),
        ("ca", certificate.ca == row.ca),
        ("kubeconfig", certificate.kubeconfig == row.kubeconfig),
        ("dns", row.usage.server or not subject.dns),
        ("ips", row.usage.server or not subject.ips),
        ("dns", _literal(row.dns, node) <= set(subject.dns)),
        ("ips", pool is not None or _literal(row.ips, node) <= set(subject.ips)),
    ):
        if not is_so:
            return key
    return None


def _misplaced(certificate: Certificate, layout: Layout) -> str | None:
    """Return the field that kubeadm's layout does not allow for a certificate of the table; cluster.yaml cannot."""
    if layout is Layout.DOCUMENT:
        return None
    stems = {row.name: row.stem for row in laid_out(layout, signer=True)}
    if certificate.name not in stems:
        return "name"
    return None if certificate.stem == stems[certificate.name] else "file"


def _literal(entries: tuple[str, ...], node: str) -> set[str]:
    """Return the entries of a row of the table that do not depend on cluster.yaml."""
    filled = (entry.replace(NODE, node) for entry in entries)
    return {entry for entry in filled if "{" not in entry}
