"""Explores the model of service-account keys: what must never be, and where every way must lead."""

from __future__ import annotations

from models.explore import Found, Goal, explore
from models.service_account import ROGUE, SHARED, Case, World, accepted, beginning, names, new_key, old_key
from models.service_account_moves import machines, operate, together


def wrong(c: Case, w: World) -> str | None:
    """Return what must never be: a token is refused, a stranger's is accepted, or a key is on two machines."""
    live = [(i, n) for i, n in enumerate(w.nodes) if n.up == "+"]
    if not live and not c.removes:
        return "K4: no API server serves"
    for i, n in live:
        missing = w.alive & ~n.mem & ~w.stolen
        if missing:
            return f"K1: node {i + 1} refuses tokens signed with {names(c, missing)}"
        if n.mem & ROGUE:
            return f"K3: node {i + 1} accepts tokens signed with a stranger's key ({w.rogue})"
        for k, m in live:
            if k != i and m.using == n.using != SHARED:
                return f"K2: {names(c, n.using)} lies on node {i + 1} and on node {k + 1}"
    return None


def settled(c: Case, w: World, phase: str) -> bool:
    """Return whether all have come to rest in a state."""
    if w.phase != phase or w.op:
        return False
    want = SHARED if c.shared else 0
    for n in w.nodes:
        want |= n.pub if n.up in "wg+." else 0
    want &= accepted(c, phase)
    for i, n in enumerate(w.nodes):
        if n.up in "wg." or n.view:
            return False
        key = old_key(c, i) if phase == "0" else new_key(c, i)
        if n.up == "+" and not (n.disk == n.mem == want and n.sign == n.using == key):
            return False
        if n.up == "+" and phase == "D" and n.old:
            return False
    return True


def canonical(w: World) -> World:
    return w._replace(nodes=tuple(n._replace(view="") if n.view == w.phase else n for n in w.nodes))


def key_model(c: Case, limit: int) -> Found:
    """Explore one rotation of keys: from every world it must be possible to go home and to be done."""
    goals: tuple[Goal, ...] = (
        ("I3: no way home", lambda w: settled(c, w, "0"), lambda w: w.phase != "D"),
        ("I4: no way to done", lambda w: settled(c, w, "D"), lambda w: True),
    )
    return explore(
        beginning(c),
        lambda w: (*operate(c, w), *machines(c, w), *together(c, w)),
        lambda w: wrong(c, w),
        limit=limit,
        goals=goals,
        canonical=canonical,
    )
