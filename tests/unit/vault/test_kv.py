"""What of a KV store's answer counts as the version that a check-and-set names."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from vaultpki.errors import BadAnswer
from vaultpki.records.written import Written
from vaultpki.vault.kv import Stored, stored


@pytest.mark.parametrize(
    ("holding", "found"),
    [
        ({}, Stored()),
        ({"data": {"a": 1}, "metadata": {"version": 3}}, Stored("{'a': 1}", 3)),
        # Deleted: a write must name the version all the same.
        ({"data": None, "metadata": {"version": 7}}, Stored(None, 7)),
        ({"data": {}, "metadata": {"version": True}}, Stored("{}", 0)),
        ({"data": {}, "metadata": {"version": "3"}}, Stored("{}", 0)),
    ],
)
def test_a_record_and_its_version(holding: dict[str, Any], found: Stored[str]) -> None:
    assert stored(holding, str) == found


def test_who_wrote_it_and_when_the_server_stored_it() -> None:
    data = {"a": 1, "written": {"by": "people-anna", "entity": "6a1f"}}
    found = stored({"data": data, "metadata": {"version": 3, "created_time": "2027-01-01T00:00:00.123456789Z"}}, str)
    assert found.written == Written("people-anna", "6a1f", 3, datetime(2027, 1, 1, 0, 0, 0, 123456, UTC))
    assert stored({"data": {}, "metadata": {"version": 3, "created_time": 7}}, str).written == Written(version=3)


def test_metadata_that_is_no_object() -> None:
    with pytest.raises(BadAnswer):
        stored({"data": {}, "metadata": 3}, str)
