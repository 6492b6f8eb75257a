"""How long a step waits for what reads the files of a CA."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.example_cluster import BASE, load
from vaultpki.ca.facts import reload


@pytest.mark.parametrize(
    ("ca", "seconds"),
    # kube-apiserver has no leaf of the kubelet's CA, and reads that CA only every five minutes.
    [("kubernetes", 300), ("kubelet", 300), ("etcd", 0), ("front-proxy", 0)],
)
def test_a_step_waits_for_readers_of_leaves_and_of_bundles(ca: str, seconds: int, tmp_path: Path) -> None:
    assert reload(load(tmp_path, BASE), ca) == seconds
