"""The record of an adoption is read as strictly as it is written."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vaultpki.errors import SpecError
from vaultpki.records import adoption
from vaultpki.records.adoption import AdoptionRecord, AdoptionState, ClusterShape

NOW = datetime(2027, 1, 1, tzinfo=UTC)
OLD = {"kubernetes": ("a" * 64,), "etcd": ("b" * 64, "c" * 64), "front-proxy": ("d" * 64,)}
RECORD = AdoptionRecord(AdoptionState.PUBLISHED, 9, 7, NOW, OLD)


def read(value: Any) -> AdoptionRecord:
    return adoption.read(value, where="prod/config/rotation/adoption")


@pytest.mark.parametrize("state", AdoptionState)
def test_what_is_written_is_read(state: AdoptionState) -> None:
    record = replace(RECORD, state=state)
    assert read(adoption.to_json(record)) == record
    said = replace(
        record,
        turn="cp-1",
        restarted=("cp-1/etcd", "cp-2.example.com/kubelet"),
        confirmed=("outside",),
        joins_closed=NOW + timedelta(minutes=1),
        kept="in the safe of the second floor",
        imported=("kubernetes", "front-proxy"),
        shape=ClusterShape.ONE_PLANE,
    )
    assert read(adoption.to_json(said)) == said


def test_revisions_only_grow_and_a_state_forgets_what_was_said_in_the_one_before() -> None:
    said = RECORD.changed(
        turn="cp-1", restarted=("cp-2/etcd",), confirmed=("outside",), joins_closed=NOW, kept="a safe"
    )
    assert (said.revision, said.entered) == (10, 7)
    later = said.moved(AdoptionState.SWITCHED, NOW + timedelta(hours=1))
    assert (later.revision, later.entered, later.since) == (11, 11, NOW + timedelta(hours=1))
    assert (later.restarted, later.confirmed, later.joins_closed) == ((), (), None)
    # Where the old keys are kept, and whose turn it is, belongs to more than one state.
    assert later.kept == "a safe" and later.turn == "cp-1" and later.old == OLD


def test_a_later_release_may_add_fields() -> None:
    assert read(adoption.to_json(RECORD) | {"more": [1]}) == RECORD


@pytest.mark.parametrize(
    ("field", "odd"),
    [
        ("version", 0),
        ("version", 2),
        ("version", True),
        ("state", "steady"),
        ("state", None),
        ("revision", 0),
        ("revision", 1 << 53),
        ("revision", "9"),
        ("entered", 0),
        ("entered", 10),
        ("since", "yesterday"),
        ("since", None),
        ("turn", "cp 1"),
        ("turn", None),
        ("restarted_components", "cp-1/etcd"),
        ("restarted_components", ["cp-1/etcd", "cp-1/etcd"]),
        ("restarted_components", ["cp-1"]),
        ("confirmed", ["Not A Word"]),
        ("confirmed", None),
        ("joins_closed", 5),
        ("kept", ["here"]),
        ("imported", ["kubelet"]),
        ("shape", "round"),
        ("shape", None),
        ("imported", "etcd"),
        ("kept", "a\x1b[2J"),
        ("kept", "a" * 301),
        ("old", None),
        ("old", {}),
        ("old", {"etcd": ["b" * 64]}),
        ("old", {"kubernetes": []}),
        ("old", {"kubernetes": "a" * 64}),
        ("old", {"kubernetes": ["a" * 63]}),
        ("old", {"kubernetes": ["A" * 64]}),
        ("old", {"kubernetes": ["a" * 64, "a" * 64]}),
        ("old", {"kubernetes": [["a"]]}),
        ("old", {"kubernetes": [f"{number:064x}" for number in range(9)]}),
        ("old", {"kubernetes": ["a" * 64], "root": ["b" * 64]}),
    ],
)
def test_what_no_vaultpki_writes_is_refused_with_its_field(field: str, odd: object) -> None:
    with pytest.raises(SpecError) as caught:
        read(adoption.to_json(RECORD) | {field: odd})
    assert caught.value.field == field
    assert caught.value.file == "prod/config/rotation/adoption"


@pytest.mark.parametrize("odd", [None, [], "published", 7])
def test_what_is_no_object_is_refused(odd: object) -> None:
    with pytest.raises(SpecError, match="adopt status"):
        read(odd)
