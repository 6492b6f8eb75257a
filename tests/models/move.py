"""The model of a move: a cluster leaves the server A for another one, B, and either may be away, lost or set back.

It goes on where the model of a rotation ends: start-only readers, followers' five minutes, late passes and restarts by
turns are explored there, and a bundle counts here as soon as it is on disk. O and N are below the root that nodes are
pinned to, which is rotated at B when the move is done. Revisions are kept as ranks, so no limit is needed on how often
an operator goes to and fro.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from models.move_tables import ALL, BOTH, LEAF, NEW, OLD, TRUST

SERVERS = "AB"
PASSES = 3
"""So many passes in a row must fail to reach a server that is called lost."""


class Record(NamedTuple):
    revision: int
    phase: str
    lost: str = ""  # the server that is called lost


class Report(NamedTuple):
    revision: int
    disk: int
    leaf: int
    b: bool  # has a credential at B
    reached: str  # which servers it reached; told only where a server may be called lost
    heeds: bool = False  # that a server is lost: it ignores that one, or has no credential there


class Node(NamedTuple):
    disk: int
    leaf: int
    a: bool  # a credential at A
    b: bool
    revision: int  # the highest that it has seen
    said_a: Report | None  # its report on A
    said_b: Report | None
    ignores: str = ""  # the server that it heeds to be lost
    missed: int = 0  # with `brief`, passes in a row that did not reach the server that the record calls lost
    snap: bool = False  # whether the snapshot that was taken has its credential
    up: bool = True


class Operator(NamedTuple):
    """A command between two writes.

    `base` is what it must find on the first server, None for a copy, and `todo` are the servers that are left.
    """

    base: Record | None
    new: Record
    todo: str


class World(NamedTuple):
    a: str  # u up, d away, x lost
    record_a: Record
    b: str
    record_b: Record
    nodes: tuple[Node, ...]
    operators: tuple[Operator | None, ...]
    snap: tuple[str, Record] | str = ""  # a snapshot of a server, or which server was set back
    declared: str = ""  # without `told`, which server a person has called lost
    emptied: bool = False  # A is


class Settings(NamedTuple):
    away: str = "AB"  # which servers may be away for a while
    lost: str = ""  # which server may be lost for good
    restore: str = ""  # which server may be set back once
    operators: int = 1
    joins: bool = False
    mistaken: bool = False  # an operator who cannot reach a server may call it lost
    writer: str = ""  # on which server somebody else writes records, and calls the other one lost
    forges: bool = False  # which raises revisions too, and so ends trust too early: of that nothing is promised
    brief: bool = False  # a server comes back before a node has passed three times without it
    rules: frozenset[str] = ALL


def record(w: World, server: str) -> Record:
    return w.record_a if server == "A" else w.record_b


def with_record(w: World, server: str, value: Record) -> World:
    return w._replace(record_a=value) if server == "A" else w._replace(record_b=value)


def up(w: World, server: str) -> bool:
    return standing(w, server) == "u"


def standing(w: World, server: str) -> str:
    return w.a if server == "A" else w.b


def with_standing(w: World, server: str, value: str) -> World:
    return w._replace(a=value) if server == "A" else w._replace(b=value)


def other(server: str) -> str:
    return "B" if server == "A" else "A"


def gone(w: World, server: str, s: Settings) -> bool:
    """Return whether a person may call a server lost: that it is, or takes it for lost."""
    return standing(w, server) == "x" or (s.mistaken and standing(w, server) == "d")


def reaches(w: World, n: Node, server: str) -> bool:
    return up(w, server) and _credential(n, server)


def _credential(n: Node, server: str) -> bool:
    return n.a if server == "A" else n.b


def higher(records: list[Record]) -> Record:
    """Return the record with the highest revision, of equal ones the first."""
    return max(records, key=lambda r: r.revision)


def followed(w: World, n: Node, s: Settings) -> tuple[Record | None, bool]:
    """Return the record that a node follows now, and whether it is behind what the node has seen."""
    read = [record(w, x) for x in SERVERS if reaches(w, n, x) and n.ignores != x]
    if not read:
        return None, False
    r = higher(read)
    return r, "memory" in s.rules and r.revision < n.revision


def handed_over(w: World, n: Node) -> bool:
    """Return whether a node gets a credential at B by the hand-over and its own record on A."""
    return reaches(w, n, "A") and w.record_a.phase != "P" and up(w, "B") and not n.b and not n.ignores


def passed(w: World, n: Node, s: Settings) -> Iterator[Node]:
    """Yield what a pass of an agent may leave behind; nothing if it reads no record."""
    n = n._replace(b=True) if handed_over(w, n) else n
    r, behind = followed(w, n, s)
    if r is None:
        return
    disk = (n.disk | TRUST[r.phase]) if behind else TRUST[r.phase]
    leaf = _leaf(w, n, r, behind, s)
    fenced = r.phase == "D" and not behind and "parked" not in s.rules
    at = "".join(x for x in SERVERS if reaches(w, n, x))
    seen = r.revision if "memory" not in s.rules else max(r.revision, n.revision)
    node = n._replace(disk=disk, leaf=leaf, a=n.a and not fenced, revision=seen, up=bool(leaf))
    for missed, ignores in [(n.missed, n.ignores)] if behind else _heeded(w, n, r, s):
        heeds = bool(r.lost) and (ignores == r.lost or not _credential(n, r.lost))
        said = Report(seen if behind else r.revision, disk, leaf, n.b, at if s.mistaken or s.lost else "", heeds)
        after = node._replace(ignores=ignores, missed=missed)
        yield after._replace(said_a=said if "A" in at else n.said_a, said_b=said if "B" in at else n.said_b)


def _leaf(w: World, n: Node, r: Record, behind: bool, s: Settings) -> int:
    wanted = LEAF[r.phase]
    if "leafword" not in s.rules and reaches(w, n, "B") and r.phase != "P":
        wanted = NEW
    if behind and n.leaf:
        return n.leaf
    if wanted == OLD and reaches(w, n, "A") and w.record_a.phase not in "RD":
        return OLD
    return NEW if wanted == NEW and reaches(w, n, "B") else n.leaf


def _heeded(w: World, n: Node, r: Record, s: Settings) -> list[tuple[int, str]]:
    """Return how many passes may have failed to reach the server that is called lost, and which one is ignored."""
    if not r.lost or r.lost == n.ignores or "tried" not in s.rules:
        return [(0, r.lost)]
    if reaches(w, n, r.lost) or not _credential(n, r.lost):
        return [(0, "")]
    if not s.brief:  # any pass may be the last of those that must fail
        return [(0, ""), (0, r.lost)]
    if "three" not in s.rules:
        return [(0, r.lost)]
    return [(n.missed + 1, "")] if n.missed + 1 < PASSES else []


def joined_at_b(n: Node) -> Node:
    """Have a person bring a join file of B where A is called lost: the node keeps what it has."""
    return n._replace(b=True, up=True, disk=n.disk or BOTH, leaf=n.leaf or OLD)


def beginning(s: Settings) -> World:
    node = Node(OLD, OLD, True, False, 3, Report(3, OLD, OLD, False, ""), None)
    late = Node(0, 0, True, False, 0, None, None, up=False)
    first = Record(3, "P")
    # Without `carry` B begins to count anew: its numbers are below all that nodes remember.
    at_b = first if "carry" in s.rules else Record(1, "P")
    return World("u", first, "u", at_b, (node, late if s.joins else node), (None,) * s.operators)
