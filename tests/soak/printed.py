"""What soaks print as they run: lines with the time, and texts of bounded length."""

from __future__ import annotations

import time

MOST_CHARACTERS = 600


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S", time.gmtime()), text, flush=True)


def brief(text: str) -> str:
    """A text that may be the end of a log, as one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}..."
