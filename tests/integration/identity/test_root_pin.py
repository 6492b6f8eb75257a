"""`ca.root_sha256` in cluster.yaml while the root is rotated: the pinned root and the one that it signed both pass."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from helpers.node.reporting_nodes import shown
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import Ran, fails, vaultpki
from helpers.vault.root_operator import RootOperator
from vaultpki.ca import commands
from vaultpki.errors import ForeignObject
from vaultpki.provision.cluster_facts import CaStatus
from vaultpki.records.rotation import State
from vaultpki.rotation.states import BACK

pytestmark = pytest.mark.on_node

STRANGER = "ab" * 32


@dataclass(slots=True)
class Pinned:
    """An operator whose cluster.yaml names a root; a pin is "root-1", "root-2" or the SHA-256 of any other."""

    operator: RootOperator
    spec: str
    known: dict[str, str]

    @classmethod
    def standing(cls, clusters: ClusterFactory) -> Pinned:
        operator = RootOperator.standing(clusters)
        made = cls(operator, operator.cluster.file.read_text(), {})
        made.pin("root-1")
        return made

    def sha256(self, root: str) -> str:
        self.known |= {name: facts.fingerprint for name, facts in shown(self.operator.cluster, "root").items()}
        return self.known.get(root, root)

    def pin(self, root: str) -> None:
        self.operator.cluster.file.write_text(f"{self.spec}ca: {{root_sha256: {self.sha256(root)}}}\n")

    def ca(self, *words: str, expect: int = 0) -> Ran:
        cluster = self.operator.cluster
        return vaultpki("ca", *words, "-f", cluster.file, env=cluster.environment(), expect=expect)

    def passes(self) -> None:
        """Whatever reads the root reads it."""
        cluster = self.operator.cluster
        assert all(ca.problem == "" for ca in self.status())
        assert cluster.plan()["changes"] == []

    def status(self) -> tuple[CaStatus, ...]:
        operator = self.operator
        return commands.status(operator.cluster.model, operator.through, operator.now)

    def refused(self, sentence: str) -> None:
        with pytest.raises(ForeignObject) as caught:
            self.status()
        assert sentence in str(caught.value)

    def reach(self, state: State) -> None:
        """A rotation that goes on to a state, with the line as it is."""
        self.operator.begin()
        while self.operator.record.state is not state:
            self.operator.step()


def change(pinned: Pinned, root: str) -> str:
    return f"write `root_sha256: {pinned.sha256(root)}` into {pinned.operator.cluster.file} below `ca`"


def test_a_whole_rotation(clusters: ClusterFactory) -> None:
    pinned = Pinned.standing(clusters)
    operator, cluster = pinned.operator, pinned.operator.cluster
    pinned.reach(State.SWITCHED)
    keep = f"{cluster.file} names key 1 of the CA root (ca.root_sha256). Leave it so until the rotation is done, and "
    keep += f"then write `root_sha256: {pinned.sha256('root-2')}` there"
    assert keep in pinned.ca("status").stdout
    plan = vaultpki("plan", "-f", cluster.file, env=cluster.environment("viewer")).stdout
    assert keep.replace(" ", "") in "".join(plan.split())
    # The new one already, which the old one vouches for; but none for which nobody does.
    pinned.pin("root-2")
    pinned.passes()
    pinned.pin(STRANGER)
    pinned.refused("This is another Vault, or somebody changed the root")
    pinned.pin("root-1")
    operator.step()
    operator.step()
    assert operator.record.state is State.DONE
    # The command that has deleted the old root said what is to do now, and every later one says it.
    fails(pinned.ca("status", expect=1), change(pinned, "root-2"))
    pinned.pin("root-2")
    pinned.passes()


@pytest.mark.conformance
@pytest.mark.parametrize("pin", ["root-1", "root-2"])
@pytest.mark.parametrize("state", [State.PUBLISHED, State.SWITCHED, State.RETIRED])
def test_an_abort(clusters: ClusterFactory, state: State, pin: str) -> None:
    pinned = Pinned.standing(clusters)
    operator = pinned.operator
    pinned.reach(state)
    pinned.pin(pin)
    if state is State.RETIRED:
        # There and back again first.
        operator.step(back=True)
        pinned.passes()
        operator.step()
        operator.step()
        assert operator.record.state is State.RETIRED
    while operator.record.active:
        operator.step(back=BACK.get(operator.record.state) is not None)
        if operator.record.active:
            pinned.passes()
    assert operator.record.state is State.STEADY
    if pin == "root-2":
        fails(pinned.ca("status", expect=1), "came back by `vaultpki ca abort`", change(pinned, "root-1"))
        words = ("plan", "-f", operator.cluster.file)
        fails(vaultpki(*words, env=operator.cluster.environment(), expect=1), change(pinned, "root-1"))
        pinned.pin("root-1")
    pinned.passes()


@pytest.mark.conformance
def test_a_root_that_nobody_vouches_for(clusters: ClusterFactory) -> None:
    """Somebody deletes the certificate by which the old root vouches for the new one, and writes a record."""
    pinned = Pinned.standing(clusters)
    cluster = pinned.operator.cluster
    pinned.reach(State.SWITCHED)
    pinned.passes()
    mount = f"{cluster.prefix}/root"
    assert cluster.server.api("DELETE", f"{mount}/issuer/root-2-by-root-1").status in (200, 204)
    pinned.refused("This is another Vault, or somebody changed the root")
    fails(pinned.ca("continue", expect=1), "This is another Vault, or somebody changed the root")
    assert cluster.server.api("GET", f"{mount}/issuer/root-2-by-root-1").status >= 400
