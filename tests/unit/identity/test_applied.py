"""The record of what an apply made holds every object of a large cluster in a few strings, and reads them again."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.example_cluster import BASE, load
from vaultpki.identity.applied import AppliedRecord, node_objects
from vaultpki.records import published


@pytest.mark.parametrize(("count", "field"), [(170, "role_ids"), (5000, "nodes")])
def test_both_servers_take_the_record_of_many_nodes(tmp_path: Path, count: int, field: str) -> None:
    """They refuse a request with more than 500 entries in a list or an object; 170 nodes have more objects than that.

    A record that would be too large names nodes in place of their objects.
    """
    cluster = load(tmp_path, BASE)
    nodes = {f"node-{number:04}.{'d' * 42}": f"id-{number}" for number in range(count)}
    objects = frozenset[tuple[str, str]]().union(*(node_objects(cluster, name) for name in nodes))
    made = AppliedRecord(objects | {("role", f"{cluster.prefix}/etcd/etcd-peer")}, nodes, {"autoscaled": "w-*"})
    record = made.record(cluster)
    assert len(made.objects) > 500 and record[field] and ("nodes" in record) is (field == "nodes")
    assert published.strings(record) < 10 and published.size(record) <= published.MOST_APPLIED_BYTES
    assert AppliedRecord.read(cluster, record) == made
