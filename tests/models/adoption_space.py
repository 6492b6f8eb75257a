"""Explores the model of an adoption: what must never be, where every way must lead, and several CAs on one machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from models.adoption import Settings, World, beginning
from models.adoption_moves import machines, operate
from models.adoption_tables import BACK, FREE, LEAF, LEAF_STEPS, NAMES, NEW, OLD, SHORT, TRUST, TRUST_STEPS
from models.explore import Found, Goal, explore


def wrong(w: World, s: Settings) -> str | None:
    """Return what must never be: somebody is refused, or the old CA is trusted after the end."""
    live = [(i, n) for i, n in enumerate(w.nodes) if n.up == "+"]
    for i, server in live:
        if s.roles[i] not in "mek":
            continue
        if w.outside and not (w.outside[0] & server.leaf and w.outside[1] & server.mem):
            held = f"{NAMES[w.outside[0]]} and a pair of {NAMES[w.outside[1]]}"
            return f"I1: the kubeconfig outside has {held}, node {i + 1} {NAMES[server.mem]} and {NAMES[server.leaf]}"
        for pod in w.pods:
            if not pod & server.leaf:
                return f"I1: a pod that holds {NAMES[pod]} refuses node {i + 1}, which serves {NAMES[server.leaf]}"
        for k, peer in live:
            if not peer.show & server.mem:
                return f"I1: node {k + 1} shows a leaf of {NAMES[peer.show]}, node {i + 1} trusts {NAMES[server.mem]}"
            if not server.leaf & peer.mem:
                return f"I1: node {i + 1} serves a leaf of {NAMES[server.leaf]}, node {k + 1} trusts {NAMES[peer.mem]}"
    if w.phase == "D" and any(n.mem & OLD for _, n in live):
        return "I2: done, and a node still trusts O"
    return None


def canonical(w: World) -> World:
    return w._replace(nodes=tuple(n._replace(view="") if n.view == w.phase else n for n in w.nodes))


def settled(w: World, s: Settings, phase: str) -> bool:
    """Return whether all have come to rest in a state."""
    if w.phase != phase or w.op or w.info != TRUST[phase] or (w.pods and w.pods != {TRUST[phase]}):
        return False
    if w.outside and w.outside != (TRUST[phase], LEAF[phase]):
        return False
    for n, role in zip(w.nodes, s.roles, strict=True):
        if n.up != "+":
            continue
        if not n.disk == n.mem == n.leaf == n.show == TRUST[phase] or n.view:
            return False
        kube = s.reads == "late"
        if phase == "P" and kube and ((role in "mk" and (n.key != "p" or not n.sig)) or (role in "wj" and not n.rot)):
            return False
        if phase == "D" and (n.key not in ("", "-") or n.kept or n.sig or n.rot):
            return False
    return True


def adoption(s: Settings, limit: int) -> Found:
    """Explore one adoption: from every world it must be possible to go home and to be done."""

    def may_go_home(w: World) -> bool:
        return w.phase != "D" and not (s.loses and any(n.key == "-" for n in w.nodes))

    def home(w: World) -> bool:
        return settled(w, s, "P")

    def done(w: World) -> bool:
        return settled(w, s, "D")

    goals: tuple[Goal, ...] = (("I5: no way to done or home", lambda w: done(w) or home(w), lambda w: True),)
    goals += (("I3: no way home", home, may_go_home),) if s.back else ()
    goals += (("I4: no way to done", done, lambda w: True),)
    return explore(
        beginning(s),
        lambda w: (*operate(w, s), *machines(w, s)),
        lambda w: wrong(w, s),
        limit=limit,
        goals=goals,
        canonical=canonical,
    )


def domains(how: str, count: int = 2, machines: int = 2) -> tuple[Found, int]:
    """Explore several CAs on the same machines, of which one restart reads every CA; also the fewest restarts to done.

    `how`: together (one state for all), in turn (the next begins when the one before is done), free (each when it
    likes). A node has for each CA trust on disk, trust in memory, and the leaf. All readers read at their start alone,
    and reports tell the truth: lags are explored in `adoption`.
    """
    first = ("P" * count, ((((OLD, OLD, OLD),) * count),) * machines)

    def ready(w: Any, d: int, to: str) -> bool:
        step = w[0][d] + to
        if step in FREE:
            return True
        trust, leaf = TRUST_STEPS.get(step, 0), LEAF_STEPS.get(step, 0)
        want = (trust, trust, leaf)
        return all(have == wish or not wish for node in w[1] for have, wish in zip(node[d], want, strict=True))

    def successors(w: Any) -> Iterator[tuple[str, Any]]:
        phases, nodes = w
        for word, table in (("continue", SHORT), ("abort", BACK)):
            if how == "together":
                to = table.get(phases[0])
                if to and all(ready(w, d, to) for d in range(count)):
                    yield f"{word}: all {to}", (to * count, nodes)
                continue
            for d in range(count):
                to = table.get(phases[d])
                if how == "in turn" and any(p not in "PD" for k, p in enumerate(phases) if k != d):
                    continue
                if to and ready(w, d, to):
                    yield f"{word}: CA {d + 1} {to}", (phases[:d] + to + phases[d + 1 :], nodes)
        for i, node in enumerate(nodes):
            for d in range(count):
                new = (TRUST[phases[d]], node[d][1], LEAF[phases[d]])
                if new != node[d]:
                    after = (*node[:d], new, *node[d + 1 :])
                    yield f"node {i + 1} follows CA {d + 1}", (phases, (*nodes[:i], after, *nodes[i + 1 :]))
            started = tuple((disk, disk, leaf) for disk, _, leaf in node)
            if started != node:
                yield f"node {i + 1} restarts", (phases, (*nodes[:i], started, *nodes[i + 1 :]))

    def bad(w: Any) -> str | None:
        for d in range(count):
            for i, server in enumerate(w[1]):
                for k, peer in enumerate(w[1]):
                    if not peer[d][2] & server[d][1]:
                        return f"I1: CA {d + 1}: node {i + 1} refuses node {k + 1}"
        return None

    def canon(w: Any) -> Any:
        return (w[0], tuple(sorted(w[1])))

    def done(w: Any) -> bool:
        return w[0] == "D" * count and all(ca == (NEW, NEW, NEW) for node in w[1] for ca in node)

    def home(w: Any) -> bool:
        return w[0] == "P" * count and all(ca == (OLD, OLD, OLD) for node in w[1] for ca in node)

    goals: tuple[Goal, ...] = (("I3: no way home", home, lambda w: "D" not in w[0]),)
    goals += (("I4: no way to done", done, lambda w: True),)
    found = explore(first, successors, bad, goals=goals, canonical=canon)
    cost: dict[Any, int] = {first: 0}
    queue: deque[Any] = deque([first])
    while queue:
        w = queue.popleft()
        if done(w):
            return found, cost[w]
        for label, made in successors(w):
            after, more = canon(made), label.endswith("restarts")
            if not label.startswith("abort") and cost[w] + more < cost.get(after, 10**6):
                cost[after] = cost[w] + more
                (queue.append if more else queue.appendleft)(after)
    return found, -1


# ---------------------------------------------------------------------------------------------------------------------
