"""What can happen in the model of a rotation: operators, agents, components, restores, forged records; and its runs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from models.explore import LIMIT, Found, explore
from models.rotation import (
    BACK,
    FORWARD,
    HOME,
    KEPT,
    LEAF,
    NAMES,
    NEW,
    OLD,
    TRUST,
    Node,
    Settings,
    World,
    at_rest,
    beginning,
    gate,
    mount,
    noted,
    record,
    server_write,
    signs,
    snapshot,
    wrong,
)


def operate(w: World, s: Settings) -> Iterator[tuple[str, World]]:
    """Yield what each operator's command may do next."""
    for i, now in enumerate(w.operators):
        who = f"operator {i + 1}"

        def with_(state: Any, world: World = w, i: int = i) -> World:
            return world._replace(operators=(*world.operators[:i], state, *world.operators[i + 1 :]))

        if now is None:
            for to in recoveries(w, s):
                if to == "K" and w.default == NEW and w.old in "FC" and "default first" in s.rules:
                    yield f"{who}: recovers; the old CA is the default", w._replace(default=OLD)
                    continue
                yield (
                    f"{who}: recovers; the record says {to} with a higher number",
                    with_(("srv", to, w.generation), record(w, to, s)),
                )
            # A liar is left out by name; without any report since the restore the pages forbid every command.
            if behind(w, s) and ("recover" in s.rules or not heard_behind(w, s)):
                continue
            if "intent" in s.rules and server_write(w, w.phase, s, w.generation) is not None:
                yield f"{who}: rerun", with_(("srv", w.phase, w.generation))
                continue
            if s.away and (seen := noted(w, s)):
                yield f"{who}: continue sees a listener that accepts the old CA", seen
            for word, table in (("continue", FORWARD), ("abort", BACK if s.back else HOME)):
                to = table.get(w.phase, "")
                if to and gate(w, to, s):
                    yield (
                        f"{who}: {word}, the gate {w.phase}->{to} is open",
                        with_(("cas" if "intent" in s.rules else "srv1", to, w.generation)),
                    )
            continue
        what, to, generation = now
        yield f"{who}: killed", with_(None)
        if what == "cas":
            new = record(with_(None), to, s)
            state = ("srv", to, new.generation)
            operators = (*new.operators[:i], state, *new.operators[i + 1 :])
            yield f"{who}: record says {to}", new._replace(operators=operators)
            continue
        after = server_write(w, to, s, generation)
        if after is not None:
            has = f"old {after.old}, new {after.new}, default {NAMES[after.default]}"
            yield f"{who}: server changed for {to} ({has})", after
        elif what == "srv1":
            yield f"{who}: record says {to}", record(with_(None), to, s)
        else:
            yield f"{who}: ends", with_(None)


def behind(w: World, s: Settings) -> bool:
    """Return whether an honest node has seen a newer record than the server's."""
    return any(n.ahead for i, n in enumerate(w.nodes) if not s.lies(i))


def heard_behind(w: World, s: Settings) -> bool:
    return any(n.ahead and n.heard for i, n in enumerate(w.nodes) if not s.lies(i))


def recoveries(w: World, s: Settings) -> Iterator[str]:
    """Yield where `ca recover` may lead: by what listed nodes report, of which the lying ones may report anything."""
    if not heard_behind(w, s) and not (s.liars and s.claims):
        return
    if "recover" not in s.rules and not s.claims:
        return
    if "back only" not in s.rules and LEAF[w.phase] == NEW and w.new == "F":
        yield w.phase
        return
    if w.phase == "D":
        yield "D"  # at rest, and the old CA has gone
        return
    honest = [n for i, n in enumerate(w.nodes) if not s.lies(i) and n.up and n.report]
    told = [n.report for n in honest if n.report is not None]
    if w.new in "-K" and w.phase in "0PKLkBT":
        named = any((disk | leaf) & NEW for disk, leaf, _ in told)
        silent = not all(n.heard for n in honest)
        if not named and (not silent or "steady" not in s.rules):
            yield "0"
        if named or s.liars:
            yield "K" if "kept" in s.rules else "T"
        if not named and silent:
            yield "k"
        return
    if "kept" not in s.rules:
        yield "T"
        return
    # It takes one liar to say that its leaf is of the old CA; but not even all of them can speak for an honest node.
    all_new = all(leaf == NEW for _, leaf, _ in told) and bool(told or s.liars)
    if (all_new or "default" not in s.rules) and w.new in "FC":
        yield "L"
    if not all_new or s.liars or w.new not in "FC":
        yield "K"


def agents(w: World, s: Settings) -> Iterator[tuple[str, World]]:
    """Yield what agents and the components of each node may do next."""
    for i, n in enumerate(w.nodes):
        who = f"node {i + 1}" + (", which had read before" if n.view else "")

        def with_(node: Node, i: int = i) -> World:
            return w._replace(nodes=(*w.nodes[:i], node, *w.nodes[i + 1 :]))

        if n.up == 0:
            yield f"{who}: logs in for the first time", with_(n._replace(up=1))
            continue
        yield from _pass(w, i, n, who, s)
        if n.up == 2 and s.reads == "start":
            proof = "bound" not in s.rules or bool(n.fresh and n.report and n.report[0] == TRUST[w.phase] == n.disk)
            confirmed = n.confirmed or (not s.hooks and proof)
            # Where it reads another file, a person may forget to replace that.
            for holds in {n.disk, n.started} if s.reads_other(i) else {n.disk}:
                again = n._replace(started=holds, confirmed=confirmed, believed=n.disk if s.reads_other(i) else 0)
                if again != n:
                    yield f"{who}: etcd and API server restarted, now trust {NAMES[holds]}", with_(again)
            if n.noted:
                yield f"{who}: its listener {'is back' if n.away else 'is away'}", with_(n._replace(away=not n.away))
        if n.up == 2 and s.reads == "late":
            if n.follows != n.disk:
                yield f"{who}: processes take the bundle {NAMES[n.disk]}", with_(n._replace(follows=n.disk))
            if n.client != n.leaf:
                yield f"{who}: clients take the leaf {NAMES[n.leaf]}", with_(n._replace(client=n.leaf))
    if s.reads == "late":
        nodes = tuple(
            n._replace(follows=n.disk, client=n.leaf, settled=n.report is not None) if n.up == 2 else n for n in w.nodes
        )
        if nodes != w.nodes:
            yield "five minutes pass", w._replace(nodes=nodes)
    if w.admin:
        ca = signs(w)
        if "leafword" in s.rules and ca != LEAF[w.phase]:
            ca = 0
        if ca and ca != w.admin and w.phase not in KEPT:
            yield f"admin takes a new certificate of the {NAMES[ca]} CA", w._replace(admin=ca)


def _pass(w: World, i: int, n: Node, who: str, s: Settings) -> Iterator[tuple[str, World]]:
    """Yield the ends of a node's pass: a report that is lost, and one that is written."""
    trust, wanted, there, fresh, ahead = n.view or view(w, i, n, s)
    older = s.older and i == s.nodes - s.liars - 1
    frozen = bool(ahead) and "epoch" in s.rules
    kept = wanted == 0
    if "word" not in s.rules:
        disk = there or n.disk
    elif frozen or (kept and "nothing dropped" in s.rules):
        disk = n.disk | there
    else:
        disk = (n.disk & trust) | (there & trust) or n.disk
    ca = signs(w)
    if kept and not older:
        ca = ca if not n.leaf and "waits" not in s.rules else 0
    elif "leafword" in s.rules and (ca != wanted or frozen):
        ca = 0
    for leaf in {ca or n.leaf, n.leaf} - {0}:
        if n.up == 1:
            node = n._replace(up=2, disk=disk, leaf=leaf, started=disk, follows=disk, client=leaf, view=None)
        else:
            node = n._replace(disk=disk, leaf=leaf, view=None)
        what = f"{who}: installs (bundle {NAMES[disk]}, leaf {NAMES[leaf]})"
        yield f"{what}, report lost", w._replace(nodes=(*w.nodes[:i], node, *w.nodes[i + 1 :]))
        held = node.believed if s.reads_other(i) else node.started
        if "seen" not in s.rules:
            # The hook, which the agent has run by then, asks for a restart that may come later.
            held = disk
        said = (disk, leaf, held if s.hooks else 0)
        if s.lies(i):
            ideal = TRUST[w.phase]
            said = (ideal, LEAF[w.phase], ideal if s.hooks else 0)
        same = n.settled and n.report == said and n.fresh == fresh
        node = node._replace(report=said, fresh=fresh, settled=same, heard=True)
        yield f"{what} and reports", w._replace(nodes=(*w.nodes[:i], node, *w.nodes[i + 1 :]))


def view(w: World, i: int, n: Node, s: Settings) -> tuple[int, int, int, bool, int]:
    """Return what a pass reads when it begins now; the leaf word is 0 where each node keeps its leaf."""
    wanted = LEAF[w.phase]
    if w.phase in KEPT:
        # An agent of before takes such a state for re-trusting, whose leaves are the new CA's.
        wanted = NEW if s.older and i == s.nodes - s.liars - 1 else 0
    return (TRUST[w.phase], wanted, mount(w, s), True, n.ahead)


def early_readers(before: World, after: World, s: Settings) -> Iterator[World]:
    """Yield every choice of nodes whose pass has read just before the server or its record changed."""
    choices: list[tuple[Node, ...]] = [()]
    for i, (n, m) in enumerate(zip(before.nodes, after.nodes, strict=True)):
        held = None
        if n.view is None and n.up and m.view is None:
            was = view(before, i, n, s)
            was = (*was[:3], before.phase == after.phase, was[4])
            if was != view(after, i, m, s):
                held = m._replace(view=was)
        choices = [(*c, x) for c in choices for x in ((m, held) if held else (m,))]
    for c in choices:
        yield after._replace(nodes=c)


def accidents(w: World, s: Settings) -> Iterator[tuple[str, World]]:
    """Yield a snapshot of the server and, once, its return; once, a late apply; once, a forged record.

    The apply read the server before the rotation and writes what it then found missing: the old CA, as the default.
    Commands under way end with a restore. A forged record has a higher number and goes again, as when whoever wrote it
    puts the former one back.
    """
    if s.apply and w.snapshot is None:
        old = w.old if w.old in "FC" else "F"
        yield (
            "an apply that read before the rotation makes the old CA the default",
            w._replace(old=old, default=OLD, snapshot="used"),
        )
    if s.forged and w.snapshot is None:
        number = 1 if "limit" in s.rules else 2
        for read in itertools.product((False, True), repeat=len(w.nodes)):
            readers = tuple(
                n._replace(ahead=number if did and n.up else n.ahead) for n, did in zip(w.nodes, read, strict=True)
            )
            if any(n.ahead for n in readers):
                yield "a forged record is read by some nodes, and goes", w._replace(nodes=readers, snapshot="used")
    if not s.restore or w.snapshot == "used":
        return
    if w.snapshot is None:
        if not any(w.operators):
            yield f"a snapshot is taken in {w.phase}", w._replace(snapshot=snapshot(w, s))
        return
    old, new, default, phase, reports = w.snapshot
    if phase == w.phase or any(w.operators):
        return
    nodes = []
    for i, n in enumerate(w.nodes):
        back = n._replace(fresh=False, settled=False, confirmed=False, ahead=1, view=None)
        if s.stale:
            back = back._replace(report=reports[i], heard=False)
        elif n.up == 2 and not s.lies(i):
            back = back._replace(report=(n.disk, n.leaf, n.started if s.hooks else 0))
        nodes.append(back)
    yield (
        f"the server is set back to the snapshot ({phase})",
        w._replace(old=old, new=new, default=default, phase=phase, nodes=tuple(nodes), snapshot="used"),
    )


def steps(w: World, s: Settings) -> Iterator[tuple[str, World]]:
    """Yield everything that may happen next."""
    for label, after in operate(w, s):
        for each in early_readers(w, after, s):
            yield label, each
    yield from agents(w, s)
    yield from accidents(w, s)


def canonical(w: World, s: Settings) -> World:
    """Return the world that stands for this one: nodes of one kind are interchangeable."""
    same = s.nodes - s.liars - sum((s.excused, s.older, s.other))
    tidy = []
    for i, node in enumerate(w.nodes):
        n = node._replace(view=None) if node.view and node.view == view(w, i, node, s) else node
        if s.lies(i):
            n = n._replace(ahead=0, heard=True)
        tidy.append(n._replace(follows=0, client=0) if s.reads == "start" else n._replace(started=0))
    w = w._replace(nodes=tuple(tidy))
    return w._replace(nodes=(*sorted(w.nodes[:same], key=repr), *w.nodes[same:])) if same > 1 else w


def run(s: Settings, *, live: bool = False, limit: int = LIMIT) -> Found:
    """Explore one setting; with `live` also whether every state has a way to an end."""
    aborts = live and s.back and not s.restore
    return explore(
        beginning(s),
        lambda w: steps(w, s),
        lambda w: wrong(w, s),
        (lambda w: at_rest(w, s, "0D")) if live else None,
        ((lambda w: at_rest(w, s, "0"), lambda w: w.phase != "D")) if aborts else None,
        lambda w: canonical(w, s),
        limit,
    )


def walk(s: Settings, walks: int, length: int, seed: int = 1) -> Found:
    """Walk at random, for sizes that cannot be explored whole; operators act more seldom than their share of steps."""
    chance = random.Random(seed)  # noqa: S311 - the same walks each time
    seen = 0
    for _ in range(walks):
        w, trace = beginning(s), list[str]()
        for _ in range(length):
            options = list(steps(w, s))
            if not options:
                break
            label, w = chance.choice(options)
            w = canonical(w, s)
            trace.append(label)
            seen += 1
            said = wrong(w, s)
            if said:
                return Found(seen, said, trace, None, False)
    return Found(seen, None, [], None, False)
