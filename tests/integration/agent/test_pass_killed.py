"""`agent --once` killed at the system calls by which it changes its node, against the real server.

The calls are taken from a recorded trace of the same program. Each trial works on a copy of the node of its own; what a
reader finds after the kill is whole, and one more run sets everything right, runs the hooks that are owed, and leaves
nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.faults import disturbed_passes
from helpers.faults.disturbed_passes import RENEWED, STEMS, Trials
from helpers.faults.system_calls import Call, Fault
from helpers.vault.applied_cluster import Ran, Site
from helpers.vault.servers import Server

# Kills in an ordinary run: evenly spread, and each kind of call at its first and last; `conformance` takes all.
SAMPLE = 6


@pytest.fixture
def site(server: Server, tmp_path: Path, cluster_name: str) -> Site:
    return disturbed_passes.applied_site(Site(server, tmp_path / "site", cluster_name))


def sample(points: list[Call], size: int) -> list[Call]:
    ends = {name: [call for call in points if call.name == name] for name in {call.name for call in points}}
    chosen = {call for found in ends.values() for call in (found[0], found[-1])}
    chosen |= {points[index * len(points) // size] for index in range(size)}
    return [call for call in points if call in chosen]


def killed(done: Ran, what: str) -> bool:
    assert done.returncode in (-9, 137), f"{what}: not killed: {done.stdout}{done.stderr}"
    return False


@pytest.mark.parametrize(
    ("begin", "due", "size"),
    [
        pytest.param(begin, due, size, id=f"{begin.__name__}-{words}", marks=marks)
        for begin, due in ((disturbed_passes.first_issue, STEMS), (disturbed_passes.renewal, RENEWED))
        for words, size, marks in (
            ("sample", SAMPLE, pytest.mark.sample),
            ("every-call", 10**6, pytest.mark.conformance),
        )
    ],
)
def test_killed(
    begin: Callable[[Site, Path], Trials], due: tuple[str, ...], size: int, site: Site, tmp_path: Path
) -> None:
    made = begin(site, tmp_path)
    points = made.points()
    assert {"write", "fsync", "openat"} <= {call.name for call in points}
    assert len(points) > 60, points
    faults = [Fault(call, "signal=SIGKILL") for call in sample(points, min(size, len(points)))]
    disturbed_passes.each_disturbed(made, faults, due, killed)
