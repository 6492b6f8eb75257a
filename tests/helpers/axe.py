"""axe-core, which finds in a page what keeps people from using it: contrast, names for screen readers, the keyboard."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Final

from helpers.pages import CHECKOUT

# As its registry has it.
_AXE: Final = (
    "axe-core@4.14.1",
    "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
)


@cache
def axe_core() -> str:
    """Return the script; a page that runs it has `axe.run`."""
    command = str(CHECKOUT / "tests/setup/npm-pack")
    done = subprocess.run([command, *_AXE], capture_output=True, text=True, check=True, timeout=300)
    return (Path(done.stdout.strip()) / "axe.min.js").read_text()
