"""Prometheus' own tool, which reads rules and evaluates queries on series that a test makes up."""

from __future__ import annotations

import subprocess
from pathlib import Path


def promtool(*arguments: str | Path, expect: int = 0, given: str | None = None) -> str:
    """What it prints, where `given` is on its standard input; fails with all of it where it ends otherwise."""
    words = ["promtool", *map(str, arguments)]
    ran = subprocess.run(words, input=given, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == expect, ran.stdout + ran.stderr
    return ran.stdout
