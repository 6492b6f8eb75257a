"""How large what the server is told may become: nothing reaches Vault that it would turn down halfway through."""

from __future__ import annotations

from vaultpki import certificates, records
from vaultpki.config.meaning import holders
from vaultpki.config.shape import Found
from vaultpki.model import NODE, Cluster, Node, Pool

# What apply remembers is one record, and Vault stores at most 1 MiB in one piece (see records.MOST_STRINGS).
_MOST_REMEMBERED = 960 * 1024


def check(cluster: Cluster, spec: Found) -> None:
    """Raises SpecError for the first thing that Vault would turn down; `spec` is as for `meaning.check`."""
    seen = set()
    for holder, found in holders(cluster, spec):
        addresses = len(holder.addresses) if isinstance(holder, Node) else 0
        if (alike := (type(holder), holder.roles, addresses)) not in seen:
            seen.add(alike)
            _of_holder(holder, cluster, spec, found)
    _of_templates(cluster, spec)
    _of_memory(cluster, spec)


def _of_holder(holder: Node | Pool, cluster: Cluster, spec: Found, found: Found) -> None:
    rows = certificates.node_rows(cluster, holder)
    if len(rows) > records.MOST_CERTIFICATES:
        raise spec["certificates"][rows[records.MOST_CERTIFICATES].name].refuse(
            f"with this {holder.name} has {len(rows)} certificates, and its record has room for "
            f"{records.MOST_CERTIFICATES}: leave some out, or give them to nodes of other roles"
        )
    if isinstance(holder, Node):
        # Addresses that no other value is, so that the node stands for all with as many.
        sample = Node(NODE, holder.roles, tuple(f"#{number}" for number in range(len(holder.addresses))))
        held = tuple(certificates.resolve(row, cluster, sample) for row in rows)
        record = records.node_record(sample, held, "")
    else:
        held = tuple(certificates.resolve(row, cluster, holder) for row in rows)
        record = records.pool_record(holder, held)
    count = records.strings(record)
    if count > records.MOST_STRINGS:
        widest = max(held, key=lambda certificate: len(certificate.subject.dns) + len(certificate.subject.ips)).name
        place = spec["certificates"].value.get(widest, spec["api_server"] if widest == "kube-apiserver" else found)
        raise place.refuse(
            f"the certificates of {holder.name}, with all names and addresses, make {count} texts, and Vault takes no "
            f"more than {records.MOST_STRINGS} in one request: leave out names, addresses or certificates"
        )


def _of_templates(cluster: Cluster, spec: Found) -> None:
    record = records.cluster_record(cluster, (), None, "")
    size = records.size(record)
    if size > records.MOST_BYTES:
        largest = max(cluster.templates, key=lambda template: records.size({"text": template.text}))
        raise spec["templates"][largest.name]["template"].refuse(
            f"the templates take {size // 1024} KiB, this one the most, of a record that has room for "
            f"{records.MOST_BYTES // 1024}: make them smaller, or leave some out"
        )
    if records.strings(record) > records.MOST_STRINGS:
        raise spec["templates"].refuse(
            f"Vault does not take {len(cluster.templates)} templates with so many roles in one request: leave some "
            "out, or give them to fewer roles"
        )


def _of_memory(cluster: Cluster, spec: Found) -> None:
    nodes, others = _remembered_nodes(cluster), _remembered_others(cluster)
    if nodes + others > _MOST_REMEMBERED:
        key, what = ("nodes", f"{len(cluster.nodes)} nodes") if nodes > others else ("pools", "pools and certificates")
        raise spec[key].refuse(
            f"so many objects ({what}) are more than the {_MOST_REMEMBERED // 1024} KiB hold in which apply remembers "
            "what it made: make two clusters of them, or choose shorter names or a shorter prefix"
        )


def _remembered_nodes(cluster: Cluster) -> int:
    """How many bytes the listed nodes take of what apply remembers: policy, AppRole, record and role id of each."""
    return sum(4 * len(node.name) + 3 * len(cluster.prefix) + 100 for node in cluster.nodes)


def _remembered_others(cluster: Cluster) -> int:
    """How many bytes all else takes of it, PKI roles above all: a pool has its own for each row with addresses."""
    names = [row.name for row in certificates.rows(cluster)]
    for pool in cluster.pools:
        names += [certificates.pool_role(row, pool) for row in certificates.node_rows(cluster, pool)]
        names += [pool.name] * 3
    return sum(len(name) + len(cluster.prefix) + 30 for name in names)
