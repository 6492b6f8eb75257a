"""What can happen in the model of a rotation: operators, agents, components, restores, forged records."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from models.rotation import (
    Command,
    Node,
    Server,
    Settings,
    World,
    closes,
    forget,
    lands,
    may_step,
    mount,
    record,
    report_closes,
    server_write,
    signs,
    snapshot,
)
from models.rotation_tables import BACK, FORWARD, HOME, KEPT, LEAF, NAMES, NEW, OLD, TRUST

CLOSES, CLOSES_BACK, REPORT_CLOSES, ACCEPTING, BEHIND, HEARD_BEHIND, TELLS, NAMED, SILENT, OLD_LEAF = (
    1 << i for i in range(10)
)
"""What a command may find on any node: that it closes the step ahead, or back, and so on."""


def told(n: Node, i: int, phase: str, s: Settings) -> int:
    """Return what a command finds on a node."""
    found = 0
    if phase in FORWARD and closes(n, i, phase + FORWARD[phase], s):
        found |= CLOSES
    back = (BACK if s.back else HOME).get(phase)
    if back and closes(n, i, phase + back, s):
        found |= CLOSES_BACK
    if s.away and phase == "R":
        found |= REPORT_CLOSES * report_closes(n, "RD", s)
        found |= ACCEPTING * (not n.away and n.up == 2 and bool(n.started & OLD))
    if s.lies(i):
        return found
    found |= BEHIND * bool(n.ahead) | HEARD_BEHIND * bool(n.ahead and n.heard)
    if n.up and n.report is not None:
        disk, leaf, _ = n.report
        found |= TELLS | NAMED * bool((disk | leaf) & NEW) | SILENT * (not n.heard) | OLD_LEAF * (leaf == OLD)
    return found


def operate(v: Server, found: int, s: Settings) -> Iterator[tuple[str, Server, str]]:
    """Yield what each operator's command may do next, and whether nodes `forget` by it, or are noted.

    `found` is what `told` says of any node.
    """
    for i, now in enumerate(v.operators):
        who = f"operator {i + 1}"
        if now is not None:
            yield from _goes_on(who, v, now, i, s)
            continue
        for to in recoveries(v, found, s):
            said = f"{who}: recovers; the record says {to} with a higher number"
            yield said, _with(record(v, to, s), i, Command("srv", to)), "forget"
        # A liar is left out by name; without any report since the restore the pages forbid every command.
        if found & BEHIND and ("recover" in s.rules or not found & HEARD_BEHIND):
            continue
        if "intent" in s.rules and server_write(v, v.phase, s) is not None:
            yield f"{who}: rerun", _with(v, i, Command("srv", v.phase)), ""
            continue
        if found & ACCEPTING and v.phase == "R" and may_step(v, "D", bool(found & REPORT_CLOSES), s):
            yield f"{who}: continue sees a listener that accepts the old CA", v, "note"
        for word, table, closed in (("continue", FORWARD, CLOSES), ("abort", BACK if s.back else HOME, CLOSES_BACK)):
            to = table.get(v.phase, "")
            if to and may_step(v, to, bool(found & closed), s):
                begun = Command("cas" if "intent" in s.rules else "srv1", to)
                yield f"{who}: {word}, the gate {v.phase}->{to} is open", _with(v, i, begun), ""


def _with(v: Server, i: int, command: Command | None) -> Server:
    return v._replace(operators=(*v.operators[:i], command, *v.operators[i + 1 :]))


def _goes_on(who: str, v: Server, now: Command, i: int, s: Settings) -> Iterator[tuple[str, Server, str]]:
    """Yield what a command that is under way may do next.

    With `read again` it reads the record before each request, which may then arrive late: between the two another
    operator may have written a newer one.
    """
    yield f"{who}: killed", _with(v, i, None), ""
    if now.what == "cas":
        yield f"{who}: record says {now.to}", _with(record(v, now.to, s), i, Command("srv", now.to)), "forget"
        return
    if now.sends:
        after = _with(lands(v, now.sends, s, foreign=now.foreign), i, now._replace(sends=()))
        yield f"{who}: its request arrives{_has(after)}", after, ""
        return
    stopped = now.overtaken and "read again" in s.rules
    write = None if stopped else server_write(v, now.to, s, foreign=now.foreign)
    if write is not None and s.operators > 1 and "read again" in s.rules:
        sends = tuple((f, getattr(v, f), getattr(write, f)) for f in ("old", "new", "default"))
        sends = tuple(each for each in sends if each[1] != each[2])
        yield f"{who}: sends a request for {now.to}", _with(v, i, now._replace(sends=sends)), ""
    elif write is not None:
        yield f"{who}: server changed for {now.to}{_has(write)}", write, ""
    elif now.what == "srv1":
        yield f"{who}: record says {now.to}", record(_with(v, i, None), now.to, s), "forget"
    else:
        yield f"{who}: ends", _with(v, i, None), ""


def _has(v: Server) -> str:
    return f" (old {v.old}, new {v.new}, default {NAMES[v.default]})"


def recoveries(v: Server, found: int, s: Settings) -> Iterator[str]:
    """Yield where `ca recover` may lead: by what listed nodes report, of which the lying ones may report anything."""
    if not found & HEARD_BEHIND and not (s.liars and s.claims):
        return
    if "recover" not in s.rules and not s.claims:
        return
    if "back only" not in s.rules and LEAF[v.phase] == NEW and v.new == "F":
        yield v.phase
        return
    if v.phase == "D":
        yield "D"  # at rest, and the old CA has gone
        return
    if v.new in "-K" and v.phase in "0PKLkBT":
        named, silent = found & NAMED, found & SILENT
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
    all_new = not found & OLD_LEAF and bool(found & TELLS or s.liars)
    if all_new and v.new in "FC":
        yield "L"
    if not all_new or s.liars or v.new not in "FC":
        yield "K"


def administer(v: Server, s: Settings) -> Iterator[tuple[str, Server]]:
    """Yield an operator's new certificate: of the CA that the record names, or did when the command read it."""
    if not v.admin:
        return
    ca, wanted = signs(v), v.asked or leaf_word(v)
    if "leafword" in s.rules and ca != wanted:
        ca = 0
    if ca and wanted and ca != v.admin:
        yield f"admin takes a new certificate of the {NAMES[ca]} CA", v._replace(admin=ca, asked=0)
    if v.asked:
        yield "admin gets no certificate", v._replace(asked=0)


def leaf_word(v: Server) -> int:
    """Return of which CA leaves are taken by the record; 0 where each keeps the one that it has."""
    return 0 if v.phase in KEPT else LEAF[v.phase]


def early_admin(before: Server, after: Server) -> Iterator[Server]:
    """Yield the server, and as it is with an operator's command that has read the record just before it changed."""
    yield after
    if after.admin and not after.asked and leaf_word(before) not in (0, leaf_word(after)):
        yield after._replace(asked=leaf_word(before))


def node_moves(n: Node, i: int, v: Server, s: Settings) -> Iterator[tuple[str, Node]]:
    """Yield what the agent and the components of a node may do next."""
    if n.up == 0:
        yield "logs in for the first time", n._replace(up=1)
        return
    yield from _passes(n, i, v, s)
    if n.up == 2 and s.reads == "start":
        proof = "bound" not in s.rules or bool(n.fresh and n.report and n.report[0] == TRUST[v.phase] == n.disk)
        confirmed = n.confirmed or (not s.hooks and proof)
        # Where it reads another file, a person may forget to replace that.
        for holds in {n.disk, n.started} if s.reads_other(i) else {n.disk}:
            again = n._replace(started=holds, confirmed=confirmed, believed=n.disk if s.reads_other(i) else 0)
            if again != n:
                yield f"etcd and API server restarted, now trust {NAMES[holds]}", again
        if n.noted:
            yield f"its listener {'is back' if n.away else 'is away'}", n._replace(away=not n.away)
    if n.up == 2 and s.reads == "late":
        if n.follows != n.disk:
            yield f"processes take the bundle {NAMES[n.disk]}", n._replace(follows=n.disk)
        if n.client != n.leaf:
            yield f"clients take the leaf {NAMES[n.leaf]}", n._replace(client=n.leaf)


def settle(n: Node) -> Node:
    """Return a node after five minutes: whoever follows files has them by then."""
    return n._replace(follows=n.disk, client=n.leaf, settled=n.report is not None) if n.up == 2 else n


def _passes(n: Node, i: int, v: Server, s: Settings) -> Iterator[tuple[str, Node]]:
    """Yield the ends of a node's pass: a report that is lost, and one that is written."""
    trust, wanted, there, fresh, ahead = n.view or view(n, i, v, s)
    frozen = bool(ahead) and "epoch" in s.rules
    kept = wanted == 0
    if "word" not in s.rules:
        disk = there or n.disk
    elif frozen or (kept and "nothing dropped" in s.rules):
        disk = n.disk | there
    else:
        disk = (n.disk & trust) | (there & trust) or n.disk
    ca = signs(v)
    if kept:
        ca = ca if not n.leaf and "waits" not in s.rules else 0
    elif "leafword" in s.rules and (ca != wanted or frozen):
        ca = 0
    # Who has no leaf, and takes none now, reports its bundle all the same.
    for leaf in sorted({ca or n.leaf, n.leaf} - {0}) or [0]:
        if n.up == 1 and leaf:
            node = n._replace(up=2, disk=disk, leaf=leaf, started=disk, follows=disk, client=leaf, view=None)
        else:
            node = n._replace(disk=disk, leaf=leaf, view=None)
        what = f"installs (bundle {NAMES[disk]}, leaf {NAMES[leaf]})"
        yield f"{what}, report lost", node
        held = node.believed if s.reads_other(i) else node.started if leaf else disk
        if "seen" not in s.rules:
            # The hook, which the agent has run by then, asks for a restart that may come later.
            held = disk
        said = (disk, leaf, held if s.hooks else 0)
        if s.lies(i):
            ideal = TRUST[v.phase]
            said = (ideal, LEAF[v.phase], ideal if s.hooks else 0)
        same = n.settled and n.report == said and n.fresh == fresh
        yield f"{what} and reports", node._replace(report=said, fresh=fresh, settled=same, heard=True)


def view(n: Node, i: int, v: Server, s: Settings) -> tuple[int, int, int, bool, int]:
    """Return what a pass reads when it begins now; the leaf word is 0 where each node keeps its leaf."""
    wanted = LEAF[v.phase]
    if v.phase in KEPT:
        wanted = 0
    return (TRUST[v.phase], wanted, mount(v, s), True, n.ahead)


def afterwards(n: Node, i: int, before: Server, after: Server, effect: str, s: Settings) -> Iterator[Node]:
    """Yield what a node may be once the server or its record has changed: its pass may have read just before."""
    m = n
    if effect == "forget":
        m = forget(n, s)
    elif effect == "note":
        # A node that was seen accepting the old CA needs a person's word once more, and each a report that answers.
        seen = bool(told(n, i, "R", s) & ACCEPTING)
        m = n._replace(noted=n.noted or seen, confirmed=n.confirmed and not seen, fresh=False, settled=False)
    yield m
    if effect == "forget" and m.ahead == 1:
        # The number is above all that was reported by some more: who has not reported since may take it too.
        yield m._replace(ahead=0)
    if n.view is None and n.up and m.view is None:
        was = view(n, i, before, s)
        was = (*was[:3], before.phase == after.phase, was[4])
        if was != view(m, i, after, s):
            yield m._replace(view=was)


def accidents(w: World, s: Settings) -> Iterator[tuple[str, World]]:
    """Yield a snapshot of the server and, once, its return; once, a late apply; once, a forged record.

    The apply read the server before the rotation and writes what it then found missing: the old CA, as the default.
    Commands under way end with a restore. A forged record has a higher number and goes again, as when whoever wrote it
    puts the former one back.
    """
    v = w.server
    if s.apply and v.snapshot is None:
        old = v.old if v.old in "FC" else "F"
        late = v._replace(old=old, default=OLD, snapshot="used")
        yield "an apply that read before the rotation makes the old CA the default", w._replace(server=late)
    if s.forged and v.snapshot is None:
        number = 1 if "limit" in s.rules else 2
        for read in itertools.product((False, True), repeat=len(w.nodes)):
            nodes = tuple(
                n._replace(ahead=number if did and n.up else n.ahead) for n, did in zip(w.nodes, read, strict=True)
            )
            if any(n.ahead for n in nodes):
                yield "a forged record is read by some nodes, and goes", World(v._replace(snapshot="used"), nodes)
    if not s.restore or v.snapshot == "used":
        return
    if v.snapshot is None:
        if not any(v.operators):
            taken = v._replace(snapshot=snapshot(v, w.nodes, s))
            yield f"a snapshot is taken in {v.phase}", w._replace(server=taken)
        return
    old, new, default, phase, reports = v.snapshot
    if phase == v.phase or any(v.operators):
        return
    nodes = tuple(
        _set_back(n, reports[i] if s.stale else None, k, s)
        for i, (n, k) in enumerate(zip(w.nodes, s.kinds, strict=True))
    )
    server = v._replace(old=old, new=new, default=default, phase=phase, snapshot="used")
    yield f"the server is set back to the snapshot ({phase})", World(server, nodes)


def _set_back(n: Node, report: tuple[int, int, int] | None, i: int, s: Settings) -> Node:
    """Return a node after the server was set back: what it reported is of before the snapshot, or comes at once."""
    back = n._replace(fresh=False, settled=False, confirmed=False, ahead=1, view=None)
    if s.stale:
        return back._replace(report=report, heard=False)
    if n.up == 2 and not s.lies(i):
        return back._replace(report=(n.disk, n.leaf, n.started if s.hooks else 0))
    return back
