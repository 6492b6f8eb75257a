"""Two smaller models: the restart order of etcd members, and the renewal of a CA certificate for the same key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from models.explore import Found, explore

OWES, HOOKED, RESTARTS, RUNS, HEALTHY = range(5)


def quorum(
    *,
    turns: bool,
    seen: str = "both",
    look: bool = True,
    liar: bool = False,
    excused: int = 0,
    down: bool = False,
    all_: bool = True,
) -> Found:
    """Explore how three members of etcd restart: with `turns` one at a time, by the record.

    Each member owes a restart; then its hook has succeeded, and the old process runs still; then it restarts, runs
    without being in sync, and is healthy. The next one has the turn once the one before was `seen` with a later start,
    in good health, or both; "hook" takes the hook's success for that. A `liar` says that it is healthy as soon as it
    restarts; a `look` at its listener, which answers once it is in sync, shows it. `excused` members trust only the old
    CA and so are cut off from their peers. With `down` one restarts by itself at the beginning; with `all_` nobody has
    the turn until every member is healthy, not only the one that had it before.
    """

    def done(i: int, m: int) -> bool:
        said = {
            "hook": m >= HOOKED,
            "start": m >= RESTARTS,
            "health": m in (HOOKED, HEALTHY),
            "both": m == HEALTHY,
        }[seen]
        if liar and i == 0:
            return m >= RESTARTS and (m == HEALTHY or not look)
        return said

    def successors(w: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
        for i, m in enumerate(w):
            if m == OWES and (
                not turns
                or all(x == OWES or done(j, x) for j, x in enumerate(w) if j != i and (all_ or not down or j != 0))
            ):
                yield f"the hook of member {i + 1} succeeds", (*w[:i], HOOKED, *w[i + 1 :])
            elif OWES < m < HEALTHY:
                what = ("restarts", "is up", "is in sync")[m - 1]
                yield f"member {i + 1} {what}", (*w[:i], m + 1, *w[i + 1 :])

    def bad(w: tuple[int, ...]) -> str | None:
        serving = sum(m in (OWES, HOOKED, HEALTHY) for m in w[excused:])
        return f"no quorum: {serving} of {len(w)} members serve" if serving <= len(w) // 2 else None

    return explore((RESTARTS if down else OWES, OWES, OWES), successors, bad, lambda w: all(m == HEALTHY for m in w))


def same_key(*, wait_restart: bool, wait_sent: bool, in_time: bool, members: int = 2) -> Found:
    """Explore the renewal of a CA certificate, of which the old one ends at a moment that nobody chooses.

    Each member: disk, memory (read at start), what it sends; sets of 1 (old certificate) and 2 (renewed). Clients that
    hold the root alone verify by what is sent.
    """

    def successors(w: Any) -> Iterator[tuple[str, Any]]:
        made, default, ended, closed, nodes = w
        if not made:
            yield "the CA certificate is renewed and becomes default", (True, 2, ended, closed, nodes)
        gate = made and all(n[0] & 2 and (n[1] & 2 or not wait_restart) and (n[2] == 2 or not wait_sent) for n in nodes)
        if gate and not closed:
            yield "the renewal is called done", (made, default, ended, True, nodes)
        if not ended and (closed or not in_time):
            yield "the old certificate ends", (made, default, True, closed, nodes)
        for i, (disk, memory, sent) in enumerate(nodes):
            if made and disk != 3:
                yield (
                    f"node {i + 1} has the bundle",
                    (made, default, ended, closed, (*nodes[:i], (3, memory, sent), *nodes[i + 1 :])),
                )
            if made and sent != 2:
                yield (
                    f"node {i + 1} sends the renewed CA certificate",
                    (made, default, ended, closed, (*nodes[:i], (disk, memory, 2), *nodes[i + 1 :])),
                )
            if memory != disk:
                yield (
                    f"node {i + 1}'s etcd restarts",
                    (made, default, ended, closed, (*nodes[:i], (disk, disk, sent), *nodes[i + 1 :])),
                )

    def bad(w: Any) -> str | None:
        _, _, ended, _, nodes = w
        for i, (_, memory, sent) in enumerate(nodes):
            if ended and not memory & 2:
                return f"node {i + 1}'s etcd holds only the ended CA certificate and refuses everybody"
            if ended and sent == 1:
                return f"node {i + 1} sends the ended CA certificate: clients that hold only the root refuse it"
        return None

    return explore((False, 1, False, False, ((1, 1, 1),) * members), successors, bad, lambda w: w[3])


def aborted(*, waits: bool, members: int = 3) -> Found:
    """Explore the end of a rollback: the new CA is deleted, and members of etcd hold it in memory from their start.

    Whoever kept a copy of its key is let in by them. The command says that it is over; with `waits` it gives turns
    until each member was seen started with a bundle without it. A member: 0 holds it and has the bundle of before, 1
    holds it, 2 restarts, 3 holds the old CA alone.
    """

    def successors(w: Any) -> Iterator[tuple[str, Any]]:
        over, nodes = w
        if not over and (not waits or all(m == 3 for m in nodes)):
            yield "the abort is called over", (True, nodes)
        for i, m in enumerate(nodes):
            after = {0: "has the bundle without it", 1: "has the turn and restarts", 2: "is healthy"}.get(m)
            if after and not (m == 1 and any(x == 2 for x in nodes)):
                yield f"member {i + 1} {after}", (over, (*nodes[:i], m + 1, *nodes[i + 1 :]))

    def bad(w: Any) -> str | None:
        over, nodes = w
        if sum(m != 2 for m in nodes) <= members // 2:
            return "no quorum"
        held = [i + 1 for i, m in enumerate(nodes) if m != 3]
        return f"the abort is over, and member {held[0]} still accepts the deleted CA" if over and held else None

    return explore((False, (0,) * members), successors, bad, lambda w: w[0])
