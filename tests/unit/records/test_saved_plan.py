"""The file of `plan -o` is read as it was written, and any other file is refused in one sentence."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from vaultpki.errors import SpecError
from vaultpki.records.saved_plan import PLAN_MARK, SavedPlan, dump_plan, parse_plan

SAVED = SavedPlan(
    release="0.2.0",
    cluster="prod",
    prefix="vaultpki/prod",
    addresses=("https://vault:8200",),
    namespace="team1",
    spec="1" * 64,
    files={"vault.ca_file": "2" * 64},
    file="cluster.yaml",
    root_sha256="3" * 64,
    objects={"role vaultpki/prod/etcd/etcd-peer": "4" * 64},
    changes={"role vaultpki/prod/etcd/etcd-peer": "5" * 64},
    shown=("~ certificate etcd-peer: ttl 30d -> 9d", "~ certificate etcd-peer: ttl 30d -> 9d"),
    losses=("worker-1 loses its identity",),
    impact=("cp-1 issues etcd-peer anew", "worker-1 loses its identity"),
    reported=("cp-1", "worker-1"),
    pooled=("w-1",),
    until=datetime(2026, 12, 31, tzinfo=UTC),
)
TEXT = dump_plan(SAVED)
EMPTY = SavedPlan(
    "0.2.0", "prod", "vaultpki/prod", (), "", "1" * 64, {}, "a", "", {}, {}, (), (), (), (), (), SAVED.until
)


@pytest.mark.parametrize("saved", [SAVED, EMPTY])
def test_what_is_written_is_read(saved: SavedPlan) -> None:
    text = dump_plan(saved)
    assert text.splitlines()[0] == PLAN_MARK
    assert parse_plan(text, "plan.json") == saved
    # Another program may have formatted it.
    assert parse_plan(json.dumps(json.loads(text), sort_keys=True), "plan.json") == saved


NOT_A_PLAN = "is not a plan that `vaultpki plan -o` has saved: name such a file, or pass `-f` for a cluster.yaml"


@pytest.mark.parametrize(
    "text",
    ["", "cluster: prod\n", "[]", "{}", TEXT[:20], '{"kind": "x", "version": 1}', "[" * 9999],
)
def test_another_file_is_refused(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_plan(text, "plan.json")
    assert str(caught.value) == f"plan.json: {NOT_A_PLAN}"


@pytest.mark.parametrize("text", [TEXT[:-20], TEXT[:60], f"{TEXT}{{}}", f"{PLAN_MARK}\n"])
def test_a_plan_that_was_cut_off_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"^plan.json: .* it was changed or cut off, or is another file; save the plan"):
        parse_plan(text, "plan.json")


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("version", {"version": 0}),
    ("version", {"version": True}),
    ("further", {"further": 1}),
    ("file", {"file": None}),
    ("file", {"file": "x" * 5000}),
    ("until", {"until": "tomorrow"}),
    ("reported", {"took_part": {"reported": [1], "pooled": []}}),
    ("addresses", {"addresses": "https://vault:8200"}),
    ("plan", {"plan": ["a", 1]}),
    ("impact", {"impact": None}),
    ("root_sha256", {"root_sha256": "33"}),
    ("digests", {"digests": []}),
    ("digests", {"digests": {**json.loads(TEXT)["digests"], "further": {}}}),
    ("server", {"digests": {**json.loads(TEXT)["digests"], "server": {"role a": "4" * 63}}}),
    ("changes", {"digests": {**json.loads(TEXT)["digests"], "changes": ["role a"]}}),
    ("cluster.yaml", {"digests": {**json.loads(TEXT)["digests"], "cluster.yaml": "A" * 64}}),
]


@pytest.mark.parametrize(("field", "changed"), WRONG)
def test_a_field_that_is_wrong_is_named(field: str, changed: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="was changed or cut off, or is another file; save the plan again") as caught:
        parse_plan(json.dumps(json.loads(TEXT) | changed), "plan.json")
    assert caught.value.field == field and caught.value.file.startswith("plan.json")


@pytest.mark.parametrize("field", sorted(json.loads(TEXT).keys() - {"kind"}))
def test_a_field_that_is_missing_is_named(field: str) -> None:
    document = json.loads(TEXT)
    del document[field]
    with pytest.raises(SpecError) as caught:
        parse_plan(json.dumps(document), "plan.json")
    assert caught.value.field == field


def test_a_file_of_a_newer_vaultpki_says_so() -> None:
    with pytest.raises(SpecError, match="has version 2 and this vaultpki speaks 1; install the newer vaultpki here"):
        parse_plan(json.dumps(json.loads(TEXT) | {"version": 2, "further": 1}), "plan.json")
