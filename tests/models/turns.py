"""The model of turns: restarts take time, one node at a time, and operators go back and on meanwhile.

The rules are the code's own (`procedure.gate.whose_turn`, `Envelope.moved` and `Envelope.gone`), on a record of
service-account keys, whose steps to and from `published` wait for nobody. A node reads its files when it starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from models.explore import Found, Label, Try, explore
from vaultpki.procedure.gate import InLine, whose_turn
from vaultpki.records.service_account import KeyRecord, KeyState

BEGUN = datetime(2026, 11, 25, tzinfo=UTC)
FILES = {KeyState.STEADY: 0, KeyState.PUBLISHED: 1}
"""What each state has nodes write."""

RULES = frozenset({"kept", "stopped"})
"""Beside that one node has a turn: it keeps it over a step, and what stopped in its turn is waited for."""


class Said(NamedTuple):
    """What a node has reported: whether of the record as it stands, its files, and what it runs; None if nothing."""

    fresh: bool
    disk: int
    runs: int | None


class Machine(NamedTuple):
    disk: int
    runs: int | None  # the files that it was started with, None while it is down
    said: Said
    turn: bool = False  # as the record said that it has read
    read: bool = True  # whether that is the record as it stands


class World(NamedTuple):
    state: KeyState
    turn: str
    nodes: tuple[Machine, ...]


class Case(NamedTuple):
    poison: bool = False  # whoever starts with new files ends
    rules: frozenset[str] = RULES


def turns(c: Case, limit: int) -> Found:
    """Explore two commands that wait for nobody, the giving of turns, passes, and restarts that take time."""
    runs = Machine(0, 0, Said(fresh=True, disk=0, runs=0))
    first = World(KeyState.STEADY, "", (runs, runs))
    return explore(
        first,
        lambda w: successors(c, w),
        bad,
        None if c.poison else lambda w: all(n.runs == n.disk == FILES[w.state] for n in w.nodes),
        limit=limit,
    )


def successors(c: Case, w: World) -> Iterator[tuple[Label, World]]:
    """Yield what may happen next."""
    to = KeyState.PUBLISHED if w.state is KeyState.STEADY else KeyState.STEADY
    after = _record(w).moved(to, BEGUN + timedelta(hours=1))
    turn = after.turn if "kept" in c.rules else ""
    yield f"a command leads to {to.value}", _written(w._replace(state=to, turn=turn))
    if (given := whose_turn(w.turn, [_in_line(c, w, i) for i in range(len(w.nodes))])) != w.turn:
        yield f"a command gives the turn to {given or 'nobody'}", _written(w._replace(turn=given))
    for i, n in enumerate(w.nodes):
        for what, node in _moves(c, w, i, n):
            yield (i + 1, what), _with(w, i, node)


def _moves(c: Case, w: World, i: int, n: Machine) -> Iterator[tuple[str, Machine]]:
    """Yield what an agent does: it reads the record, it restarts what has a turn, and it reports."""
    if not n.read:
        yield " reads the record", n._replace(disk=FILES[w.state], turn=w.turn == _name(i), read=True)
    if n.turn and n.runs not in (None, n.disk):
        yield " goes down in its turn", n._replace(runs=None)
    if n.runs is None and not (c.poison and n.disk == 1):
        yield " has started", n._replace(runs=n.disk)
    if (said := Said(n.read, n.disk, n.runs)) != n.said:
        yield " reports", n._replace(said=said)


def bad(w: World) -> str | None:
    """Return which nodes are away together, by their restarts or by what they have started with."""
    down = [_name(i) for i, n in enumerate(w.nodes) if n.runs is None]
    return f"{' and '.join(down)} are down together" if len(down) > 1 else None


def _in_line(c: Case, w: World, i: int) -> InLine:
    """Return what a command knows of a node, as `token_keys.turns` does."""
    said, name = w.nodes[i].said, _name(i)
    stopped = BEGUN if said.runs is None else None
    gone = _record(w).gone(name, stopped) if "stopped" in c.rules else stopped is not None
    down = said.runs is None and not gone
    done = said.fresh and (gone or said.runs == said.disk)
    return InLine(name, done, said.fresh and said.disk == FILES[w.state], down, away=down)


def _record(w: World) -> KeyRecord:
    return KeyRecord(w.state, 1, BEGUN, turn=w.turn)


def _written(w: World) -> World:
    """Return the world with another record, which no node has read and no report answers."""
    nodes = (n._replace(read=False, said=n.said._replace(fresh=False)) for n in w.nodes)
    return w._replace(nodes=tuple(nodes))


def _with(w: World, i: int, node: Machine) -> World:
    return w._replace(nodes=(*w.nodes[:i], node, *w.nodes[i + 1 :]))


def _name(i: int) -> str:
    return f"cp-{i + 1}"


CASES = {
    "two": Case(),
    "two, new files end who reads them": Case(poison=True),
}
NEEDED = {
    "two": ("kept",),
    "two, new files end who reads them": ("kept", "stopped"),
}
"""The rules without which each of these breaks."""


def tries() -> Iterator[Try]:
    """Yield every exploration."""
    for name, c in CASES.items():
        yield _try(name, "all rules", c)
        for rule in NEEDED[name]:
            yield _try(name, f"without {rule}", c._replace(rules=RULES - {rule}), holds=False)


def _try(name: str, rules: str, c: Case, *, holds: bool = True) -> Try:
    return Try(f"turns: {name}: {rules}", holds, lambda limit: turns(c, limit))
