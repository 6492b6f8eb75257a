"""An agent's passes in one process, timed; run with the PYTHONPATH of the release whose code they are of.

`python pass_times.py AGENT_YAML COUNT` prints the processor time of each pass as JSON, in seconds by kind: `look`, at
everything, and `poll`, at rest. The clock is simulated, and the first pass of each kind is not counted.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from vaultpki.agent import run
from vaultpki.config.agent import load_agent
from vaultpki.host import hook_runner
from vaultpki.procedures import ON_NODES


def main(file: Path, count: int) -> None:
    """Make passes of both kinds."""
    config, runner, clock = load_agent(file), hook_runner.Runner(), time.time()
    rest: Any = None
    spent: dict[str, list[float]] = {"look": [], "poll": []}
    for kind, share in (("look", 0.0), ("poll", run.DAEMON_SHARE)):
        for number in range(count + 1):
            clock += config.poll
            began = time.process_time()
            options = run.PassOptions(ON_NODES, settle=False, share=share, rest=rest)
            outcome = run.run(config, options, clock=clock, runner=runner)
            took = time.process_time() - began
            if outcome.failures:
                sys.exit(f"a pass failed, so its time means nothing: {dict(outcome.failures)}")
            rest = outcome.rest
            if number:
                spent[kind].append(took)
    print(json.dumps(spent))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
