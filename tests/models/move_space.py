"""Explores the model of a move: what must never be, where every way must lead, and which worlds are alike."""

from __future__ import annotations

from models.explore import LIMIT, Found, Goal, explore
from models.move import (
    Node,
    Operator,
    Record,
    Report,
    Settings,
    World,
    beginning,
    followed,
    higher,
    other,
    up,
)
from models.move_moves import accidents, agents, operate
from models.move_tables import LEAF, NAMES, NEW, OLD


def wrong(w: World, s: Settings) -> str | None:
    """Return what must never be: somebody is refused, cannot renew, or needs a person."""
    there = [(i, n) for i, n in enumerate(w.nodes) if n.up]
    for i, n in there if not s.forges else ():
        for k, peer in there:
            if not n.leaf & peer.disk:
                return f"I1: node {i + 1} shows a leaf of {NAMES[n.leaf]}, node {k + 1} trusts {NAMES[peer.disk]}"
    return _cannot_renew(w, there, s) or _needs_a_person(w, there, s) or _cut_off(w, there, s)


def _cannot_renew(w: World, there: list[tuple[int, Node]], s: Settings) -> str | None:
    same = w.record_a == w.record_b and not w.record_a.lost and not any(w.operators)
    for i, n in there if same and up(w, "A") and up(w, "B") else ():
        r, behind = followed(w, n, s)
        # Who asks for the leaf that the record names must be let in where it is signed.
        known = r is not None and (n.a if (LEAF[r.phase] or n.leaf) == OLD else n.b)
        if r is None or not (behind or known or (n.a and r.phase != "P")):
            return f"I3: both servers are there, and node {i + 1} can renew at neither"
    return None


def _needs_a_person(w: World, there: list[tuple[int, Node]], s: Settings) -> str | None:
    if w.emptied:
        left = [i for i, n in enumerate(w.nodes) if not n.b]
        return f"I3: A is emptied, and node {left[0] + 1} has no credential at B" if left else None
    if w.a == "x" and not s.restore and higher([w.record_a, w.record_b]).phase in "SRTB":
        left = [i for i, n in there if not n.b]
        return f"I4: A is lost after switched, and node {left[0] + 1} needs a person with a join file" if left else None
    return None


def _cut_off(w: World, there: list[tuple[int, Node]], s: Settings) -> str | None:
    if not s.writer or s.lost or s.mistaken or (other(s.writer) in s.away and not s.brief):
        return None
    left = [(i, n.ignores) for i, n in there if n.ignores]
    return f"I5: a writer of records cuts node {left[0][0] + 1} off from {left[0][1]}" if left else None


def canonical(w: World, s: Settings) -> World:
    """Return one world for all that are alike.

    Revisions become ranks, reports of the past lose theirs; nodes of one kind are interchangeable, and operators.
    """
    snap = w.snap if isinstance(w.snap, tuple) else None
    keep = min(w.record_a.revision, w.record_b.revision, *([snap[1].revision] if snap else []))

    def old(said: Report | None) -> Report | None:
        if said is None or said.revision >= keep:
            return said
        return Report(0, 0, 0, False, said.reached) if "echo" in s.rules else said._replace(revision=0)

    nodes = [n._replace(said_a=old(n.said_a), said_b=old(n.said_b)) for n in w.nodes]
    records = [w.record_a, w.record_b, *([snap[1]] if snap else [])]
    for each in w.operators:
        records += [each.new, *([each.base] if each.base else [])] if each else []
    revisions = {0, *(r.revision for r in records)}
    for n in nodes:
        revisions |= {n.revision, *(said.revision for said in (n.said_a, n.said_b) if said)}
    rank = {revision: i for i, revision in enumerate(sorted(revisions))}

    def record_of(r: Record) -> Record:
        return r._replace(revision=rank[r.revision])

    def report(said: Report | None) -> Report | None:
        return said and said._replace(revision=rank[said.revision])

    def operator(each: Operator | None) -> Operator | None:
        return each and each._replace(base=each.base and record_of(each.base), new=record_of(each.new))

    ranked = [n._replace(revision=rank[n.revision], said_a=report(n.said_a), said_b=report(n.said_b)) for n in nodes]
    return w._replace(
        record_a=record_of(w.record_a),
        record_b=record_of(w.record_b),
        nodes=tuple(sorted(ranked, key=_order)),
        snap=(snap[0], record_of(snap[1])) if snap else w.snap,
        operators=tuple(sorted(map(operator, w.operators), key=_order_of_operators)),
    )


def _order(n: Node) -> tuple[object, ...]:
    return (*n[:5], n.said_a or (), n.said_b or (), *n[7:])


def _order_of_operators(each: Operator | None) -> tuple[object, ...]:
    return (each.base or (), each.new, each.todo) if each else ()


def move(s: Settings, limit: int = LIMIT) -> Found:
    """Explore one move: back as long as A is there, to the end as long as B is, and nobody is ever cut off."""

    def home(w: World) -> bool:
        return w.record_a.phase == "P" and all(n.disk == OLD and n.leaf == OLD for n in w.nodes)

    def may_go_home(w: World) -> bool:
        called = "A" in (w.record_a.lost, w.record_b.lost) or w.declared or w.emptied
        done = "D" in (w.record_a.phase, w.record_b.phase)
        return w.a != "x" and not called and not done and all(n.a for n in w.nodes)

    def moved(w: World) -> bool:
        return w.record_b.phase == "D" and all(n.disk == NEW and n.leaf == NEW and n.b for n in w.nodes)

    def may_be_done(w: World) -> bool:
        called = "B" in (w.declared, w.record_a.lost, w.record_b.lost)
        return w.b != "x" and not called and w.record_b.phase != "P" and all(n.up for n in w.nodes)

    goals: tuple[Goal, ...] = (("I3: no way home", home, may_go_home), ("I4: no way to done", moved, may_be_done))
    return explore(
        beginning(s),
        lambda w: (*operate(w, s), *agents(w, s), *accidents(w, s)),
        lambda w: wrong(w, s),
        limit=limit,
        goals=goals,
        canonical=lambda w: canonical(w, s),
    )
