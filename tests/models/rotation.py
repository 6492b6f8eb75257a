"""A model of how an issuing CA is rotated, explored state by state; `rotation_moves` has what can happen in it.

It has the server (two issuers with their usage, the default, the rotation record), nodes with a disk and with the
memory of the processes that read it (either only at their start, as etcd does, or up to five minutes later, as
Kubernetes clients do), agents whose passes read first and write later, reports that lag or lie, one or two operators
whose commands stop between any two requests or finish late, a late apply, a node that joins in the middle, a person's
restarts, an operator's own certificate, a server that is set back to a snapshot, and forged records. Every rule has a
name in `rotation_tables.RULES`; the model runs with all of them, and once without each, and tells the shortest trace
that breaks an invariant:

I1: no node that counts shows a certificate that another one refuses. I2: nobody trusts the old CA in done, if no node
was made to add trust. I3: there is a rollback from everywhere but done. I5: there is a way to an end from everywhere.

Time is left out but for one action, `five minutes pass`, which brings every follower up to its disk. That no `ca`
command runs between a restore and the first report that shows it is assumed; the pages ask operators for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from models.rotation_tables import ALL, FREE, LEAF, LEAF_STEPS, NAMES, NEW, OLD, TRUST, TRUST_STEPS


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


class Command(NamedTuple):
    """A command under way: it is about to write the record (`cas`), makes the server match it (`srv`), or the reverse.

    `srv1` does so before the record is written. `sends` is one request on its way: fields of the server, with what it
    was decided by and what it makes of them. `overtaken` is whether there is a newer record than this command's, and
    `foreign` whether that is of a later rotation.
    """

    what: str
    to: str
    sends: tuple[tuple[str, Any, Any], ...] = ()
    overtaken: bool = False
    foreign: bool = False


class Server(NamedTuple):
    """The server with its record, and what depends on no node."""

    old: str  # F full usage, C no signing any more, - deleted
    new: str  # K key only, too
    default: int
    phase: str
    operators: tuple[Command | None, ...]
    admin: int  # whose certificate an operator has
    asked: int  # of which CA a command that has read an earlier record takes one; 0 if there is none
    snapshot: Any


class World(NamedTuple):
    server: Server
    nodes: tuple[Node, ...]


class Settings(NamedTuple):
    """A cluster and what happens to it. `liars` are the last of its nodes; with `claims` they say that they are ahead.

    With `stale` the reports of before a restore stay until each node has passed. `forged` is whether records are
    forged. `begin` is the state in which everything is at first; with `restore` the snapshot is of then. Listeners can
    be asked with `reach`; with `away` one that was seen accepting the old CA can be out of reach afterwards. With
    `other` the component of the last honest node reads another file than the agent writes, which a person replaces, or
    forgets, when it is restarted.
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
    forged: bool = False
    begin: str = "0"
    excused: bool = False
    reach: bool = False
    other: bool = False
    away: bool = False
    back: bool = True
    turns: bool = True
    rules: frozenset[str] = ALL

    def odd(self, i: int) -> bool:
        """Return whether a node lies or is left out: what happens to it is its own fault."""
        return self.lies(i) or (self.excused and i == self.nodes - 1)

    def lies(self, i: int) -> bool:
        return self.nodes - self.liars <= i < self.nodes

    def reads_other(self, i: int) -> bool:
        return self.other and i == self.nodes - self.liars - 1

    @property
    def plain(self) -> int:
        """How many nodes are of one kind, and so are interchangeable; one that joins is of it too."""
        return self.nodes - self.liars - sum((self.excused, self.other)) + self.joins

    @property
    def kinds(self) -> tuple[int, ...]:
        """What tells the nodes apart, in their order: -1 for plain ones, one number for all that lie."""
        own = range(self.plain - self.joins, self.nodes - self.liars)
        return (-1,) * self.plain + tuple(own) + (self.nodes - 1,) * self.liars


def beginning(s: Settings) -> World:
    p = s.begin
    trust, leaf = TRUST[p], LEAF[p]
    node = Node(2, trust, leaf, trust, trust, leaf, (trust, leaf, trust), False, False, False, None, 0, True)
    nodes = [node._replace(believed=trust) if s.reads_other(i) else node for i in s.kinds]
    if s.joins:
        nodes[0] = Node(0, 0, 0, 0, 0, 0, None, False, False, False, None, 0, True)
    old, new = "C" if p == "R" else "F", "-" if p == "0" else "C" if p == "B" else "F"
    server = Server(old, new, leaf, p, (None,) * s.operators, leaf if s.admin else 0, 0, None)
    if s.restore and p != "0":
        server = server._replace(snapshot=snapshot(server, tuple(nodes), s))
    return World(server, tuple(nodes))


def snapshot(v: Server, nodes: tuple[Node, ...], s: Settings) -> tuple[Any, ...]:
    return (
        v.old,
        v.new,
        v.default,
        v.phase,
        tuple(n.report and _told_to_recover(n.report) for n in nodes) if s.stale else (),
    )


def mount(v: Server, s: Settings) -> int:
    """Return the CAs that an agent finds: by presence where the record has the word, else by their usage."""
    if "word" in s.rules:
        return (OLD if v.old in "FC" else 0) | (NEW if v.new in "FC" else 0)
    return (OLD if v.old == "F" else 0) | (NEW if v.new == "F" else 0)


def signs(v: Server) -> int:
    """Return the CA that signs now; 0 if none does."""
    return v.default if (v.default == OLD and v.old == "F") or (v.default == NEW and v.new == "F") else 0


def may_step(v: Server, to: str, closed: bool, s: Settings) -> bool:
    """Return whether the state may change from the one the record shows to `to`; `closed` is what nodes say of that."""
    step = v.phase + to
    if step == "BS" and not s.turns:
        return False
    if step in FREE or (step == "BS" and v.new in "FC" and "again" not in s.rules):
        return True
    if step in ("TS", "TB") and "retrust" not in s.rules:
        return True
    if step in ("TS", "BS", "KS", "LS") and v.new not in "FC":
        return False
    if "operators" in s.rules and v.admin and step in LEAF_STEPS and v.admin != LEAF_STEPS[step]:
        return False
    return not closed


def closes(n: Node, i: int, step: str, s: Settings) -> bool:
    """Return whether a node keeps a step from being taken, by its report or by its listener."""
    if s.excused and i == s.nodes - 1:
        return False
    return report_closes(n, step, s) or _listener_closes(n, step, s)


def report_closes(n: Node, step: str, s: Settings) -> bool:
    if n.up == 0 or (n.report is None and "counted" not in s.rules):
        return False
    if n.report is None or ("echo" in s.rules and not n.fresh):
        return True
    if "settle" in s.rules and s.reads == "late" and not n.settled:
        return True
    disk, leaf, started = n.report
    if not s.hooks:
        started = disk if n.confirmed else 0
    if s.reads == "late" or "memory" not in s.rules:
        started = disk
    if step in TRUST_STEPS:
        return not (fits(step, disk) and fits(step, started))
    return step in LEAF_STEPS and leaf != LEAF_STEPS[step]


def fits(step: str, held: int) -> bool:
    """Return whether a bundle with these CAs is what a step waits for."""
    return held == NEW if step == "RD" else TRUST_STEPS[step] & held == TRUST_STEPS[step]


def _listener_closes(n: Node, step: str, s: Settings) -> bool:
    """Return whether the listener of a node keeps a step from being taken, by what it says or was seen to say."""
    if n.up != 2 or not s.reach or step not in TRUST_STEPS:
        return False
    if n.away:
        return step == "RD" and "accepting" in s.rules
    trust = n.started if s.reads == "start" else n.follows
    if step == "RD":
        return "probe" in s.rules and bool(trust & OLD)
    return "compared" in s.rules and not fits(step, trust)


def server_write(v: Server, to: str, s: Settings, *, foreign: bool = False) -> Server | None:
    """Return the server after the next request that makes it match the state; None where it does.

    A command of an earlier rotation still changes the old issuer and the default, but cannot touch the new issuer,
    which has another name and id.
    """
    after = _server_write(v, to, s)
    if after is not None and foreign and "ids" in s.rules and (after.new != v.new or after.default == NEW):
        return None
    return after


def lands(v: Server, sent: tuple[tuple[str, Any, Any], ...], s: Settings, *, foreign: bool) -> Server:
    """Return the server once a request has arrived, which does nothing to what is not there any more."""
    for field, before, value in sent:
        of_new = field == "new" or value == NEW
        there = v.new if of_new else v.old
        # A key or an issuer is made once; what is there already, or is another's, stays.
        fits_there = there == before if before in ("-", "K") else there in "FC"
        if not fits_there or (of_new and foreign and "ids" in s.rules):
            continue
        v = v._replace(**{field: value})
    lost = (OLD if v.old == "-" else 0) | (NEW if v.new == "-" else 0)
    return v._replace(default=v.default & ~lost)


def _server_write(v: Server, to: str, s: Settings) -> Server | None:
    if "whole" in s.rules and to not in "RD" and v.old == "C":
        return v._replace(old="F")
    if "whole" in s.rules and to != "S" and v.default != LEAF[to]:
        if LEAF[to] == OLD and v.old == "F":
            return v._replace(default=OLD)
        if LEAF[to] == NEW and v.new in "FC":
            return v._replace(default=NEW, new="F")
    changes: dict[str, tuple[bool, dict[str, Any]]] = {
        "P": (v.new == "-", {"new": "K"}),
        "U": (v.new in "-K", {"new": "F"}),
        "K": (v.new == "C", {"new": "F"}),
        "L": (v.new == "C", {"new": "F"}),
        "R": (v.old == "F", {"old": "C"}),
        "D": (v.old != "-", {"old": "-", "default": v.default & ~OLD}),
        "T": (v.old == "C", {"old": "F"}),
        "0": (v.new != "-", {"new": "-", "default": v.default & ~NEW}),
    }
    if to in changes:
        differs, change = changes[to]
        return v._replace(**change) if differs else None
    if to == "S":
        if v.new == "C":
            return v._replace(new="F")
        return v._replace(default=NEW) if v.new == "F" and v.default != NEW else None
    if to == "B":
        if v.old == "C":
            return v._replace(old="F")
        if v.default != OLD and v.old == "F":
            return v._replace(default=OLD)
        if "defuse" in s.rules and v.new == "F":
            return v._replace(new="C")
    return None


def record(v: Server, to: str, s: Settings) -> Server:
    """Return the server whose record says `to`; `forget` is what that does to nodes."""
    begins = v.phase == "0" and to == "P"
    if begins and s.operators > 1 and "ids" in s.rules and v.new != "-":
        v = v._replace(new="-", default=v.default & ~NEW)  # what an earlier rotation left is not this one's
    operators = tuple(
        None if o is None or o.what == "cas" else o._replace(overtaken=True, foreign=o.foreign or begins)
        for o in v.operators
    )
    return v._replace(phase=to, operators=operators)


def forget(n: Node, s: Settings) -> Node:
    """Return a node once there is a new record, above every revision that was reported.

    What was reported, confirmed or read before answers an older one.
    """
    return n._replace(
        fresh=False,
        settled=False,
        confirmed=n.confirmed and "newstate" not in s.rules,
        view=n.view and (*n.view[:3], False, n.view[4]),
        ahead=0 if n.ahead == 1 and n.heard else n.ahead,
        noted=False,
        away=False,
    )


def shows(n: Node, i: int, s: Settings) -> tuple[int, int] | None:
    """Return whose leaves a node shows, and whose it accepts; None for one that does not serve, or does not count."""
    if n.up != 2 or s.odd(i):
        return None
    return (n.leaf, n.started) if s.reads == "start" else (n.leaf | n.client, n.follows)


def asked_for(n: Node, i: int, phase: str, s: Settings, *, recovers: bool) -> Node:
    """Return a node without what nothing asks for any more; with `recovers` a recovery may still read its report.

    A report that does not answer the record counts for no gate; of one that does, a gate asks only whether it holds
    what the steps wait for. A recovery asks whether a node names the new CA, and whose leaf it has.
    """
    if s.lies(i):
        n = n._replace(disk=OLD, leaf=OLD, started=OLD, follows=OLD, client=OLD, view=None, ahead=0, heard=True)
        recovers = False
    if "echo" not in s.rules or n.report is None:
        return n
    told = _told_to_recover(n.report) if recovers else (0, 0, 0)
    if phase in "0PD" and (s.hooks or "newstate" in s.rules):
        return n._replace(report=told, fresh=False, settled=False, confirmed=False)
    if not n.fresh:
        return n._replace(report=told, settled=False)
    if s.reads == "late" or not s.hooks or "memory" not in s.rules:
        return n
    return n._replace(report=_told_to_gates(n.report, told, phase))


def _told_to_recover(report: tuple[int, int, int]) -> tuple[int, int, int]:
    disk, leaf, _ = report
    return (disk | leaf) & NEW, leaf, 0


def _told_to_gates(report: tuple[int, int, int], told: tuple[int, int, int], phase: str) -> tuple[int, int, int]:
    """Return the least report that closes the same steps from this state, and tells a recovery the same."""
    disk, leaf, started = report
    held = 0
    for step, what in TRUST_STEPS.items():
        if step[0] == phase and fits(step, disk) and fits(step, started):
            held |= what
    return held | told[0], leaf if phase in "SB" else told[1], held


def wrong(v: Server, shown: Iterable[tuple[int, int] | None], s: Settings) -> str | None:
    """Return how I1 or I2 is broken; `shown` is what `shows` says of each node."""
    serving = [(i, *each) for i, each in enumerate(shown) if each is not None]
    for j, _, trust in serving:
        for i, leaf, _ in serving:
            if leaf & ~trust:
                return f"I1: node {i + 1} shows a leaf of the {NAMES[leaf]} CA, node {j + 1} trusts {NAMES[trust]}"
        if v.admin & ~trust:
            return f"I1: admin shows a leaf of the {NAMES[v.admin]} CA, node {j + 1} trusts {NAMES[trust]}"
        if v.phase == "D" and v.old == "-" and trust & OLD and not (s.restore or s.forged):
            return f"I2: done, and node {j + 1} still trusts the old CA"
    return None


def server_at_rest(v: Server, phases: str) -> bool:
    """Return whether a rotation has ended in one of `phases` on the server."""
    gone = {"0": v.new, "D": v.old}.get(v.phase, "")
    return v.phase in phases and not any(v.operators) and gone == "-" and v.default == TRUST[v.phase]


def node_at_rest(n: Node, i: int, phase: str, s: Settings) -> bool:
    """Return whether a node holds what it must at the end of a rotation; one that lies does not count."""
    want = TRUST[phase]
    held = n.started == want if s.reads == "start" else n.follows == n.client == want
    return s.lies(i) or (not n.ahead and (n.up == 0 or (n.up == 2 and held and n.disk == n.leaf == want)))
