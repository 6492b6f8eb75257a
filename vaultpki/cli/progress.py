"""Shows on a terminal how far long work is: a bar on standard error, and nothing where that is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final

import click

_WIDTH: Final = 24
# Clears the line of the bar.
_CLEAR: Final = "\r\x1b[2K"


class Progress:
    """Counts pieces of work, from any thread. Without a bar it only prints what is said."""

    def __init__(self, bar: Any = None) -> None:
        self._bar = bar
        self._lock = Lock()

    def step(self, total: int) -> None:
        """Count one piece of `total`, which may grow while the work goes on."""
        if self._bar is not None:
            with self._lock:
                self._bar.length = total
                self._bar.update(1)

    def say(self, text: str, colour: str | None = None) -> None:
        """Print a line on standard output, which may be the terminal of the bar; the next step draws the bar again."""
        with self._lock:
            if self._bar is not None:
                click.echo(_CLEAR, err=True, nl=False)
            click.secho(text, fg=colour)


@contextmanager
def progress(label: str, *, quiet: bool = False) -> Iterator[Progress]:
    """Yield what counts the pieces of some work; there is no bar with `quiet`, nor where there is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield Progress()
        return
    with click.progressbar(length=1, label=label, width=_WIDTH, file=sys.stderr) as bar:
        yield Progress(bar)
