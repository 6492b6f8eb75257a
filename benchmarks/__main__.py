"""`python -m benchmarks [--rounds N] [--only WORDS] [--json]`: ours beside the peers, with this machine's noise."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.ground import ground, measures
from benchmarks.timing import Result, compare


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each (default 7)")
    parser.add_argument("--only", default="", help="just the measures whose names hold these words")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="vaultpki-bench-") as folder, ground(Path(folder)) as there:
        for measure in measures(there):
            if arguments.only not in measure.name:
                continue
            for result in compare(measure, arguments.rounds):
                results.append(result)
                if not arguments.json:
                    print(_told(result), flush=True)
    if arguments.json:
        print(json.dumps([_as_json(result) for result in results], indent=2))
    missed = [result for result in results if not result.met]
    if not arguments.json:
        met = len(results) - len(missed)
        print(f"\n{met} of {len(results)} goals met; medians of {arguments.rounds} runs in turn.")
    sys.exit(1 if missed else 0)


def _told(result: Result) -> str:
    def figure(name: str, values: tuple[float, ...]) -> str:
        spread = f"{min(values):.0f} .. {max(values):.0f}"
        return f"  {name:<20} {median(values):>9.1f} {result.unit:<4} ({spread})"

    verdict = "met" if result.met else "MISSED"
    return "\n".join(
        (
            result.name,
            figure(result.ours_name, result.ours),
            figure(result.peer_name, result.peer),
            f"  {'ratio':<20} {result.ratio:>9.3f}      (goal {result.goal:.3f}: {verdict})",
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
