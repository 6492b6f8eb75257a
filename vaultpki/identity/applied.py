"""The record `applied`: which objects an apply made, so that a later one may change and remove them; pure.

It is written before the objects are made and after they are removed: a crash leaves no object that nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from vaultpki.identity.access import approle_pools, jwt_roles
from vaultpki.model import VERSION, Cluster
from vaultpki.records import published
from vaultpki.records.paths import is_record
from vaultpki.records.server_facts import Key, ServerFacts
from vaultpki.vault import Json

APPLIED: Final = "applied"
"""The record's name in the store."""


@dataclass(frozen=True, slots=True)
class AppliedRecord:
    """Every object that an apply made or was about to make, and the role ids of listed nodes by name.

    `pools` maps a pool to its `node_names`, for the pools to which every pooled AppRole is known to belong.
    """

    objects: frozenset[Key] = frozenset()
    role_ids: Mapping[str, str] = field(default_factory=dict)
    pools: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, cluster: Cluster, record: Mapping[str, object]) -> AppliedRecord:
        """Read the record; lines of another form are ignored."""

        def pairs(name: str) -> list[tuple[str, str]]:
            lines = (line.partition(" ") for line in str(record.get(name) or "").splitlines())
            return [(first, second) for first, _, second in lines if second]

        nodes = dict(pairs("nodes"))
        objects = frozenset(pairs("objects")).union(*(node_objects(cluster, name) for name in nodes))
        return cls(objects, {**dict(pairs("role_ids")), **nodes}, dict(pairs("pools")))

    def record(self, cluster: Cluster) -> Json:
        """Return the record as it is written."""
        plain = _lines(self.objects, {"role_ids": self.role_ids, "pools": self.pools})
        if published.size(plain) <= published.MOST_APPLIED_BYTES:
            return plain
        # A node's role id then stands for its objects too. Not in smaller clusters, whose records stay as they are.
        own = {name: node_objects(cluster, name) for name in self.role_ids}
        nodes = {name: id_ for name, id_ in self.role_ids.items() if own[name] <= self.objects}
        others = {name: id_ for name, id_ in self.role_ids.items() if name not in nodes}
        objects = self.objects.difference(*(own[name] for name in nodes))
        return _lines(objects, {"role_ids": others, "pools": self.pools, "nodes": nodes})


def of_cluster(cluster: Cluster, facts: ServerFacts, wanted: Iterable[Key]) -> AppliedRecord:
    """Return the record of a cluster that has just the objects `wanted`."""
    roles = f"{jwt_roles(cluster)}/"
    return AppliedRecord(
        frozenset(
            key
            for key in wanted
            if key[0] in ("role", "policy", "approle") or is_record(cluster, key) or key[1].startswith(roles)
        ),
        {node.name: facts.role_ids[node.name] for node in cluster.nodes if node.name in facts.role_ids},
        {pool.name: pool.node_names for pool in approle_pools(cluster)},
    )


def node_objects(cluster: Cluster, name: str) -> frozenset[Key]:
    """Return the objects that an apply makes for one listed node."""
    return frozenset(
        {
            ("policy", f"{cluster.prefix}/node/{name}"),
            ("approle", f"{cluster.prefix}/listed/{name}"),
            ("config", f"{cluster.mount('config')}/nodes/{name}"),
        }
    )


def _lines(objects: Iterable[Key], others: Mapping[str, Mapping[str, str]]) -> Json:
    def text(pairs: Iterable[tuple[str, str]]) -> str:
        # Lines in one string: OpenBao refuses a request of more than about a thousand strings (records.MOST_STRINGS).
        return "\n".join(sorted(f"{first} {second}" for first, second in pairs))

    return {"version": VERSION, "objects": text(objects)} | {name: text(some.items()) for name, some in others.items()}
