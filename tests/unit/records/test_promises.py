"""A record or join file that nobody of ours writes is refused, by the name of its field, and never used in part."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from vaultpki.errors import SpecError
from vaultpki.places import Layout
from vaultpki.records import rotation as rotation_record
from vaultpki.records import service_account
from vaultpki.records.foreign_cas import MOST_CAS
from vaultpki.records.join_file import Join, dump_join, parse
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.records.service_account import KeyRecord, KeyState, NodeKeys

NOW = datetime(2027, 1, 1, tzinfo=UTC)
SHA = "4f" * 32
JOIN = Join(
    cluster="prod",
    prefix="vaultpki/prod",
    node="w-1",
    pool="autoscaled",
    addresses=("https://127.0.0.1:8200", "https://[::1]:8200"),
    ca_pem=None,
    root_sha256=SHA,
    role_id="5b4b23f4-7c5a-41bb-b0ff-7e4a5c2b7f3a",
    wrap_token="hvs.CAESIJ",
    expires=NOW,
    also_trust={"etcd": (SHA, "5e" * 32)},
)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("change", [{}, {"also_trust": {}}, {"namespace": "team/a", "pool": None}])
def test_a_join_file_is_read_as_it_was_written(change: dict[str, Any], layout: Layout) -> None:
    join = replace(JOIN, layout=layout, **change)
    assert parse(dump_join(join).encode(), "join.json") == join


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("addresses", []),
        ("addresses", ["https://127.0.0.1:8200"] * 17),
        ("addresses", ["http://127.0.0.1:8200", "no address"]),
        ("also_trust", [SHA]),
        ("also_trust", {"root": [SHA]}),
        ("also_trust", {"etcd": []}),
        ("also_trust", {"etcd": [SHA, SHA]}),
        ("also_trust", {"etcd": ["4f"]}),
        ("also_trust", {"etcd": [f"{number:064x}" for number in range(MOST_CAS + 1)]}),
        ("root_sha256", "4f"),
        ("wrap_token", ""),
        ("expires", "soon"),
        ("odd", True),
    ],
)
def test_an_odd_join_file_is_refused_by_its_field(field: str, value: object) -> None:
    written = json.loads(dump_join(JOIN)) | {field: value}
    with pytest.raises(SpecError) as refused:
        parse(json.dumps(written).encode(), "join.json")
    assert refused.value.field == field and JOIN.wrap_token not in str(refused.value)


@pytest.mark.parametrize("turn", ["cp 1", "cp-1/etcd", "-", "é"])
def test_the_turn_of_a_rotation_is_a_nodes(turn: str) -> None:
    record = RotationRecord(
        "etcd", State.RETIRED, 9, NOW, CaRef("etcd-1", sha256=SHA), CaRef("etcd-2", sha256="b" * 64)
    )
    written = rotation_record.to_json(replace(record, turn="cp-1"))
    assert rotation_record.read(written, "etcd", where="etcd").turn == "cp-1"
    with pytest.raises(SpecError) as refused:
        rotation_record.read(written | {"turn": turn}, "etcd", where="etcd")
    assert refused.value.field == "turn"


@pytest.mark.parametrize("keys", ["cp-1", [1, 2], None])
def test_keys_of_a_node_are_more_than_a_word(keys: object) -> None:
    written = service_account.to_json(KeyRecord(KeyState.STEADY, 1, NOW, {"cp-1": NodeKeys(1, 1)}))
    with pytest.raises(SpecError, match="keys: nodes: cp-1: is not a node's keys"):
        service_account.read(written | {"nodes": {"cp-1": keys}}, where="keys")
