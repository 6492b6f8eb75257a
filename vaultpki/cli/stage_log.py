"""The log of an apply: the plan, one line for each stage, and where it stopped if it fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from vaultpki.cli.progress import Progress

if TYPE_CHECKING:
    from vaultpki.model import Cluster
    from vaultpki.provision.plan import Change, Plan
    from vaultpki.records.server_facts import Key
    from vaultpki.show.line import Line


class StageLog:
    """Says what an apply does, as `provision.apply` calls it.

    `head` returns the lines above a plan; it is called if a plan is shown that nobody has seen. `shown` is the plan
    that a person has seen.
    """

    def __init__(
        self, cluster: Cluster, counter: Progress, head: Callable[[], list[Line]], shown: Plan | None = None
    ) -> None:
        self._cluster, self._counter, self._head = cluster, counter, head
        self._seen: set[Key] | None = None if shown is None else {change.key for change in shown.changes}
        self._planned: Counter[tuple[str, str]] = Counter()
        self._made: Counter[tuple[str, str]] = Counter()
        self._ended: Counter[str] = Counter()
        self._before = 0
        self._lock = Lock()

    def begin(self, plan: Plan) -> None:
        """Show what of the plan nobody has seen, and count from here on."""
        from dataclasses import replace

        from vaultpki.show import plan as plan_text
        from vaultpki.show.stages import kind_of

        self._before += sum(self._made.values())
        later = bool(self._planned)
        if later:
            self._counter.say(f"{len(plan.changes)} changes are left.")
        if self._seen is None:
            self._say(self._head())
            self._say(plan_text.lines(self._cluster, plan))
            self._seen = set()
        elif further := tuple(change for change in plan.changes if change.key not in self._seen):
            self._say(plan_text.lines(self._cluster, replace(plan, changes=further)))
        self._seen.update(change.key for change in plan.changes)
        self._planned = Counter(kind_of(self._cluster, change) for change in plan.changes)
        self._made, self._ended = Counter(), Counter()

    def step(self, change: Change, total: int) -> None:
        """Count one change that was made, from any thread."""
        from vaultpki.show.stages import kind_of

        with self._lock:
            self._made[kind_of(self._cluster, change)] += 1
        self._counter.step(total)

    def stage_made(self, change: Change) -> None:
        """Say that a stage is done, with the last of its changes."""
        from vaultpki.show import plan as plan_text
        from vaultpki.show.line import WIDTH, wrapped
        from vaultpki.show.stages import kind_of, stage_line

        if not plan_text.planned(change):
            self._say(plan_text.change_lines(change))
            return
        name, _ = kind_of(self._cluster, change)
        self._ended[name] += 1
        if self._ended[name] == sum(count for kind, count in self._planned.items() if kind[0] == name):
            self._say(wrapped(stage_line(name, self._made, self._planned), None, WIDTH))

    @contextmanager
    def until_it_stops(self, *, saved: bool) -> Iterator[None]:
        """Say what was made and what was not, if the work within fails or is interrupted.

        `saved` is as for `stopped_lines`.
        """
        try:
            yield
        except BaseException:
            if self._planned and self._made != self._planned:
                from vaultpki.show.stages import stopped_lines

                self._say(stopped_lines(self._made, self._planned, self._before, saved=saved))
            raise

    def _say(self, lines: list[Line]) -> None:
        for line in lines:
            self._counter.say(line.text, line.colour)
