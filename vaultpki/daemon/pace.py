"""Decide when the daemon makes its next pass: pure, but for the jitter."""

from __future__ import annotations

import random
from datetime import datetime

from vaultpki.agent import run
from vaultpki.agent.context import Outcome
from vaultpki.model import AgentConfig
from vaultpki.node import backoff


def pause(
    config: AgentConfig,
    outcome: Outcome | None,
    failed: int,
    urgent: datetime | None,
    fetched: float | None,
    now: float,
) -> float:
    """Return the seconds until the next pass; `now` and `fetched`, Vault's last answer, are Unix time.

    `outcome` is None after a pass that ended with an error; `failed` counts failed passes in a row. `urgent` is when
    the first certificate expires that Vault may still renew.
    """
    # Jitter: the nodes of a cluster must not come at the same moment, and each within the promised interval.
    wait = config.poll * random.uniform(run.DAEMON_SHARE + 0.05, 1.0)  # noqa: S311 - not a secret
    if fetched is not None and outcome is not None and "vault" not in outcome.failures:
        # Counted from Vault's last answer: a hook that ended may have caused this pass, which did not ask Vault. Never
        # at once, or a Vault that takes a whole interval to answer is asked without a pause.
        wait = min(wait, max(fetched + wait - now, config.poll / 10))
    if outcome is None or outcome.failures:
        left = None if urgent is None else urgent.timestamp() - now
        wait = min(wait, backoff.pause(failed, config.poll, left) * random.uniform(0.8, 1.2))  # noqa: S311
    if outcome is None:
        return wait
    # A certificate that still wants signing has failed or is postponed; any other may have become due meanwhile.
    moments = [item.verdict.renew_after for item in outcome.items if not item.verdict.sign]
    coming = [when.timestamp() for when in moments if when is not None]
    coming += [outcome.retry_at] if outcome.retry_at is not None else []
    return min([wait, *(max(when - now, 0.0) + 0.5 for when in coming)])
