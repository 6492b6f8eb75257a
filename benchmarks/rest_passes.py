"""Agents at rest in one process, at a simulated clock; run with the PYTHONPATH of the release whose code they are of.

`python rest_passes.py FOLDER COUNT` knows the agents whose agent.yaml are FOLDER/0 .. FOLDER/COUNT-1. It reads the
seconds of the simulated clock up to which all of them pass from its input, a line each, and answers each with a line:
how many passes it made, and how many of them failed.
"""

from __future__ import annotations

import heapq
import random
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

# As the daemon waits: between 0.85 and 1.0 of the poll interval.
_JITTER = (0.85, 1.0)

Pass = Callable[[float], Any]


def _of_0_1_0(config: Any) -> Pass:
    agent, hooks = import_module("vaultpki.agent"), import_module("vaultpki.hooks")
    runner = hooks.Runner()

    def one(clock: float) -> Any:
        return agent.run(config, clock=clock, settle=False, runner=runner, share=agent.RESIDENT_SHARE)

    return one


def _of_now(config: Any) -> Pass:
    run, runner = import_module("vaultpki.agent.run"), import_module("vaultpki.host.hook_runner").Runner()
    procedures = import_module("vaultpki.procedures").ON_NODES
    rest = None

    def one(clock: float) -> Any:
        nonlocal rest
        options = run.PassOptions(procedures, settle=False, share=run.DAEMON_SHARE, rest=rest)
        outcome = run.run(config, options, clock=clock, runner=runner)
        rest = outcome.rest
        return outcome

    return one


def main(folder: Path, count: int) -> None:
    """Make passes until the input ends."""
    load = import_module("vaultpki.config.agent").load_agent
    old = not hasattr(import_module("vaultpki.agent"), "__path__")
    configs = [load(folder / str(number) / "agent.yaml") for number in range(count)]
    passes = [(_of_0_1_0 if old else _of_now)(config) for config in configs]
    rng = random.Random(27)  # noqa: S311 - not a secret; both sides wait the same
    begin = time.time()
    queue = [(0.0, number) for number in range(count)]
    for line in sys.stdin:
        made = failed = 0
        while queue[0][0] <= float(line):
            when, number = queue[0]
            outcome = passes[number](begin + when)
            made += 1
            if outcome.failures:
                failed += 1
                print(dict(outcome.failures), file=sys.stderr)
            heapq.heapreplace(queue, (when + configs[number].poll * rng.uniform(*_JITTER), number))
        print(made, failed, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
