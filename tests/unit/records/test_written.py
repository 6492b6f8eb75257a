"""Who wrote a record: as people see it, whatever somebody made of it; and that nothing but views can know of it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import vaultpki
from helpers.example_cluster import WITH_POOL, load
from vaultpki.procedure.envelope import Envelope
from vaultpki.records import adoption, changes, published, rotation, service_account, written
from vaultpki.records.adoption import AdoptionRecord, AdoptionState
from vaultpki.records.changes import Changes
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.records.service_account import KeyRecord, KeyState, NodeKeys
from vaultpki.records.written import Written
from vaultpki.show.record_writers import writer_lines, writers_json

NOW = datetime(2027, 1, 1, tzinfo=UTC)
ANNA = Written("people-anna", "6a1f-07", 7, NOW)
RECORDS: dict[str, tuple[dict[str, Any], Callable[[Any], Envelope[Any]]]] = {
    "rotation": (
        rotation.to_json(
            RotationRecord("etcd", State.PREPARED, 9, NOW, CaRef("etcd-1", sha256="a" * 64), CaRef("etcd-2"))
        ),
        lambda value: rotation.read(value, "etcd", where="x"),
    ),
    "keys": (
        service_account.to_json(KeyRecord(KeyState.STEADY, 9, NOW, {"cp-1": NodeKeys(1, 1)}, highest={"cp-1": 1})),
        lambda value: service_account.read(value, where="x"),
    ),
    "adoption": (
        adoption.to_json(AdoptionRecord(AdoptionState.PREPARED, 9, 3, NOW, {"kubernetes": ("a" * 64,)})),
        lambda value: adoption.read(value, where="x"),
    ),
}
ODD: tuple[object, ...] = (None, "anna", 7, [], {"by": 7, "entity": ["x"]}, {"by": "x" * 1_000_000, "version": True})


@pytest.mark.parametrize("kind", RECORDS)
def test_no_gate_and_no_next_record_can_know_of_it(kind: str) -> None:
    """A record is the same whoever wrote it, so nothing that is decided by it can differ, and no writer stays in it."""
    plain, read = RECORDS[kind]
    of_anna = written.signed(plain, "people-anna", "6a1f-07")
    assert written.of_record(of_anna, 7, NOW) == ANNA and written.of_record(plain) == Written()
    assert written.signed(plain, "", "") == plain
    for value in (of_anna, *({**plain, "written": odd} for odd in ODD)):
        assert read(value) == read(plain)
        assert len(written.of_record(value).by) <= 200


def test_only_what_shows_it_looks_at_it() -> None:
    package = Path(vaultpki.__file__).parent
    looks = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if any(
            isinstance(node, ast.Attribute) and node.attr == "written" for node in ast.walk(ast.parse(file.read_text()))
        )
    }
    views = {"adopt/standing.py", "agent/said.py", "cli/ca.py", "cli/nodes.py", "cli/report.py"}
    for_views = {"ca/fleet.py", "identity/adoption_record.py", "provision/rotation_records.py"}
    for_views |= {"key_rotation/commands.py", "key_rotation/fleet.py"}
    others = {"agent/report.py", "cli/enroll.py", "node/credential.py", "takeover/journal.py"}
    assert looks == views | for_views | others, "a writer informs, and decides nothing"


def test_who_applied_last_is_no_part_of_what_agents_compare() -> None:
    of_anna = Changes(settled=True, digests={"records": "aa"}, applied=ANNA)
    plain, value = changes.to_json(Changes(settled=True, digests={"records": "aa"})), changes.to_json(of_anna)
    assert changes.read(value).applied == ANNA and "applied" not in plain
    about = {"version": 7, "created_time": "2026-11-28T12:00:00.5Z"}
    for odd in (value, *({**plain, "applied": each} for each in ODD)):
        assert changes.read(odd) == changes.read(plain)
        assert changes.settled_mark({"data": odd, "metadata": about}) == changes.settled_mark(
            {"data": plain, "metadata": about}
        )


def test_a_record_that_is_compared_whole_has_no_writer(tmp_path: Path) -> None:
    plain = published.cluster_record(load(tmp_path, WITH_POOL), (), None, "a" * 64)
    assert published.drift(plain, plain, where="x") == ()
    assert published.drift(written.signed(plain, "people-anna", ""), plain, where="x") == ("further fields",)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (ANNA, "version 7, written 2027-01-01T00:00:00Z by people-anna (entity 6a1f-07)"),
        (Written("root"), "written by root"),
        (Written(entity="6a1f-07"), "written by a token without a name (entity 6a1f-07)"),
        (Written(version=7, at=NOW), "version 7, written 2027-01-01T00:00:00Z by somebody who is not recorded"),
        (Written("an\x1b[2Jna\n", "x\u202e"), r"written by an\x1b[2Jna\n (entity x\u202e)"),
    ],
)
def test_what_people_read(found: Written, sentence: str) -> None:
    assert found.sentence == sentence


def test_a_token_that_somebody_wrote_there_is_hidden() -> None:
    found = written.of_record({"written": {"by": "x hvs.CAESIJlU02LQZq0BL8gcqwertyuiop", "entity": ""}})
    assert found.by == "x (hidden)"


def test_views_name_each_record_by_its_path(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    found = {"rotation/etcd": Written(version=2), "changes": ANNA}
    head, *lines = writer_lines(cluster, found)
    assert f"{cluster.prefix}/config/data" in head
    assert lines == [
        f"  changes (cluster, nodes and pools)  {ANNA.sentence}",
        "  rotation/etcd  version 2, written by somebody who is not recorded",
    ]
    assert list(writer_lines(cluster, {})) == []
    assert writers_json(found) == {
        "changes": {"version": 7, "at": "2027-01-01T00:00:00Z", "by": "people-anna", "entity": "6a1f-07"},
        "rotation/etcd": {"version": 2, "at": None, "by": None, "entity": None},
    }
