"""What of a KV store's answer counts as the version that a check-and-set names."""

from __future__ import annotations

from typing import Any

import pytest

from vaultpki.errors import BadAnswer
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


def test_metadata_that_is_no_object() -> None:
    with pytest.raises(BadAnswer):
        stored({"data": {}, "metadata": 3}, str)
