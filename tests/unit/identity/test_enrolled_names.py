"""Which node a name is when it is enrolled, and what is said of one that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.example_cluster import BASE, load
from vaultpki.errors import ArgumentError
from vaultpki.identity import enrol


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("CP-1", "did you mean cp-1? Else add it to `nodes` in "),
        ("monitoring", "not a listed node of prod; add it to `nodes` in "),
    ],
)
def test_a_name_that_is_not_listed(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        enrol.holder(load(tmp_path, BASE), name, None)
    assert said in str(caught.value)
