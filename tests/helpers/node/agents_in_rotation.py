"""An issuing CA under rotation, with real passes of its nodes' agents at the operator's clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from helpers.node import node_components
from helpers.node.reporting_nodes import record_of, shown
from helpers.vault.applied_cluster import NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import AuditedCluster
from vaultpki.agent import run, status
from vaultpki.agent.context import Outcome
from vaultpki.ca import commands
from vaultpki.ca.run import Step
from vaultpki.certificates import bundle
from vaultpki.config.agent import load_agent
from vaultpki.node import state
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.procedures import ON_NODES
from vaultpki.records.rotation import Method, RotationRecord, State
from vaultpki.rotation.confirmations import Confirmations
from vaultpki.vault import Vault

SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: member-1, roles: [etcd], addresses: [10.0.0.11]}
- {name: member-2, roles: [etcd], addresses: [10.0.0.12]}
"""
STEMS = {
    "etcd": ("etcdserver", "etcd-peer", "etcd-healthcheck-client"),
    "kubernetes": ("kubelet-client", "kube-proxy"),
}


@dataclass(slots=True)
class AgentsInRotation:
    """A CA and its nodes, whose hooks count as restarts. Only tests move the clock.

    `nodes` have agents of this release, and `earlier` those of an earlier one, which a test runs; no gate waits for
    them.
    """

    cluster: AuditedCluster
    nodes: tuple[NodeFolder, ...]
    vault: Vault
    ca: str = "etcd"
    earlier: tuple[NodeFolder, ...] = ()
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    @contextmanager
    def standing(cls, clusters: ClusterFactory) -> Iterator[AgentsInRotation]:
        """Two members of etcd, which hooks restart."""
        cluster = clusters.applied(SPEC)
        made = cls(cluster, tuple(cluster.equip(node.name) for node in cluster.model.nodes), cluster.client())
        made.passes()
        with ExitStack() as stack:
            for node, node_folder in zip(cluster.model.nodes, made.nodes, strict=True):
                node_components.add_hooks(node_folder)
                stack.enter_context(node_components.standing(node_folder, node.roles))
            # As it reports.
            made.passes()
            yield made

    @property
    def record(self) -> RotationRecord:
        record = record_of(self.cluster, self.ca)
        assert record is not None
        return record

    def passes(self) -> None:
        """A pass of every agent."""
        for node in self.nodes:
            self.pass_of(node)

    def pass_of(self, node: NodeFolder, *, force: bool = False, later: timedelta = timedelta()) -> Outcome:
        """A pass of one agent, which asks Vault; afterwards everybody must trust everybody.

        `force` renews all certificates, and `later` is how much further the node's clock is.
        """
        if (node.state / "spec.json").exists():
            node.age(1e7)
        if force:
            # Dates of certificates are whole seconds. A new one that ends with the one in use is not taken by a node
            # whose clock is ahead of the server's, as this one is.
            time.sleep(1)
        options = run.PassOptions(ON_NODES, settle=False, force=frozenset({"*"} if force else ()))
        config, now = load_agent(node.config), self.now + later
        done = run.run(config, options, clock=now.timestamp())
        # What a pass leaves is right for `status` in every state.
        assert done.failures or not status.of_node(config, now, ON_NODES, ask=False).bundles
        self.all_trusted()
        return done

    def all_trusted(self) -> None:
        """Fail where a leaf of one node is of a CA that another does not trust: on its disk, or in what it started."""
        present = [node for node in (*self.nodes, *self.earlier) if (node.pki / bundle(self.ca)).exists()]
        signers = {facts for node in present for facts in self.leaves(node).values()}
        for node in present:
            lacks = {facts.subject_text for facts in signers if facts.fingerprint not in self.trusted(node)}
            assert not lacks, (node.name, "does not trust", lacks)
            seen = state.load(str(node.state)).readers.get(f"{self.ca}/etcd")
            if seen is not None and seen.running and node in self.nodes:
                lacks = {facts.subject_text for facts in signers if facts.fingerprint not in seen.sha256}
                assert not lacks, (node.name, "has started what does not trust", lacks)

    def trusted(self, node: NodeFolder) -> set[str]:
        """The SHA-256 of the CAs in a node's bundle."""
        return {facts.fingerprint for facts in x509.read_certificates((node.pki / bundle(self.ca)).read_bytes())}

    def leaves(self, node: NodeFolder) -> dict[int, Facts]:
        """The CA of each leaf, by the leaf's serial."""
        found = {}
        for stem in STEMS[self.ca]:
            leaf, issuer = x509.read_certificates((node.pki / f"{stem}.crt").read_bytes())
            assert x509.signed_by(leaf, issuer)
            found[leaf.serial] = issuer
        return found

    def of(self, node: NodeFolder) -> set[str]:
        """The SHA-256 of the CAs of a node's leaves."""
        return {facts.fingerprint for facts in self.leaves(node).values()}

    def default(self) -> str:
        """The SHA-256 of the CA that the server signs with."""
        (name,) = [each["issuer_name"] for each in self._issuers() if each["is_default"]]
        return shown(self.cluster, self.ca)[name].fingerprint

    def names(self) -> set[str]:
        """The names of the mount's issuers."""
        return {each["issuer_name"] for each in self._issuers()}

    def begin(self, spread: int) -> RotationRecord:
        return commands.rotate(self.cluster.model, self.vault, self.ca, Method.NEW_KEY, spread, self.now).record

    def step(self, *, back: bool = False) -> Step:
        said = Confirmations(without=tuple(node.name for node in self.earlier))
        return commands.advance(self.cluster.model, self.vault, self.now, said, back=back)

    def moved(self, to: State, *, back: bool = False) -> None:
        """The next step: agents pass and restart by turns, and minutes go by, until the gate opens."""
        for _ in range(6):
            # Longer than components need to notice new files.
            self.now += timedelta(seconds=70 if self.ca == "etcd" else 370)
            step = self.step(back=back)
            if step.moved:
                assert step.record.state is to, step
                return
            self.passes()
        raise AssertionError(step)

    def _issuers(self) -> list[dict[str, Any]]:
        listed = self.cluster.server.api("LIST", f"{self.cluster.prefix}/{self.ca}/issuers").data["key_info"]
        return list(listed.values())
