"""What a cluster's own certificate may be, and what nobody changes of the table's: for cluster.yaml and for records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vaultpki.certificates import TABLE, pool_role
from vaultpki.model import NODE, Certificate, NodeRole, Pool, Row
from vaultpki.values import dataclass
from vaultpki.words import quoted

SHORTEST_LEAF: Final = 30
"""The shortest TTL of any certificate, in seconds."""

_NODES = "system:nodes"
# A group Kubernetes binds by itself, to reading metrics and health only (rbac/bootstrappolicy).
_HARMLESS = "system:monitoring"
OF_TABLE: Final = {row.name: row for row in TABLE}
"""The rows of the table by name."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a row: a key of cluster.yaml (empty: the row as a whole), the item of a list, a sentence."""

    key: str
    item: int | None
    text: str


def own_row_problem(row: Row, *, node: str, reads_as: Callable[[str, str], bool]) -> Problem | None:
    """Why no cluster may have this row beside the table; None where it may.

    `node` is what stands for the node's name in the row. `reads_as` tells whether a text, for any node that gets the
    row, is the other text.
    """
    if not row.usage.server and (row.dns or row.ips):
        key = "names" if row.dns else "addresses"
        return Problem(
            key, None, f"a client is known by its common name alone, so kind client carries no {key}: leave it out"
        )
    if row.usage.server and not (row.dns or row.ips):
        return Problem(
            "", None, "clients look for a server's names and addresses, not its common name: add names or addresses"
        )
    if row.kubeconfig and not row.usage.client:
        return Problem(
            "kubeconfig", None, "a kubeconfig is a client's, and this is kind server: write kind client or both"
        )
    if row.kubeconfig and row.ca != "kubernetes":
        return Problem("kubeconfig", None, f"kube-apiserver lets no client of CA {row.ca} in: write ca: kubernetes")
    return _group_problem(row, node) or _name_problem(row, node, reads_as)


def _identity(node: str) -> str:
    return f"system:node:{node}"


def _group_problem(row: Row, node: str) -> Problem | None:
    groups = {group.lower(): built_in for built_in in TABLE for group in built_in.organization}
    for index, said in enumerate(row.organization):
        group = said.lower()
        problem = None
        if group == "system:masters":
            problem = "system:masters bypasses every RBAC rule for good: use super-admin, which is there for that"
        elif group == _NODES:
            if row.common_name != _identity(node):
                problem = f"{_NODES} are the nodes themselves: write common_name: {quoted(_identity(NODE))} with it"
        elif group in groups:
            problem = f"{group} is the group of {groups[group].name}: choose a group of your own"
        elif group.startswith("system:") and group != _HARMLESS:
            problem = f"{quoted(said)} is Kubernetes' own, as all of system: is: choose a group of your own"
        if problem is not None:
            return Problem("organization", index, problem)
    return None


def _name_problem(row: Row, node: str, reads_as: Callable[[str, str], bool]) -> Problem | None:
    for built_in in TABLE:
        if built_in.ca == row.ca and reads_as(row.common_name, built_in.common_name):
            return Problem(
                "common_name",
                None,
                f"{built_in.common_name} is who {built_in.name} is: choose a common name of your own",
            )
    if row.common_name.lower().startswith("system:") and row.common_name != _identity(node):
        return Problem(
            "common_name",
            None,
            f"{quoted(row.common_name)} is Kubernetes' own, as all of system: is but a node's own "
            f"{_identity(NODE)}: choose a common name of your own",
        )
    return None


def held_problem(certificate: Certificate, *, node: str, roles: frozenset[NodeRole], pool: Pool | None) -> str | None:
    """Which field of a node's certificate cluster.yaml could not give; None where it could give all of it.

    `node` is the node's name, which stands in the certificate, and `pool` the pool it is of.
    """
    row = OF_TABLE.get(certificate.name)
    if pool is not None and certificate.subject.ips:
        return "ips"
    own = row is None
    if row is None:
        row = Row(
            certificate.name,
            certificate.usage,
            certificate.name,
            "-",
            certificate.subject.common_name,
            certificate.subject.organization,
            certificate.subject.dns,
            certificate.subject.ips,
            certificate.ca,
            certificate.stem,
            certificate.kubeconfig,
            roles,
        )
        problem = own_row_problem(row, node=node, reads_as=lambda text, other: text.lower() == other.lower())
        if problem is None and _passes_for_the_api(row):
            return "dns"
        if problem is not None:
            return {"names": "dns", "addresses": "ips", "": "usage"}.get(problem.key, problem.key)
    elif (key := _changed(certificate, row, node, roles, pool)) is not None:
        return key
    allowed = {row.name} if pool is None else {pool_role(row, pool)}
    # In a pool nothing shows whether a row of the cluster's own has addresses on other nodes.
    if own and pool is not None:
        allowed |= {row.name, f"{row.name}-{pool.name}"}
    return None if certificate.role in allowed else "role"


def _passes_for_the_api(row: Row) -> bool:
    """Whether clients of the API server would take this for its certificate by the names that it has in any cluster.

    A node knows of no others, and on the control plane the names may be there.
    """
    names = _literal(OF_TABLE["kube-apiserver"].dns, "{node}")
    exposed = row.usage.server and row.ca == "kubernetes" and NodeRole.CONTROL_PLANE not in row.node_roles
    return exposed and any(dns in names or dns.startswith("kubernetes.default.svc.") for dns in row.dns)


def _changed(
    certificate: Certificate, row: Row, node: str, roles: frozenset[NodeRole], pool: Pool | None
) -> str | None:
    """Which field is not as the table has it, of those that cluster.yaml cannot change."""
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


def _literal(entries: tuple[str, ...], node: str) -> set[str]:
    """The names of a row of the table that are the same whatever cluster.yaml says."""
    filled = (entry.replace(NODE, node) for entry in entries)
    return {entry for entry in filled if "{" not in entry}
