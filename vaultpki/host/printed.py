"""Asks an installed program one question: returns what it prints, and nothing if it cannot be asked."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Final

from vaultpki.host.hook_files import PATH

_SECONDS: Final = 10.0


def by(words: Sequence[str]) -> str:
    """Return what a program prints to its standard output; "" if it fails, or takes longer than ten seconds.

    It gets no environment but a fixed PATH. What it prints is read as text, whatever it is.
    """
    try:
        ran = subprocess.run(
            list(words),
            env={"PATH": PATH, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_SECONDS,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout if ran.returncode == 0 else ""
