"""A cluster that moves to another server, with real passes of its agents; only tests move the operator's clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from helpers.faults import kill_points
from helpers.node import node_components
from helpers.vault import operator_tokens
from helpers.vault.applied_cluster import NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.operator_tokens import Who
from helpers.vault.plan_commands import AuditedCluster
from helpers.vault.servers import Server
from vaultpki.agent import run, status
from vaultpki.agent.context import Outcome
from vaultpki.ca import commands as ca_commands
from vaultpki.certificates import ISSUING_CAS
from vaultpki.config.agent import load_agent
from vaultpki.model import at_new
from vaultpki.move import commands
from vaultpki.move.run import MoveStep
from vaultpki.move.server import MoveServer
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.procedures import ON_NODES
from vaultpki.records.move import LostServer, MoveRecord, read_move
from vaultpki.records.rotation import Method, State
from vaultpki.rotation.confirmations import Confirmations
from vaultpki.vault import Settings, Vault

SPEC = """\
api_server: {names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
"""
WORKER_HOOKS = """\
hooks:
  kubernetes-ca: [["true"]]
  kubelet-ca: [["true"]]
"""
NOBODY = Confirmations(without=("kubelet-serving-ca",))
"""Nobody reads that ConfigMap, and no node is away."""


@dataclass(slots=True)
class MovingCluster:
    """The cluster, its nodes, both servers, and what an operator does."""

    cluster: AuditedCluster
    to: Server
    nodes: dict[str, NodeFolder]
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    checked: int = 0
    kills: Iterator[int] | None = None
    kills_made: int = 0
    away: frozenset[str] = frozenset()
    failures: dict[str, object] = field(default_factory=dict)
    lost: LostServer | None = None

    @classmethod
    @contextmanager
    def standing(cls, clusters: ClusterFactory, to: Server, *, prefix: str = "") -> Iterator[MovingCluster]:
        """A control plane whose components hooks restart, a listed worker and one of a pool; nothing moves yet."""
        cluster = clusters.applied(SPEC)
        nodes = {
            "cp-1": cluster.equip("cp-1"),
            "worker-1": cluster.equip("worker-1", further=WORKER_HOOKS),
            "w-1": cluster.equip("w-1", pool="autoscaled", further=WORKER_HOOKS),
        }
        made = cls(cluster, to, nodes)
        made.passes()
        node_components.add_hooks(nodes["cp-1"])
        (cluster.folder / "new-ca.crt").write_bytes(to.ca_file.read_bytes())
        place = f"{{addresses: ['{to.address}'], ca_file: new-ca.crt, prefix: {prefix or cluster.prefix}}}"
        cluster.write(f"{SPEC}move: {place}\n")
        with node_components.standing(nodes["cp-1"], cluster.model.nodes[0].roles):
            made.passes()
            yield made

    @property
    def old(self) -> MoveServer:
        return MoveServer(self.cluster.model, self._client(self.cluster.server, "applier"))

    @property
    def new(self) -> MoveServer:
        return MoveServer(at_new(self.cluster.model), self._client(self.to, "mover"))

    def _client(self, server: Server, who: Who) -> Vault:
        """A server as an operator with the printed policy reaches it."""
        model, spec = self.cluster.model, self.cluster.file
        prefix = model.prefix if server is self.cluster.server else at_new(model).prefix
        token = operator_tokens.token(server, prefix, who, spec=spec)
        return Vault(Settings((server.address,), ca_pem=server.ca_file.read_text(), token=token))

    def record(self, which: str = "") -> MoveRecord | None:
        """The record on one of both servers; without a word on the old one, unless that is lost."""
        which = which or ("new" if self.lost is LostServer.OLD else "old")
        server, prefix = (
            (self.cluster.server, self.cluster.prefix) if which == "old" else (self.to, self.new.cluster.prefix)
        )
        answer = server.api("GET", f"{prefix}/config/data/rotation/move")
        return read_move(answer.data["data"], where=which) if answer.status == 200 else None

    @property
    def state(self) -> State:
        record = self.record()
        assert record is not None
        return record.state

    def passes(self, *but: str) -> None:
        """A pass of every agent, but of these nodes."""
        for name, node in self.nodes.items():
            if name not in but:
                self.pass_of(node)

    def pass_of(self, node: NodeFolder) -> Outcome:
        """One pass of one agent, which asks Vault; afterwards everybody must trust everybody."""
        if (node.state / "spec.json").exists():
            node.age(1e7)
        config = load_agent(node.config)
        done = run.run(config, run.PassOptions(ON_NODES, settle=False), clock=self.now.timestamp())
        self.failures[node.name] = dict(done.failures)
        assert done.failures or not status.of_node(config, self.now, ON_NODES, ask=False).bundles
        self.all_trusted()
        return done

    def begin(self, spread: int = 60) -> MoveStep:
        self._killed(lambda: commands.start(self.old, self.new, spread, self.now))
        return commands.start(self.old, self.new, spread, self.now)

    def step(self, said: Confirmations = NOBODY, *, back: bool = False) -> MoveStep:
        def command() -> MoveStep:
            return commands.advance(self.old, self.new, self.now, said, back=back, without=self.lost)

        if self._killed(command):
            # It may have taken the step for which a person has said something.
            said = replace(said, restarted=(), checked=())
        return command()

    def _killed(self, command: Callable[[], MoveStep]) -> bool:
        """Whether a command was killed at a request that a test draws; nodes pass by what it has left."""
        if self.kills is None or not kill_points.died(command, next(self.kills)):
            return False
        self.kills_made += 1
        self.passes()
        return True

    def moved(
        self,
        to: State,
        *,
        back: bool = False,
        but: tuple[str, ...] = (),
        root: State | None = None,
        said: tuple[str, ...] = (),
    ) -> MoveStep:
        """The next step: agents pass and restart by turns, and minutes go by, until the gate opens.

        Nobody waits for the nodes `but`, which are away, nor for what `said` names. With `root` it goes on until the
        root at the new server is there.
        """
        checked: tuple[str, ...] = ()
        self.away = frozenset(but)
        for _ in range(12):
            self.passes(*but)
            self.now += timedelta(seconds=400)
            step = self.step(Confirmations((*NOBODY.without, *but, *said), checked=checked), back=back)
            checked = ()
            if step.record.state is to and (root is None or (step.root is not None and step.root.state is root)):
                return step
            if not step.moved:
                assert step.gate is not None
                waits = {each.node for each in step.gate.waiting}
                checked = tuple(waits) if waits and waits <= {"pods", "outside"} else ()
        raise AssertionError((step.record.state, step.root and step.root.state, step.gate, self.failures))

    def all_trusted(self) -> None:
        """Fail where a leaf of one node does not verify against the bundles of another, as clients and servers do.

        Nobody waits for a node that is away, so its leaves may be of a CA that others have dropped.
        """
        here = [node for name, node in self.nodes.items() if name not in self.away]
        present = [node for node in here if (node.pki / "kubernetes-ca.crt").exists()]
        for node in present:
            for file, (leaf, *above) in self.chains(node).items():
                domain = self.domain_of(above[0])
                for other in present:
                    for bundle in (f"{domain}-ca.crt", f"{domain}-ca-chain.crt"):
                        if (other.pki / bundle).exists():
                            held = x509.read_certificates((other.pki / bundle).read_bytes())
                            assert _verifies(leaf, above, held, whole="chain" in bundle), (
                                f"{other.name} does not trust {file} of {node.name} by {bundle}"
                            )
                            self.checked += 1

    def domain_of(self, ca: Facts) -> str:
        return ca.subject.common_name.removeprefix(f"{self.cluster.name} ").partition(" CA")[0]

    def chains(self, node: NodeFolder) -> dict[str, tuple[Facts, ...]]:
        """The certificates of each pair of a node, the leaf first."""
        files = [
            file for file in sorted(node.pki.glob("*.crt")) if not file.name.endswith(("-ca.crt", "-ca-chain.crt"))
        ]
        return {file.name: x509.read_certificates(file.read_bytes()) for file in files}

    def signers(self, name: str) -> dict[str, set[str]]:
        """The SHA-256 of the CAs of a node's leaves, by domain."""
        found: dict[str, set[str]] = {}
        for _, ca, *_ in self.chains(self.nodes[name]).values():
            found.setdefault(self.domain_of(ca), set()).add(ca.fingerprint)
        return found

    def of(self, which: str, *names: str) -> None:
        """Fail unless every leaf of these nodes, or of all, is of the CAs with their keys on one server."""
        record = self.record() or (self.record("new") if self.lost is None else None)
        assert record is not None
        for name in names or self.nodes:
            for domain, held in self.signers(name).items():
                ca = record.cas[domain]
                wanted = ca.old_sha256 if which == "old" else ca.new_sha256
                assert held == {wanted}, (name, domain, which)

    def rotate(self, ca: str) -> None:
        """What `ca rotate` does."""
        ca_commands.rotate(self.old.cluster, self.old.vault, ca, Method.NEW_KEY, 60, self.now)

    def roots(self) -> set[str]:
        """The roots that nodes hold in their chain bundles."""
        held = [
            x509.read_certificates((node.pki / "kubernetes-ca-chain.crt").read_bytes()) for node in self.nodes.values()
        ]
        return {facts.fingerprint for each in held for facts in each if x509.signed_by(facts, facts)}

    def new_root(self) -> str:
        """The SHA-256 of the root that signs at the new server."""
        answer = self.to.api("GET", f"{self.new.cluster.prefix}/root/issuer/default")
        return x509.fingerprint(str(answer.data["certificate"]).encode())

    def issuers(self, which: str) -> Mapping[str, set[str]]:
        """The names of the issuers on the mounts of one server, by CA."""
        server, prefix = (
            (self.cluster.server, self.cluster.prefix) if which == "old" else (self.to, self.new.cluster.prefix)
        )
        found = {}
        for ca in ("root", *ISSUING_CAS):
            listed = server.api("LIST", f"{prefix}/{ca}/issuers")
            found[ca] = (
                {each["issuer_name"] for each in listed.data["key_info"].values()} if listed.status == 200 else set()
            )
        return found


def _verifies(leaf: Facts, above: tuple[Facts, ...] | list[Facts], held: tuple[Facts, ...], *, whole: bool) -> bool:
    """Whether a leaf verifies by a bundle: by an issuing CA in it, or `whole` up to a root in it."""
    if not whole:
        return any(x509.signed_by(leaf, ca) for ca in held)
    known = [*above, *held]
    level = [ca for ca in known if x509.signed_by(leaf, ca)]
    for _ in range(4):
        if any(ca in held and x509.signed_by(ca, ca) for ca in level):
            return True
        level = [ca for ca in known if any(x509.signed_by(each, ca) for each in level)]
    return False
