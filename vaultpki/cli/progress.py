"""Shows on a terminal how far long work is: a bar on standard error, and nothing where that is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import click

from vaultpki.redact import printable

if TYPE_CHECKING:
    from vaultpki.vault import Vault

_WIDTH: Final = 24
# To draw a bar takes as long as a part of a request.
_MOST_DRAWN: Final = 200
# Clears the line of the bar.
_CLEAR: Final = "\r\x1b[2K"


class Progress:
    """Counts pieces of work, from any thread; `draw` begins the bar. Without it what is said is printed only."""

    def __init__(self, draw: Callable[[], Any] | None = None) -> None:
        self._draw = draw
        self._bar: Any = None
        self._done = self._drawn = 0
        self._lock = Lock()

    def begin(self) -> None:
        """Draw the bar already; else the first step does, so that there is none for work that does not begin."""
        if self._draw is not None and self._bar is None:
            self._bar = self._draw()

    def step(self, total: int) -> None:
        """Count one piece of `total`, which may grow while the work goes on."""
        with self._lock:
            self.begin()
            self._done += 1
            if self._bar is not None and (self._done >= total or self._done - self._drawn > total // _MOST_DRAWN):
                self._bar.length = total
                self._bar.update(self._done - self._drawn)
                self._drawn = self._done

    def say(self, text: str, colour: str | None = None) -> None:
        """Print a line on standard output, which may be the terminal of the bar; the next step draws the bar again."""
        with self._lock:
            if self._bar is not None:
                click.echo(_CLEAR, err=True, nl=False)
            click.secho(text, fg=colour)

    def tell(self, text: str) -> None:
        """Print a line on standard error, such as what a wait is for; the next step draws the bar again."""
        with self._lock:
            if self._bar is not None:
                click.echo(_CLEAR, err=True, nl=False)
            click.echo(text, err=True)


def say(line: str) -> None:
    """Print on standard error what is done or waited for, since programs read standard output."""
    click.echo(printable(line), err=True)


def tell_waits() -> None:
    """Have whoever waits for a server be told of it, where standard error is a terminal; agents wait untold."""
    if sys.stderr.isatty():
        from vaultpki.vault.long_waits import TELL_WAITS

        # A bar may stand in the line.
        TELL_WAITS.set(lambda line: click.echo(f"{_CLEAR}{printable(line)}", err=True))


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """Yield what counts the pieces of some work; there is no bar where standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield Progress()
        return
    with ExitStack() as stack:
        bar = click.progressbar(length=1, label=label, width=_WIDTH, file=sys.stderr)
        yield Progress(lambda: stack.enter_context(bar))


@contextmanager
def reading(vault: Vault, *, bar: bool = True) -> Iterator[Vault]:
    """Yield the server for work that reads a whole fleet, with a bar if there is much to read; none without `bar`."""
    if not bar:
        yield vault
        return
    with progress("Reading") as counter:
        yield vault.counting(counter.step)
