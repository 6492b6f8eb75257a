"""The settings in which the models of a move are explored, and the rules without which each of them breaks."""

from __future__ import annotations

from collections.abc import Iterator

from models.explore import Try
from models.move import Settings
from models.move_hand_over import NODES, hand_over
from models.move_loss import loss
from models.move_space import move
from models.move_tables import ALL, HAND_OVER_RULES, IDLE_LOSS, LOSS_RULES

MOVES = {
    "both there": Settings(away=""),
    "servers away": Settings(),
    "two operators": Settings(away="", operators=2),
    "a node joins": Settings(away="", joins=True),
    "a node joins, A may be lost": Settings(away="", joins=True, lost="A"),
    "A may be lost": Settings(away="", lost="A"),
    "B away, A may be lost": Settings(away="B", lost="A"),
    "B may be lost": Settings(away="", lost="B"),
    "A is set back": Settings(away="", restore="A"),
    "B is set back": Settings(away="", restore="B"),
    "somebody writes on A": Settings(away="", writer="A"),
    "somebody writes on B": Settings(away="", writer="B"),
    "somebody writes on B, A may be lost": Settings(away="", writer="B", lost="A"),
    "somebody writes on B, A away shortly": Settings(away="A", writer="B", brief=True),
}
LARGE = {
    "A is away and called lost": Settings(away="A", mistaken=True),
    "B is away and called lost": Settings(away="B", mistaken=True),
    "B away, A is set back": Settings(away="B", restore="A"),
    "A away, B is set back": Settings(away="A", restore="B"),
    "A away, B may be lost": Settings(away="A", lost="B"),
    "two operators, A away": Settings(away="A", operators=2),
    "two operators, B away": Settings(away="B", operators=2),
    "a node joins, servers away": Settings(joins=True),
    "somebody writes on A, B may be lost": Settings(away="", writer="A", lost="B"),
    "somebody writes on A, B away shortly": Settings(away="B", writer="A", brief=True),
    "somebody writes higher records on A, B away shortly": Settings(away="B", writer="A", forges=True, brief=True),
    "somebody writes higher records on B, A away shortly": Settings(away="A", writer="B", forges=True, brief=True),
    "somebody writes on B, A away": Settings(away="A", writer="B"),
    "somebody writes on B, A away and called lost": Settings(away="A", writer="B", mistaken=True),
}
NEEDED = {
    "both there": {"leafword": "I1", "level": "I4", "retrust": "I1"},
    "servers away": {"echo": "I1", "memory": "I1", "level": "I1"},
    "two operators": {"seat": "I1"},
    "a node joins, A may be lost": {"counted": "I1"},
    "B away, A may be lost": {"known": "I4"},
    "A is set back": {"memory": "I1", "recover": "I1", "kept": "I1"},
    "B is set back": {"stay": "I3", "parked": "I3"},
    "somebody writes on A": {"tried": "I5"},
    "somebody writes on B": {"tried": "I5"},
    "somebody writes on B, A away shortly": {"three": "I5"},
    "somebody writes on B, A away and called lost": {"heeded": "I1"},
    "B away, A is set back": {"passed": "I1"},
    "A is away and called lost": {"told": "I1", "met": "I1", "jump": "I1"},
}
"""The rules without which each of these breaks, and which promise is broken first."""

HAND_OVER_NEEDED = {
    "signed": (NODES[0], "J1"),
    "number": (NODES[0], "J1"),
    "floor": (NODES[1], "J1"),
    "short": (NODES[2], "J1"),
    "closed": (NODES[0], "J1"),
    "own": (NODES[0], "J2"),
    "vouch": (NODES[0], "J4"),
    "proof": (NODES[0], "J3"),
}
"""Each rule with a node that is led astray without it, once R1's key is stolen, and what is broken then."""
LOSS_NEEDED = {"pinned": "I1", "kept": "I1", "listed": "I1", "in place": "I2", "quiet": "I1", "in time": "I2"}


def tries() -> Iterator[Try]:
    """Yield every exploration but those of `large`; each is given a limit of states."""
    for name, s in MOVES.items():
        yield _move(name, s)
    every = {**MOVES, **LARGE}
    for name, broken in NEEDED.items():
        for rule, promise in broken.items():
            yield _move(name, every[name], rule, promise)
    for who in NODES:
        yield _hand_over(who, stolen=False)
        yield _hand_over(who, stolen=True)
    for rule, (who, promise) in HAND_OVER_NEEDED.items():
        yield _hand_over(who, rule, promise, stolen=True)
    yield _loss()
    yield _loss(by_hand=True)
    for rule, promise in LOSS_NEEDED.items():
        yield _loss(rule, promise, by_hand=rule == "quiet")


def large() -> Iterator[Try]:
    """Yield the explorations that take minutes."""
    for name, s in LARGE.items():
        yield _move(name, s)._replace(title=f"large move: {name}: all rules")


def _rules(rule: str) -> str:
    return f"without {rule}" if rule else "all rules"


def _move(name: str, s: Settings, rule: str = "", breaks: str = "") -> Try:
    left = s._replace(rules=ALL - {rule})
    return Try(f"move: {name}: {_rules(rule)}", not breaks, lambda limit: move(left, limit), breaks)


def _hand_over(who: str, rule: str = "", breaks: str = "", *, stolen: bool) -> Try:
    rules = frozenset(HAND_OVER_RULES) - {rule}
    title = f"hand-over: a node {who}{', R1 stolen later' if stolen else ''}: {_rules(rule)}"
    return Try(title, not breaks, lambda limit: hand_over(rules, who, stolen=stolen, limit=limit), breaks)


def _loss(rule: str = "", breaks: str = "", *, by_hand: bool = False) -> Try:
    rules = frozenset(LOSS_RULES) - {rule} - ({"kept", *IDLE_LOSS} if by_hand else set())
    title = f"loss: {'by hand: ' if by_hand else ''}{_rules(rule)}"
    return Try(title, not breaks, lambda limit: loss(rules, by_hand=by_hand, limit=limit), breaks)
