"""The model of a loss for which nothing was prepared: B is fresh, no root vouches for another, no record is left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from models.explore import LIMIT, Found, explore
from models.move_tables import BOTH, NAMES, NEW, OLD

_NEXT = {"U": "S", "S": "R", "R": "D"}
_SAID = {"S": "switched", "R": "retired", "D": "done"}


class Node(NamedTuple):
    joined: bool
    disk: int
    leaf: int  # 0 none, or it has ended


class World(NamedTuple):
    phase: str
    ended: bool  # the leaves of O have
    nodes: tuple[Node, ...]
    out: frozenset[int]  # nodes that were left out by name


def loss(rules: frozenset[str], *, by_hand: bool = False, members: int = 3, limit: int = LIMIT) -> Found:
    """Explore a loss; `by_hand`: N is written into the bundles by hand before anybody joins."""
    first = World("U", False, (Node(False, OLD, OLD),) * members, frozenset())

    def kept(phase: str) -> int:
        return 0 if phase == "U" and "kept" in rules else NEW

    def counted(w: World) -> list[Node]:
        return [n for i, n in enumerate(w.nodes) if i not in w.out and (n.joined or "listed" in rules)]

    def open_(w: World) -> bool:
        nodes = counted(w)
        if w.phase == "U" and "kept" not in rules:
            return False
        ready = {
            "U": lambda n: n.joined and n.disk == BOTH,
            "S": lambda n: n.joined and n.leaf == NEW,
            "R": lambda n: n.disk == NEW,
        }.get(w.phase)
        return ready is not None and bool(nodes) and all(ready(n) for n in nodes)

    def successors(w: World) -> Iterator[tuple[str, World]]:
        if open_(w):
            yield f"record says {_SAID[_NEXT[w.phase]]}", w._replace(phase=_NEXT[w.phase])
        switched = all(n.leaf == NEW for i, n in enumerate(w.nodes) if i not in w.out)
        if not w.ended and (switched or "in time" not in rules):
            nodes = tuple(n._replace(leaf=n.leaf & ~OLD) for n in w.nodes)
            yield "the leaves of O end", w._replace(ended=True, nodes=nodes)
        for i, n in enumerate(w.nodes):
            if "retry" in rules and w.phase == "U" and not w.out and not n.joined:
                yield f"node {i + 1} is left out by name", w._replace(out=frozenset({i}))
            for label, node in _here(w, n):
                yield label.format(i + 1), w._replace(nodes=(*w.nodes[:i], node, *w.nodes[i + 1 :]))

    def _here(w: World, n: Node) -> Iterator[tuple[str, Node]]:
        late = w.phase in "RD"
        if n.joined:
            node = Node(True, NEW if late else n.disk, kept(w.phase) or n.leaf)
            if node != n:
                yield "node {} passes", node
            return
        if by_hand and n.disk != BOTH:
            yield "a person writes N into the bundles of node {}", n._replace(disk=BOTH)
        if by_hand and n.disk == BOTH and "quiet" not in rules:
            yield "the agent of node {}, which knows only A, writes its bundles again", n._replace(disk=OLD)
        if not by_hand or all(each.disk == BOTH for each in w.nodes):
            disk = BOTH if "pinned" in rules and not late else NEW
            yield "node {} joins at B", Node(True, disk, kept(w.phase) or (n.leaf if "in place" in rules else 0))

    def bad(w: World) -> str | None:
        for i, n in enumerate(w.nodes):
            if i in w.out:
                continue
            if not n.leaf:
                return f"I2: node {i + 1} has no certificate{' in date' if w.ended else ''}"
            for k, peer in enumerate(w.nodes):
                if k not in w.out and not n.leaf & peer.disk:
                    return f"I1: node {i + 1} shows a leaf of {NAMES[n.leaf]}, node {k + 1} trusts {NAMES[peer.disk]}"
        return None

    def good(w: World) -> bool:
        left = "kept" not in rules and all(n.joined and n.leaf == NEW for n in w.nodes)
        return left or all(n == Node(True, NEW, NEW) for n in w.nodes)

    return explore(first, successors, bad, limit=limit, goals=(("I4: not everybody at B", good, lambda w: True),))
