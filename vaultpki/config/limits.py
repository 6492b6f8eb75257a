"""Refuses a cluster.yaml whose records would be too large for Vault, so that apply does not fail halfway."""

from __future__ import annotations

from vaultpki import certificates
from vaultpki.config.consistency import holders
from vaultpki.config.fields import FieldValue
from vaultpki.layout import own_server
from vaultpki.model import NODE, Cluster, Node, Pool
from vaultpki.records import published


def check(cluster: Cluster, spec: FieldValue) -> None:
    """Raise SpecError for the first record that Vault would refuse; `spec` has the place of each value of `cluster`."""
    seen = set()
    for holder, found in holders(cluster, spec):
        addresses = len(holder.addresses) if isinstance(holder, Node) else 0
        if (alike := (type(holder), holder.roles, addresses)) not in seen:
            seen.add(alike)
            _of_holder(holder, cluster, spec, found)
    _of_templates(cluster, spec)
    _of_memory(cluster, spec)


def _of_holder(holder: Node | Pool, cluster: Cluster, spec: FieldValue, found: FieldValue) -> None:
    rows = certificates.node_rows(cluster, holder)
    if len(rows) > published.MOST_CERTIFICATES:
        raise spec["certificates"][rows[published.MOST_CERTIFICATES].name].refuse(
            f"with this {holder.name} has {len(rows)} certificates, and its record has room for "
            f"{published.MOST_CERTIFICATES}: remove some, or give them to nodes of other roles"
        )
    if isinstance(holder, Node):
        # Sample addresses that differ from every other value, so that the result holds for all nodes with as many.
        sample = Node(NODE, holder.roles, tuple(f"#{number}" for number in range(len(holder.addresses))))
        held = tuple(certificates.resolve(row, cluster, sample) for row in rows)
        signing = [row for row in certificates.signing_rows(cluster) if row.node_roles & holder.roles]
        key = next((certificates.resolve(row, cluster, sample) for row in signing), None)
        record = published.node_record(sample, held, "", cluster.layout, own_server(cluster, holder), key)
    else:
        held = tuple(certificates.resolve(row, cluster, holder) for row in rows)
        record = published.pool_record(holder, held, cluster.layout)
    count = published.strings(record)
    if count > published.MOST_STRINGS:
        widest = max(held, key=lambda certificate: len(certificate.subject.dns) + len(certificate.subject.ips)).name
        place = spec["certificates"].value.get(widest, spec["api_server"] if widest == "kube-apiserver" else found)
        raise place.refuse(
            f"the certificates of {holder.name}, with all names and addresses, need {count} strings, and Vault accepts "
            f"no more than {published.MOST_STRINGS} in one request: remove names, addresses or certificates"
        )


def _of_templates(cluster: Cluster, spec: FieldValue) -> None:
    record = published.cluster_record(cluster, (), None, "")
    size = published.size(record)
    if size > published.MOST_BYTES:
        largest = max(cluster.templates, key=lambda template: published.size({"text": template.text}))
        raise spec["templates"][largest.name]["template"].refuse(
            f"the templates need {size // 1024} KiB, this one the most, and their record has room for "
            f"{published.MOST_BYTES // 1024}: make them smaller, or leave some out"
        )
    if published.strings(record) > published.MOST_STRINGS:
        raise spec["templates"].refuse(
            f"Vault does not accept {len(cluster.templates)} templates with so many roles in one request: leave some "
            "out, or give them to fewer roles"
        )


def _of_memory(cluster: Cluster, spec: FieldValue) -> None:
    nodes, others = _remembered_nodes(cluster), _remembered_others(cluster)
    if nodes + others > published.MOST_APPLIED_BYTES:
        key, what = ("nodes", f"{len(cluster.nodes)} nodes") if nodes > others else ("pools", "pools and certificates")
        raise spec[key].refuse(
            f"apply keeps a list of its objects in {published.MOST_APPLIED_BYTES // 1024} KiB, which is too small for "
            f"{what}: split the cluster in two, or choose shorter names or a shorter prefix"
        )


def _remembered_nodes(cluster: Cluster) -> int:
    """Return the bytes that apply needs to remember the listed nodes: the name and the role id of each."""
    return sum(len(node.name) + 40 for node in cluster.nodes)


def _remembered_others(cluster: Cluster) -> int:
    """Return the bytes for everything else, mainly PKI roles: a pool has its own role for each row with addresses."""
    names = [row.name for row in certificates.all_rows(cluster)]
    for pool in cluster.pools:
        names += [certificates.pool_role(row, pool) for row in certificates.node_rows(cluster, pool)]
        names += [pool.name] * 3
    return sum(len(name) + len(cluster.prefix) + 30 for name in names)
