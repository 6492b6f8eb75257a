"""The packages of this checkout, made by the scripts of `make dist`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from helpers.pages import CHECKOUT


def make(script: str, folder: Path) -> None:
    """Run one of the scripts in packages/ for this folder; fails with all that it prints."""
    ran = subprocess.run(
        [CHECKOUT / "packages" / script, folder],
        env={**os.environ, "PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, f"packages/{script}:\n{ran.stdout}"


def only(folder: Path, pattern: str) -> Path:
    """The one file of the folder with such a name."""
    (found,) = folder.glob(pattern)
    return found
