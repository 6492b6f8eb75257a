"""`python -m benchmarks [--rounds N] [--only WORDS] [--json]`: ours beside the peers, with this machine's noise."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from statistics import median

from benchmarks import agents, fleet, processor, rest, rotation, views, waves
from benchmarks.ground import ground, measures
from benchmarks.timing import Contender, Result, compare, once


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each (default 7)")
    parser.add_argument("--only", default="", help="just the measures whose names hold these words")
    parser.add_argument("--minutes", type=float, default=6.0, help="how long agents that stay are watched (default 6)")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="vaultpki-bench-") as folder:
        for result in chain(
            _commands(Path(folder), arguments.only, arguments.rounds),
            _demo(Path(folder), arguments.only, arguments.rounds),
            fleet.results(Path(folder), arguments.only, arguments.rounds),
            views.results(Path(folder), arguments.only, arguments.rounds),
            rotation.results(Path(folder), arguments.only, arguments.rounds),
            rest.results(Path(folder), arguments.only),
            processor.results(Path(folder), arguments.only, arguments.rounds),
            waves.results(Path(folder), arguments.only),
            agents.results(Path(folder), arguments.only, arguments.rounds, arguments.minutes),
        ):
            results.append(result)
            if not arguments.json:
                print(_told(result), flush=True)
    if arguments.json:
        print(json.dumps([_as_json(result) for result in results], indent=2))
    missed = [result for result in results if not result.met]
    if not arguments.json:
        goals = sum(result.goal is not None for result in results)
        print(f"\n{goals - len(missed)} of {goals} goals met; medians of {arguments.rounds} runs in turn.")
    sys.exit(1 if missed else 0)


def _commands(folder: Path, only: str, rounds: int) -> Iterator[Result]:
    with ground(folder) as there:
        for measure in measures(there):
            if only in measure.name:
                yield from compare(measure, rounds)


def _demo(folder: Path, only: str, rounds: int) -> Iterator[Result]:
    """The whole demo, server and all, beside the ten seconds that a newcomer waits for it at most."""
    name = "demo"
    if only not in name:
        return
    here = folder / "demo"
    script = str(Path(sys.executable).parent / "vaultpki")
    contender = Contender(
        "vaultpki demo",
        (script, "demo", "--dir", str(here)),
        {"PATH": os.defpath, "HOME": str(folder)},
        lambda: shutil.rmtree(here, ignore_errors=True),
    )
    spent = tuple(once(contender)[0] * 1000 for _ in range(rounds))
    yield Result(name, "ms", contender.name, "ten seconds", spent, (10_000.0,), 1.0)


def _told(result: Result) -> str:
    def figure(name: str, values: tuple[float, ...]) -> str:
        places = 2 if result.unit == "s" else 0
        spread = f"{min(values):.{places}f} .. {max(values):.{places}f}"
        return f"  {name:<20} {median(values):>9.{places or 1}f} {result.unit:<4} ({spread})"

    verdict = "met" if result.met else "MISSED"
    beside = "told, no goal" if result.goal is None else f"goal {result.goal:.3f}: {verdict}"
    return "\n".join(
        (
            result.name,
            figure(result.ours_name, result.ours),
            figure(result.peer_name, result.peer),
            f"  {'ratio':<20} {result.ratio:>9.3f}      ({beside})",
        )
    )


def _as_json(result: Result) -> dict[str, object]:
    def side(name: str, values: tuple[float, ...]) -> dict[str, object]:
        return {"name": name, "median": median(values), "min": min(values), "max": max(values), "runs": list(values)}

    return {
        "name": result.name,
        "unit": result.unit,
        "ours": side(result.ours_name, result.ours),
        "peer": side(result.peer_name, result.peer),
        "ratio": result.ratio,
        "goal": result.goal,
        "met": result.met,
    }


if __name__ == "__main__":
    main()
