"""Passes of the agent in one process, each of which renews everything; prints how large the process is after each.

Run it with the path of an agent.yaml and the number of passes. It does what the agent that stays does, but without the
waits: nothing is due so soon, so it is forced.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vaultpki.agent import run
from vaultpki.config.agent import load_agent
from vaultpki.host import hook_runner
from vaultpki.node import state
from vaultpki.procedures import ON_NODES


def main(agent_yaml: str, passes: int) -> None:
    config, runner = load_agent(Path(agent_yaml)), hook_runner.Runner()
    for _ in range(passes):
        outcome = run.run(config, run.PassOptions(ON_NODES, settle=False, force=frozenset("*")), runner=runner)
        assert not outcome.failures and len(outcome.renewed) == 10, outcome
        # By force it comes sooner than any renewal may, and the brakes' list of such would be all that grows.
        os.unlink(f"{config.state}/{state.STATE_FILE}")
        print(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
