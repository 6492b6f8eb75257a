"""Decides in which column of the picture each component stands, and which way each arrow goes.

kube-apiserver is in the middle: who only logs in to it is left of it, and what it logs in to is right of it, so nearly
every arrow is one straight line. Whoever only logs in to something at the right is at the far right. What is left,
which a cluster has through rows of its own only, takes a way around everything (detour).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vaultpki.graph.content import HUB, Arrow, Component, Graph


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns, and the arrows by their way.

    `far` has the components at the far right by the name of the one beside which they stand. `inner` are the arrows
    between the middle and the right, by the name at the right; `outer` those from the far right to it; `loops` those
    from a component to itself. `entering` are detours by their target, `leaving` by their source.
    """

    hub: Component
    left: tuple[Component, ...]
    right: tuple[Component, ...]
    far: Mapping[str, tuple[Component, ...]]
    logins: Mapping[str, tuple[Arrow, ...]]
    inner: Mapping[str, tuple[Arrow, ...]]
    outer: Mapping[str, tuple[Arrow, ...]]
    loops: Mapping[str, tuple[Arrow, ...]]
    detours: tuple[Arrow, ...]

    def entering(self, name: str) -> tuple[Arrow, ...]:
        return tuple(arrow for arrow in self.detours if arrow.target == name)

    def leaving(self, name: str) -> tuple[Arrow, ...]:
        return tuple(arrow for arrow in self.detours if arrow.source == name)


def columns(graph: Graph) -> Columns:
    """Return the columns of a picture."""
    by_name = {component.name: component for component in graph.components}
    places = {name: _place(component, graph.arrows) for name, component in by_name.items()}
    beside = {
        name: next(arrow.target for arrow in graph.arrows if arrow.source == name)
        for name, place in places.items()
        if place == "far"
    }
    ways: dict[str, dict[str, list[Arrow]]] = {way: {} for way in ("logins", "inner", "outer", "loops")}
    detours = []
    for arrow in graph.arrows:
        way, key = _way(arrow, places, beside)
        if way == "detour":
            detours.append(arrow)
        else:
            ways[way].setdefault(key, []).append(arrow)
    right = [by_name[name] for name, place in places.items() if place == "right"]
    reached = [arrow.target for arrow in graph.arrows]
    right.sort(key=lambda component: reached.index(component.name) if component.name in reached else len(reached))
    order = list(dict.fromkeys(component.domain for component in right))
    return Columns(
        hub=by_name[HUB],
        left=tuple(by_name[name] for name, place in places.items() if place == "left"),
        right=tuple(sorted(right, key=lambda component: order.index(component.domain))),
        far={
            name: tuple(by_name[each] for each, target in beside.items() if target == name)
            for name in dict.fromkeys(beside.values())
        },
        detours=tuple(detours),
        **{way: {key: tuple(found) for key, found in arrows.items()} for way, arrows in ways.items()},
    )


def _place(component: Component, arrows: tuple[Arrow, ...]) -> str:
    name = component.name
    if name == HUB:
        return "hub"
    if any(pair.server for pair in component.pairs) or any(arrow.target == name for arrow in arrows):
        return "right"
    targets = {arrow.target for arrow in arrows if arrow.source == name}
    return "left" if HUB in targets or not targets else "far"


def _way(arrow: Arrow, places: Mapping[str, str], beside: Mapping[str, str]) -> tuple[str, str]:
    """Return the way of an arrow, and the name by which it is found."""
    source, target = places[arrow.source], places[arrow.target]
    if arrow.source == arrow.target:
        return "loops", arrow.source
    if (source, target) == ("left", "hub"):
        return "logins", arrow.source
    if {source, target} == {"hub", "right"}:
        return "inner", arrow.source if source == "right" else arrow.target
    if source == "far" and beside[arrow.source] == arrow.target:
        return "outer", arrow.source
    return "detour", ""
