"""`--wait` of `vaultpki ca`: steps until the rotation is at rest, and what they wait for on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final

import click

from vaultpki.cli.common import server_now
from vaultpki.errors import ChangedMeanwhile, Denied, SpecError, Unavailable, VaultError, VaultpkiError
from vaultpki.redact import printable

if TYPE_CHECKING:
    from vaultpki.ca.run import Step
    from vaultpki.kube.objects import KubeTrust
    from vaultpki.rotation.course import Course
    from vaultpki.vault import Vault

WAIT_PATIENCE: Final = 10.0
"""Seconds that one request of a command with `--wait` goes on trying; the command itself waits on."""

# Seconds between two looks; each reads the report of every node.
_LOOK: Final = 10.0
# Seconds after which the record is read again that another operator has written meanwhile.
_AGAIN: Final = 1.0
# Seconds for which an API server that has let us in before may refuse us: it does so until it has read its roles.
_STARTS: Final = 120.0

Take = Callable[["Course | None", "KubeTrust | None"], "Step"]
"""Takes a step, in the course of the steps before, with what the Kubernetes cluster shows."""


def until_rest(
    vault: Vault,
    take: Take,
    pods: Callable[[], KubeTrust | None],
    course: Course | None,
    *,
    back: bool,
    begun: bool = False,
    quiet: bool = False,
) -> Step:
    """Take steps until the rotation is at rest or another operator decides otherwise, and return the last one.

    What the first step raises ends it, unless the command has `begun` the rotation itself. Later a server that is away
    is waited for; the API server from the first look on, if a rotation is under way (`course`), which may restart it.
    """
    from vaultpki.rotation.course import Course
    from vaultpki.show import ca as ca_text

    said, cluster = _WaitLine(quiet=quiet), _Lenient(pods)
    try:
        while True:
            try:
                looked = False
                shown = cluster.look()
                looked = True
                done = take(course, shown)
            except ChangedMeanwhile:
                # Another operator was faster; the next look sees whether that was the same step.
                time.sleep(_AGAIN)
                continue
            except Unavailable as error:
                if not begun and (looked or course is None):
                    raise
                said.away(error)
                time.sleep(_LOOK)
                continue
            begun = True
            said.back()
            course = course.seen(done.record) if course is not None else Course(done.record, back)
            if done.stopped or done.ended:
                return done
            now = server_now(vault)
            said.once(done.note or ca_text.progress_line(done.record, done.gate, now))
            if not done.moved or done.gate is None or not done.gate.open(now):
                time.sleep(_pause(done, now))
    except (KeyboardInterrupt, RuntimeError) as error:
        # Ctrl-C inside threading's Condition.wait makes it release a lock that it does not hold.
        if isinstance(error, RuntimeError) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        click.echo("stopped waiting; nothing is lost: the same command goes on", err=True)
        raise click.exceptions.Abort from None
    except Denied:
        click.echo("stopped waiting; nothing is lost: the same command goes on with another token", err=True)
        raise


class _Lenient:
    """Looks at the Kubernetes cluster; a refusal by an API server that has let us in before may pass by itself."""

    def __init__(self, pods: Callable[[], KubeTrust | None]) -> None:
        self._pods = pods
        self._let_in: float | None = None

    def look(self) -> KubeTrust | None:
        """Return what the cluster shows. Raises Unavailable for a refusal that may pass."""
        try:
            found = self._pods()
        except Unavailable:
            # It refuses everybody until it has read its roles, however long it was away.
            self._let_in = time.monotonic()
            raise
        except (VaultError, SpecError):
            raise
        except VaultpkiError as error:
            if self._let_in is None or time.monotonic() - self._let_in > _STARTS:
                raise
            raise Unavailable(str(error)) from None
        self._let_in = time.monotonic()
        return found


def _pause(step: Step, now: datetime) -> float:
    opens = step.gate.opens if step.gate is not None else None
    return _LOOK if opens is None else min(max((opens - now).total_seconds(), 0.5), _LOOK)


class _WaitLine:
    """Says on standard error what a wait is about: a line at each change."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._last = ""
        # What was said of the server or the cluster since it is away.
        self._away: set[str] = set()

    def once(self, line: str) -> None:
        """Print a line unless it was printed last; not for programs, which read standard output alone."""
        if not self._quiet and line != self._last:
            click.echo(printable(line), err=True)
        self._last = line

    def away(self, error: Unavailable) -> None:
        """Say that Vault or the cluster is away, and why: each reason once until `back`."""
        if str(error) not in self._away:
            self._say(f"{error}; waiting until it answers again")
        self._away.add(str(error))

    def back(self) -> None:
        """Say that what was away has answered."""
        if self._away:
            self._say("it answers again")
        self._away = set()

    def _say(self, line: str) -> None:
        click.echo(printable(line), err=True)
        self._last = ""
