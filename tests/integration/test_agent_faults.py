"""`agent --once` on disks that fail, fill up or cannot be written, in places that were tampered with, and twice at once.

Against the real server: the live pairs stay whole, sentences say what is wrong, one more pass sets all right, and
nothing is signed that could not be laid down.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import passes
import pytest
import traced
from applied import Ran, Site
from passes import RENEWED, STEMS, Trials
from servers import Server
from traced import Call, Fault

SAMPLE = 20
Faults = Callable[[list[Call]], list[Fault]]


@pytest.fixture
def site(server: Server, tmp_path: Path, cluster_name: str) -> Site:
    return passes.applied_site(Site(server, tmp_path / "site", cluster_name))


def told(done: Ran, what: str) -> bool:
    """Whether all was done; sentences say why not."""
    lines = done.stderr.splitlines()
    assert "Traceback" not in done.stdout + done.stderr, f"{what}: {done.stderr}"
    assert all(line.startswith("vaultpki: ") for line in lines), f"{what}: {done.stderr}"
    assert done.returncode == 0 or (done.returncode == 1 and lines), f"{what}: exit {done.returncode}: {done.stderr}"
    return done.returncode == 0


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(lambda points: traced.rotating(points, SAMPLE), id="sample"),
        pytest.param(traced.everything, id="everything", marks=pytest.mark.conformance),
    ],
)
@pytest.mark.parametrize(("begin", "due"), [(passes.first_issue, STEMS), (passes.renewal, RENEWED)])
def test_a_fault_leaves_whole_pairs(
    begin: Callable[[Site, Path], Trials], due: tuple[str, ...], faults: Faults, site: Site, tmp_path: Path
) -> None:
    made = begin(site, tmp_path)
    points = made.points()
    chosen = faults(points)
    assert len(chosen) >= SAMPLE
    passes.each_disturbed(made, chosen, due, told)
