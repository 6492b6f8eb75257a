"""Measures which tests run a line of the product, folder by folder, and keeps it by commit."""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mutants import checkouts
from mutants.plugins import Measuring
from mutants.sites import ROOMS, Mutant

LEVELS: Final = ("near", "unit", "all")
"""In which order a mutant meets tests: unit tests and properties of the rooms that are judged, all others without a
server, and those with one."""

SKIPPED: Final = "not (conformance or exhaustive)"
"""What `make test` leaves to others."""


def folders(place: Path, level: str) -> list[str]:
    """Return the folders of a checkout with tests of a level."""
    tops = ("integration",) if level == "all" else ("unit", "property", "models")
    files = (file for top in tops for file in (place / "tests" / top).rglob("test_*.py"))
    found = {str(file.parent.relative_to(place)) for file in files}
    return sorted(each for each in found if level == "all" or (each.split("/")[-1] in ROOMS) == (level == "near"))


def measure(place: Path, commit: str, wanted: Iterable[str]) -> None:
    """Run the tests of these folders of a checkout, where that was not done before."""
    kept = checkouts.CACHE / commit / "lines"
    kept.mkdir(exist_ok=True)
    for folder in wanted:
        into = kept / f"{folder.replace('/', '-')}.json"
        if into.exists():
            continue
        # It counts once all have run.
        written = into.with_suffix(".new")
        plugin = Measuring(place, written)
        files = sorted(str(file.relative_to(place)) for file in (place / folder).glob("test_*.py"))
        # A test may take longer than usual while it is measured.
        words = ["-m", SKIPPED, "--timeout=900", *files]
        ended = checkouts.run(place, words, plugin, limit=10_000, before=plugin.begin)
        print(f"measured {folder}: {ended.seconds} s of a core", flush=True)
        if ended.status not in (0, 1):
            raise SystemExit(f"{folder} could not be measured; see {place}/.mutants/log")
        written.rename(into)


@dataclass(slots=True)
class Measured:
    """What was measured of a level.

    By test that passed, `seconds` and `size`, which is how many lines of the product it runs, which `lines` by file;
    by file the tests that run something of it.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    size: dict[str, int] = field(default_factory=dict)
    by_file: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    lines: dict[str, dict[str, int]] = field(default_factory=dict)
    imported_by: dict[str, set[str]] = field(default_factory=dict)

    def tests(self, mutant: Mutant) -> list[str]:
        """Return the tests that run a mutant's line, the most specific ones first, file by file.

        Where the line is run at import, those that run something else of its file or of a file that imports it.
        """
        if mutant.inside:
            line, first = 1 << mutant.line, 1 << mutant.first
            of_file = [(test, self.lines[test][mutant.file]) for test in self.by_file[mutant.file]]
            # Python does not always tell of each line of a statement.
            found = {test for test, bits in of_file if bits & line} or {test for test, bits in of_file if bits & first}
        else:
            found = set(self.by_file[mutant.file])
            for file in self.imported_by.get(mutant.file, ()):
                found |= self.by_file[file]
        rank: dict[str, int] = {}
        for test in found:
            file = test.split("::")[0]
            rank[file] = min(rank.get(file, 10**6), self.size[test])
        return sorted(found, key=lambda test: (rank[test.split("::")[0]], test.split("::")[0], self.size[test], test))


def read(place: Path, commit: str, level: str) -> Measured:
    """Return what was measured of the tests of a level."""
    measured = Measured(imported_by=_imported_by(place))
    in_functions = _in_functions(place)
    for folder in folders(place, level):
        kept = json.loads((checkouts.CACHE / commit / "lines" / f"{folder.replace('/', '-')}.json").read_text())
        lines = {
            name: {file: int(bits, 16) & in_functions.get(file, 0) for file, bits in files.items()}
            for name, files in kept["lines"].items()
        }
        for test, about in kept["tests"].items():
            if about["passed"]:
                _add(measured, test, about, lines)
    return measured


def _add(measured: Measured, test: str, about: Mapping[str, Any], lines: Mapping[str, Mapping[str, int]]) -> None:
    its: defaultdict[str, int] = defaultdict(int)
    for name in (test, *about["fixtures"]):
        for file, bits in lines.get(name, {}).items():
            its[file] |= bits
    measured.seconds[test] = about["seconds"]
    measured.size[test] = sum(bits.bit_count() for bits in its.values())
    measured.lines[test] = {file: bits for file, bits in its.items() if bits}
    for file in measured.lines[test]:
        measured.by_file[file].add(test)


def _trees(place: Path) -> Iterator[tuple[str, ast.Module]]:
    for file in sorted((place / "vaultpki").rglob("*.py")):
        yield str(file.relative_to(place)), ast.parse(file.read_bytes())


def _in_functions(place: Path) -> dict[str, int]:
    """Return by file the lines that stand in functions: all others are run by whatever imports the file."""
    found: dict[str, int] = {}
    for file, tree in _trees(place):
        bits = 0
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                body: Sequence[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else node.body
                for each in body:
                    assert isinstance(each, ast.stmt | ast.expr) and each.end_lineno is not None
                    for line in range(each.lineno, each.end_lineno + 1):
                        bits |= 1 << line
        found[file] = bits
    return found


def _imported_by(place: Path) -> dict[str, set[str]]:
    """Return by file the files that import it by name."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for file, tree in _trees(place):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for name in (node.module, *(f"{node.module}.{each.name}" for each in node.names)):
                    found[f"{name.replace('.', '/')}.py"].add(file)
    return dict(found)
