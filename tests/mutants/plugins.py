"""What pytest does here beside its own work: it measures which tests run a line, and runs chosen tests in an order."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import coverage
import pytest

Lines = dict[str, dict[str, int]]
"""By test or fixture and file, the lines that are run there: bit n is line n."""


class Measuring:
    """Writes for every test of a session whether it passed, how long it took, its fixtures, and the lines that it runs.

    What a fixture of several tests runs counts for each of them. Processes add theirs (lines_of_process.py).
    """

    def __init__(self, checkout: Path, into: Path) -> None:
        self.checkout, self.into = checkout, into
        self.place = checkout / ".mutants"
        self.coverage = coverage.Coverage(
            data_file=None, include=[f"{checkout}/vaultpki/*"], config_file=False, messages=False
        )
        self.tests: dict[str, dict[str, Any]] = {}
        self.alive: dict[str, str] = {}
        self.at = ""

    def begin(self) -> None:
        """Measure from here on, before the first import of the product."""
        self.place.mkdir(exist_ok=True)
        (self.place / "lines.jsonl").write_text("")
        (self.place / "lines.jsonl").chmod(0o666)
        self._switch("import")
        self.coverage.start()
        self._switch("import")

    def _switch(self, name: str) -> str:
        before, self.at = self.at, name
        (self.place / "current").write_text(name)
        with contextlib.suppress(coverage.CoverageException):
            self.coverage.switch_context(name)
        return before

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[Any]:
        began = time.monotonic()
        self.tests[item.nodeid] = {"passed": True}
        self._switch(item.nodeid)
        result = yield
        self._switch("between")
        fixtures = [self.alive[name] for name in getattr(item, "fixturenames", ()) if name in self.alive]
        self.tests[item.nodeid] |= {"seconds": round(time.monotonic() - began, 3), "fixtures": fixtures}
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Iterator[Any]:
        if fixturedef.scope == "function":
            return (yield)
        name = f"fixture {fixturedef.argname} of {request.node.nodeid}"
        self.alive[fixturedef.argname] = name
        before = self._switch(name)
        try:
            return (yield)
        finally:
            self._switch(before)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.skipped:
            self.tests[report.nodeid]["passed"] = False

    def pytest_unconfigure(self) -> None:
        """Write all down: by now the fixtures have ended the processes that they started."""
        self.coverage.stop()
        data = self.coverage.get_data()
        found: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
        for path in data.measured_files():
            file = os.path.relpath(path, self.checkout)
            for line, contexts in data.contexts_by_lineno(path).items():
                for each in contexts:
                    found[each][file] |= 1 << line
        for text in (self.place / "lines.jsonl").read_text().splitlines():
            one = json.loads(text)
            for file, bits in one["lines"].items():
                found[one["test"]][file] |= int(bits, 16)
        kept = {test: {file: hex(bits) for file, bits in files.items()} for test, files in found.items()}
        (self.place / "current").unlink()
        self.into.write_text(json.dumps({"tests": self.tests, "lines": kept}))


class Choosing:
    """Runs these tests alone, file by file in this order, and writes which one failed, and why."""

    def __init__(self, tests: Collection[str], files: Sequence[str], into: Path) -> None:
        self.tests, self.into = frozenset(tests), into
        self.rank = {file: rank for rank, file in enumerate(files)}
        self.passed = 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self.tests]
        items[:] = sorted(chosen, key=lambda item: self.rank[item.nodeid.split("::")[0]])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            why = getattr(getattr(report.longrepr, "reprcrash", None), "message", "").partition("\n")[0]
            self._write({"by": report.nodeid, "why": f"{report.when}: {why}"[:200]})
        elif report.when == "call":
            self.passed += 1
            self._write({})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write({"by": report.nodeid, "why": f"collect: {str(report.longrepr)[-200:]}"})

    def _write(self, found: Mapping[str, str]) -> None:
        if not self.into.exists() or "by" not in json.loads(self.into.read_text()):
            self.into.write_text(json.dumps({"passed": self.passed, **found}))
