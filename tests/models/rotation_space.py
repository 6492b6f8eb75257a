"""Explores the model of a rotation: its worlds as numbers, and what each server or node may do worked out once.

A world is the number of its server and those of its nodes. Worlds from which the same can happen are one: nodes of one
kind are interchangeable, and so are operators; what nothing will ask for any more is left out.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

from models import rotation_moves as moves
from models.explore import LIMIT, Found, Label, explore, text
from models.rotation import (
    Node,
    Server,
    Settings,
    World,
    asked_for,
    beginning,
    node_at_rest,
    server_at_rest,
    shows,
    wrong,
)

State = tuple[int, ...]


class Memo(dict[Any, Any]):
    """What a function says of each value, worked out once."""

    def __init__(self, of: Callable[[Any], Any]) -> None:
        super().__init__()
        self.of = of

    def __missing__(self, key: Any) -> Any:
        self[key] = found = self.of(key)
        return found


class Space:
    """The worlds of one setting."""

    def __init__(self, s: Settings) -> None:
        self.s = s
        self.servers: list[Server] = []
        self.nodes: list[tuple[int, Node]] = []
        self._number = Memo(self._new_server)
        self._node = Memo(self._new_node)
        # By the server's number: what nodes see of it, which is the number of the first such server.
        self._sight: list[int] = []
        self._sights: dict[tuple[Any, ...], int] = {}
        self._told = Memo(lambda phase: Memo(lambda a: moves.told(self.nodes[a][1], self.nodes[a][0], phase, s)))
        self._operate = Memo(lambda v: Memo(lambda found: self._operators(v, found)))
        self._admin = Memo(self._administer)
        self._node_moves = Memo(lambda v: Memo(lambda a: self._moves(v, a)))
        self._later = Memo(lambda v: Memo(lambda a: self._tidy(moves.settle(self.nodes[a][1]), self.nodes[a][0], v)))
        self._effects = Memo(lambda key: Memo(lambda a: self._afterwards(key, a)))
        self._asked = Memo(lambda key: Memo(lambda a: self._asked_for(key[0], a, recovers=key[1])))
        self._always = s.claims and s.liars > 0
        alike = (0, s.plain), (len(s.kinds) - s.liars, len(s.kinds))
        self._alike = [(begin, end) for begin, end in alike if end - begin > 1]
        self._ahead = Memo(lambda a: self.nodes[a][1].ahead > 0)
        self._shows = Memo(lambda a: shows(self.nodes[a][1], self.nodes[a][0], s))
        self._rests = Memo(lambda phase: Memo(lambda a: node_at_rest(self.nodes[a][1], self.nodes[a][0], phase, s)))

    def first(self) -> State:
        return self.state(beginning(self.s))

    def state(self, w: World) -> State:
        """Return the numbers of a world."""
        v = self._server(w.server)
        return self._sorted(v, [self._tidy(n, k, v) for n, k in zip(w.nodes, self.s.kinds, strict=True)])

    def world(self, state: State) -> World:
        return World(self.servers[state[0]], tuple(self.nodes[a][1] for a in state[1:]))

    def successors(self, state: State) -> Iterator[tuple[Label, State]]:
        """Yield all that may happen next."""
        s, v, nodes = self.s, state[0], state[1:]
        server = self.servers[v]
        told, found = self._told[server.phase], 0
        for a in nodes:
            found |= told[a]
        for label, after, effect in self._operate[v][found]:
            if effect is None:
                yield label, self._sorted(after, nodes)
            else:
                effects = self._effects[effect]
                for each in itertools.product(*[effects[a] for a in nodes]):
                    yield label, self._sorted(after, each)
        own = self._node_moves[self._sight[v]]
        for i, a in enumerate(nodes):
            for label, after in own[a]:
                yield (i + 1, label), self._sorted(v, (*nodes[:i], after, *nodes[i + 1 :]))
        if s.reads == "late":
            later = self._later[self._sight[v]]
            yield "five minutes pass", self._sorted(v, [later[a] for a in nodes])
        if s.admin:
            for label, after in self._admin[v]:
                yield label, (after, *nodes)
        if s.apply or s.forged or s.restore:
            for label, world in moves.accidents(self.world(state), s):
                yield label, self.state(world)

    def bad(self, state: State) -> str | None:
        """Return how the world breaks an invariant."""
        return wrong(self.servers[state[0]], [self._shows[a] for a in state[1:]], self.s)

    def at_rest(self, state: State, phases: str) -> bool:
        """Return whether a rotation has ended in one of `phases`, on the server and on every node that counts."""
        server = self.servers[state[0]]
        if not server_at_rest(server, phases):
            return False
        rests = self._rests[server.phase]
        return all(rests[a] for a in state[1:])

    def _sorted(self, v: int, nodes: Any) -> State:
        recovers = self._always or self._recovers(self.servers[v]) or any(map(self._ahead.__getitem__, nodes))
        asked = self._asked[self._sight[v], recovers]
        found = [asked[a] for a in nodes]
        for begin, end in self._alike:
            found[begin:end] = sorted(found[begin:end])
        return (v, *found)

    def _recovers(self, server: Server) -> bool:
        """Return whether a recovery may read what is reported now, though no node has seen a newer record yet."""
        return (self.s.stale or self.s.forged) and server.snapshot != "used"

    def _asked_for(self, v: int, a: int, *, recovers: bool) -> int:
        kind, node = self.nodes[a]
        number: int = self._node[kind, asked_for(node, kind, self.servers[v].phase, self.s, recovers=recovers)]
        return number

    def _server(self, server: Server) -> int:
        """Return the number of a server; its operators are interchangeable."""
        number: int = self._number[server._replace(operators=tuple(sorted(server.operators, key=repr)))]
        return number

    def _new_server(self, server: Server) -> int:
        v = len(self.servers)
        self.servers.append(server)
        self._sight.append(self._sights.setdefault((server.old, server.new, server.default, server.phase), v))
        return v

    def _new_node(self, key: tuple[int, Node]) -> int:
        self.nodes.append(key)
        return len(self.nodes) - 1

    def _operators(self, v: int, found: int) -> list[tuple[str, int, tuple[int, int, str] | None]]:
        out = []
        for label, server, effect in moves.operate(self.servers[v], found, self.s):
            for each in moves.early_admin(self.servers[v], server):
                after = self._server(each)
                key = self._sight[v], self._sight[after], effect
                out.append((label, after, key if effect or key[0] != key[1] else None))
        return out

    def _administer(self, v: int) -> list[tuple[str, int]]:
        return [(label, self._server(after)) for label, after in moves.administer(self.servers[v], self.s)]

    def _moves(self, v: int, a: int) -> list[tuple[str, int]]:
        kind, node = self.nodes[a]
        before = ", which had read before: " if node.view else ": "
        return [
            (before + label, after)
            for label, each in moves.node_moves(node, kind, self.servers[v], self.s)
            if (after := self._tidy(each, kind, v)) != a
        ]

    def _afterwards(self, key: tuple[int, int, str], a: int) -> list[int]:
        (before, after, effect), (kind, node) = key, self.nodes[a]
        found = moves.afterwards(node, kind, self.servers[before], self.servers[after], effect, self.s)
        return list(dict.fromkeys(self._tidy(each, kind, after) for each in found))

    def _tidy(self, n: Node, i: int, v: int) -> int:
        """Return the number of a node, without what says nothing: a pass that would read the same now."""
        if n.view and n.view == moves.view(n, i, self.servers[v], self.s):
            n = n._replace(view=None)
        n = n._replace(follows=0, client=0) if self.s.reads == "start" else n._replace(started=0)
        number: int = self._node[i, n]
        return number


def run(s: Settings, *, live: bool = False, limit: int = LIMIT) -> Found:
    """Explore one setting; with `live` also whether every state has a way to an end."""
    space = Space(s)
    aborts = live and s.back and not s.restore
    return explore(
        space.first(),
        space.successors,
        space.bad,
        (lambda w: space.at_rest(w, "0D")) if live else None,
        ((lambda w: space.at_rest(w, "0"), lambda w: space.servers[w[0]].phase != "D")) if aborts else None,
        limit,
    )


def walk(s: Settings, walks: int, length: int, seed: int = 1) -> Found:
    """Walk at random, for sizes that cannot be explored whole; operators act more seldom than their share of steps."""
    chance = random.Random(seed)  # noqa: S311 - the same walks each time
    space, seen = Space(s), 0
    for _ in range(walks):
        w, trace = space.first(), list[Label]()
        for _ in range(length):
            options = list(space.successors(w))
            if not options:
                break
            label, w = chance.choice(options)
            trace.append(label)
            seen += 1
            said = space.bad(w)
            if said:
                return Found(seen, said, [text(each) for each in trace], None, False)
    return Found(seen, None, [], None, False)
