"""Explores a model breadth first: the shortest trace to a state that must not be, or a state with no way home."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

LIMIT = 1_500_000

Label = str | tuple[int, str]
"""What happens; or a node's number, and what happens there."""


class Found(NamedTuple):
    """What was found: `problem` after `trace`, or `stuck`; without `complete` the limit of states cut it."""

    states: int
    problem: str | None
    trace: list[str]
    stuck: str | None
    complete: bool

    @property
    def holds(self) -> bool:
        return self.problem is None and self.stuck is None


class Try(NamedTuple):
    """One exploration, and whether all must hold in it; `breaks` is which promise must be the one that is broken."""

    title: str
    holds: bool
    run: Callable[[int], Found]
    breaks: str = ""


Goal = tuple[str, Callable[[Any], bool], Callable[[Any], bool]]
"""What it means if it is out of reach, the states that are it, and of which states it must be reachable."""


def explore(
    first: Any,
    successors: Callable[[Any], Iterable[tuple[Label, Any]]],
    bad: Callable[[Any], str | None],
    good: Callable[[Any], bool] | None = None,
    home: tuple[Callable[[Any], bool], Callable[[Any], bool]] | None = None,
    limit: int = LIMIT,
    *,
    goals: tuple[Goal, ...] = (),
    canonical: Callable[[Any], Any] = lambda w: w,
) -> Found:
    """Breadth first: the shortest trace to a bad state; else states from which no `good` one can be reached any more.

    `home` is a second kind of good states, and of which states it must be reachable; `goals` are further ones.
    `canonical` returns one state for all that are alike.
    """
    if good:
        goals = (("I5: no way home", good, lambda w: True), *goals)
    if home:
        goals = (*goals[:1], ("I3: no way home", *home), *goals[1:])
    first = canonical(first)
    number = {first: 0}
    order = [first]
    came: list[tuple[int, Label]] = [(-1, "")]
    edges: list[tuple[int, int]] = []
    at = 0
    while at < len(order) and len(order) < limit:
        state = order[at]
        said = bad(state)
        if said:
            return Found(len(order), said, path(came, at), None, True)
        for label, found in successors(state):
            after = canonical(found)
            k = number.get(after)
            if k is None:
                k = number[after] = len(order)
                order.append(after)
                came.append((at, label))
            if goals:
                edges.append((at, k))
        at += 1
    complete = at >= len(order)
    stuck = None
    if complete and goals:
        into: list[list[int]] = [[] for _ in order]
        for a, b in edges:
            into[b].append(a)
        for name, target, applies in goals:
            i = _without_way(order, into, target, applies)
            if i is not None:
                stuck = f"{name} after: " + "; ".join(path(came, i))
                break
    return Found(len(order), None, [], stuck, complete)


def _without_way(
    order: list[Any], into: list[list[int]], target: Callable[[Any], bool], applies: Callable[[Any], bool]
) -> int | None:
    seen = {i for i, w in enumerate(order) if target(w)}
    queue = deque(seen)
    while queue:
        for a in into[queue.popleft()]:
            if a not in seen:
                seen.add(a)
                queue.append(a)
    return next((i for i, w in enumerate(order) if i not in seen and applies(w)), None)


def text(label: Label) -> str:
    return label if isinstance(label, str) else f"node {label[0]}{label[1]}"


def path(came: list[tuple[int, Label]], at: int) -> list[str]:
    """Return the labels from the first state to this one."""
    out = []
    while at > 0:
        at, label = came[at]
        out.append(text(label))
    return out[::-1]
