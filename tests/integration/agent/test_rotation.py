"""A node while one of its CAs is rotated, on a real server with records and CAs made by hand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from helpers.node import node_components, passes
from helpers.node.node_components import NodeComponents
from helpers.node.passes import passed, report
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.handmade_rotation import ETCD, STEMS, Rotation, delete
from vaultpki.agent.context import Outcome
from vaultpki.host import hook_runner
from vaultpki.model import NodeRole
from vaultpki.pki import x509
from vaultpki.records.node_report import NodeReport, Seen
from vaultpki.records.rotation import State

IN_FULL = pytest.mark.conformance


ON_NODE = pytest.mark.on_node


@pytest.fixture
def cluster(handed_on: AppliedCluster) -> AppliedCluster:
    return handed_on


@pytest.fixture
def alone(cluster: AppliedCluster, tmp_path: Path) -> NodeFolder:
    """An etcd member with all its certificates, on which no etcd runs."""
    made = cluster.equip("etcd-2", folder=tmp_path / "etcd-2")
    passed(made)
    return made


@pytest.fixture
def member(alone: NodeFolder) -> Iterator[NodeComponents]:
    """The same, and the process that stands for etcd."""
    with node_components.standing(alone, frozenset({NodeRole.ETCD})) as components:
        yield components


@pytest.fixture
def node(member: NodeComponents, tmp_path: Path) -> NodeFolder:
    """The same with a hook that restarts etcd in earnest."""
    (tmp_path / "restarts").touch()
    node_components.add_hooks(member.node, tmp_path / "restarts")
    passed(member.node)
    return member.node


def bundle(node: NodeFolder, name: str = "etcd-ca.crt") -> set[str]:
    return passes.held(node, name)


def signers(node: NodeFolder, stems: tuple[str, ...] = STEMS) -> set[str]:
    """What stands behind the leaves, each of which it has signed."""
    found = set()
    for stem in stems:
        leaf, issuer = x509.read_certificates((node.pki / f"{stem}.crt").read_bytes())
        assert x509.signed_by(leaf, issuer)
        assert (node.pki / f"{stem}.pem").read_bytes().endswith((node.pki / f"{stem}.crt").read_bytes())
        found.add(issuer.fingerprint)
    return found


def serials(node: NodeFolder) -> dict[str, int]:
    return passes.serials(node, STEMS)


def started(told: NodeReport) -> datetime:
    when = told.readers["etcd/etcd"].started
    assert when is not None
    return when


def restarts(tmp_path: Path) -> int:
    return (tmp_path / "restarts").read_text().count("etcd-ca")


def test_a_whole_rotation_of_etcds_ca(cluster: AppliedCluster, node: NodeFolder, tmp_path: Path) -> None:
    before = serials(node)
    assert report(cluster, node).seen["etcd"] == Seen(0, 0) and report(cluster, node).readers["etcd/etcd"].sha256
    rotation = Rotation.of(cluster, "etcd")
    old, new = rotation.old.sha256, rotation.new.sha256
    # Both are trusted; the restart waits for its turn.
    done = passed(node)
    assert not done.failures and bundle(node) == {old, new} and serials(node) == before and restarts(tmp_path) == 0
    told = report(cluster, node)
    assert told.seen["etcd"] == Seen(1, 1) and told.bundles["etcd"].sha256 == {old, new}
    assert told.waiting == ("etcd",) and "etcd-ca" in told.owed and told.readers["etcd/etcd"].sha256 == {old}
    ran = node.run(expect=3)
    assert ran.stdout == "the hooks of etcd-ca wait for this node's turn in the rotation of the CA of etcd\n"
    assert ran.stderr == ""
    rotation.turn("cp-1")
    passed(node)
    assert restarts(tmp_path) == 0
    rotation.turn("etcd-2")
    assert not passed(node).failures and restarts(tmp_path) == 1
    told = report(cluster, node)
    assert told.seen["etcd"].revision == 3 and told.waiting == () and told.owed == ()
    assert told.readers["etcd/etcd"].sha256 == {old, new}
    assert started(told) >= told.bundles["etcd"].installed
    # Leaves of the new one, without a restart.
    rotation.move(State.SWITCHED)
    done = passed(node)
    assert sorted(done.renewed) == sorted(ETCD) and not done.failures and signers(node) == {new}
    told = report(cluster, node)
    key_id = x509.read_certificates((node.pki / "etcd-peer.crt").read_bytes())[1].subject_key_id
    assert {told.certificates[name].issuer_key_id for name in ETCD} == {key_id}
    assert {told.certificates[name].served for name in ETCD} == {(new,)}
    installed = told.certificates["etcd-peer"].installed
    assert installed is not None and rotation.record.since <= installed <= told.time
    assert told.certificates["etcd-peer"].serial == f"{serials(node)['etcd-peer']:x}"
    assert restarts(tmp_path) == 1
    # Since when counts from the first time, so that a gate opens for a node that reports often.
    passed(node, clock=time.time() + 60)
    assert report(cluster, node).certificates["etcd-peer"].installed == installed
    # The old one is not trusted any more.
    rotation.move(State.RETIRED)
    assert not passed(node).failures and bundle(node) == {new} and restarts(tmp_path) == 1
    assert report(cluster, node).bundles["etcd"].sha256 == {new}
    rotation.turn("etcd-2")
    passed(node)
    assert restarts(tmp_path) == 2 and report(cluster, node).readers["etcd/etcd"].sha256 == {new}
    rotation.move(State.DONE)
    delete(cluster, "etcd", rotation.old)
    after = serials(node)
    done = passed(node)
    assert not done.failures and done.renewed == () and serials(node) == after and bundle(node) == {new}
    since, resting = cluster.server.audit_position(), node.snapshot()
    passed(node, asks=False)
    assert cluster.server.requests(since) == [] and node.snapshot() == resting


@ON_NODE
def test_what_a_hook_has_started_is_reported_at_once_and_only_what_it_has_started(
    cluster: AppliedCluster, member: NodeComponents, tmp_path: Path
) -> None:
    node = member.node
    hook = f"test ! -e {tmp_path}/broken && {node_components.restart(node, 'etcd')}"
    node.config.write_text(node.config.read_text() + json.dumps({"hooks": {"etcd-ca": [["sh", "-c", hook]]}})[1:-1])
    passed(node)
    rotation = Rotation.of(cluster, "etcd")
    rotation.turn("etcd-2")
    woken = threading.Event()
    runner = hook_runner.Runner(done=woken.set)
    node.age(1e6)
    (tmp_path / "broken").touch()

    def passing(later: float = 0.0) -> Outcome:
        return passed(node, asks=False, runner=runner, clock=time.time() + later)

    # As the daemon: the first pass asks Vault and starts the hooks, the next one takes their results.
    passing()
    assert woken.wait(10)
    woken.clear()
    passing()
    told = report(cluster, node)
    assert told.readers["etcd/etcd"].sha256 == {rotation.old.sha256}
    assert told.owed == ("etcd-ca",) and told.waiting == ()
    (tmp_path / "broken").unlink()
    # After the pause that follows a failure.
    passing(10)
    assert woken.wait(10)
    since = cluster.server.audit_position()
    passing()
    told = report(cluster, node)
    assert told.readers["etcd/etcd"].sha256 == {rotation.old.sha256, rotation.new.sha256} and told.owed == ()
    writes = cluster.server.writes(since)
    assert len([path for _, path in writes if "/reports/" in path]) == 1
    # Nothing is new, so nobody is asked.
    since = cluster.server.audit_position()
    passing()
    assert cluster.server.requests(since) == []


@ON_NODE
def test_a_bundle_that_went_and_came_back_is_read_again(
    cluster: AppliedCluster, node: NodeFolder, tmp_path: Path
) -> None:
    rotation = Rotation.of(cluster, "etcd")
    rotation.turn("etcd-2")
    passed(node)
    rotation.move(State.SWITCHED)
    passed(node)
    assert restarts(tmp_path) == 1
    # The old CA goes, its turn does not come, and the operator goes back.
    rotation.move(State.RETIRED)
    passed(node, clock=time.time() + 10)
    rotation.move(State.RETRUSTING)
    passed(node, clock=time.time() + 20)
    told = report(cluster, node)
    assert told.waiting == ("etcd",) and "etcd-ca" in told.owed and restarts(tmp_path) == 1
    assert started(told) < told.bundles["etcd"].installed
    rotation.turn("etcd-2")
    passed(node, clock=time.time() + 30)
    told = report(cluster, node)
    assert told.owed == () and restarts(tmp_path) == 2
    assert started(told) >= told.bundles["etcd"].installed


@ON_NODE
def test_an_aborted_rotation_restarts_members_by_turns_at_its_end(
    cluster: AppliedCluster, node: NodeFolder, tmp_path: Path
) -> None:
    """Members of etcd would restart all at once, or go on accepting the CA that was deleted."""
    rotation = Rotation.of(cluster, "etcd")
    rotation.turn("etcd-2")
    passed(node)
    assert restarts(tmp_path) == 1
    rotation.move(State.STEADY)
    assert not passed(node).failures and bundle(node) == {rotation.old.sha256}
    told = report(cluster, node)
    assert restarts(tmp_path) == 1 and "etcd-ca" in told.owed and told.waiting == ("etcd",)
    assert rotation.new.sha256 in told.readers["etcd/etcd"].sha256
    rotation.turn("etcd-2")
    passed(node, clock=time.time() + 10)
    told = report(cluster, node)
    assert restarts(tmp_path) == 2 and told.owed == () and told.waiting == ()
    assert told.readers["etcd/etcd"].sha256 == {rotation.old.sha256}
    # And the next rotation is as any other.
    rotation.move(State.PUBLISHED)
    passed(node, clock=time.time() + 20)
    assert report(cluster, node).waiting == ("etcd",)


def newer_version(rotation: Rotation) -> None:
    rotation.put({"version": 2})


def garbage(rotation: Rotation) -> None:
    rotation.put({"version": 1, "domain": "etcd", "state": "retired", "revision": 99})


def other_domain(rotation: Rotation) -> None:
    path = f"{rotation.cluster.prefix}/config/data/rotation/kubelet"
    rotation.put(rotation.cluster.server.api("GET", path).body.get("data") or {"version": 1, "domain": "kubelet"})


@ON_NODE
@pytest.mark.parametrize(
    "act", [newer_version, *(pytest.param(each, marks=IN_FULL) for each in (garbage, other_domain))]
)
def test_a_record_that_cannot_be_read_adds_trust_only(
    cluster: AppliedCluster, node: NodeFolder, act: Callable[[Rotation], None], tmp_path: Path
) -> None:
    rotation = Rotation.of(cluster, "etcd")
    rotation.move(State.SWITCHED)
    act(rotation)
    before = serials(node)
    done = passed(node)
    assert set(done.failures) == {"etcd rotation"} and "rotation/etcd" in str(done.failures["etcd rotation"])
    assert bundle(node) == {rotation.old.sha256, rotation.new.sha256} and serials(node) == before
    told = report(cluster, node)
    assert "etcd" not in told.seen and "kubelet" in told.seen and told.failures == ("etcd rotation",)
    # Who reads the CA only when it starts is not restarted on every node at once.
    assert restarts(tmp_path) == 0 and told.waiting == ("etcd",)
    # Other certificates are renewed, and those of etcd by the CA that signed them.
    done = passed(node, "*")
    assert set(ETCD) <= set(done.failures) and signers(node) == {rotation.old.sha256}
