"""A person who rotates the root of a cluster whose nodes only report, and a clock that only tests move."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from helpers.node.reporting_nodes import record_of
from helpers.node.root_reporters import RootReporters
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import AuditedCluster
from helpers.vault.rotations import SPEC
from vaultpki.ca import commands
from vaultpki.errors import Sealed, StateConflict, Unavailable
from vaultpki.records.rotation import Method, RotationRecord, State
from vaultpki.rotation.confirmations import Confirmations
from vaultpki.rotation.states import BACK
from vaultpki.vault import Vault

WORDS = {
    State.PUBLISHED: ("pods",),
    State.SWITCHED: ("outside",),
    State.RETRUSTING: ("pods", "outside"),
}


@dataclass(slots=True)
class RootOperator:
    """The cluster, and an operator whose connection `through` may be cut: then the command is run again without it."""

    cluster: AuditedCluster
    through: Vault
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def standing(cls, clusters: ClusterFactory) -> RootOperator:
        cluster = clusters.applied(SPEC)
        for node in cluster.model.nodes:
            cluster.equip(node.name)
        made = cls(cluster, cluster.client())
        RootReporters(cluster).report(made.now)
        return made

    @property
    def record(self) -> RotationRecord:
        record = record_of(self.cluster, "root")
        assert record is not None
        return record

    def run(self, act: Callable[[Vault], object]) -> None:
        """A command, and again if it was interrupted: until then every CA has a name, and signs."""
        try:
            act(self.through)
        except (Sealed, Unavailable):
            vault = self.cluster.client()
            for ca in commands.status(self.cluster.model, self.cluster.client("viewer"), self.now):
                assert ca.problem == "" and ca.sha256, ca
            act(vault)

    def begin(self) -> None:
        self.run(lambda vault: commands.rotate(self.cluster.model, vault, "root", Method.NEW_KEY, 60, self.now))

    def step(self, *, back: bool = False) -> None:
        """The next step, once every node has reported and some minutes have passed."""
        RootReporters(self.cluster).report(self.now)
        self.now += timedelta(minutes=7)
        state = self.record.state
        words = WORDS.get(state, ()) if not back or state is State.RETRUSTING else ()

        def once(vault: Vault) -> None:
            if self.record.state is state:
                commands.advance(self.cluster.model, vault, self.now, Confirmations(checked=words), back=back)
            else:
                # Its record says the next state: whoever looks in first makes it so.
                with contextlib.suppress(*() if self.record.active else (StateConflict,)):
                    # After the very last write nothing is left to do, and it says so.
                    assert not commands.advance(self.cluster.model, vault, self.now).moved

        self.run(once)
        assert self.record.state is not state

    def reach(self, state: State) -> None:
        self.begin()
        while self.record.state is not state:
            self.step()

    def back(self) -> None:
        while self.record.active:
            self.step(back=BACK.get(self.record.state) is not None)

    def names(self, ca: str) -> tuple[list[str], list[str], str]:
        """The names of the issuers and the keys of a mount, and of its default issuer."""
        mount = f"{self.cluster.prefix}/{ca}"
        issuers = self.cluster.server.api("LIST", f"{mount}/issuers").data["key_info"].values()
        keys = self.cluster.server.api("LIST", f"{mount}/keys").data["key_info"].values()
        (default,) = [each["issuer_name"] for each in issuers if each["is_default"]]
        return sorted(each["issuer_name"] for each in issuers), [each["key_name"] for each in keys], default
