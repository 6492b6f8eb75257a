"""One run of the agent on a node: read the disk, ask Vault for what is missing or due, install it, report.

`run` locks the directory. While nothing is due and Vault's last answer is recent, it asks nobody.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from vaultpki.agent.context import Context, Outcome, PassOptions
from vaultpki.disk import files
from vaultpki.disk.folders import Folders
from vaultpki.errors import Busy, StoreError, Unsafe, VaultpkiError
from vaultpki.layout import PLAIN_KUBECONFIGS
from vaultpki.model import AgentConfig
from vaultpki.node import pins, state
from vaultpki.node.state import StateFile

if TYPE_CHECKING:
    from vaultpki.host import hook_runner

DAEMON_SHARE: Final = 0.8
"""The part of the poll interval after which the daemon asks Vault again, so that it is never late."""

__all__ = ["DAEMON_SHARE", "PassOptions", "run"]


def run(
    config: AgentConfig,
    options: PassOptions,
    *,
    clock: float | None = None,
    runner: hook_runner.Runner | None = None,
) -> Outcome:
    """Make one pass over this node. `clock` is Unix time in seconds; the machine's own if it is None.

    Hooks are left to `runner`; without one they have run when this returns. Raises if nothing could be done at all; a
    certificate that failed by itself is among the outcome's failures.
    """
    now = time.time() if clock is None else clock
    with contextlib.ExitStack() as stack:
        here = config
        for each in options.procedures:
            here = stack.enter_context(each.entered(here, options.wait))
        outcome = _pass(here, options, now, runner)
    for each in options.procedures:
        done = each.follow(config, now, outcome.made, allow_http=options.allow_http, alive=options.alive)
        outcome = replace(
            outcome,
            failures={**outcome.failures, **done.failures},
            events=(*outcome.events, *done.events),
            retry_at=outcome.retry_at if done.retry_at is None else done.retry_at,
        )
    return outcome


def _pass(config: AgentConfig, options: PassOptions, now: float, runner: hook_runner.Runner | None) -> Outcome:
    from vaultpki.node import foreign_kubeadm_files

    try:
        # Before anybody is asked: what others wrote there would be sent, or run.
        files.refuse_unsafe_way(config.state)
        if config.taken_over is None:
            foreign_kubeadm_files.refuse(config.layout, config.paths)
        with Folders.open(config.paths, wait=options.wait) as folders:
            folders.claim(pins.holder(config))
            folders.sweep(PLAIN_KUBECONFIGS)
            # Read only now: whoever held the directory until now may have written it.
            context = Context(config, options, folders, now, StateFile(config.state), runner)
            failed = folders.refresh(context.state.value.unsafe)
            context.found.failures.update(failed)
            context.found.unsafe.update(failed)
            return _locked(context)
    except Busy:
        # The process that holds the directory writes the state too.
        raise
    except VaultpkiError as error:
        # The next run and `status` must know; a state folder that cannot be written is a fault of its own.
        with contextlib.suppress(StoreError):
            # Read from the disk again: the signing attempts that the pass recorded stay.
            known = state.with_faults(state.load(config.state), {"agent": str(error)}, now)
            unsafe = {*known.unsafe, *([error.place] if isinstance(error, Unsafe) else [])}
            known = replace(known, unsafe=tuple(sorted(unsafe)))
            state.save(config.state, replace(known, state=state.state_of([error])))
        raise


def _locked(context: Context) -> Outcome:
    """Make the pass in five stages, each a value: known, said, wanted, done, and told, which is the outcome."""
    from vaultpki.agent import done, known, said, told, wanted

    disk = known.from_disk(context)
    answer = said.ask(context, disk)
    what = wanted.from_answer(context, disk, answer)
    result = done.carry_out(context, answer.contact, what)
    outcome = told.tell(context, answer.contact, result)
    if context.options.settle:
        try:
            context.folders.settle()
        except StoreError as error:
            # The new files are installed; the next pass removes the old generation.
            told.remember_failure(context, "old files", error)
    return replace(outcome, state=context.state.save())
