"""What happens in the model of a move: gates, the operator, agents, and what servers and a writer of records do."""

from __future__ import annotations

from collections.abc import Iterator

from models.move import (
    SERVERS,
    Node,
    Operator,
    Record,
    Report,
    Settings,
    World,
    gone,
    joined_at_b,
    other,
    passed,
    record,
    standing,
    up,
    with_record,
    with_standing,
)
from models.move_tables import ALONE, BACK, FORWARD, FREE, LEAF_STEPS, NAMES, TRUST_STEPS

Move = tuple[str, World]


def newest(n: Node, of: str) -> Report | None:
    """Return a node's newest report on the servers `of`, of equal ones A's."""
    said = [r for r, x in ((n.said_a, "A"), (n.said_b, "B")) if r and x in of]
    return max(said, key=lambda r: r.revision, default=None)


def gate(w: World, r: Record, to: str, of: str, s: Settings) -> bool:
    """Return whether a step is open to who asks the servers `of`, which are those that nobody calls lost."""
    step = r.phase + to
    # Nobody goes back to a server that is lost, nor on to one.
    if (BACK.get(r.phase) == to and "A" not in of) or (to == "S" and "B" not in of):
        return False
    if step in FREE or (step in ("TB", "TS") and "retrust" not in s.rules):
        return True
    return all(_reported(newest(n, of), r, step, s) for n in w.nodes if n.up or "counted" in s.rules)


def _reported(said: Report | None, r: Record, step: str, s: Settings) -> bool:
    if said is None or ("echo" in s.rules and said.revision != r.revision):
        return False
    if r.lost and "heeded" in s.rules and not said.heeds:
        return False
    trust, leaf = TRUST_STEPS.get(step, 0), LEAF_STEPS.get(step, 0)
    if said.disk & trust != trust or (step in ALONE and said.disk != trust):
        return False
    if step in ("US", "KS") and "known" in s.rules and not said.b:
        return False
    return not leaf or said.leaf == leaf


def operate(w: World, s: Settings) -> Iterator[Move]:
    """Yield what commands do, of which each may be killed between two writes."""
    for i, command in enumerate(w.operators):
        who = f"operator {i + 1}" if len(w.operators) > 1 else "operator"
        if command:
            for label, after, rest in _writes(w, command):
                yield f"{who}: {label}", _with(after, i, rest)
        elif not w.emptied and _may_run(w, s):
            for label, after, begun in _begins(w, s):
                yield f"{who}: {label}", _with(after, i, begun)


def _with(w: World, i: int, command: Operator | None) -> World:
    return w._replace(operators=(*w.operators[:i], command, *w.operators[i + 1 :]))


def _writes(w: World, command: Operator) -> Iterator[tuple[str, World, Operator | None]]:
    """Yield how a command goes on: killed, overtaken, or by its next write."""
    yield "killed", w, None
    base, new, todo = command
    at, now = todo[0], record(w, todo[0])
    if not up(w, at):
        return
    if now.revision >= new.revision if base is None else now != base:
        yield f"{at} has another record by now, ends", w, None
        return
    rest = Operator(None, new, todo[1:]) if todo[1:] else None
    yield f"{at}'s record says {new.phase}{_lost(new)}", with_record(w, at, new), rest


def _lost(r: Record) -> str:
    return f", and that {r.lost} is lost" if r.lost else ""


def _may_run(w: World, s: Settings) -> bool:
    if "passed" not in s.rules or w.snap not in ("A", "B"):
        return True
    set_back = [(n.said_a, n.a) if w.snap == "A" else (n.said_b, n.b) for n in w.nodes if n.up]
    return all(said or not credential for said, credential in set_back)


def _begins(w: World, s: Settings) -> Iterator[tuple[str, World, Operator | None]]:
    """Yield what a command may decide to write, and what needs no record."""
    there = [record(w, x) for x in SERVERS if up(w, x)]
    lost = max(there, default=Record(0, "")).lost
    of = "".join(x for x in SERVERS if x not in (lost, w.declared))
    yield from _lost_and_found(w, lost, of, s)
    if lost and "asked" in s.rules and not gone(w, lost, s):
        return
    if any(not up(w, x) for x in of):
        of = "" if "level" in s.rules else "".join(x for x in of if up(w, x))
    if not of:
        return
    top = max((record(w, x) for x in of), key=lambda r: r.revision)
    if top.lost and len(of) == 2:
        return
    low = [x for x in of if record(w, x).revision < top.revision]
    if low and "level" in s.rules:
        yield f"copies {top.phase} to {low[0]}", w, Operator(None, top, low[0])
        return
    r = top if "level" in s.rules else record(w, of[0])
    ahead = max((said.revision for n in w.nodes if (said := newest(n, of))), default=0)
    if "recover" in s.rules and ahead > r.revision:
        new = Record(ahead + 1, "K" if "kept" in s.rules else "T", lost)
        yield "recovers, re-trusting", w, Operator(record(w, of[0]), new, of)
        return
    if r.phase == "D" and not w.declared and up(w, "A") and up(w, "B") and w.record_a == w.record_b:
        if "stay" not in s.rules or all(n.b for n in w.nodes if n.a or n.b or not n.up):
            nodes = tuple(n._replace(a=False, said_a=None) for n in w.nodes)
            yield "empties A", w._replace(a="x", nodes=nodes, emptied=True), None
        return
    highest = max(w.record_a.revision, w.record_b.revision)
    for word, ways in (("continue", FORWARD), ("abort", BACK)):
        to = ways.get(r.phase)
        for order in {of} if "seat" in s.rules else {of, of[::-1]}:
            if to and gate(w, r, to, of, s):
                base = record(w, order[0])
                above = highest if "jump" in s.rules and (lost or w.declared) else base.revision
                what = f"{word}, the gate {r.phase}->{to} is open, writes {order[0]} first"
                yield what, w, Operator(base, Record(above + 1, to, lost), order)


def _lost_and_found(w: World, lost: str, of: str, s: Settings) -> Iterator[tuple[str, World, Operator | None]]:
    """Yield that a person calls a server lost, or found; `lost` is which one the record calls so."""
    highest = max(w.record_a.revision, w.record_b.revision)
    if lost and up(w, "A") and up(w, "B"):
        now = record(w, of)
        new = Record(highest + 1, "K" if "met" in s.rules else now.phase)
        yield f"says that {lost} is found", w, Operator(now, new, of)
    for x in SERVERS if of == SERVERS else "":
        at, now = other(x), record(w, other(x))
        said = [each for n in w.nodes if (each := newest(n, at))]
        reached = "witness" in s.rules and any(x in each.reached for each in said)
        if not gone(w, x, s) or not up(w, at) or now.phase in "PD" or reached:
            continue
        ahead = max((each.revision for each in said), default=0)
        top = max(highest if "jump" in s.rules else now.revision, ahead)
        new = Record(top + 1, "K" if ahead > now.revision else now.phase, x)
        if "told" in s.rules:
            yield f"says that {x} is lost", w, Operator(now, new, at)
        else:
            yield f"says that {x} is lost", w._replace(declared=x), None


def agents(w: World, s: Settings) -> Iterator[Move]:
    """Yield what nodes do, and persons on them."""
    for i, n in enumerate(w.nodes):
        who = f"node {i + 1}"
        if "A" in (w.declared, w.record_b.lost) and not n.b and up(w, "B") and w.record_b.phase != "P":
            yield f"{who}: a person brings a join file of B", _with_node(w, i, joined_at_b(n))
        for node in passed(w, n, s):
            ignored = f", ignores {node.ignores}" if node.ignores else ""
            what = f"{who} passes, bundle {NAMES[node.disk]}, leaf {NAMES[node.leaf]}{ignored}"
            if node != n:
                yield what, _with_node(w, i, node)


def _with_node(w: World, i: int, node: Node) -> World:
    return w._replace(nodes=(*w.nodes[:i], node, *w.nodes[i + 1 :]))


def accidents(w: World, s: Settings) -> Iterator[Move]:
    """Yield what happens to servers, and what somebody else writes there."""
    for x in SERVERS:
        now = standing(w, x)
        if x in s.away and now == "u":
            yield f"{x} is away", with_standing(w, x, "d")
        if now == "d":
            yield f"{x} is back", with_standing(w, x, "u")
        may_end = x in s.lost and standing(w, other(x)) != "x" and not (x == "A" and w.record_a.phase == "P")
        if may_end and now == "u" and not w.emptied:
            yield f"{x} is lost for good", with_standing(w, x, "x")
        if x in s.restore and now == "u" and not w.emptied and not any(w.operators):
            yield from _set_back(w, x)
        if x in s.writer and now == "u" and not w.emptied and not record(w, x).lost:
            r = record(w, x)._replace(lost=other(x))
            for higher in (0, 1) if s.forges else (0,):
                forged = with_record(w, x, r._replace(revision=r.revision + higher))
                yield f"somebody writes to {x} that {other(x)} is lost{', by a higher revision' * higher}", forged


def _set_back(w: World, x: str) -> Iterator[Move]:
    if w.snap == "":
        nodes = tuple(n._replace(snap=n.a if x == "A" else n.b) for n in w.nodes)
        yield f"a snapshot of {x} is taken", w._replace(snap=(x, record(w, x)), nodes=nodes)
    elif isinstance(w.snap, tuple) and w.snap[0] == x:
        if x == "A":
            nodes = tuple(n._replace(said_a=None, snap=False) for n in w.nodes)
        else:
            nodes = tuple(n._replace(b=n.b and n.snap, said_b=None, snap=False) for n in w.nodes)
        after = with_record(w, x, w.snap[1])._replace(nodes=nodes, snap=x)
        yield f"{x} is set back to {w.snap[1].phase}", after
