"""Drafts rows of the user's own for certificates beside the table that an old CA has signed, if their place allows it.

A row's files lie where the folder of certificates has them, so a flag that names NAME.crt and NAME.key there stays.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any, Final

from vaultpki import certificates
from vaultpki.adopt.found import ROWS, ClusterInventory, InUse
from vaultpki.model import NODE, Cluster, NodeRole, Usage

# What the row of a node has in place of its own addresses (config/fields.py).
_ADDRESSES: Final = "{node_addresses}"
_CERTIFICATE: Final = ".crt"


def beside(found: ClusterInventory) -> Iterator[InUse]:
    """Yield the certificates beside the table that flags name and that a CA of the cluster has signed."""
    return (each for each in found.certificates if each.row not in ROWS and not each.served and each.ca)


def row_name(each: InUse, found: ClusterInventory) -> str:
    """Return the name of the row that can sign a certificate beside the table afterwards; "" if a person must do it.

    Its key must lie beside it under the same name, or a component would get a pair that does not fit.
    """
    folder, file = posixpath.split(each.place)
    name = file.removesuffix(_CERTIFICATE)
    usable = folder == found.directory and name != file and each.facts.usage in (Usage.SERVER, Usage.CLIENT, Usage.BOTH)
    keys = {pair for machine in found.machines if machine.node == each.node for pair in machine.keys_named}
    return name if usable and f"{folder}/{name}.key" in keys else ""


def rows(found: ClusterInventory) -> dict[str, dict[str, Any]]:
    """Return the drafted rows by name, with what today's certificates of all nodes name."""
    made: dict[str, dict[str, Any]] = {}
    nodes = {node.name: node for node in found.whole.nodes}
    for each in beside(found):
        name, usage = row_name(each, found), each.facts.usage
        if not name or usage is None:
            continue
        node = nodes.get(each.node)
        own = node.of_type("InternalIP") if node is not None else ()
        role = NodeRole.CONTROL_PLANE if node is not None and node.control_plane else NodeRole.WORKER
        subject = each.facts.subject
        row = made.setdefault(
            name,
            {"kind": usage.value, "common_name": _common(subject.common_name, each.node), "ca": each.ca, "roles": []},
        )
        row["roles"] = list(dict.fromkeys((*row["roles"], role.value)))
        _add(row, "organization", subject.organization)
        _add(row, "names", tuple(_common(dns, each.node) for dns in subject.dns))
        _add(row, "addresses", tuple(_ADDRESSES if ip in own else ip for ip in subject.ips))
    return made


def _add(row: dict[str, Any], key: str, values: tuple[str, ...]) -> None:
    if values:
        row[key] = list(dict.fromkeys((*row.get(key, ()), *values)))


def _common(name: str, node: str) -> str:
    return name.replace(node, NODE) if node and (name == node or name.startswith(f"{node}.")) else name


def after(each: InUse, found: ClusterInventory, draft: Cluster | None) -> str:
    """Return in words who signs a certificate beside the table afterwards, by the drafted cluster."""
    name = row_name(each, found)
    drafted = {row.name for row in certificates.rows(draft) if not row.built_in} if draft is not None else set()
    return f"the drafted row {name}" if name in drafted else "you"
