"""An operator with `ca ... --wait` in a process of its own, while the server goes away and another operator comes in.

Many operators who are killed and get in each other's way for hours are in `make soak-operators`.
"""

from __future__ import annotations

from pathlib import Path

from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import Server
from helpers.vault.waiting_operators import Operators
from vaultpki.records.rotation import State

BACK = (State.STEADY, State.RETURNING, State.RETRUSTING)


def test_it_waits_for_a_server_that_is_sealed_or_restarts_and_yields_to_one_who_aborts(
    own_server: Server, tmp_path: Path
) -> None:
    operators = Operators.standing(ClusterFactory(own_server, tmp_path))
    since = operators.version()
    with operators.run("rotate", "etcd", "--spread", "1m", "--wait") as waiting:
        operators.until(State.PUBLISHED)
        shown = waiting.lines()
        assert next(line for line in shown if "etcd is published, waits for" in line)
        own_server.seal()
        assert next(line for line in shown if "is sealed; unseal it and try again; waiting until" in line)
        own_server.unseal()
        assert next(line for line in shown if line == "it answers again")
        own_server.stop()
        assert next(line for line in shown if "cannot be reached" in line)
        own_server.start()
        assert next(line for line in shown if line == "it answers again")
        with operators.nodes_pass():
            operators.until(State.SWITCHED)
            # The one who waits may be faster by a step, which stops an abort.
            while operators.done("abort", "--wait")[0] != 0 and not operators.resting:
                pass
            code, said, lines = waiting.end()
    states = [record.state for record in operators.history(since)]
    if states[-1] is State.DONE:
        # It was done before the abort began.
        assert code == 0 and not set(states) & {*BACK}, (states, lines)
    else:
        assert code == 3 and "`vaultpki ca abort`" in said, (code, said, lines)
        turned = next(number for number, state in enumerate(states) if state in BACK)
        assert set(states[turned:]) <= {*BACK} and states[-1] is State.STEADY, states
    operators.settled()
