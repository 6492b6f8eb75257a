"""What the operator, the nodes and a writer of records can do in the model of service-account keys."""

from __future__ import annotations

from collections.abc import Iterator

from models.service_account import (
    SHARED,
    Case,
    Server,
    World,
    accepted,
    both_keys,
    given_up,
    here,
    mine,
    names,
    new_key,
    old_key,
    olds,
    only_new,
    passed,
)
from models.service_account_tables import (
    ACCEPT_STEPS,
    BACK,
    BOTH,
    FORWARD,
    FREE,
    HOME,
    LIFE_STEPS,
    NEW,
    SIGN,
    SIGN_STEPS,
)

Move = tuple[str, World]


def satisfied(c: Case, w: World, step: str) -> bool:
    """Return whether the reports satisfy a step."""
    for i in here(w):
        n = w.nodes[i]
        if "counted" not in c.rules and not n.said:
            continue
        if not n.said or not n.fresh:
            return False
        both, either, using = n.said
        if ACCEPT_STEPS.get(step) == BOTH and not _loaded(c, w, both):
            return False
        if ACCEPT_STEPS.get(step) == NEW and either & given_up(c):
            return False
        if step in SIGN_STEPS and using != (new_key if SIGN_STEPS[step] == NEW else old_key)(c, i):
            return False
    return True


def _loaded(c: Case, w: World, held: int) -> bool:
    """Return whether every node has published both keys, and `held` are all of them."""
    wanted = olds(c) & SHARED
    for k in here(w):
        pub = w.nodes[k].pub
        if not pub & new_key(c, k) or not (c.shared or pub & old_key(c, k)):
            return False
        wanted |= pub
    return not wanted & ~held


def gate(c: Case, w: World, to: str) -> bool:
    step = w.phase + to
    if step in HOME and "guest" in c.rules and (w.alive & only_new(c) or not all(w.nodes[i].old for i in here(w))):
        return False
    if step in FREE or (step in ("TS", "TB") and "retrust" not in c.rules):
        return True
    if step in LIFE_STEPS and "life" in c.rules and not w.aged:
        return False
    return satisfied(c, w, step)


def operate(c: Case, w: World) -> Iterator[Move]:
    """Yield what the operator's commands do."""
    if w.op:
        yield "operator: killed", w._replace(op=None)
        nodes = tuple(n._replace(said=None, fresh=False) if "echo" in c.rules else n for n in w.nodes)
        choices: list[tuple[Server, ...]] = [()]
        for n in nodes:
            held = (n, n._replace(view=w.phase)) if c.late and n.up in "wg+." and not n.view else (n,)
            choices = [(*each, one) for each in choices for one in held]
        for each in choices:
            yield f"operator: the record says {w.op}", w._replace(phase=w.op, nodes=each, op=None, aged=False)
        return
    for word, table in (("continue", FORWARD), ("abort", BACK)):
        to = table.get(w.phase)
        if to and gate(c, w, to):
            yield f"operator: {word}, the gate {w.phase}->{to} is open", w._replace(op=to)
    for i, n in enumerate(w.nodes):
        its = both_keys(c, i) if "name" in c.rules else n.pub
        ended = "linger" not in c.rules or its & w.stolen or not its & w.alive
        if n.up == "x" and its & ~w.dropped and ended:
            what = f"operator: the record takes out the certificates of node {i + 1}"
            yield what, w._replace(dropped=w.dropped | its)


def machines(c: Case, w: World) -> Iterator[Move]:
    """Yield what nodes do, and what happens to them."""
    for i, n in enumerate(w.nodes):
        if n.up == "-":
            yield from _joins(c, w, i)
        elif n.up != "x":
            yield from _passes(c, w, i)
            yield from _starts(c, w, i)


def _with(w: World, i: int, node: Server) -> World:
    return w._replace(nodes=(*w.nodes[:i], node, *w.nodes[i + 1 :]))


def _joins(c: Case, w: World, i: int) -> Iterator[Move]:
    if c.shared and w.phase == "0":
        return
    made = mine(c, i, w.phase)
    sign = new_key(c, i) if SIGN[w.phase] == NEW or c.shared else old_key(c, i)
    what = f"node {i + 1}: joins, makes {names(c, made)} and waits"
    yield what, _with(w, i, w.nodes[i]._replace(up="w", pub=made, sign=sign))
    if "own" not in c.rules:
        copied = w.nodes[0]._replace(said=None, fresh=False, view="")
        yield f"node {i + 1}: joins with the sa.key of node 1", _with(w, i, copied)


def _passes(c: Case, w: World, i: int) -> Iterator[Move]:
    n = w.nodes[i]
    phase = n.view or w.phase
    unreadable = [k for k in range(c.nodes) if k != i and w.nodes[k].pub] if c.lost else []
    for lost in (-1, *unreadable):
        node = passed(c, w, i, phase, lost)
        late = f", which had read {phase}" if n.view else ""
        what = f"node {i + 1}{late}: accepts {names(c, node.disk)}; signs with {names(c, node.sign)} on disk"
        what += f" (the record of node {lost + 1} could not be read)" if lost >= 0 else ""
        if node != n:
            yield f"{what}, report lost", _with(w, i, node)
        if n.up == "+":
            fresh = phase == w.phase or "echo" not in c.rules
            yield f"{what}, reports", _with(w, i, node._replace(said=_said(c, node) if fresh else None, fresh=fresh))
    if c.removes and i == c.nodes - 1:
        gone = _with(w, i, n._replace(up="x", said=None, fresh=False, view=""))
        yield f"node {i + 1}: is removed", gone
        yield f"node {i + 1}: is stolen and locked", gone._replace(stolen=w.stolen | both_keys(c, i))


def _said(c: Case, n: Server) -> tuple[int, int, int]:
    if "disk" not in c.rules:
        both, using = n.mem, n.using
    else:
        both, using = n.mem & n.disk, n.using if n.using == n.sign else 0
    either = n.mem | n.disk
    if "started" not in c.rules:
        both, either = n.disk if "disk" in c.rules else n.mem, n.disk
    return both, either, using if "used" in c.rules else n.sign


def _starts(c: Case, w: World, i: int) -> Iterator[Move]:
    n = w.nodes[i]
    # Whoever runs with a key may issue tokens with it at once.
    up = _with(w, i, n._replace(up="+", mem=n.disk, using=n.sign))._replace(alive=w.alive | n.sign)
    reads = f"accepts {names(c, n.disk)}, signs with {names(c, n.sign)}"
    if n.up == ".":
        yield f"node {i + 1}: is back, {reads}", up
    elif n.up in "wg":
        known = "admit" not in c.rules or _known(w, i)
        if n.up == "w" and known and "grant" in c.rules:
            # The record's write makes a step that was decided before fail.
            let = _with(w, i, n._replace(up="g"))._replace(op=None)
            yield f"operator: the record lets node {i + 1} start", let
        full = "full" not in c.rules or not _listed(w) & accepted(c, w.phase) & ~n.disk
        if full and not n.view and (n.up == "g" or (known and "grant" not in c.rules)):
            yield f"node {i + 1}: its API server starts", up
    elif up.nodes[i] != n:
        if not c.turns:
            yield f"node {i + 1}: restarts, {reads}", up
        elif "turns" not in c.rules or not any(m.up == "." for m in w.nodes):
            yield f"node {i + 1}: goes down", _with(w, i, n._replace(up="."))


def _known(w: World, i: int) -> bool:
    """Return whether every API server that runs has reported that it was started with a node's certificates."""
    n = w.nodes[i]
    others = [m for k, m in enumerate(w.nodes) if k != i and m.up in "+."]
    return all(m.said and m.fresh and not (n.pub | n.sign) & ~m.said[0] for m in others)


def _listed(w: World) -> int:
    keys = 0
    for m in w.nodes:
        keys |= m.pub if m.up in "wg+." else m.pub & ~w.dropped
    return keys


def together(c: Case, w: World) -> Iterator[Move]:
    """Yield what a writer of records does, and that time passes."""
    if c.rogue and not w.rogue:
        yield "a writer of records puts in a key of its own", w._replace(rogue="self-signed")
        yield "a worker's certificate of this CA is put in", w._replace(rogue="worker")
    used = 0
    for n in w.nodes:
        used |= n.using if n.up == "+" else 0
    step = {"S": "SR", "B": "B0"}.get(w.phase)
    right = step is not None and ("since" not in c.rules or satisfied(c, w, step))
    if used != w.alive or (right and not w.aged):
        yield "the longest life of tokens passes", w._replace(alive=used, aged=w.aged or right)
