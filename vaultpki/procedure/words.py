"""Says why a person's word that a component was restarted does not count: `--restarted cp-1/etcd`."""

from __future__ import annotations


def too_early(said: str, files: str, others: str) -> str:
    """Return that the node has not reported the `files` of the step, so that a restart may have read the `others`."""
    name, _, component = said.partition("/")
    return (
        f"{name} has not reported {files} of this step yet, so a restart may have read {others} before; wait for its "
        f"report (`vaultpki ca status`), restart {component} then, and pass `--restarted {said}` again"
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
