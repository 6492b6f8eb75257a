"""Shows a table again and again: in place on a terminal, else one below the other, each with its time."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import FrameType
from typing import Final

import click

from vaultpki.errors import Unavailable
from vaultpki.redact import printable, stamp

DEFAULT: Final = "10s"
# To the upper left corner, clearing each line as it is written and then what is below: without a flash of nothing.
_HOME, _END_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_CLEAR: Final = "\x1b[2J"


def interval(every: str | None, *, watching: bool, as_json: bool) -> int:
    """Return how many seconds pass between two looks. Raises UsageError for options that exclude each other."""
    from vaultpki.values.durations import parse_duration

    if every is not None and not watching:
        raise click.UsageError("--every is for --watch")
    if watching and as_json:
        raise click.UsageError("--watch is for people; a program calls the command with --json again and again")
    return parse_duration(every or DEFAULT)


def watch(look: Callable[[], list[str]], seconds: int) -> None:
    """Show the lines of `look` every so many seconds, until Ctrl-C or SIGTERM.

    What the first look raises ends it at once. Later a server that is away is told, and asked again.
    """
    signal.signal(signal.SIGTERM, _leave)
    live = sys.stdout.isatty()
    try:
        _draw(look(), seconds, live=live, first=True)
        while True:
            time.sleep(seconds)
            try:
                shown = look()
            except Unavailable as error:
                shown = [f"vaultpki: {printable(str(error))}"]
            _draw(shown, seconds, live=live)
    except KeyboardInterrupt:
        return
    except RuntimeError as error:
        # Ctrl-C inside threading's Condition.wait makes it release a lock that it does not hold.
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise


def _leave(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _draw(shown: list[str], seconds: int, *, live: bool, first: bool = False) -> None:
    now = stamp(datetime.now(UTC))
    if not live:
        click.echo("\n".join((now, *shown, "")))
        sys.stdout.flush()
        return
    most = max(shutil.get_terminal_size().lines - 2, 3)
    if len(shown) > most:
        # What needs attention is first.
        shown = [*shown[: most - 1], f"... and {len(shown) - most + 1} more lines"]
    lines = (f"{now}, every {seconds} s; Ctrl-C ends it", *shown)
    # One write, so that no half of a table is seen.
    click.echo(
        (_CLEAR if first else "") + _HOME + "".join(f"{line}{_END_OF_LINE}\n" for line in lines) + _BELOW, nl=False
    )
    sys.stdout.flush()
