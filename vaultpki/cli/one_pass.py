"""One pass of the agent that a person asks for, and what is said of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vaultpki.agent.context import Outcome
    from vaultpki.daemon.resident import Pull
    from vaultpki.host.log import Event
    from vaultpki.model import AgentConfig

# A resident agent's pass may be under way.
_LOCK_WAIT = 15.0


@dataclass(frozen=True, slots=True)
class Once:
    """Whether `agent` makes one pass only (`given`), asks nothing if nothing is due, and removes surplus pairs."""

    given: bool
    if_due: bool = False
    prune: bool = False


def make_pass(config: AgentConfig, once: Once, log_format: Literal["text", "json"], *, allow_http: bool) -> int:
    """Make one pass, say what it did, and return the command's exit code as `tell_outcome`."""
    return tell_outcome(_own_pass(config, once, allow_http=allow_http), log_format)


def ask_or_make_pass(config: AgentConfig, once: Once, log_format: Literal["text", "json"], *, allow_http: bool) -> int:
    """Have the resident agent make the pass if there is one, else make it; else as `make_pass`.

    A timer's pass asks nobody if nothing is due, and only a person may prune, so these are made here.
    """
    asked = None if once.if_due or once.prune else _ask_resident(config, log_format)
    if asked is not None and not asked.left:
        tell_pull(asked, log_format)
        return 1 if asked.pulled.failures else 3 if asked.after.owed else 0
    # A person is the turn of the hooks that the agent has left, and does not wait for the end of their pauses.
    outcome = _own_pass(config, once, allow_http=allow_http)
    if asked is not None:
        outcome = replace(outcome, events=(*_done_before(asked, outcome), *outcome.events))
    return tell_outcome(outcome, log_format)


def tell_pull(done: Pull, log_format: Literal["text", "json"] = "text") -> None:
    """Say what the pass of the resident agent did, as `tell_outcome` says it of one's own."""
    from vaultpki.host.log import Event, writer

    well, wrong = writer(log_format, sys.stdout), writer(log_format, sys.stderr)
    told = (*done.pulled.told, *_ran(done), *done.owed)
    for event in told or (Event("nothing-to-do", "the agent asked Vault; nothing was to be done"),):
        (well if event.level == "info" else wrong)(event)


def _ask_resident(config: AgentConfig, log_format: Literal["text", "json"]) -> Pull | None:
    """Return what the resident agent did; None if there is none, or it ended before it was done."""
    from vaultpki.daemon import resident
    from vaultpki.errors import AgentNotReached
    from vaultpki.host.log import Event, writer

    tell = writer(log_format, sys.stderr)
    try:
        return resident.pull(config, hooks=True, slow=lambda text: tell(Event("waiting", text)))
    except AgentNotReached:
        return None


def _done_before(asked: Pull, outcome: Outcome) -> list[Event]:
    """Return what the resident agent did before this process's own pass, which says again all that is as before."""
    said = {event.text for event in outcome.events}
    done = (*asked.pulled.told, *_ran(asked))
    return [each for each in done if each.level == "info" and each.name != "turn" and each.text not in said]


def _ran(done: Pull) -> list[Event]:
    from vaultpki.host.log import Event

    return [Event("hook", f"the hooks of {key} are done", fields={"hook": key}) for key in sorted(done.done)]


def _own_pass(config: AgentConfig, once: Once, *, allow_http: bool) -> Outcome:
    from vaultpki.agent import run
    from vaultpki.cli.progress import tell_waits
    from vaultpki.procedures import ON_NODES

    tell_waits()
    # A person who runs this knows of something new.
    share = 1.0 if once.if_due else 0.0
    options = run.PassOptions(ON_NODES, allow_http=allow_http, wait=_LOCK_WAIT, share=share, prune=once.prune)
    return run.run(config, options)


def tell_outcome(outcome: Outcome, log_format: Literal["text", "json"] = "text") -> int:
    """Says what one pass did: on standard output what was done, on standard error what failed or is still owed.

    Returns the command's exit code: 1 if something failed, else 3 if a hook is owed, else 0.
    """
    from vaultpki.host.log import writer

    done, failed = writer(log_format, sys.stdout), writer(log_format, sys.stderr)
    owed = outcome.state.owed
    for event in outcome.events:
        # A failed hook is owed, and reported with the others that are.
        if event.name != "hook-failed":
            (done if event.level == "info" else failed)(event)
    if outcome.failures or owed:
        _tell_failed(outcome, failed)
    elif not outcome.events and outcome.due is not None:
        _tell_idle(outcome.due.timestamp(), log_format)
    return 1 if outcome.failures else 3 if owed else 0


def _tell_failed(outcome: Outcome, tell: Callable[[Event], None]) -> None:
    from vaultpki.daemon import outcome_events

    for event in outcome_events.failure_events({name: str(error) for name, error in outcome.failures.items()}):
        tell(event)
    if paused := outcome_events.paused(outcome.failures):
        tell(paused)
    if outcome.failures and (deadline := outcome_events.deadline(outcome.first_expiry)):
        tell(deadline)
    waiting = {event.fields["hook"] for event in outcome.events if event.name == "turn"}
    owed = {key: each for key, each in outcome.state.owed.items() if key not in waiting}
    for event in outcome_events.owed_hook_events(owed):
        tell(event)


def _tell_idle(until: float, log_format: Literal["text", "json"]) -> None:
    import time

    from vaultpki.host.log import Event, writer

    due = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(until))
    writer(log_format, sys.stdout)(Event("nothing-to-do", f"nothing to do until {due}", fields={"renew_after": due}))
