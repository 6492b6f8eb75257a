"""Tells how sharp the tests are: makes the product wrong in 300 small ways, one at a time, and runs tests.

`make mutants`, or PYTHONPATH=tests .venv/bin/python -m mutants with the options of `arguments`.

A mutant is one line of a room that decides, made wrong (sites.py); a seed draws which. It meets the tests that run its
line (which_tests.py), the most specific ones first and those without a server before all others, until one fails: then
it is killed. A test that fails without it counts for nothing, and one that needs a server has to fail twice. What was
found is kept by commit in .cache/mutants, so that an interrupted run goes on. A run on another commit tries first what
killed the same mutant before.

mutmut copies every function into wrappers, which forks and tests that read the source would see, and cosmic-ray starts
a process and a whole set of tests for each mutant; neither knows which tests run a line in a command or an agent.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mutants import checkouts, which_tests
from mutants.plugins import Choosing
from mutants.sites import ROOMS, Mutant, draw
from mutants.which_tests import LEVELS, Measured

BUDGET: Final = {"near": 600, "unit": 600, "all": 120}
"""Seconds of a core after which a mutant counts as one that survived, by level."""

BATCHES: Final = {"near": (1, 3, 12), "unit": (1, 3, 12), "all": (1,)}
"""How many files of tests are run at once: at first few; the last number again and again."""


@dataclass(frozen=True, slots=True)
class Killer:
    """The test that failed, and why; "" where none did."""

    test: str = ""
    why: str = ""


@dataclass(slots=True)
class Judge:
    """Runs mutants in one checkout; `before` names what killed a mutant in an earlier run."""

    place: Path
    before: Mapping[str, str]
    mtimes: Iterator[int] = field(default_factory=lambda: itertools.count(1_000_000_000 + int(time.time()) % 10**8))

    def judge(self, mutant: Mutant, level: str, measured: Measured) -> dict[str, Any]:
        """Return the verdict on a mutant: what killed it, or how many of its tests it survived."""
        file = self.place / mutant.file
        source = file.read_bytes()
        tests = measured.tests(mutant)
        self._write(file, mutant.applied(source))
        spent, ran, killer = 0.0, 0, Killer()
        for batch in _batches(tests, level, first=self.before.get(mutant.key, "")):
            some = _within(batch, BUDGET[level] - spent, measured)
            killer, seconds = self._meet(some, level, measured)
            spent, ran = spent + seconds, ran + len(some)
            if killer.test or spent >= BUDGET[level]:
                break
        self._write(file, source)
        verdict = "killed" if killer.test else "survived"
        found = {"verdict": verdict, "ran": min(ran, len(tests)), "of": len(tests), "seconds": round(spent, 1)}
        return found | ({"by": killer.test, "why": killer.why} if killer.test else {})

    def _meet(self, batch: Sequence[str], level: str, measured: Measured) -> tuple[Killer, float]:
        """Run tests on the mutant that stands in the checkout; return which one fails, and the seconds of a core."""
        killer, spent = self._run(batch, measured)
        # A test with a server that fails only once was disturbed by something else.
        while level == "all" and killer.test in batch:
            again, seconds = self._run([killer.test], measured)
            spent += seconds
            if again.test:
                break
            batch = batch[batch.index(killer.test) + 1 :]
            killer, seconds = self._run(batch, measured) if batch else (Killer(), 0.0)
            spent += seconds
        return killer, spent

    def _write(self, file: Path, source: bytes) -> None:
        """Write a file with a time of its own: Python compiles it anew only where time or size differ."""
        file.write_bytes(source)
        now = next(self.mtimes)
        os.utime(file, (now, now))

    def _run(self, tests: Sequence[str], measured: Measured) -> tuple[Killer, float]:
        files = list(dict.fromkeys(test.split("::")[0] for test in tests))
        into = self.place / ".mutants/found.json"
        into.unlink(missing_ok=True)
        usual = [measured.seconds[test] for test in tests]
        words = [f"--timeout={max(60, 10 * max(usual)):.0f}", "-x", "-m", which_tests.SKIPPED, *files]
        ended = checkouts.run(self.place, words, Choosing(tests, files, into), limit=600 + 10 * sum(usual))
        found = json.loads(into.read_text()) if into.exists() else {}
        if ended.status is None:
            return Killer(files[0], "time-out"), ended.seconds
        if ended.status == 0:
            return Killer(), ended.seconds
        return Killer(found.get("by", files[0]), found.get("why", f"pytest ended with {ended.status}")), ended.seconds


def _batches(tests: Sequence[str], level: str, first: str) -> Iterator[list[str]]:
    if first in tests:
        yield [first]
    by_file = [list(group) for _, group in itertools.groupby(tests, key=lambda test: test.split("::")[0])]
    sizes = itertools.chain(BATCHES[level], itertools.repeat(BATCHES[level][-1]))
    while by_file:
        size = next(sizes)
        yield list(itertools.chain(*by_file[:size]))
        by_file = by_file[size:]


def _within(tests: Sequence[str], left: float, measured: Measured) -> list[str]:
    """Return as many tests, and at least one, as usually take these seconds."""
    sums = itertools.accumulate(measured.seconds[test] for test in tests)
    return [test for index, (test, until) in enumerate(zip(tests, sums, strict=True)) if not index or until < left]


def known(commit: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what was found before on a commit, by mutant and level."""
    kept = checkouts.CACHE / commit / "verdicts.jsonl"
    lines = kept.read_text().splitlines() if kept.exists() else []
    return {(one["mutant"], one["level"]): one for one in map(json.loads, lines)}


def killers(commit: str) -> dict[str, str]:
    """Return what killed a mutant, of a run on another commit the test that did."""
    others = (known(place.name) for place in sorted(checkouts.CACHE.iterdir()) if place.name != commit)
    found = itertools.chain(*(other.values() for other in others), known(commit).values())
    return {one["mutant"]: one["by"] for one in found if "by" in one}


def judge_all(place: Path, commit: str, level: str, drawn: Sequence[Mutant]) -> None:
    """Judge mutants in a checkout one after the other, and keep each verdict."""
    measured = which_tests.read(place, commit, level)
    judge = Judge(place, killers(commit))
    for one in drawn:
        found = judge.judge(one, level, measured)
        with (checkouts.CACHE / commit / "verdicts.jsonl").open("a") as kept:
            kept.write(json.dumps({"mutant": one.key, "level": level, **found}) + "\n")
        print(f"{found['verdict']}: {one.key} ({found['seconds']} s)", flush=True)


def at_once(tasks: Sequence[Callable[[], None]]) -> None:
    """Run each task in a process of its own, and wait for all."""
    running = []
    for task in tasks:
        pid = os.fork()
        if pid == 0:
            task()
            sys.exit(0)
        running.append(pid)
    codes = [os.waitpid(pid, 0)[1] for pid in running]
    if any(codes):
        raise SystemExit("one of the processes failed; what was found is kept, and the next run goes on")


def main() -> None:
    """Measure, judge, and print the score."""
    given = arguments()
    commit = checkouts.commit_of(given.commit)
    (checkouts.CACHE / commit / "lines").mkdir(parents=True, exist_ok=True)
    places = [checkouts.checkout(commit, number) for number in range(given.workers)]
    drawn = draw(places[0], given.seed, given.count, given.room or ROOMS)
    checkouts.load()
    for level in LEVELS[: LEVELS.index(given.level) + 1]:
        shares = [which_tests.folders(places[0], level)[number :: given.workers] for number in range(given.workers)]
        work = zip(places, shares, strict=True)
        at_once([functools.partial(which_tests.measure, place, commit, share) for place, share in work])
        done = known(commit)
        killed = {one["mutant"] for one in done.values() if "by" in one}
        waiting = [one for one in drawn if (one.key, level) not in done and one.key not in killed]
        shared = [waiting[number :: given.workers] for number in range(given.workers)]
        work_ = zip(places, shared, strict=True)
        at_once([functools.partial(judge_all, place, commit, level, share) for place, share in work_ if share])
    print("\n".join(score(drawn, known(commit))))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="mutants")
    parser.add_argument("--seed", type=int, default=39)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--room", action="append", choices=ROOMS)
    parser.add_argument("--level", choices=LEVELS, default="all")
    parser.add_argument("--commit", default="HEAD", help="what is not committed is not judged")
    parser.add_argument("--workers", type=int, default=2, choices=(1, 2))
    return parser.parse_args()


def score(drawn: Sequence[Mutant], done: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[str]:
    """Yield the score by room as a table, and the mutants that survived with how many tests they met."""
    met = {one.key: [done[one.key, level] for level in LEVELS if (one.key, level) in done] for one in drawn}
    killed = {key: found[-1]["level"] for key, found in met.items() if "by" in found[-1]}
    yield "\n| room | mutants | killed | of these without a server | % |\n|---|---|---|---|---|"
    for room in (*ROOMS, "all"):
        its = [one.key for one in drawn if room in (one.room, "all")]
        levels = [killed[key] for key in its if key in killed]
        if its:
            quick = len(levels) - levels.count("all")
            yield f"| {room} | {len(its)} | {len(levels)} | {quick} | {100 * len(levels) / len(its):.0f} |"
    yield ""
    for one in drawn:
        if one.key not in killed:
            ran, of = (sum(found[each] for found in met[one.key]) for each in ("ran", "of"))
            yield f"survived {ran} of {of} tests that run it: {one.key}"


if __name__ == "__main__":
    main()
