"""helpers/run_summary.py: what stands in the end of a run, with and without workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MODULE = """\
import time
import pytest

def test_long():
    end = time.process_time() + 0.3
    while time.process_time() < end: pass

def test_short(): time.sleep(0.3)

@pytest.mark.conformance
@pytest.mark.parametrize("x", range(3))
def test_left(x): pass

@pytest.mark.conformance
@pytest.mark.exhaustive
def test_all(): pass

def test_not_chosen(): pass
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_long_unit_tests_and_what_is_left_are_told(workers: str, tmp_path: Path) -> None:
    for folder in ("unit", "integration", "conformance"):
        (tmp_path / "tests" / folder).mkdir(parents=True)
        (tmp_path / "tests" / folder / f"test_{folder}.py").write_text(MODULE)
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    markers = "".join(f"  {name}: x\n" for name in ("conformance", "exhaustive", "serverless"))
    ini = f"[pytest]\npythonpath = {TESTS}\nlong_unit_test = 0.2\nmarkers =\n{markers}"
    (tmp_path / "pytest.ini").write_text(ini)
    options = ["-p", "no:cacheprovider", "--import-mode=importlib", "--seed=given", "-n", workers]
    chosen = ["-m", "not (conformance or exhaustive)", "-k", "not not_chosen", "--ignore=tests/conformance"]
    command = [sys.executable, "-m", "pytest", *options, *chosen]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert "points drawn by --seed given" in lines
    (long,) = [line for line in lines if line.startswith("long for a unit test, 0.")]
    assert long.endswith(" s of a core: tests/unit/test_unit.py::test_long")
    assert [line for line in lines if line.startswith("left to ")] == [
        "left to `make exhaustive`: 2 cases of these files",
        "left to `make conformance`: 6 cases of these files, the 1 files of tests/conformance",
    ]
    assert lines[-1].split(" in ")[0].count("4 passed, 10 deselected" if workers == "0" else "4 passed") == 1
