"""Which secret ids of a node are those whose answers were lost: never one that somebody may need."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from vaultpki.identity.credentials import SecretId
from vaultpki.provision.leftovers import SETTLED, chosen, unknown
from vaultpki.records import node_report
from vaultpki.records.node_report import NodeReport

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
DAY = 86400
CURRENT, PREVIOUS, LOST, ALSO_LOST = (f"{digit * 8}-1111-2222-3333-{digit * 12}" for digit in "abcd")
REPORT = NodeReport(NOW, lost=2, in_use=(CURRENT, PREVIOUS))


def secret_id(accessor: str, age: timedelta, ttl: int = 60 * DAY) -> SecretId:
    return SecretId(accessor, NOW - age, ttl)


LIVE = (
    secret_id(CURRENT, timedelta(days=2)),
    secret_id(PREVIOUS, timedelta(days=22)),
    secret_id(LOST, timedelta(days=3)),
    secret_id(ALSO_LOST, SETTLED + timedelta(seconds=1)),
)


def ended(report: NodeReport = REPORT, live: tuple[SecretId, ...] = LIVE, written: datetime = NOW) -> list[str]:
    names = unknown(report, [each.accessor for each in live])
    return [each.accessor for each in chosen(report, written, [each for each in live if each.accessor in names])]


def test_those_that_the_node_does_not_name_are_ended() -> None:
    assert ended() == [LOST, ALSO_LOST]


@pytest.mark.parametrize(
    "report",
    [
        replace(REPORT, in_use=()),
        replace(REPORT, lost=0),
        # Three are unknown and two answers were lost: somebody may have copied the node.
        replace(REPORT, in_use=(CURRENT,)),
        # Enrolled again since.
        replace(REPORT, in_use=("eeeeeeee-1111-2222-3333-eeeeeeeeeeee", PREVIOUS)),
    ],
)
def test_none_is_ended_where_the_report_does_not_explain_all(report: NodeReport) -> None:
    assert ended(report) == []


def test_many_that_nobody_knows_are_left() -> None:
    more = tuple(secret_id(f"{number:08x}-1111-2222-3333-000000000000", timedelta(days=9)) for number in range(33))
    assert ended(replace(REPORT, lost=20), (*LIVE, *more[:18])) and not unknown(
        REPORT, [CURRENT, *(m.accessor for m in more)]
    )


def test_what_was_made_since_the_report_or_shortly_before_stays() -> None:
    """The node may have renewed its own, and the join files of 0.1.0 live for weeks and open for a day."""
    young = [secret_id(LOST, age) for age in (timedelta(seconds=-60), timedelta(0), timedelta(days=1), SETTLED)]
    for each in young:
        assert ended(live=(LIVE[0], LIVE[1], each)) == []


def test_the_older_time_of_a_report_counts() -> None:
    """Its own may lie; and a report that was held up on its way is stored late."""
    live = (LIVE[0], secret_id(LOST, timedelta(hours=1)))
    week = timedelta(days=7)
    assert ended(live=live, written=NOW + week) == [] and ended(replace(REPORT, time=NOW + week), live) == []
    assert ended(replace(REPORT, time=NOW + week), live, NOW + week) == [LOST]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ([CURRENT, PREVIOUS], (CURRENT, PREVIOUS)),
        ([CURRENT], (CURRENT,)),
        (None, ()),
        ([], ()),
        (CURRENT, ()),
        ([CURRENT, PREVIOUS.upper()], ()),
        ([CURRENT, 7], ()),
        ([CURRENT, f"{PREVIOUS}\n"], ()),
        ([CURRENT, PREVIOUS, LOST], ()),
        ({CURRENT: 1}, ()),
    ],
)
def test_a_report_names_all_that_the_node_has_or_none(value: object, read: tuple[str, ...]) -> None:
    stored = {**node_report.to_json(REPORT), "credentials_in_use": value}
    found = node_report.read(stored)
    assert found is not None and found.in_use == read


def test_a_report_of_before_names_none() -> None:
    stored = node_report.to_json(replace(REPORT, in_use=()))
    assert "credentials_in_use" not in stored
    assert node_report.read(node_report.to_json(REPORT)) == REPORT
