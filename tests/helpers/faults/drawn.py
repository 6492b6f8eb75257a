"""Which points of many a test takes: drawn by a seed that pytest's header prints, so that each commit tries others.

`--seed SEED` draws the same once more. A point that a run found red becomes a test of its own.
"""

from __future__ import annotations

import itertools
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from vaultpki import __version__

_ROOT = Path(__file__).parents[3]
Point = TypeVar("Point")


def default_seed(root: Path = _ROOT) -> str:
    """The commit, so that one change meets the same points each time; a source without git has its version."""
    command = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return done.stdout.strip()


class Drawn:
    """Draws for one test: the same from one seed, whatever else runs and in whatever order."""

    def __init__(self, seed: str, test: str) -> None:
        self.seed = seed
        self._random = random.Random(f"{seed} {test}")  # noqa: S311 -- no secret

    def some(self, points: Sequence[Point], size: int) -> list[Point]:
        """`size` of them in their order, one of each of as many equal stretches; all if they are no more than that."""
        if size >= len(points):
            return list(points)
        ends = [index * len(points) // size for index in range(size + 1)]
        return [points[self._random.randrange(*each)] for each in itertools.pairwise(ends)]

    def below(self, end: int) -> int:
        """One number from 0 on."""
        return self._random.randrange(end)
