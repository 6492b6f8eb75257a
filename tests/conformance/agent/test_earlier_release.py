"""The release before works on today's cluster while a CA is rotated or recovered, and a cluster goes back to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helpers.node import earlier_release, enrolled_nodes
from helpers.node.agents_in_rotation import AgentsInRotation
from helpers.node.earlier_release import Release
from helpers.vault import applied_cluster
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.snapshots import Snapshot
from vaultpki.certificates import bundle
from vaultpki.pki import x509
from vaultpki.records import rotation as rotation_record
from vaultpki.records.rotation import MOST_SPREAD, Kept, RotationRecord, State

pytestmark = pytest.mark.conformance

NODE, OTHER = "worker-1", "worker-2"


@dataclass(frozen=True, slots=True)
class OlderAgent:
    """A cluster that today's tree applied, and a worker whose agent is older."""

    cluster: AppliedCluster
    release: Release
    node: NodeFolder

    def run(self, *arguments: str | Path) -> Ran:
        """The node's own agent, or another of its commands, after its copy of what Vault told has aged."""
        self.node.age()
        return self.release.run(*arguments, "-c", self.node.config)

    def ca(self, *words: str) -> Ran:
        return vaultpki("ca", *words, "-f", self.cluster.file, env=self.cluster.environment(), expect={0, 3})

    @property
    def record(self) -> RotationRecord:
        data = self.cluster.read(f"{self.cluster.prefix}/config/data/{rotation_record.ROTATION_FOLDER}/kubernetes")[
            "data"
        ]
        return rotation_record.read(data, "kubernetes", where="kubernetes")

    def advance(self, to: State, *words: str) -> None:
        """At most as many steps as a rotation has; a gate that stays closed fails."""
        for _ in State:
            if self.record.state is to:
                return
            said = self.ca("continue", *words).stdout
        raise AssertionError(said)

    @property
    def trusted(self) -> set[str]:
        """The SHA-256 of the CAs in the node's bundle."""
        return {ca.fingerprint for ca in x509.read_certificates((self.node.pki / bundle("kubernetes")).read_bytes())}

    @property
    def leaf(self) -> tuple[int, str]:
        """The serial of a certificate of the node, and the SHA-256 of the CA behind it."""
        leaf, ca = x509.read_certificates((self.node.pki / "kubelet-client.crt").read_bytes())
        return leaf.serial, ca.fingerprint

    @property
    def waiting(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.ca("status", "--json").stdout)["rotation"]["waiting_for"]
        return found


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return earlier_release.installed(earlier_release.neighbour(), tmp_path_factory.mktemp("release") / "release")


def joined(cluster: AppliedCluster, release: Release, folder: Path) -> NodeFolder:
    """The node has joined by a join file of today."""
    node = NodeFolder(NODE, folder / "node")
    node.folder.mkdir()
    file = enrolled_nodes.Enroller(cluster, cluster.token()).join_file(NODE, folder / "join.json")
    release.run("agent", "-c", node.config, "--join", file, "--dir", node.pki, "--once")
    return node


@pytest.fixture
def older(release: Release, clusters: ClusterFactory, tmp_path: Path) -> OlderAgent:
    cluster = clusters.applied()
    return OlderAgent(cluster, release, joined(cluster, release, tmp_path))


def test_it_keeps_working_through_a_rotation(older: OlderAgent) -> None:
    """A gate takes its word."""
    assert older.release.run("--version").stdout == f"vaultpki, version {older.release.version}\n"
    older.ca("rotate", "kubernetes", "--spread", "1s")
    older.advance(State.PUBLISHED)
    record = older.record
    assert record.new is not None
    old, new = record.old.sha256, record.new.sha256
    # It trusts both, and its certificates are of the old CA, renewed or not.
    older.run("agent", "--once")
    assert older.trusted == {old, new}
    before = older.leaf
    older.run("renew", "--force")
    assert older.leaf[0] != before[0] and older.leaf[1] == before[1] == old
    # The next pass reports what it has read, and the gate waits for time alone.
    older.run("agent", "--once")
    assert older.waiting == [] and "Every node is ready" in older.ca("continue").stdout
    # Left out by name, nobody waits minutes for it.
    older.advance(State.SWITCHED, "--without", NODE)
    older.run("agent", "--once")
    older.run("renew", "--force")
    assert older.leaf[1] == new and older.trusted == {old, new}
    (status,) = {one["state"] for one in json.loads(older.run("status", "--json").stdout)["certificates"]}
    assert status == "ok"


def test_a_cluster_goes_back_to_it_and_comes_again(release: Release, clusters: ClusterFactory) -> None:
    """Operators first, then nodes, as the page says; nothing joins again, and no key is made before it is due."""
    cluster = clusters.applied()
    node = cluster.equip(NODE)
    node.run()
    held = node.snapshot(memory=False)
    applier, viewer = cluster.environment(), cluster.environment("viewer")
    asked = ((("apply", "--yes"), applier, ""), (("nodes",), viewer, NODE), (("ca", "status"), viewer, "steady"))
    for words, environment, answer in asked:
        assert answer in release.run(*words, "-f", cluster.file, env=environment).stdout
    back = OlderAgent(cluster, release, node)
    back.run("status")
    back.run("agent", "--once")
    pairs = {path: about for path, about in held.items() if path.startswith("pki/") and path.endswith((".crt", ".key"))}
    assert pairs and pairs.items() <= node.snapshot().items()
    back.run("renew", "--force")
    renewed = back.leaf
    cluster.apply()
    node.age()
    node.run()
    assert back.leaf == renewed and cluster.left_to_apply() == ()


@pytest.mark.parametrize("moved", [(NODE,), (OTHER,), (NODE, OTHER)], ids=["itself", "the-other", "both"])
def test_it_keeps_trust_after_a_recovery_and_takes_no_leaf_that_others_do_not_trust(
    release: Release, clusters: ClusterFactory, tmp_path: Path, moved: tuple[str, ...]
) -> None:
    """Published comes back after these nodes have got leaves of the new CA. Steps leave it out by name."""
    cluster = clusters.applied(
        f"{applied_cluster.ONE_WORKER}- {{name: {OTHER}, roles: [worker], addresses: [10.0.0.22]}}\n"
    )
    mine, other = joined(cluster, release, tmp_path), cluster.equip(OTHER)
    rotation = AgentsInRotation(cluster, (other,), cluster.client(), "kubernetes", (mine,))

    def passes(*, force: bool = False, expect: int = 0) -> None:
        mine.age()
        release.run(*(("renew", "--force") if force else ("agent", "--once")), "-c", mine.config, expect=expect)
        rotation.all_trusted()
        rotation.pass_of(other, force=force)

    passes()
    rotation.begin(0 if OTHER in moved else MOST_SPREAD)
    rotation.moved(State.PUBLISHED)
    passes()
    snapshot = Snapshot.of(cluster, ["kubernetes"])
    rotation.moved(State.SWITCHED)
    record = rotation.record
    assert record.new is not None
    old, new = record.old.sha256, record.new.sha256
    # The other one has read the record in any case.
    rotation.passes()
    if NODE in moved:
        mine.age()
        release.run("renew", "--force", "-c", mine.config)
    leaves = rotation.leaves(mine), rotation.leaves(other)
    assert [rotation.of(node) for node in (mine, other)] == [{new if name in moved else old} for name in (NODE, OTHER)]
    snapshot.restore()
    # One that has read the later record says so, and changes nothing until it is corrected.
    passes(expect=1 if NODE in moved else 0)
    vaultpki("ca", "recover", "kubernetes", "-f", cluster.file, "--yes", env=cluster.environment())
    # The new CA stays the default only if all who report what they hold have leaves of it.
    record = rotation.record
    assert (record.state, record.kept) == (State.RETRUSTING, Kept.NEW if {OTHER, NODE} <= {*moved} else Kept.OLD)
    passes()
    assert (rotation.leaves(mine), rotation.leaves(other)) == leaves
    # What is due is of the CA that signs, which everybody trusts; it keeps what is of the other CA.
    keeps = rotation.of(mine) != {rotation.default()}
    passes(force=True, expect=1 if keeps else 0)
    same = {*rotation.leaves(mine)} & {*leaves[0]}
    assert same == {*leaves[0]} if keeps else rotation.of(mine) == {rotation.default()} and not same
    assert rotation.trusted(mine) == rotation.trusted(other) == {old, new}
    rotation.moved(State.SWITCHED)
    passes(force=True)
    assert rotation.of(mine) == rotation.of(other) == {new} and rotation.trusted(mine) == {old, new}
