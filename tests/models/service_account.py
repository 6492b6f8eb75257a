"""The model of service-account keys: every control-plane node signs tokens with a key that never leaves it.

It accepts tokens of all keys that are certified. Keys are bits: of each node the present one and the next one; before
own keys there is one that all share. Time is left out but for the action `the longest life of tokens passes`.
"""

from __future__ import annotations

from typing import NamedTuple

from models.service_account_tables import ACCEPT, ALL, DELETED, MAKES, NEW, OLD, SIGN

SHARED = 1
ROGUE = 1 << 30
"""The bit of a key that a writer of records puts in."""


class Server(NamedTuple):
    up: str  # - away, w has made keys and waits, g may start, + serves, . restarts, x removed
    pub: int  # its certificates in the record
    disk: int  # key file
    sign: int  # signing key on disk
    mem: int
    using: int
    old: bool  # its old private key is still there
    said: tuple[int, int, int] | None  # keys that file and memory both hold, that either holds, the key it signs with
    fresh: bool
    view: str  # the state that a pass under way had read, "" for none or the present one


class World(NamedTuple):
    phase: str
    nodes: tuple[Server, ...]
    op: str | None  # the state that an operator is about to write
    alive: int  # keys with tokens within their life
    aged: bool  # the longest life has passed since every server was reported to sign as it should
    dropped: int  # keys of removed nodes that the record takes out
    stolen: int
    rogue: str  # what a writer of records put in: "", self-signed, worker


class Case(NamedTuple):
    nodes: int = 2
    shared: bool = False  # begins with kubeadm's sa.key
    joins: bool = False  # the last node is away at first
    single: bool = False  # that node makes one key, which is its old and its new one
    removes: bool = False  # the last node may be removed, or locked as stolen
    rogue: bool = False
    lost: bool = False  # records may be unreadable for a pass
    turns: bool = False  # restarts take time; else they are steps of their own and happen at any moment
    late: bool = True  # passes may read first and write later
    rules: frozenset[str] = ALL


def old_key(c: Case, i: int) -> int:
    if c.single and guest(c, i):
        return new_key(c, i)
    return SHARED if c.shared else 2 << i


def new_key(c: Case, i: int) -> int:
    return 2 << (c.nodes + i)


def both_keys(c: Case, i: int) -> int:
    """Return the keys of a node that are its own."""
    return (old_key(c, i) | new_key(c, i)) & ~SHARED


def olds(c: Case) -> int:
    return sum({old_key(c, i) for i in range(c.nodes)})


def news(c: Case) -> int:
    return sum(new_key(c, i) for i in range(c.nodes))


def given_up(c: Case) -> int:
    """Return the keys that count no more when a rotation is done."""
    return olds(c) & ~news(c)


def only_new(c: Case) -> int:
    """Return the keys that count no more when a rotation is taken back."""
    return news(c) & ~olds(c)


def accepted(c: Case, phase: str) -> int:
    """Return all keys that a state has API servers accept."""
    side = ACCEPT[phase]
    return (olds(c) if side & OLD else 0) | (news(c) if side & NEW else 0)


def names(c: Case, keys: int) -> str:
    parts = ["sa.key"] if c.shared and keys & SHARED else []
    parts += [f"old {i + 1}" for i in range(c.nodes) if not c.shared and keys & old_key(c, i)]
    parts += [f"next {i + 1}" for i in range(c.nodes) if keys & new_key(c, i)]
    parts += ["a stranger's"] if keys & ROGUE else []
    return ", ".join(parts) or "none"


def beginning(c: Case) -> World:
    there = c.nodes - c.joins
    every = sum({old_key(c, i) for i in range(there)})
    nodes = []
    for i in range(there):
        key = old_key(c, i)
        nodes.append(Server("+", 0 if c.shared else key, every, key, every, key, True, None, False, ""))
    nodes += [Server("-", 0, 0, 0, 0, 0, not c.shared, None, False, "")] * c.joins
    return World("0", tuple(nodes), None, every, False, 0, 0, "")


def guest(c: Case, i: int) -> bool:
    """Return whether a node is the one that joins."""
    return c.joins and i == c.nodes - 1


def mine(c: Case, i: int, phase: str) -> int:
    """Return the keys that a node makes and has certified in a state."""
    makes = MAKES[phase]
    if guest(c, i):
        if c.shared:  # sa.key is not copied to it
            return new_key(c, i)
        if "both" not in c.rules and phase != "U":
            makes = SIGN[phase] if phase != "B" else OLD | NEW
    return (old_key(c, i) if makes & OLD else 0) | (new_key(c, i) if makes & NEW else 0)


def passed(c: Case, w: World, i: int, phase: str, lost: int) -> Server:
    """Return what an agent that had read the state `phase` leaves behind; the record of node `lost` was unreadable."""
    n = w.nodes[i]
    pub = (n.pub | mine(c, i, phase)) & accepted(c, phase) & ~SHARED
    seen = pub | (SHARED if c.shared else 0)
    for k, other in enumerate(w.nodes):
        if k not in (i, lost):
            seen |= other.pub
    unchecked = {"self-signed": "certified", "worker": "listed"}
    if w.rogue and unchecked[w.rogue] not in c.rules:
        seen |= ROGUE
    disk = ((n.disk | seen) if "word" in c.rules else seen) & (accepted(c, phase) | ROGUE) & ~w.dropped
    kept = n.old and phase not in DELETED and (phase != "R" or "last" in c.rules)
    later = SIGN[phase] == NEW or ("signword" not in c.rules and phase == "U")
    sign = new_key(c, i) if later else old_key(c, i) if n.old else n.sign
    if n.up in "wg" and not sign & pub and not c.shared:
        sign = pub & new_key(c, i) or pub & old_key(c, i)
    return n._replace(pub=pub, disk=disk, sign=sign, old=kept, view="")


def here(w: World) -> list[int]:
    return [i for i, n in enumerate(w.nodes) if n.up in "wg+."]
