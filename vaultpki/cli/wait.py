"""`--wait`: takes steps of a procedure until it is at rest, and says on standard error what they wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import click

from vaultpki.errors import ChangedMeanwhile, Denied, Unavailable
from vaultpki.redact import printable

if TYPE_CHECKING:
    from vaultpki.procedure.gate import Gate

S = TypeVar("S")

PATIENCE: Final = 10.0
"""Seconds that one request of a command with `--wait` goes on trying; the command itself waits on."""

LOOK: Final = 10.0
"""Seconds between two looks; each reads the report of every node."""

REREAD: Final = 1.0
"""Seconds after which a record is read again that another operator has written meanwhile."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """What comes after a step: the line that says what is waited for, and in how many seconds the next step is tried.

    Without `seconds` the command ends; "" is no line.
    """

    line: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait(Generic[S]):
    """What a procedure has of its own in a wait.

    `take` takes a step, and forgets what a person has said once it is taken. `ahead` gets the last step and the one
    before (None at first): it ends the command at rest, or if another operator leads the other way.
    `ends` is whether the command ends if its very first step fails so: else it could wait for a wrong address.
    `look` is how many seconds pass between two looks while the server or the cluster is away, and `again` what is said
    then. `tells_faster` is whether the command says that somebody else was faster, and gives him time: an adoption also
    writes objects of the API server, where only a person can end that.
    """

    take: Callable[[], S]
    ahead: Callable[[S | None, S], Ahead]
    ends: Callable[[Unavailable | ChangedMeanwhile], bool] = lambda error: isinstance(error, Unavailable)
    look: float = LOOK
    again: str = "waiting until it answers again"
    tells_faster: bool = False

    def until_rest(self, *, quiet: bool) -> S:
        """Take steps until the procedure is at rest or another operator decides otherwise, and return the last one.

        With `quiet` only what is away is told: programs read standard output alone.
        """
        said, before = _Lines(quiet=quiet), None
        try:
            while True:
                try:
                    done = self.take()
                except (ChangedMeanwhile, Unavailable) as error:
                    if before is None and self.ends(error):
                        raise
                    if isinstance(error, ChangedMeanwhile) and not self.tells_faster:
                        # The next look sees whether that was the same step.
                        time.sleep(REREAD)
                    else:
                        said.failed(error, self.again)
                        time.sleep(self.look)
                    continue
                said.answered()
                ahead = self.ahead(before, done)
                said.once(ahead.line)
                if ahead.seconds is None:
                    return done
                if ahead.seconds:
                    time.sleep(ahead.seconds)
                before = done
        except (KeyboardInterrupt, RuntimeError) as error:
            # Ctrl-C inside threading's Condition.wait makes it release a lock that it does not hold.
            if isinstance(error, RuntimeError) and not isinstance(error.__context__, KeyboardInterrupt):
                raise
            click.echo("stopped waiting; nothing is lost: the same command goes on", err=True)
            raise click.exceptions.Abort from None
        except Denied:
            click.echo("stopped waiting; nothing is lost: the same command goes on with another token", err=True)
            raise


def until_open(gate: Gate | None, now: datetime) -> float:
    """Return how many seconds pass until a gate opens, if that is known; at most until the next look."""
    opens = gate.opens if gate is not None else None
    return LOOK if opens is None else min(max((opens - now).total_seconds(), 0.5), LOOK)


class _Lines:
    """Says what a wait is about: a line at each change."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._last = ""
        # What was said since the last step that was taken.
        self._failed: set[str] = set()
        self._away = False

    def once(self, line: str) -> None:
        """Print a line unless it was printed last."""
        if not self._quiet and line not in ("", self._last):
            click.echo(printable(line), err=True)
        self._last = line

    def failed(self, error: Unavailable | ChangedMeanwhile, again: str) -> None:
        """Say why no step could be taken: each reason once until one is."""
        if str(error) not in self._failed:
            self._say(f"{error}; {again}")
        self._failed.add(str(error))
        self._away = self._away or isinstance(error, Unavailable)

    def answered(self) -> None:
        """Say that what was away has answered."""
        if self._away:
            self._say("it answers again")
        self._failed, self._away = set(), False

    def _say(self, line: str) -> None:
        click.echo(printable(line), err=True)
        self._last = ""
