"""A model of a cluster whose CA is rotated by the product's own decisions: what is on the server, on disks, in memory.

`Rules` are the rules that a run may break one at a time. Nothing here is a stand-in for the product: records, states,
rollbacks and gates are the real ones; server, agents, components and people are the model around them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from helpers import ca_certificates
from vaultpki.errors import StateConflict
from vaultpki.pki.facts import Facts
from vaultpki.procedure.gate import Gate
from vaultpki.records.node_report import BundleReport, CertificateReport, NodeReport, ReaderReport, Seen
from vaultpki.records.rotation import CaRef, Kept, Method, RotationRecord, State
from vaultpki.rotation import gates, recovery, states
from vaultpki.rotation.gates import OperatorLeaf, Participant
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount
from vaultpki.rotation.reasons import Transition
from vaultpki.rotation.states import Presence
from vaultpki.vault import issuer

START = datetime(2026, 1, 1, tzinfo=UTC)
TTL = 30 * 86400
ROLE = "leaf"


class Broken(AssertionError):
    """An invariant does not hold."""


def sha(name: str) -> str:
    return f"{issuer.number(name):064x}"


def key_id(ca: str) -> str:
    return f"{int(ca, 16):x}"


def facts_of(ca: CaRef) -> Facts:
    """Return what a mount shows of a CA, as far as decisions look at it."""
    shape = ca_certificates.ca("x etcd CA", key="x")
    return replace(shape, fingerprint=sha(ca.name), subject_key_id=key_id(sha(ca.name)))


@dataclass(frozen=True)
class Shape:
    """What kind of cluster it is: `late` components follow files within five minutes, others read them at start."""

    late: bool = False
    hooks: bool = True
    nodes: int = 2
    joins: bool = False
    admin: bool = False
    liar: bool = False
    excused: bool = False
    back: bool = True
    setback: bool = False
    broken: str = ""

    @property
    def domain(self) -> str:
        return "kubernetes" if self.late else "etcd"

    @property
    def reload(self) -> int:
        return 300 if self.late else 0


@dataclass
class Server:
    """The mount: what is there of each CA, which is the default, and the record."""

    cas: dict[str, Presence]
    default: str
    record: RotationRecord | None = None

    def shown(self, *, signing: bool = False) -> frozenset[str]:
        kinds = {Presence.SIGNING} if signing else {Presence.SIGNING, Presence.MUTE}
        return frozenset(ca for ca, there in self.cas.items() if there in kinds)

    def copy(self) -> Server:
        return Server(dict(self.cas), self.default, self.record)


@dataclass
class Node:
    """A node: `memory` is what its components trust, `client` the leaf they show, both later than the disk."""

    name: str
    joined: bool = True
    away: bool = False
    disk: frozenset[str] = frozenset()
    installed: datetime = START
    leaf: str = ""
    leaf_installed: datetime = START
    leaf_ends: datetime = START + timedelta(seconds=TTL)
    memory: frozenset[str] = frozenset()
    client: str = ""
    client_ends: datetime = START + timedelta(seconds=TTL)
    hooked: frozenset[str] = frozenset()
    started: datetime = START
    known_start: frozenset[str] | None = None
    highest: int = 0
    view: Server | None = None
    report: NodeReport | None = None


@dataclass
class SimulatedCluster:
    shape: Shape
    now: datetime = START
    server: Server = field(default_factory=lambda: Server({sha("x-1"): Presence.SIGNING}, sha("x-1")))
    nodes: list[Node] = field(default_factory=list)
    operators: list[tuple[str, RotationRecord, int] | None] = field(default_factory=lambda: [None, None])
    admin: str = ""
    admin_ends: datetime = START
    snapshot: Server | None = None
    used_snapshot: bool = False
    claim: int = 0
    lies: bool = True
    disbelieved: bool = False

    def __post_init__(self) -> None:
        first = sha("x-1")
        for i in range(self.shape.nodes):
            here = frozenset({first})
            node = Node(f"n-{i}", disk=here, leaf=first, memory=here, client=first, hooked=here)
            node.known_start = here if self.shape.hooks else None
            self.nodes.append(node)
            node.report = self.reported(node, self.server)
        if self.shape.joins:
            self.nodes.append(Node("n-9", joined=False))
        if self.shape.admin:
            self.admin, self.admin_ends = first, START + timedelta(seconds=TTL)

    # What is wrong.

    def honest(self) -> list[Node]:
        odd = self.nodes[self.shape.nodes - 1] if self.shape.liar or self.shape.excused else None
        return [node for node in self.nodes if node.joined and node is not odd]

    def check(self) -> None:
        leaves = [(node.name, node.leaf) for node in self.honest() if node.leaf_ends > self.now]
        if self.shape.late:
            leaves += [(node.name, node.client) for node in self.honest() if node.client_ends > self.now]
        if self.admin and self.admin_ends > self.now:
            leaves.append(("admin", self.admin))
        record = self.server.record
        for node in self.honest():
            for name, leaf in leaves:
                if leaf not in node.memory:
                    raise Broken(f"I1: {node.name} refuses the leaf of {name}")
            done = record is not None and record.state is State.DONE and record.old.sha256 not in self.server.cas
            if record is not None and done and record.old.sha256 in node.memory and not self.used_snapshot:
                raise Broken(f"I2: {node.name} trusts the old CA")

    # Time, and what follows it.

    def passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        if self.shape.late:
            late = self.now - timedelta(seconds=self.shape.reload)
            for node in self.nodes:
                if node.installed <= late:
                    node.memory = node.disk
                if node.leaf_installed <= late:
                    node.client, node.client_ends = node.leaf, node.leaf_ends

    # Nodes.

    def reads(self, node: Node) -> None:
        node.view = self.server.copy()
        if node.view.record is not None:
            node.highest = max(node.highest, node.view.record.revision)

    def installs(self, node: Node, *, signs: bool = True, reports: bool = True) -> None:
        if node.view is None:
            self.reads(node)
        view, node.view = node.view, None
        assert view is not None
        record = view.record
        behind = record is not None and record.revision < node.highest
        disk = self.bundle(node, view, behind=behind)
        wanted = view.default if record is None else record.leaf.sha256
        if record is not None and record.kept is not None:
            wanted = node.leaf
        default = self.server.default
        willing = default in self.server.shown(signing=True) and (default == wanted or self.shape.broken == "leafword")
        if (signs or not node.joined) and willing and not behind and default in disk:
            if node.leaf != default or node.leaf_ends < self.now + timedelta(seconds=TTL // 2):
                node.leaf, node.leaf_installed = default, self.now
                node.leaf_ends = self.now + timedelta(seconds=TTL)
            # Its own old leaf has gone, so its CA may go too.
            disk = self.bundle(node, view, behind=behind)
        elif not node.joined:
            return
        if disk != node.disk:
            node.disk, node.installed = disk, self.now
        if not node.joined:
            node.joined, node.client, node.client_ends = True, node.leaf, node.leaf_ends
            node.memory = node.hooked = disk
            node.known_start, node.started = (disk if self.shape.hooks else None), self.now
        if reports:
            node.report = self.reported(node, view)

    def bundle(self, node: Node, view: Server, *, behind: bool) -> frozenset[str]:
        if self.shape.broken == "word":
            return view.shown(signing=True) or node.disk
        record = view.record
        if record is None or behind or record.kept is not None:
            return node.disk | view.shown()
        own = {node.leaf} & node.disk if node.leaf_ends > self.now else frozenset[str]()
        return ((node.disk | view.shown()) & record.trust or node.disk) | own

    def reported(self, node: Node, view: Server) -> NodeReport:
        domain, key = self.shape.domain, f"{self.shape.domain}-ca"
        record = view.record
        seen = Seen(0 if record is None else record.revision, node.highest)
        bundle, leaf, started = node.disk, node.leaf, node.known_start
        if self.shape.liar and self.lies and node.name == f"n-{self.shape.nodes - 1}" and record is not None:
            bundle, leaf, started = record.trust, record.leaf.sha256, record.trust
            seen = Seen(record.revision, record.revision + self.claim)
        owed = self.shape.hooks and not self.shape.late and node.hooked != bundle
        return NodeReport(
            time=self.now,
            agent="0.2.0",
            seen={domain: seen},
            certificates={
                ROLE: CertificateReport(domain, "ok", node.leaf_ends, "1", key_id(leaf), (), node.leaf_installed)
            },
            bundles={domain: BundleReport(bundle, node.installed)},
            readers={}
            if started is None or self.shape.late
            else {"etcd/etcd": ReaderReport(node.started, started, running=True, healthy=True)},
            owed=(key,) if owed else (),
            waiting=(domain,) if owed and record is not None and record.turn != node.name else (),
        )

    def restarts(self, node: Node) -> None:
        """Restart by itself, which nobody notices."""
        if node.joined and not self.shape.late:
            node.memory = node.disk

    def runs_hooks(self, node: Node) -> None:
        record = self.server.record
        turn = record is None or not record.active or record.turn == node.name
        if node.joined and self.shape.hooks and not self.shape.late and node.hooked != node.disk and turn:
            self.restarts(node)
            node.hooked = node.known_start = node.disk
            node.started = self.now

    # The operators' commands: each call is one request.

    def participants(self) -> list[Participant]:
        reader = "etcd/kube-apiserver" if self.shape.excused else "etcd/etcd"
        readers = () if self.shape.late or self.shape.broken == "memory" else (reader,)
        found = []
        for node in self.nodes:
            report = node.report
            if report is None and self.shape.broken == "counted":
                continue
            if report is not None and reader != "etcd/etcd":
                report = replace(report, readers={reader: report.readers["etcd/etcd"]} if report.readers else {})
            if report is not None and self.server.record is not None:
                report = self.adulterated(report, self.server.record)
            found.append(Participant(node.name, "listed", frozenset({ROLE}), True, readers, 1, report))
        return found

    def adulterated(self, report: NodeReport, record: RotationRecord) -> NodeReport:
        """Return the report as a gate without the broken rule would read it."""
        if self.shape.broken == "echo":
            seen = {domain: Seen(record.revision, record.revision) for domain in report.seen}
            return replace(report, seen=seen)
        if self.shape.broken == "settle":
            bundles = {ca: replace(one, installed=record.since) for ca, one in report.bundles.items()}
            leaves = {name: replace(one, installed=START) for name, one in report.certificates.items()}
            return replace(report, bundles=bundles, certificates=leaves)
        if self.shape.broken == "memory":
            return replace(report, owed=(), waiting=())
        return report

    def gate(self, to: State) -> Gate:
        record = self.server.record
        assert record is not None
        if self.shape.broken == "retrust" and record.state is State.RETRUSTING:
            return Gate(opens=START)
        leaves = {State.RETIRED: record.old.sha256, State.STEADY: record.new.sha256 if record.new else ""}
        admins = (OperatorLeaf("admin", "1", self.admin_ends),) if self.admin and leaves.get(to) == self.admin else ()
        if self.shape.broken == "operators":
            admins = ()
        keys = {
            "old": key_id(record.old.sha256),
            "new": key_id(record.new.sha256) if record.new and record.new.sha256 else "",
        }
        reload = 0 if self.shape.broken == "settle" else self.shape.reload
        ends = self.now + timedelta(days=3650)
        step = Transition(record, to, self.now, reload, TTL, keys, ends)
        return gates.gate(step, self.participants(), admins)

    def operates(self, i: int, *, back: bool = False, rotates: bool = True) -> bool:
        """Send the next request of operator `i`, or begin a command; False if there is nothing to do."""
        command, record = self.operators[i], self.server.record
        if command is None:
            begun = self.begins(record, back=back, rotates=rotates)
            self.operators[i] = begun
            return begun is not None
        what, wanted, revision = command
        if what == "record":
            current = 0 if record is None else record.revision
            if current == revision:
                self.server.record = wanted
            self.operators[i] = ("server", wanted, 0) if current == revision else None
        elif not self.changes(wanted):
            self.operators[i] = None
        return True

    def begins(
        self, record: RotationRecord | None, *, back: bool, rotates: bool
    ) -> tuple[str, RotationRecord, int] | None:
        if record is None:
            if back or not rotates:
                return None
            old = CaRef("x-1", "1", "1", sha("x-1"))
            first = RotationRecord(self.shape.domain, State.PREPARED, 1, self.now, old, CaRef("x-2"), highest=2)
            return ("record", first, 0)
        if recovery.ahead(self.shape.domain, record, self.participants(), self.aside()):
            try:
                recovered = self.recovered(record)
            except StateConflict:
                # No number is above what both say: the operator leaves the liar out.
                self.disbelieved = True
                return None
            if recovered.kept is Kept.OLD and self.server.default != recovered.old.sha256:
                # Before the record: an agent of before takes it for plain re-trusting.
                self.server.default = recovered.old.sha256
            return ("record", recovered, record.revision)
        if self.difference(record) is not None:
            return ("server", record, 0)
        if record.state is State.PUBLISHED and record.new is not None and not record.new.sha256:
            return ("record", record.changed(new=replace(record.new, sha256=sha(record.new.name))), record.revision)
        if record.state.resting:
            if back or not rotates:
                return None
            old = record.new if record.state is State.DONE and record.new is not None else record.old
            name, number = issuer.successor_name("x", record.highest, Method.NEW_KEY, old.name)
            new = CaRef(name)
            moved = record.moved(State.PREPARED, self.now, old=old, new=new, highest=number, excused=())
            return ("record", moved, record.revision)
        to = self.next_state(record, back=back)
        if to is None:
            return None
        found = self.gate(to)
        if found.open(self.now):
            after = record.moved(to, self.now)
            if self.shape.broken == "newstate":
                after = replace(after, restarted=record.restarted)
            return ("record", after, record.revision)
        if found.turn != record.turn:
            return ("record", record.changed(turn=found.turn), record.revision)
        return None

    def next_state(self, record: RotationRecord, *, back: bool = False) -> State | None:
        """Return where the rotation goes from here: as the product, back if the new CA is lost and cannot sign."""
        lost = record.kept is not None and record.new is not None and sha(record.new.name) not in self.server.cas
        return states.next_state(record, back=back or lost)

    def aside(self) -> tuple[str, ...]:
        """Return the liar once a person does not believe it any more."""
        return (self.nodes[self.shape.nodes - 1].name,) if self.disbelieved else ()

    def recovered(self, record: RotationRecord) -> RotationRecord:
        """Return what `ca recover` writes, by the product's own decision."""
        refs = [ca for ca in (record.old, record.new) if ca is not None and sha(ca.name) in self.server.shown()]
        issuers = tuple(MountIssuer(f"i-{ca.name}", ca.name, ca.name, frozenset(), facts=facts_of(ca)) for ca in refs)
        keys = {
            ca.name: ca.name for ca in (record.old, record.new) if ca is not None and sha(ca.name) in self.server.cas
        }
        default = next((f"i-{ca.name}" for ca in refs if sha(ca.name) == self.server.default), "")
        mount = RotationMount("x", facts_of(record.old), issuers, keys, default, "")
        known = replace(record, old=replace(record.old, issuer=f"i-{record.old.name}", key=record.old.name))
        if record.new is not None:
            known = replace(known, new=replace(record.new, issuer=f"i-{record.new.name}", key=record.new.name))
        nodes = self.participants()
        made = recovery.recovered("x", self.shape.domain, known, mount, nodes, self.aside(), self.now)
        return replace(made, excused=record.excused, kept=None if self.shape.broken == "kept" else made.kept)

    def difference(self, record: RotationRecord) -> Callable[[], None] | None:
        """Return the next request that makes the server match a record: rights first, then the default, then ends."""
        cas, want = self.server.cas, states.server_state(record)
        old = record.old.sha256
        new = sha(record.new.name) if record.new is not None else ""

        def put(ca: str, there: Presence) -> Callable[[], None]:
            return lambda: cas.__setitem__(ca, there)

        for ca, there in ((old, want.old), (new, want.new)):
            may = ca in cas or (ca == new and record.state is State.PUBLISHED)
            if may and there is Presence.SIGNING and cas.get(ca) is not Presence.SIGNING:
                return put(ca, there)
            if ca and there is Presence.KEY and ca not in cas:
                return put(ca, there)
        leaf = want.default.sha256
        if self.server.default != leaf and leaf in self.server.shown(signing=True):
            return lambda: setattr(self.server, "default", leaf)
        for ca, there in ((old, want.old), (new, want.new)):
            if ca and there is Presence.MUTE and cas.get(ca) is Presence.SIGNING:
                return put(ca, there)
            if ca and there is Presence.ABSENT and ca in cas:
                return partial(cas.__delitem__, ca)
        return None

    def changes(self, record: RotationRecord) -> bool:
        change = self.difference(record)
        if change is not None:
            change()
        return change is not None

    def confirms(self, node: Node, *, restarts_first: bool) -> None:
        """Somebody restarts a node's components when told to, and says so, unless the agent there sees processes."""
        record = self.server.record
        if record is None or not record.active or not node.joined or self.shape.late:
            return
        to = self.next_state(record)
        here = next((each for each in self.participants() if each.name == node.name), None)
        said = f"{node.name}/{'kube-apiserver' if self.shape.excused else 'etcd'}"
        if to is None or here is None or said in record.restarted:
            return
        refused = gates.restart_refused(said, [(Transition(record, to, self.now), here)])
        if restarts_first and (not refused or self.shape.broken == "bound"):
            self.restarts(node)
        elif restarts_first and node.known_start is not None:
            self.restarts(node)
            node.known_start, node.started = node.disk, self.now
        if not refused or self.shape.broken == "bound":
            self.server.record = record.changed(restarted=(*record.restarted, said))

    def excuses(self, node: Node) -> None:
        record = self.server.record
        if record is not None and record.active and node.name not in record.excused:
            self.server.record = record.changed(excused=(*record.excused, node.name))

    def set_back(self) -> None:
        """Restore the snapshot; the agents pass before anybody runs a command again."""
        if self.snapshot is None or self.used_snapshot:
            return
        self.server, self.used_snapshot, self.operators = self.snapshot, True, [None, None]
        for node in self.nodes:
            if node.joined:
                node.view = None
                self.installs(node)

    def renews_admin(self) -> None:
        record, default = self.server.record, self.server.default
        wanted = default if record is None else record.leaf.sha256
        if self.admin and default == wanted and default in self.server.shown(signing=True):
            self.admin, self.admin_ends = default, self.now + timedelta(seconds=TTL)

    # What happens where nothing goes wrong.

    def at_work(self) -> list[Node]:
        """Return the nodes that are neither away nor in the middle of a pass."""
        return [node for node in self.nodes if node.joined and not node.away and node.view is None]

    def quiet_minutes(self, *, admin: bool = True) -> None:
        """Everybody who is there works: passes, restarts in turn, the next step of the first operator."""
        for _ in range(12):
            if not self.operates(0, rotates=False):
                break
            self.check()
        for node in self.at_work():
            self.installs(node)
            self.check()
            self.runs_hooks(node)
            if not self.shape.hooks or self.stuck(node):
                self.confirms(node, restarts_first=True)
            self.installs(node)
            self.check()
        if admin:
            self.renews_admin()
        self.passes(400)
        self.check()

    def stuck(self, node: Node) -> bool:
        """Return whether no hook will restart the node any more: the same bundle came back before it ran."""
        started_late = node.known_start is not None and node.started < node.installed
        return not self.shape.late and node.hooked == node.disk and started_late

    def bring_to(self, state: State) -> None:
        """Rotate without any trouble until the record says this state."""
        back = {State.RETURNING: State.SWITCHED, State.RETRUSTING: State.RETIRED}
        for _ in range(80):
            record = self.server.record
            if record is not None and record.state is back.get(state, state):
                break
            if record is None or record.state.resting:
                self.operates(0)
            while self.operators[0] is not None:
                self.operates(0)
            record = self.server.record
            if record is not None and record.state is not back.get(state, state):
                self.quiet_minutes()
        if state in back and self.server.record is not None and self.server.record.state is back[state]:
            self.quiet_minutes() if self.difference(self.server.record) else None
            self.operates(0, back=True)
            self.operates(0, back=True)

    def drained(self) -> bool:
        """Let everybody work, and nobody lie, until the rotation is at rest; return whether it came to that."""
        self.claim, self.lies, self.disbelieved = 0, False, False
        while self.operators[1] is not None:
            self.operates(1)
        for _ in range(80):
            for node in self.nodes:
                node.view, node.away = None, False
                if not node.joined:
                    self.installs(node)
            self.quiet_minutes()
            if self.resting():
                return True
        return False

    def resting(self) -> bool:
        record = self.server.record
        if record is None:
            return True
        if not record.state.resting or self.difference(record) is not None or any(self.operators):
            return False
        return all(
            node.disk == record.trust
            and node.leaf == record.leaf.sha256
            and (node.memory == record.trust or (record.state is State.STEADY and node.memory >= record.trust))
            for node in self.honest()
        )
