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
from helpers.vault.applied_cluster import AppliedCluster, Ran
from helpers.vault.cluster_factory import ClusterFactory

pytestmark = pytest.mark.on_node

Choice = Callable[[list[Call]], list[Call]]

# Kills in an ordinary run.
SAMPLE = 10


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AppliedCluster:
    return clusters.applied(disturbed_passes.SPEC)


def sample(points: list[Call]) -> list[Call]:
    """Evenly spread ones."""
    return [points[index * len(points) // SAMPLE] for index in range(SAMPLE)]


def every_call(points: list[Call]) -> list[Call]:
    return points


def killed(done: Ran, what: str) -> bool:
    assert done.returncode in (-9, 137), f"{what}: not killed: {done.stdout}{done.stderr}"
    return False


@pytest.mark.parametrize(
    ("begin", "due", "choice"),
    [
        pytest.param(begin, due, choice, id=f"{begin.__name__}-{choice.__name__}", marks=marks)
        for begin, due in ((disturbed_passes.first_issue, STEMS), (disturbed_passes.renewal, RENEWED))
        for choice, marks in (
            (sample, ()),
            (every_call, pytest.mark.exhaustive),
        )
    ],
)
def test_killed(
    begin: Callable[[AppliedCluster, Path], Trials],
    due: tuple[str, ...],
    choice: Choice,
    cluster: AppliedCluster,
    tmp_path: Path,
) -> None:
    made = begin(cluster, tmp_path)
    points = made.points()
    assert {"write", "fsync", "openat"} <= {call.name for call in points}
    assert len(points) > 60, points
    faults = [Fault(call, "signal=SIGKILL") for call in choice(points)]
    disturbed_passes.each_disturbed(made, faults, due, killed)
