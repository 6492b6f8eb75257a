"""The install, killed at each system call that changes a file: never a torn, short or missing pair.

The calls are taken from a recorded trace of the same program, not from a list kept here.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.faults.system_calls import Fault
from helpers.node.pair_installs import (
    check_one_more_run,
    clean,
    content,
    copy,
    installed,
    matching,
    record,
    run,
    two_pairs,
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return two_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.mark.parametrize("first", [True, False], ids=["first-install", "swap"])
def test_killed_at_every_changing_call(first: bool, pairs: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pairs
    base = None if first else installed(tmp_path, old)
    trial = copy(base, tmp_path / "trial" / "pki")
    points = record(trial, new, tmp_path / "log")
    clean(trial)
    names = {call.name for call in points}
    assert {"write", "fsync"} <= names and any(name.startswith("rename") for name in names), names
    assert len(points) > 20, points
    allowed = [{} if first else content(old), content(new)]

    def one(number: int) -> None:
        fault = Fault(points[number], "signal=SIGKILL")
        target = copy(base, tmp_path / f"case-{number}" / "pki")
        done = run(target, new, "-o", "/dev/null", *fault.options)
        assert done.returncode in (-9, 137) and "done" not in done.stdout, f"{fault}: not killed"
        found = content(target)
        assert found in allowed, f"{fault}: {sorted(found)}"
        assert not found or matching(found), f"{fault}: torn"
        check_one_more_run(target, new, str(fault))

    with ThreadPoolExecutor(max_workers=4) as pool:
        for _ in pool.map(one, range(len(points))):
            pass
