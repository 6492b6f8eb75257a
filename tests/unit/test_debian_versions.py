"""Versions of the Debian package sort as the Python versions that they are made from (PEP 440)."""

from __future__ import annotations

import subprocess
from itertools import pairwise

import pytest

from helpers.pages import CHECKOUT

SCRIPT = CHECKOUT / "packages" / "debian" / "version"
IN_ORDER = {
    "0.1.0": "0.1.0",
    "0.2.0.dev0+20261128072211.gfd8b50c": "0.2.0~dev0+20261128072211.gfd8b50c",
    "0.2.0.dev9+gfd8b50c": "0.2.0~dev9+gfd8b50c",
    "0.2.0.dev120+gfd8b50c": "0.2.0~dev120+gfd8b50c",
    "0.2.0.dev120+gfd8b50c.dirty": "0.2.0~dev120+gfd8b50c.dirty",
    "0.2.0rc1.dev3+gfd8b50c": "0.2.0~rc1~dev3+gfd8b50c",
    "0.2.0rc1": "0.2.0~rc1",
    "0.2.0rc2": "0.2.0~rc2",
    "0.2.0": "0.2.0",
    "0.2.0.post1": "0.2.0.post1",
    "0.2.1.dev1+gfd8b50c": "0.2.1~dev1+gfd8b50c",
    "0.2.1": "0.2.1",
    "0.10.0": "0.10.0",
}
"""Python's version and Debian's, in the order in which they are installed."""


def test_versions_sort_in_the_order_of_their_releases() -> None:
    made = [subprocess.check_output([SCRIPT, each], text=True).rstrip("\n") for each in IN_ORDER]
    assert made == list(IN_ORDER.values())
    for earlier, later in pairwise(made):
        assert subprocess.run(["dpkg", "--compare-versions", earlier, "lt", later], check=False).returncode == 0, later


@pytest.mark.parametrize("unknown", ["", "0.2.0a1", "1!0.2.0", "0.2.0-1"])
def test_a_version_that_would_sort_wrongly_is_refused(unknown: str) -> None:
    ran = subprocess.run([SCRIPT, unknown], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "") and "has no Debian version" in ran.stderr
