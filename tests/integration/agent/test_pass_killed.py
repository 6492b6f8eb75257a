"""`agent --once` killed at the calls by which it changes its node, against the real server.

What a reader finds after the kill is whole, and one more run sets everything right, runs the hooks that are owed, and
leaves nothing behind. In an ordinary run the pass is one of this process, of which copies are made right before its
calls; in the whole run each is a process of its own, killed at a call of a recorded trace.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.faults import disturbed_passes
from helpers.faults.disturbed_passes import RENEWED, STEMS, Judge, Trials, killed
from helpers.faults.drawn import Drawn
from helpers.faults.os_calls import moments
from helpers.faults.system_calls import Fault
from helpers.node.passes import passed_well
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory

pytestmark = pytest.mark.on_node

Begin = Callable[[AppliedCluster, Path], Trials]
# One call in so many is followed by another pass; every one is looked at.
STEP = 25

BEGINS = pytest.mark.parametrize(
    ("begin", "due"), [(disturbed_passes.first_issue, STEMS), (disturbed_passes.renewal, RENEWED)]
)


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AppliedCluster:
    return clusters.applied(disturbed_passes.SPEC)


@BEGINS
def test_killed_right_before_a_call(
    begin: Begin, due: tuple[str, ...], cluster: AppliedCluster, tmp_path: Path, drawn: Drawn
) -> None:
    made, offset = begin(cluster, tmp_path), drawn.below(STEP)
    good, node = made.copy("good"), made.copy("killed")
    passed_well(good)
    may = Judge(made, good, due)

    def looked_at(number: int) -> bool:
        may.pairs_are_whole(node, f"call {number}")
        may.others_are_whole(node, f"call {number}")
        return number % STEP == offset

    found = moments(lambda: passed_well(node), node.folder, tmp_path / "moments", looked_at)
    assert max(found) > 60 and len(found) > 2, found
    for number, folder in found.items():
        copy = NodeFolder(node.name, folder)
        copy.configure(str(node.folder), str(folder))
        may.one_more_pass(copy, f"call {number}")


@pytest.mark.exhaustive
@BEGINS
def test_killed_at_every_call(begin: Begin, due: tuple[str, ...], cluster: AppliedCluster, tmp_path: Path) -> None:
    made = begin(cluster, tmp_path)
    points = made.points()
    assert {"write", "fsync", "openat"} <= {call.name for call in points}
    assert len(points) > 60, points
    disturbed_passes.each_disturbed(made, [Fault(call, "signal=SIGKILL") for call in points], due, killed)
