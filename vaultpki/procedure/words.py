"""Says what gates of several procedures wait for, and why a person's word does not count: `--restarted cp-1/etcd`.

What is waited for is said in short sentences, of which each ends with its command.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from vaultpki.redact import stamp

OR_AGENT: Final = "or run there: `vaultpki agent --once`"
"""What ends a wait for an agent at once."""

AGENT_DOES: Final = "Run there: `vaultpki agent --once`"
"""What ends the wait for something that an agent has not done yet: it does it, or says why not."""

WITHOUT: Final = "Or go on without it: `--without {}`"
"""The way on without a node, which a step need not wait for."""

IS_LOCKED: Final = "is locked, or its credential has expired"
"""Why nobody can log in as a node."""


def locked(node: str) -> str:
    """Return what is waited for on a node as which nobody can log in."""
    return f"{IS_LOCKED}. Enrol it and join it again: `vaultpki enroll {node}`"


def never_reported(node: str, join_until: datetime | None, end: str = "lock") -> str:
    """Return what is waited for on a node that has never reported; `end` is the command that ends its join file."""
    if join_until is None:
        return f"has never reported. Start its agent, {OR_AGENT}"
    unused = f"has a join file that nobody has used, until {stamp(join_until)}"
    return f"{unused}. Join the node, or end the file: `vaultpki {end} {node}`"


def not_read(reported: datetime) -> str:
    """Return what is waited for on a node whose last report, at that time, does not answer the record."""
    late = f"has not read the latest step, and last reported at {stamp(reported)}"
    return f"{late}. Wait for its agent's next pass, {OR_AGENT}"


def too_early(said: str, files: str, others: str) -> str:
    """Return that the node has not reported the `files` of the step, so that a restart may have read the `others`."""
    name, _, component = said.partition("/")
    return (
        f"{name} has not reported {files} of this step yet, so a restart may have read {others} before. Wait for its "
        f"report: `vaultpki ca status`. Then restart {component}, and pass again `--restarted {said}`"
    )


def runs_without(said: str, what: str) -> str:
    """Return that the agent sees the component run without the files that are there; `what` follows "runs"."""
    name, _, component = said.partition("/")
    return (
        f"the agent of {name} sees that {component} runs{what}: restart it there; once the agent has seen that, no "
        "word is needed"
    )


def seen_already(said: str) -> str:
    """Return that the agent has seen the restart itself."""
    name, _, component = said.partition("/")
    return f"the agent of {name} has seen {component} restarted and healthy; leave out `--restarted {said}`"
