"""A cluster whose root is rotated, with real passes of its agents, and an operator's clock that only tests move."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from helpers.node import node_components
from helpers.node.reporting_nodes import record_of, shown
from helpers.vault.applied_cluster import NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import AuditedCluster
from vaultpki.agent import run, status
from vaultpki.agent.context import Outcome
from vaultpki.ca import commands
from vaultpki.ca.run import Step
from vaultpki.certificates import ISSUING_CAS
from vaultpki.config.agent import load_agent
from vaultpki.kube.objects import KubeTrust
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.procedures import ON_NODES
from vaultpki.records import node_report
from vaultpki.records.node_report import NodeReport
from vaultpki.records.rotation import DOMAINS, Method, RotationRecord, State
from vaultpki.rotation.confirmations import Confirmations
from vaultpki.vault import Vault

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


@dataclass(slots=True)
class RootRotation:
    """The cluster, its nodes, and what an operator does. Hooks that restarted something are told in `restarts`.

    `crossed` is whether the old root vouches for the new one, not the nodes' owners alone.
    """

    cluster: AuditedCluster
    nodes: dict[str, NodeFolder]
    vault: Vault
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    pods: KubeTrust | None = None
    restarts: Path = Path("/dev/null")
    crossed: bool = True

    @classmethod
    @contextmanager
    def standing(cls, clusters: ClusterFactory) -> Iterator[RootRotation]:
        """A control plane whose components hooks restart, and a worker."""
        cluster = clusters.applied(SPEC)
        control, worker = cluster.model.nodes
        nodes = {
            control.name: cluster.equip(control.name),
            worker.name: cluster.equip(worker.name, further=WORKER_HOOKS),
        }
        made = cls(cluster, nodes, cluster.client(), restarts=clusters.folder / "restarts")
        made.passes()
        made.restarts.touch()
        node = nodes[control.name]
        node_components.add_hooks(node, made.restarts)
        with node_components.standing(node, control.roles):
            yield made

    @property
    def record(self) -> RotationRecord:
        record = record_of(self.cluster, "root")
        assert record is not None
        return record

    def domain(self, ca: str) -> RotationRecord:
        record = record_of(self.cluster, ca)
        assert record is not None
        return record

    def passes(self) -> None:
        """A pass of every agent."""
        for node in self.nodes.values():
            self.pass_of(node)

    def pass_of(self, node: NodeFolder) -> Outcome:
        """One pass of one agent, which asks Vault."""
        if (node.state / "spec.json").exists():
            node.age()
        config = load_agent(node.config)
        done = run.run(config, run.PassOptions(ON_NODES, settle=False))
        # What a pass leaves is right for `status` in every state.
        assert done.failures or not status.of_node(config, datetime.now(UTC), ON_NODES, ask=False).bundles
        return done

    @staticmethod
    def minutes(count: int) -> timedelta:
        return timedelta(minutes=count)

    def begin(self, spread: int = 60) -> RotationRecord:
        return commands.rotate(self.cluster.model, self.vault, "root", Method.NEW_KEY, spread, self.now).record

    def advance(self, *said: str, without: tuple[str, ...] = ()) -> Step:
        return self._advance(self._said(said, without), back=False)

    def abort(self, *said: str, without: tuple[str, ...] = ()) -> Step:
        return self._advance(self._said(said, without), back=True)

    def _said(self, words: tuple[str, ...], without: tuple[str, ...]) -> Confirmations:
        """What a person says: a component has a node before it, and anything else was checked."""
        restarted = tuple(word for word in words if "/" in word)
        return Confirmations(without, restarted, tuple(word for word in words if "/" not in word), self.pods)

    def _advance(self, said: Confirmations, *, back: bool) -> Step:
        return commands.advance(self.cluster.model, self.vault, self.now, said, back=back)

    def words(self, to: State) -> tuple[str, ...]:
        """What a person says before this step."""
        return {
            (State.PUBLISHED, State.SWITCHED): ("pods",) if self.crossed else ("pods", "outside"),
            (State.SWITCHED, State.RETIRED): ("outside",),
            (State.RETRUSTING, State.SWITCHED): ("pods", "outside"),
            (State.RETRUSTING, State.RETURNING): ("pods", "outside"),
        }.get((self.record.state, to), ())

    def moved(self, to: State, *, back: bool = False, without: tuple[str, ...] = ()) -> Step:
        """The next step: agents pass and restart by turns, and five minutes go by, until the gate opens."""
        act: Callable[..., Step] = self.abort if back else self.advance
        said: tuple[str, ...] = ()
        for _ in range(8):
            self.passes()
            self.now += timedelta(seconds=400)
            step = act(*said, without=without)
            if step.moved:
                assert step.record.state is to, step
                return step
            assert step.gate is not None
            if {each.node for each in step.gate.waiting} <= {"pods", "outside"}:
                said = self.words(to)
        raise AssertionError(step)

    def reach(self, *states: State) -> None:
        self.begin()
        for state in states:
            self.moved(state)

    def report(self, node: str) -> NodeReport:
        """What a node reported last."""
        found = node_report.read(self.cluster.read(self.cluster.report_path(node))["data"])
        assert found is not None
        return found

    def certificates(self) -> dict[str, Facts]:
        """What is on the root's mount, by the names of issuers."""
        return shown(self.cluster, "root")

    def keys(self) -> set[str]:
        answer = self.cluster.server.api("LIST", f"{self.cluster.prefix}/root/keys")
        return {each["key_name"] for each in answer.data["key_info"].values()} if answer.status == 200 else set()

    def default(self, ca: str) -> str:
        listed = self.cluster.server.api("LIST", f"{self.cluster.prefix}/{ca}/issuers").data["key_info"].values()
        (name,) = [each["issuer_name"] for each in listed if each["is_default"]]
        return str(name)

    def chains(self) -> Iterator[tuple[str, tuple[Facts, ...]]]:
        """The certificates of every .crt of a pair."""
        for node in self.nodes.values():
            for file in sorted(node.pki.glob("*.crt")):
                if not file.name.endswith(("-ca.crt", "-ca-chain.crt")):
                    yield f"{node.name}/{file.name}", x509.read_certificates(file.read_bytes())

    def roots(self, node: NodeFolder) -> set[str]:
        """The roots in a node's chain bundle of kubernetes."""
        held = x509.read_certificates((node.pki / "kubernetes-ca-chain.crt").read_bytes())
        return {facts.fingerprint for facts in held if x509.signed_by(facts, facts)}

    def settled(self) -> None:
        """Nothing is left to do, and an apply undoes nothing."""
        before = self._mounts()
        self.cluster.at_rest()
        assert self._mounts() == before

    def _mounts(self) -> tuple[dict[str, Facts], set[str], dict[str, str]]:
        return self.certificates(), self.keys(), {ca: self.default(ca) for ca in DOMAINS}


def renew(node: NodeFolder, name: str) -> None:
    """`vaultpki renew` on a node, of one certificate."""
    before = (node.pki / f"{name}.crt").read_bytes()
    vaultpki("renew", "-c", node.config, name, expect={0, 3})
    assert (node.pki / f"{name}.crt").read_bytes() != before


@functools.cache
def verifies(folder: Path, chain: tuple[Facts, ...], anchors: tuple[Facts, ...], *, partial: bool = False) -> bool:
    """Whether OpenSSL verifies a leaf with what is sent behind it; `partial` as Go does: any CA is an anchor."""
    leaf, *behind = chain
    for name, certificates in (("leaf", (leaf,)), ("sent", behind), ("anchors", anchors)):
        (folder / f"{name}.pem").write_text("".join(facts.pem for facts in certificates))
    command = ["openssl", "verify", *(["-partial_chain"] if partial else []), "-no-CApath", "-no-CAstore"]
    command += [
        "-CAfile",
        str(folder / "anchors.pem"),
        "-untrusted",
        str(folder / "sent.pem"),
        str(folder / "leaf.pem"),
    ]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def everybody_verifies(rotation: RootRotation, folder: Path, *roots: Facts) -> None:
    """Every served chain verifies for who holds one of these roots alone, and for every node's own bundles."""
    bundles = {
        (node.name, ca, kind): x509.read_certificates(file.read_bytes())
        for node in rotation.nodes.values()
        for ca in ISSUING_CAS
        for kind in ("ca", "ca-chain")
        if (file := node.pki / f"{ca}-{kind}.crt").exists()
    }
    # What stands behind the leaf decides, not which leaf of a CA it is.
    kinds = {(name.partition("/")[0], chain[1:]): (name, chain) for name, chain in rotation.chains()}
    for name, chain in kinds.values():
        for root in roots:
            assert verifies(folder, chain, (root,)), (name, root.subject_text, rotation.record.state)
        held = [held for (_, ca, kind), held in bundles.items() if kind == "ca" and chain[0].issuer_text == _ca(held)]
        assert held and all(verifies(folder, chain, each, partial=True) for each in held), name
        held = [
            held for (_, ca, kind), held in bundles.items() if kind == "ca-chain" and chain[0].issuer_text == _ca(held)
        ]
        assert all(verifies(folder, chain, each) for each in held), name


def _ca(held: Iterable[Facts]) -> str:
    return next(iter(held)).subject_text
