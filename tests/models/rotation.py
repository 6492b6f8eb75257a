"""A model of how an issuing CA is rotated, explored state by state; `rotation_moves` has what can happen in it.

It has the server (two issuers with their usage, the default, the rotation record), nodes with a disk and with the
memory of the processes that read it (either only at their start, as etcd does, or up to five minutes later, as
Kubernetes clients do), agents whose passes read first and write later, reports that lag or lie, one or two operators
whose commands stop between any two requests or finish late, a late apply, a node that joins in the middle, a person's
restarts, an operator's own certificate, a server that is set back to a snapshot, and forged records. Every rule has a
name in RULES; the model runs with all of them, and once without each, and tells the shortest trace that breaks an
invariant:

I1: no node that counts shows a certificate that another one refuses. I2: nobody trusts the old CA in done, if no node
was made to add trust. I3: there is a rollback from everywhere but done. I5: there is a way to an end from everywhere.

Time is left out but for one action, `five minutes pass`, which brings every follower up to its disk. That no `ca`
command runs between a restore and the first report that shows it is assumed; the pages ask operators for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

OLD, NEW = 1, 2
BOTH = OLD | NEW
NAMES = {0: "-", 1: "old", 2: "new", 3: "old+new"}

# 0 steady on the old CA, P prepared, U published, S switched, R retired, D done; during the rollback: T trusted again
# (from retired), B default back (from switched). After a recovery, with certificates kept: K, where the old CA stays
# the default, L, where the new one does, and k, where nobody has named the new one, which the server has lost.
TRUST = {"0": OLD, "P": OLD, "U": BOTH, "S": BOTH, "B": BOTH, "T": BOTH, "R": NEW, "D": NEW, "K": BOTH, "L": BOTH}
TRUST["k"] = OLD
LEAF = {"0": OLD, "P": OLD, "U": OLD, "S": NEW, "B": OLD, "T": NEW, "R": NEW, "D": NEW, "K": OLD, "L": NEW, "k": OLD}
FORWARD = {"0": "P", "P": "U", "U": "S", "S": "R", "R": "D", "B": "S", "T": "S", "K": "S", "L": "S"}
BACK = {"P": "0", "U": "0", "S": "B", "B": "0", "R": "T", "T": "B", "K": "B", "L": "B", "k": "B"}
KEPT = "KLk"
# What a recovery is followed by also where nobody aborts.
HOME = {"T": "B", "B": "0", "K": "B", "L": "B", "k": "B"}

RULES = {
    "counted": "gates count every live credential, not only the nodes that have reported",
    "echo": "a report counts only when its pass read the record as it stands now",
    "settle": "gates wait five minutes (and skew) after the report that satisfies them",
    "word": "bundles follow the record: an agent drops a CA only because of it, never for a CA's absence or usage",
    "leafword": "an agent installs a leaf only of the CA that the record names",
    "intent": "the record is written before the server is changed, and a rerun first makes the server match it",
    "retrust": "from retired the rollback stops until every node trusts the old CA again; only then the default moves",
    "bound": "a person's restart counts only if a report had already shown the final bundle on that node's disk",
    "memory": "the gate asks what processes hold (started after the bundle), not only what lies on disk",
    "seen": "a start counts once the process was seen to run since then, not when its hook has succeeded",
    "compared": "before leaves of the other CA are installed, listeners that answer must accept the CAs that count",
    "newstate": "confirmed restarts are forgotten at each change of state",
    "operators": "certificates that no node reports (admin) count as leaves",
    "epoch": "a node that has seen a newer record only adds trust; it re-issues and drops nothing",
    "recover": "while a counted node has seen a newer record no other command goes on; an operator recovers first",
    "back only": "a recovery leads to re-trusting or to rest, never to a later state that nodes seem to be in",
    "kept": "in a recovered re-trusting each node keeps the leaf that it holds until everybody trusts both CAs",
    "default": "after a recovery the new CA is the default only if every counted node says that its leaf is of it",
    "default first": "a recovery that keeps the old CA as the default makes it so before it writes the record",
    "waits": "in a recovered re-trusting a node that has no leaf takes none",
    "nothing dropped": "in a recovered re-trusting an agent drops no CA that it trusts, whatever the record names",
    "steady": "a recovery leads to rest only if every counted node has reported since, and holds nothing of a newer CA",
    "again": "from returning a step forward waits until every node trusts the new CA: after a recovery not all did",
    "limit": "an agent takes a revision at most 1,000 above the one that it remembers",
    "ids": "deletions name the issuer's id, numbers are never used twice",
    "defuse": "during the rollback the new issuer loses its signing usage",
    "probe": "live handshakes at the end",
    "accepting": "a listener that was seen accepting the old CA in retired holds the step until it is seen refusing it",
    "whole": "before each step the server must match everything the state says (default, both usages), not only its "
    "last change",
}
ALL = frozenset(RULES)


class Node(NamedTuple):
    up: int  # 0 away from the cluster, 1 logged in, 2 serving
    disk: int
    leaf: int
    started: int  # trust in the memory of processes that read at their start
    follows: int  # trust in the memory of processes that follow files, late
    client: int  # leaf in the memory of clients, late
    report: tuple[int, int, int] | None  # disk, leaf, started
    fresh: bool  # the report answers the record as it stands
    settled: bool  # five minutes have passed since
    confirmed: bool  # a person has restarted what reads at its start
    view: tuple[int, int, int, bool, int] | None  # trust word, leaf word, on the mount, fresh, behind
    ahead: int  # 1: has seen a newer record than the server's; 2: one that no record will ever be above
    heard: bool  # has reported since the server was set back
    believed: int = 0  # where a component reads another file: what the agent takes it to have started with
    noted: bool = False  # its listener was seen accepting the old CA in retired
    away: bool = False  # its listener, which was seen so, cannot be asked now


class World(NamedTuple):
    old: str  # F full usage, C no signing any more, - deleted
    new: str  # K key only, too
    default: int
    phase: str
    nodes: tuple[Node, ...]
    operators: tuple[Any, ...]
    admin: int
    generation: int
    snapshot: Any


class Settings(NamedTuple):
    """A cluster and what happens to it. `liars` are the last of its nodes; with `claims` they say that they are ahead.

    With `stale` the reports of before a restore stay until each node has passed. `older` is whether the last honest
    node runs the last release's agent. `forged` is whether records are forged. `begin` is the state in which everything
    is at first; with `restore` the snapshot is of then. Listeners can be asked with `reach`; with `away` one
    that was seen accepting the old CA can be out of reach afterwards. With `other` the component of the last honest
    node reads another file than the agent writes, which a person replaces, or forgets, when it is restarted.
    """

    reads: str = "start"  # start: as etcd; late: as Kubernetes clients
    nodes: int = 2
    joins: bool = False
    operators: int = 1
    hooks: bool = True
    admin: bool = False
    restore: bool = False
    stale: bool = False
    apply: bool = False
    liars: int = 0
    claims: bool = False
    older: bool = False
    forged: bool = False
    begin: str = "0"
    excused: bool = False
    reach: bool = False
    other: bool = False
    away: bool = False
    back: bool = True
    rules: frozenset[str] = ALL

    def odd(self, i: int) -> bool:
        """Return whether a node lies or is left out: what happens to it is its own fault."""
        return self.lies(i) or (self.excused and i == self.nodes - 1)

    def lies(self, i: int) -> bool:
        return self.nodes - self.liars <= i < self.nodes

    def reads_other(self, i: int) -> bool:
        return self.other and i == self.nodes - self.liars - 1


def beginning(s: Settings) -> World:
    p = s.begin
    trust, leaf = TRUST[p], LEAF[p]
    node = Node(2, trust, leaf, trust, trust, leaf, (trust, leaf, trust), False, False, False, None, 0, True)
    nodes = [node._replace(believed=trust) if s.reads_other(i) else node for i in range(s.nodes)]
    if s.joins:
        nodes.append(Node(0, 0, 0, 0, 0, 0, None, False, False, False, None, 0, True))
    old, new = "C" if p == "R" else "F", "-" if p == "0" else "C" if p == "B" else "F"
    w = World(old, new, leaf, p, tuple(nodes), (None,) * s.operators, leaf if s.admin else 0, 0, None)
    return w._replace(snapshot=snapshot(w, s)) if s.restore and p != "0" else w


def snapshot(w: World, s: Settings) -> tuple[Any, ...]:
    return w.old, w.new, w.default, w.phase, tuple(n.report for n in w.nodes) if s.stale else ()


def mount(w: World, s: Settings) -> int:
    """Return the CAs that an agent finds: by presence where the record has the word, else by their usage."""
    if "word" in s.rules:
        return (OLD if w.old in "FC" else 0) | (NEW if w.new in "FC" else 0)
    return (OLD if w.old == "F" else 0) | (NEW if w.new == "F" else 0)


def signs(w: World) -> int:
    """Return the CA that signs now; 0 if none does."""
    return w.default if (w.default == OLD and w.old == "F") or (w.default == NEW and w.new == "F") else 0


def gate(w: World, to: str, s: Settings) -> bool:
    """Return whether the state may change from the one the record shows to `to`."""
    step = w.phase + to
    if step in ("0P", "PU", "P0", "U0", "SB", "RT") or (step == "BS" and w.new in "FC" and "again" not in s.rules):
        return w.generation < 2 or step != "0P"
    if step in ("TS", "TB") and "retrust" not in s.rules:
        return True
    if step in ("TS", "BS", "KS", "LS") and w.new not in "FC":
        return False
    for i, node in enumerate(w.nodes):
        if s.excused and i == s.nodes - 1:
            continue
        if node.up == 0 or (node.report is None and "counted" not in s.rules):
            continue
        if node.report is None or _closed(node, node.report, step, s):
            return False
    if "operators" in s.rules and w.admin and ((step == "SR" and w.admin != NEW) or (step == "B0" and w.admin != OLD)):
        return False
    return not any(_listener_holds(n, step, s) for i, n in enumerate(w.nodes) if not (s.excused and i == s.nodes - 1))


def _listener_holds(node: Node, step: str, s: Settings) -> bool:
    """Return whether the listener of a node keeps a step from being taken, by what it says or was seen to say."""
    if node.up != 2 or not s.reach:
        return False
    if node.away:
        return step == "RD" and "accepting" in s.rules
    trust = node.started if s.reads == "start" else node.follows
    if "compared" in s.rules and (
        (step in ("US", "TS", "KS", "LS") and trust != BOTH)
        or (step in ("TB", "KB", "LB", "kB") and not trust & OLD)
        or (step == "BS" and not trust & NEW)
    ):
        return True
    return step == "RD" and "probe" in s.rules and bool(trust & OLD)


def noted(w: World, s: Settings) -> World | None:
    """Return the world after a command has seen listeners that accept the old CA, and noted them; None if it sees none.

    Each such node needs a person's word once more, and every node a report that answers the record.
    """
    if w.phase != "R" or not gate(w, "D", s._replace(rules=s.rules - {"probe", "accepting"})):
        return None
    seen = [not n.away and n.up == 2 and bool(n.started & OLD) for n in w.nodes]
    nodes = tuple(
        n._replace(noted=n.noted or one, confirmed=n.confirmed and not one, fresh=False, settled=False)
        for n, one in zip(w.nodes, seen, strict=True)
    )
    return w._replace(nodes=nodes) if any(seen) and nodes != w.nodes else None


def _closed(node: Node, report: tuple[int, int, int], step: str, s: Settings) -> bool:
    if "echo" in s.rules and not node.fresh:
        return True
    if "settle" in s.rules and s.reads == "late" and not node.settled:
        return True
    disk, leaf, started = report
    if not s.hooks:
        started = disk if node.confirmed else 0
    if s.reads == "late" or "memory" not in s.rules:
        started = disk
    return (
        (step in ("US", "TS", "KS", "LS") and (disk != BOTH or started != BOTH))
        or (step in ("TB", "KB", "LB", "kB") and not disk & started & OLD)
        or (step == "BS" and not disk & started & NEW)
        or (step == "SR" and leaf != NEW)
        or (step == "B0" and leaf != OLD)
        or (step == "RD" and (disk != NEW or started != NEW))
    )


def server_write(w: World, to: str, s: Settings, generation: int) -> World | None:
    """Return the world after the next request that makes the server match the state; None where it does.

    A command of an earlier rotation (another number) still changes the old issuer and the default, but cannot touch
    the new issuer, which has another name and id.
    """
    after = _server_write(w, to, s)
    foreign = generation != w.generation and "ids" in s.rules
    if after is not None and foreign and (after.new != w.new or after.default == NEW):
        return None
    return after


def _server_write(w: World, to: str, s: Settings) -> World | None:
    if "whole" in s.rules and to not in "RD" and w.old == "C":
        return w._replace(old="F")
    if "whole" in s.rules and to != "S" and w.default != LEAF[to]:
        if LEAF[to] == OLD and w.old == "F":
            return w._replace(default=OLD)
        if LEAF[to] == NEW and w.new in "FC":
            return w._replace(default=NEW, new="F")
    changes: dict[str, tuple[bool, dict[str, Any]]] = {
        "P": (w.new == "-", {"new": "K"}),
        "U": (w.new in "-K", {"new": "F"}),
        "K": (w.new == "C", {"new": "F"}),
        "L": (w.new == "C", {"new": "F"}),
        "R": (w.old == "F", {"old": "C"}),
        "D": (w.old != "-", {"old": "-", "default": w.default & ~OLD}),
        "T": (w.old == "C", {"old": "F"}),
        "0": (w.new != "-", {"new": "-", "default": w.default & ~NEW}),
    }
    if to in changes:
        differs, change = changes[to]
        return w._replace(**change) if differs else None
    if to == "S":
        if w.new == "C":
            return w._replace(new="F")
        return w._replace(default=NEW) if w.new == "F" and w.default != NEW else None
    if to == "B":
        if w.old == "C":
            return w._replace(old="F")
        if w.default != OLD and w.old == "F":
            return w._replace(default=OLD)
        if "defuse" in s.rules and w.new == "F":
            return w._replace(new="C")
    return None


def record(w: World, to: str, s: Settings) -> World:
    """Return the world in which the record says `to`.

    What was reported, confirmed or read before answers an older record. The new one is above every revision that was
    reported.
    """
    nodes = tuple(
        n._replace(
            fresh=False,
            settled=False,
            confirmed=n.confirmed and "newstate" not in s.rules,
            view=n.view and (*n.view[:3], False, n.view[4]),
            ahead=0 if n.ahead == 1 and n.heard else n.ahead,
            noted=False,
            away=False,
        )
        for n in w.nodes
    )
    operators = tuple(None if o and o[0] == "cas" else o for o in w.operators)
    if w.phase == "0" and to == "P" and s.operators > 1:
        w = w._replace(generation=w.generation + 1)
        if "ids" in s.rules and w.new != "-":
            w = w._replace(new="-", default=w.default & ~NEW)  # what an earlier rotation left is not this one's
    return w._replace(phase=to, nodes=nodes, operators=operators)


def wrong(w: World, s: Settings) -> str | None:
    """Return how I1 or I2 is broken."""
    honest = [(i, n) for i, n in enumerate(w.nodes) if n.up == 2 and not s.odd(i)]
    for j, server in honest:
        trust = server.started if s.reads == "start" else server.follows
        for i, peer in honest:
            for leaf in {peer.leaf, peer.client} if s.reads == "late" else {peer.leaf}:
                if not leaf & trust:
                    return f"I1: node {i + 1} shows a leaf of the {NAMES[leaf]} CA, node {j + 1} trusts {NAMES[trust]}"
        if w.admin and not w.admin & trust:
            return f"I1: admin shows a leaf of the {NAMES[w.admin]} CA, node {j + 1} trusts {NAMES[trust]}"
        if w.phase == "D" and w.old == "-" and trust & OLD and not (s.restore or s.forged):
            return f"I2: done, and node {j + 1} still trusts the old CA"
    return None


def at_rest(w: World, s: Settings, phases: str) -> bool:
    """Return whether a rotation has ended in one of `phases`, on the server and on every node that counts."""
    nodes = [n for i, n in enumerate(w.nodes) if not s.lies(i)]
    if w.phase not in phases or any(w.operators) or any(n.ahead for n in nodes):
        return False
    want = TRUST[w.phase]
    if (w.phase == "0" and w.new != "-") or (w.phase == "D" and w.old != "-") or w.default != want:
        return False
    return all(
        n.up == 0
        or (
            n.up == 2
            and n.disk == n.leaf == want
            and (n.started == want if s.reads == "start" else n.follows == n.client == want)
        )
        for n in nodes
    )
