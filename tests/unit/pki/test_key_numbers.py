"""Which numbers the keys of nodes have, by the record and by the policies on the server."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from helpers.example_cluster import load
from vaultpki.pki.key_numbers import key_numbers, node_policy, sign_path
from vaultpki.records.server_facts import Fields, Key
from vaultpki.records.service_account import KeyRecord, KeyState, NodeKeys

SPEC = """\
cluster: prod
api_server: {names: [api.example.com], addresses: [10.0.0.10]}
service_account_keys: true
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: cp-2, roles: [control-plane], addresses: [10.0.0.12]}
"""
"""cp-2 has joined after the record was written, which knows cp-1 alone."""


def record(**changes: object) -> KeyRecord:
    nodes = {"cp-1": NodeKeys(old=1, new=1)}
    return KeyRecord(KeyState.STEADY, 3, datetime(2026, 11, 1, tzinfo=UTC), nodes, **changes)  # type: ignore[arg-type]


def numbers(folder: Path, known: KeyRecord | None, *given: str) -> dict[str, tuple[int, ...]]:
    """The numbers where the policy of cp-2 on the server allows these names."""
    cluster = load(folder, SPEC)
    rules: Fields = {sign_path(cluster): {"allowed_parameters": {"common_name": list(given)}}}
    objects: dict[Key, Fields] = {node_policy(cluster, "cp-2"): rules} if given else {}
    return key_numbers(cluster, known, objects)


def test_a_node_that_joins_beside_a_record_has_the_first_one(tmp_path: Path) -> None:
    assert numbers(tmp_path, record()) == {}


def test_a_node_of_the_name_of_one_that_is_gone_has_the_next_one(tmp_path: Path) -> None:
    assert numbers(tmp_path, record(highest={"cp-2": 4})) == {"cp-2": (5,)}


def test_no_number_becomes_lower_where_the_record_does_not_know_the_node(tmp_path: Path) -> None:
    assert numbers(tmp_path, record(), "sa:cp-2:2", "sa:cp-2:3", "sa:cp-1:9") == {"cp-2": (3,)}
    assert numbers(tmp_path, None, "sa:cp-2:2", "sa:cp-2:3") == {"cp-2": (2, 3)}
