"""A node's part: look at the disk, ask Vault for what is missing or due, lay it down, and say how it stands.

One pass (`run`) works on one locked directory. Where nothing changed since the last pass found nothing to do, and
nothing is due, it touches nothing and asks nobody.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from vaultpki import files, marks, memory, quiet
from vaultpki.errors import Busy, StoreError, VaultpkiError
from vaultpki.log import Event
from vaultpki.memory import Memory
from vaultpki.model import AgentConfig
from vaultpki.passing import Outcome, Pass
from vaultpki.plain import stamp
from vaultpki.store import Directory

if TYPE_CHECKING:
    from vaultpki import hooks

RESIDENT_SHARE: Final = 0.8
"""The part of the poll interval after which an agent that stays asks again, so that it never comes late."""


def run(
    config: AgentConfig,
    *,
    clock: float | None = None,
    settle: bool = True,
    allow_http: bool = False,
    force: Collection[str] = (),
    runner: hooks.Runner | None = None,
    wait: float = 0.0,
    share: float = 1.0,
    look: bool = False,
) -> Outcome:
    """One pass over this node. `clock` is Unix time in seconds; the machine's own where it is None.

    `settle` waits some seconds after a replacement, until the old files are gone and every watcher has seen it.
    `force` names certificates to renew though they are not due (`pairs.EVERY`: all). Hooks are left to `runner`, or
    run before this returns where there is none. `wait` is how many seconds another process may hold the directory,
    `share` the part of the poll interval for which what Vault said last is not asked for again. `look` has every file
    looked at, though nothing may have changed, so that `items` tells of all.
    Raises where nothing could be done at all; a certificate that failed by itself is told in the outcome.
    """
    now = time.time() if clock is None else clock
    age = config.poll * share
    known = memory.load(config.state)
    if not force and not look and (idle := _nothing_to_do(config, known, now, age, allow_http=allow_http)):
        return idle
    try:
        # Before anybody is asked: what others put there would be sent, or run.
        files.refuse_unsafe_way(config.state)
        with Directory.open(config.directory, wait=wait) as directory:
            marks.claim(directory, marks.holder_of(config))
            directory.sweep()
            # Whoever held the directory until now may have written it.
            known = memory.load(config.state)
            this = Pass(config, directory, known, now, age, frozenset(force), runner, allow_http=allow_http)
            outcome = this.run()
            if settle:
                try:
                    directory.settle()
                except StoreError as error:
                    # What is done is done; an old generation that cannot be removed is the next pass's to sweep.
                    this.fail("old files", error)
            return replace(outcome, memory=this.remember())
    except Busy:
        # Whoever holds the directory writes the memory too.
        raise
    except VaultpkiError as error:
        # The next run, and `status`, shall know; a state folder that cannot be written is a fault of its own.
        with contextlib.suppress(StoreError):
            # As it is on the disk by now: what the pass had put down of its signings stays.
            failed = memory.with_faults(memory.load(config.state), {"agent": str(error)}, now)
            memory.save(config.state, replace(failed, state=memory.state_of([error]), quiet=""))
        raise


def told(failures: Mapping[str, str]) -> list[Event]:
    """One event for each different sentence in `failures`, with the names of all that failed so."""
    names: dict[str, list[str]] = {}
    for what, text in failures.items():
        names.setdefault(text, []).append(what)
    events = []
    for text, failed in names.items():
        alone = failed == ["agent"] or text.startswith(f"{failed[0]}: ")
        said = text if alone else f"{', '.join(failed)}: {text}"
        events.append(Event("failed", said, "error", {"what": ",".join(failed)}))
    return events


def told_owed(owed: Mapping[str, hooks.Owed]) -> list[Event]:
    """One event for each key whose hooks are owed: which hook failed and why."""
    events = []
    for key, each in owed.items():
        why = f"{each.error}; " if each.error else ""
        text = f"{why}the hooks of {key} are still owed, and the next run tries them again"
        events.append(Event("hook-failed", text, "warning", {"hook": key, "attempts": each.attempts}))
    return events


def deadline(dies: datetime | None) -> Event | None:
    """By when what fails must be mended, where the first certificate ends at `dies`; None where there is none."""
    if dies is None:
        return None
    ends = stamp(dies)
    return Event("deadline", f"the first certificate here ends at {ends}", "warning", {"not_after": ends})


def _nothing_to_do(config: AgentConfig, known: Memory, now: float, age: float, *, allow_http: bool) -> Outcome | None:
    """The outcome of a pass that can end before it begins: all is as the last one left it, and nothing is due."""
    same = quiet.unchanged(
        known,
        quiet.source(config),
        state=config.state,
        directory=config.directory,
        age=age,
        allow_http=allow_http,
        now=now,
    )
    if not same:
        return None
    due, dies = (datetime.fromtimestamp(when, UTC) for when in (known.quiet_until, known.quiet_dies))
    return Outcome(due=due, dies=dies, memory=known)
