"""The record that agents poll at rest."""

from __future__ import annotations

from vaultpki.records import changes
from vaultpki.records.changes import Changes, Mark

_ABOUT = {"version": 7, "created_time": "2026-11-28T12:00:00.5Z"}


def test_a_record_reads_back_as_it_was_written() -> None:
    written = Changes(settled=True, digests={"records": "aa", "rotations": "bb", "issuers": "cc"})
    assert changes.read(changes.to_json(written)) == written


def test_what_no_vaultpki_wrote_counts_as_changing_and_stops_no_command() -> None:
    others: tuple[object, ...] = (
        None,
        [],
        "settled",
        {"digests": ["records"]},
        {"digests": {"records": 3, "more": "x"}},
        {"version": 2},
        {"version": 2, "state": "settled", "digests": {"records": "aa"}},
        {"version": "1", "state": "settled"},
    )
    for record in others:
        assert changes.read(record) == Changes(settled=False)


def test_only_a_settled_record_has_a_mark() -> None:
    settled = changes.to_json(Changes(settled=True))
    assert changes.settled_mark({"data": settled, "metadata": _ABOUT}) == Mark(7, "2026-11-28T12:00:00.5Z")
    changing = changes.to_json(Changes(settled=False))
    for stored in (
        {},
        {"data": None, "metadata": _ABOUT},
        {"data": changing, "metadata": _ABOUT},
        {"data": settled, "metadata": {"version": "7", "created_time": "x"}},
        {"data": settled, "metadata": {"version": 7, "created_time": ""}},
    ):
        assert changes.settled_mark(stored) is None, stored


def test_a_digest_does_not_depend_on_order() -> None:
    one, other = ("nodes/a", {"b": 1, "a": [1, 2]}), ("nodes/b", {"a": 2})
    assert changes.digest([one, other]) == changes.digest([other, ("nodes/a", {"a": [1, 2], "b": 1})])
    assert changes.digest([one, other]) != changes.digest([one])
    assert changes.digest([("nodes/a", {"a": [2, 1], "b": 1}), other]) != changes.digest([one, other])
