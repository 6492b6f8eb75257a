"""One pass of the agent that a person asks for, and what is said of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vaultpki.agent.context import Outcome
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
    from vaultpki.agent import run
    from vaultpki.procedures import ON_NODES

    # A person who runs this knows of something new.
    share = 1.0 if once.if_due else 0.0
    options = run.PassOptions(ON_NODES, allow_http=allow_http, wait=_LOCK_WAIT, share=share, prune=once.prune)
    return tell_outcome(run.run(config, options), log_format)


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
