"""What a run of pytest says in its end: unit tests that take long, and what was left to other targets of `make`."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

_BEGUN = pytest.StashKey[float]()
_UNIT = "tests/unit/"
# The marker of a test, and the target that runs it.
_TARGETS = ("exhaustive", "conformance")


def register(config: pytest.Config) -> None:
    """Adds it to a run, in the process that shows the results and in each that runs tests."""
    config.pluginmanager.register(RunSummary(config), "run-summary")


def spent() -> float:
    """Seconds of a core that this process and those that it waited for have used."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


class RunSummary:
    """Workers of xdist count, and tell the process that shows the results."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.left = dict.fromkeys(_TARGETS, 0)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        item.stash[_BEGUN] = spent()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
        report = yield
        if call.when == "teardown" and item.nodeid.startswith(_UNIT):
            report.user_properties.append(("seconds of a core", spent() - item.stash[_BEGUN]))
        return report

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            for target in _TARGETS:
                if item.get_closest_marker(target):
                    self.left[target] += 1
                    break

    def pytest_sessionfinish(self) -> None:
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["left"] = self.left

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        # Each worker has left the same; one that was killed tells nothing.
        self.left = getattr(node, "workeroutput", {}).get("left", self.left)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in (*self._long(terminalreporter), *self._others()):
            terminalreporter.write_line(line)

    def _long(self, terminal: pytest.TerminalReporter) -> Iterator[str]:
        limit = float(self.config.getini("long_unit_test"))
        for reports in terminal.stats.values():
            for report in reports:
                for name, seconds in getattr(report, "user_properties", ()):
                    if name == "seconds of a core" and seconds > limit:
                        yield f"long for a unit test, {seconds:.1f} s of a core: {report.nodeid}"

    def _others(self) -> Iterator[str]:
        ignored = [Path(each) for each in self.config.getoption("ignore") or ()]
        files = {each: len(list(each.rglob("test_*.py"))) for each in ignored}
        whole = [f"the {count} files of {folder}" for folder, count in files.items()]
        for target, count in self.left.items():
            parts = [f"{count} cases of these files"] * (count > 0) + whole * (target == "conformance")
            if parts:
                yield f"left to `make {target}`: {', '.join(parts)}"
