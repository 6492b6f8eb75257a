"""A large fleet: 1,000 listed nodes beside the same calls by hvac from a pool of threads, and what 5,000 take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks import peers
from benchmarks.ground import HVAC, Ground, ground
from benchmarks.peers import Step
from benchmarks.timing import Contender, Hooks, Measure, Result, compare, once
from vaultpki.config.cluster_schema import MOST_NODES

FLEET: Final = 1000
THREADS: Final = (8, 16)
MOST_MIB: Final = 512.0
# Each takes some seconds, and some more to ready the server for the next.
_ROUNDS: Final = 3
_NAMES: Final = {
    "apply": f"apply of {FLEET} listed nodes",
    "plan": f"plan with nothing to do of {FLEET} listed nodes",
    "destroy": f"destroy of {FLEET} listed nodes",
}
# `destroy` is told only: the servers' own work differs most from run to run there.
_GOALS: Final = {"apply": 0.75, "plan": 0.75}
_LARGEST: Final = f"apply of {MOST_NODES} listed nodes, memory"


def results(folder: Path, only: str, rounds: int) -> Iterator[Result]:
    """All that a fleet is measured by, of which `only` names some."""
    if any(only in name for name in _NAMES.values()):
        with ground(folder / "fleet", nodes(FLEET)) as there:
            for measure in _measures(there):
                if only in measure.name:
                    yield from compare(measure, min(rounds, _ROUNDS))
    if only in _LARGEST:
        with ground(folder / "largest", nodes(MOST_NODES)) as there:
            peak = once(there.ours("apply", "-f", str(there.spec), "--yes"))[1] / 1024
        yield Result(_LARGEST, "MiB", "vaultpki", "promised", (peak,), (MOST_MIB,), 1.0)


def nodes(count: int) -> str:
    lines = [f"- {{name: cp-{n}, roles: [control-plane, etcd], addresses: [10.0.0.{n}]}}" for n in range(1, 4)]
    for number in range(count - 3):
        high, low = divmod(number, 250)
        lines.append(f"- {{name: ip-10-1-{high}-{low}.ec2.internal, roles: [worker], addresses: [10.1.{high}.{low}]}}")
    return "\n".join(("nodes:", *lines, ""))


def _measures(there: Ground) -> list[Measure]:
    writes = peers.writes_of_apply(there.cluster, there.settings, there.where)
    reads = peers.reads_of_plan(there.cluster, there.settings, there.where)
    removal = peers.requests_of_destroy(there.cluster, there.settings, there.where)
    # All at once what changes nothing, then the nodes' policies, then the rest.
    questions = [step for step in removal if step.method != "DELETE"]
    removals = [step for step in removal if step.method == "DELETE"]
    later = [replace(step, number=step.number + len(writes)) for step in reads]
    phases = {
        "apply": [*peers.apart(writes, _of_node), later],
        "plan": [reads],
        "destroy": [questions, *reversed(peers.apart(removals, _of_node))],
    }
    empty: Hooks = {"before": there.clear, "after": there.configured}
    full: Hooks = {"before": there.configure}
    spec = str(there.spec)
    words = {
        "apply": ("apply", "-f", spec, "--yes"),
        "plan": ("plan", "-f", spec, "--detailed-exitcode"),
        "destroy": ("destroy", "-f", spec, "--confirm", there.cluster.name),
    }
    measures = []
    for command, steps in phases.items():
        file = there.file(f"{command}.json", peers.to_json(steps))
        hooks = empty if command == "apply" else full
        first, *others = (
            Contender(f"hvac, {threads} threads", (*HVAC, file, str(threads)), there.straight, **hooks)
            for threads in THREADS
        )
        ours = there.ours(*words[command], **hooks)
        name = f"{_NAMES[command]} ({sum(map(len, steps)) / FLEET:.1f} requests a node)"
        measures.append(Measure(name, ours, first, _GOALS.get(command), weighed=True, others=tuple(others)))
    return measures


def _of_node(step: Step) -> bool:
    """Whether there is one such request for each listed node."""
    return any(part in step.path for part in ("/node/", "/listed/role/", "/data/nodes/"))
