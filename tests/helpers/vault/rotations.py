"""A cluster whose CA is rotated, its nodes, which only report, and a clock that only tests move."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from helpers.node.reporting_nodes import Reporter, all_pass, record_of
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import AuditedCluster
from vaultpki.ca import commands
from vaultpki.ca import recover as recovery
from vaultpki.ca.recover import Proposal
from vaultpki.ca.run import Step
from vaultpki.provision.cluster_facts import CaStatus
from vaultpki.records.rotation import Method, RotationRecord, State
from vaultpki.rotation.confirmations import Confirmations
from vaultpki.vault import Vault

SPEC = """\
api_server: {names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: etcd-2, roles: [etcd], addresses: [10.0.0.12]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
"""


class Rotation:
    """One CA under rotation."""

    def __init__(self, cluster: AuditedCluster, domain: str = "etcd") -> None:
        self.cluster, self.domain = cluster, domain
        self.vault = cluster.client()
        self.now = datetime.now(UTC)
        self.nodes = [Reporter(cluster, node.name, domain) for node in cluster.model.nodes]
        all_pass(self.nodes, self.now)

    def later(self, seconds: int = 61) -> None:
        self.now += timedelta(seconds=seconds)

    @property
    def record(self) -> RotationRecord:
        record = record_of(self.cluster, self.domain)
        assert record is not None
        return record

    def begin(self, method: Method = Method.NEW_KEY, vault: Vault | None = None) -> RotationRecord:
        return commands.rotate(self.cluster.model, vault or self.vault, self.domain, method, 60, self.now).record

    def advance(
        self, without: tuple[str, ...] = (), restarted: tuple[str, ...] = (), vault: Vault | None = None
    ) -> Step:
        return commands.advance(self.cluster.model, vault or self.vault, self.now, Confirmations(without, restarted))

    def abort(self, vault: Vault | None = None) -> Step:
        return commands.advance(self.cluster.model, vault or self.vault, self.now, back=True)

    def recover(self, *without: str) -> RotationRecord:
        """What `ca recover` does once a person has agreed."""
        found = self.proposed(*without)
        assert found.why
        return recovery.recover(found)

    def proposed(self, *without: str) -> Proposal:
        return recovery.propose(self.cluster.model, self.vault, self.domain, without, self.now)

    def status(self) -> tuple[CaStatus, ...]:
        return commands.status(self.cluster.model, self.cluster.client("viewer"), self.now)

    def reported(self) -> None:
        """Every node makes a pass, and time goes by until every component has noticed new files."""
        all_pass(self.nodes, self.now)
        self.later(361 if self.domain in ("kubernetes", "kubelet") else 61)

    def moved(self, act: Callable[[], Step] | None = None) -> State:
        """The next step, which the reports have opened the gate for."""
        self.reported()
        step = (act or self.advance)()
        assert step.moved, step
        return step.record.state

    def reach(self, state: State) -> None:
        """A rotation that begins and goes on to a state."""
        self.begin()
        self.reach_on(state)

    def reach_on(self, state: State) -> None:
        while self.record.state is not state:
            self.moved()

    def names(self) -> tuple[set[str], set[str], str]:
        """The names of the mount's issuers and keys, and that of its default issuer."""
        mount = f"{self.cluster.prefix}/{self.domain}"
        issuers = self.cluster.server.api("LIST", f"{mount}/issuers").data["key_info"].values()
        keys = self.cluster.server.api("LIST", f"{mount}/keys").data["key_info"].values()
        default = [each["issuer_name"] for each in issuers if each["is_default"]]
        return {each["issuer_name"] for each in issuers}, {each["key_name"] for each in keys}, "".join(default)

    def signs(self, name: str) -> bool:
        issuer = self.cluster.read(f"{self.cluster.prefix}/{self.domain}/issuer/{name}")
        return "issuing-certificates" in issuer["usage"]

    def settled(self) -> None:
        """Nothing is left to do, and an apply undoes nothing."""
        names = self.names()
        self.cluster.at_rest()
        assert self.names() == names


def rotation_of(clusters: ClusterFactory, domain: str = "etcd") -> Rotation:
    """A cluster that is applied, with two nodes that can log in and have reported."""
    cluster = clusters.applied(SPEC)
    for node in cluster.model.nodes:
        cluster.equip(node.name)
    return Rotation(cluster, domain)
