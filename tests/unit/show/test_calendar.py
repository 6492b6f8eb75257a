"""The calendar of a report: every end in exactly one column, weeks or days, and the crowded one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vaultpki.show.calendar import SHADES, calendar

# A Thursday.
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def days(*numbers: float) -> list[datetime]:
    return [NOW + timedelta(days=number) for number in numbers]


def test_weeks_begin_on_monday_and_the_first_is_this_one() -> None:
    found = calendar({"kubelet": days(1, 20, 25, 26, 30)}, NOW)
    assert found.weekly
    assert [column.label for column in found.columns] == ["Nov 23", "Nov 30", "Dec 7", "Dec 14", "Dec 21"]
    assert found.totals == (1, 0, 0, 1, 3)
    assert found.crowded == 4 and found.most == found.largest == 3
    assert found.columns[4].words == "week of 2026-12-21"


def test_short_lives_are_shown_by_day() -> None:
    found = calendar({"super-admin": days(0.2), "kubelet": days(3, 3.1)}, NOW)
    assert not found.weekly
    assert [column.label for column in found.columns] == ["Nov 26", "Nov 27", "Nov 28", "Nov 29"]
    assert [cell.count for cell in found.rows["kubelet"]] == [0, 0, 0, 2]
    assert found.columns[3].words == "day 2026-11-29"


def test_what_has_expired_and_what_is_far_away_have_columns_of_their_own() -> None:
    found = calendar({"a": days(-400, -0.1, 0, 0.1), "b": days(113, 4000)}, NOW)
    assert (found.columns[0].label, found.columns[-1].label) == ("expired", "later")
    assert found.totals[0] == 3 and found.totals[1] == 1 and found.totals[-1] == 2
    # Most have expired, which is no week.
    assert found.crowded == 1


@pytest.mark.parametrize("ends", [(), (-1,), (0.1,), (11.9,), (12.1,), (-3, 2, 40, 112, 113, 5000)])
def test_every_end_is_in_exactly_one_column(ends: tuple[float, ...]) -> None:
    found = calendar({"a": days(*ends)}, NOW)
    assert sum(found.totals) == len(ends)
    for end in days(*ends):
        assert [column.has(end) for column in found.columns].count(True) == 1
        assert found.columns[found.index(end)].has(end)
    assert len(found.columns) <= 18


def test_shades_grow_with_the_number_and_few_are_pale() -> None:
    found = calendar({"many": days(*([20] * 100)), "some": days(*([20] * 51)), "one": days(20)}, NOW)
    shade = {name: max(cell.shade for cell in cells) for name, cells in found.rows.items()}
    assert shade == {"many": SHADES, "some": 3, "one": 1}
    assert max(cell.shade for cell in calendar({"one": days(20)}, NOW).rows["one"]) == 1


def test_nothing_read_gives_one_empty_column() -> None:
    found = calendar({"kubelet": []}, NOW)
    assert found.totals == (0,) and found.crowded is None and found.most == 0
