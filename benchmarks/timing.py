"""Whole processes against the clock: ours and the peer in turn, so that a slow minute of the machine falls on both."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Final, TypedDict

# A child starts its peak memory from that of the process it was forked from (Linux keeps it over exec), so a bare
# interpreter starts it, not this one. posix_spawn with the output dropped: nobody waits for a reader.
_LAUNCH: Final = """
import json, os, sys, time
null = os.open(os.devnull, os.O_RDWR)
actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
begin = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=actions)
_, status, usage = os.wait4(pid, 0)
print(json.dumps([time.perf_counter() - begin, usage.ru_maxrss, os.waitstatus_to_exitcode(status)]))
"""


Hook = Callable[[], None]


class Hooks(TypedDict, total=False):
    """What is done around each run of a contender."""

    before: Hook
    after: Hook


def nothing() -> None:
    """The hook where there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One process to time: `argv` with an absolute program; `before` readies the ground, `after` looks at what is left.

    Neither is timed. `codes` are the exit codes of a run that counts.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    before: Hook = nothing
    after: Hook = nothing
    codes: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class Measure:
    """Ours beside the peer, and the ratio (ours to the peer's) that is the goal, None where it is only told.

    `weighed` measures the memory too, which has a goal of its own. `others` are told beside.
    """

    name: str
    ours: Contender
    peer: Contender
    goal: float | None
    weighed: bool = False
    memory_goal: float | None = None
    others: tuple[Contender, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """A ratio of medians beside its goal, None where it is only told. `ours` and `peer` are in `unit`: ms, s or MiB."""

    name: str
    unit: str
    ours_name: str
    peer_name: str
    ours: tuple[float, ...]
    peer: tuple[float, ...]
    goal: float | None

    @property
    def ratio(self) -> float:
        return median(self.ours) / median(self.peer)

    @property
    def met(self) -> bool:
        return self.goal is None or self.ratio <= self.goal


def compare(measure: Measure, rounds: int) -> list[Result]:
    """Runs all `rounds` times in turn, after one run of each that is thrown away (cold caches of the disk)."""
    contenders = (measure.ours, measure.peer, *measure.others)
    taken: dict[str, list[tuple[float, int]]] = {contender.name: [] for contender in contenders}
    for number in range(rounds + 1):
        for contender in contenders:
            run = once(contender)
            if number:
                taken[contender.name].append(run)
    spent = {name: tuple(seconds * 1000 for seconds, _ in runs) for name, runs in taken.items()}
    peaks = {name: tuple(kib / 1024 for _, kib in runs) for name, runs in taken.items()}
    ours = measure.ours.name
    results = []
    for peer in (measure.peer, *measure.others):
        goal, memory_goal = (measure.goal, measure.memory_goal) if peer is measure.peer else (None, None)
        results.append(Result(measure.name, "ms", ours, peer.name, spent[ours], spent[peer.name], goal))
        if measure.weighed:
            name = f"{measure.name}, memory"
            results.append(Result(name, "MiB", ours, peer.name, peaks[ours], peaks[peer.name], memory_goal))
    return results


def once(contender: Contender) -> tuple[float, int]:
    """Seconds and peak memory in KiB of one run; a run that fails ends the benchmark with what it said."""
    contender.before()
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LAUNCH, *contender.argv],
        env=dict(contender.environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{contender.name} could not be started: {done.stderr[-500:]}")
    seconds, memory, code = json.loads(done.stdout)
    if code not in contender.codes:
        sys.exit(f"{contender.name} ended with {code}, so its time means nothing: {done.stderr[-500:]}")
    contender.after()
    return seconds, memory
