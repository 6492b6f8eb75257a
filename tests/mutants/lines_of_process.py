"""Tells which lines of the product a process runs, and for which test; a measured checkout has it as sitecustomize.py.

Every Python that has this checkout in PYTHONPATH loads it as it starts: commands, the process they are forked from, and
agents. One test at a time is measured in a checkout, and its name stands in a file. What a process ran that is killed
is lost.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).parent
PLACE = HERE / ".mutants"
CURRENT = PLACE / "current"
LINES = PLACE / "lines.jsonl"
# Of this checkout, its product alone.
MEASURED = f"{HERE}/vaultpki/*"


def begin() -> None:
    """Measure this process until its end, and each process that is forked from it for the test of that time."""
    import coverage

    measured = coverage.Coverage(data_file=None, include=[MEASURED], config_file=False, messages=False)
    measured.start()
    tests = [_current()]
    os.register_at_fork(after_in_child=lambda: tests.append(_current()))
    atexit.register(lambda: _end(measured, tests[-1]))
    leave = os._exit

    def end_and_leave(status: int) -> NoReturn:
        _end(measured, tests[-1])
        leave(status)

    # A command does not wait until Python has tidied up.
    os._exit = end_and_leave


def _current() -> str:
    with contextlib.suppress(OSError):
        return CURRENT.read_text()
    return ""


def _end(measured: object, test: str) -> None:
    from coverage import Coverage

    assert isinstance(measured, Coverage)
    with contextlib.suppress(Exception):
        measured.stop()
        data = measured.get_data()
        lines = {os.path.relpath(file, HERE): data.lines(file) or [] for file in data.measured_files()}
        # A thousand processes say so: bits are short.
        found = {file: hex(sum(1 << line for line in numbers)) for file, numbers in lines.items()}
        line = json.dumps({"test": test, "lines": found}).encode() + b"\n"
        place = os.open(LINES, os.O_WRONLY | os.O_APPEND)
        os.write(place, line)
        os.close(place)


# The process of pytest measures itself, with one context for each test.
if CURRENT.exists() and "pytest" not in sys.modules:
    begin()
