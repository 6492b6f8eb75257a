"""The root moves outside and back: a rotation of the root on a real server, with real passes of the nodes' agents.

Each test is a walk of several moves of one cluster; commands that are cut off, and moves that are given up as they
begin, are in test_root_move_killed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.node.root_move import RootMove
from helpers.node.root_rotation import RootRotation, everybody_verifies
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_signer import OutsideSigner
from helpers.vault.snapshots import Snapshot
from vaultpki.identity import anchor
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.records.rotation import DOMAINS, State

# Each is one to four whole rotations, with passes of real agents.
pytestmark = pytest.mark.timeout(900)

CAS = ("kubernetes", "kubelet", "etcd", "front-proxy")


@pytest.fixture
def move(clusters: ClusterFactory, tmp_path: Path) -> Iterator[RootMove]:
    with RootRotation.standing(clusters) as made:
        yield RootMove.of(made, OutsideSigner.made(tmp_path / "offline", ["Corp Policy CA"]))


def verified(rotation: RootRotation) -> None:
    """`vaultpki verify` finds nothing wrong with the files of the nodes."""
    ran = vaultpki(
        "verify", "-f", rotation.cluster.file, "--dir", rotation.cluster.folder / "nodes", "--json", expect={0, 1}
    )
    wrong = [each for each in json.loads(ran.stdout)["checks"] if not each["ok"]]
    assert not wrong and len(json.loads(ran.stdout)["checks"]) > 50, wrong


def joins_by(rotation: RootRotation, pin: Facts, *roots: Facts) -> None:
    """Join files name this root, and an operator's new folder holds all of these."""
    cluster = rotation.cluster
    assert anchor.find(cluster.model, rotation.vault, datetime.now(UTC)).root_sha256 == pin.fingerprint
    folder = cluster.folder / f"operator-{len(list(cluster.folder.glob('operator-*')))}"
    cluster.issue("admin", folder)
    held = x509.read_certificates((folder / "kubernetes-ca-chain.crt").read_bytes())
    assert {facts for facts in held if x509.signed_by(facts, facts)} == set(roots)


def hold(rotation: RootRotation, *roots: str) -> bool:
    """Whether every node holds these roots, and no others."""
    return all(rotation.roots(node) == {*roots} for node in rotation.nodes.values())


def listed(move: RootMove, first: Facts, *roots: str) -> None:
    """The owner of each node writes these roots into agent.yaml beside the one that it was pinned to."""
    for node in move.rotation.nodes.values():
        line = next(each for each in node.config.read_text().splitlines() if each.startswith("root_sha256: "))
        node.configure(line, f"root_sha256: [{', '.join((first.fingerprint, *roots))}]")


def test_out_and_back(move: RootMove, tmp_path: Path) -> None:
    rotation, cluster = move.rotation, move.rotation.cluster
    (first,) = rotation.certificates().values()
    leaves = {name: chain[0] for name, chain in rotation.chains()}
    move.asks_outside(first.fingerprint)
    (needed,) = cluster.plan()["rotation_needed"]
    assert needed["ca"] == "root" and move.signer.root_sha256 in str(needed)
    before = cluster.server.audit_position()
    cluster.apply()
    assert cluster.server.writes(before) == []

    move.published()
    shown = rotation.certificates()
    root, cross = shown["root-2"], shown["root-2-by-root-1"]
    assert root.fingerprint == move.signer.root_sha256 and rotation.default("root") == "root-1"
    assert x509.signed_by(cross, first) and cross.public_key == root.public_key and len(shown) == 4
    rotation.settled()
    rotation.passes()
    assert hold(rotation, first.fingerprint, root.fingerprint)
    everybody_verifies(rotation, tmp_path, first)
    joins_by(rotation, first, first, root)

    rotation.moved(State.SWITCHED)
    joins_by(rotation, first, first, root)
    assert rotation.default("root") == "root-2"
    assert {ca: rotation.default(ca) for ca in CAS} == {ca: f"{ca}-1" for ca in CAS}
    step = rotation.advance()
    assert step.gate is not None and {each.node for each in step.gate.waiting} == {"signer outside"}
    rotation.settled()
    files = move.signed("requests")
    assert len(files) == len(CAS)
    move.run("import", files[0])
    assert [ca for ca in CAS if rotation.default(ca) == f"{ca}-1r2"] == ["etcd"]
    move.run("import", *files)
    assert {ca: rotation.default(ca) for ca in CAS} == {ca: f"{ca}-1r2" for ca in CAS}
    rotation.settled()
    everybody_verifies(rotation, tmp_path, first)
    rotation.passes()
    # The issuing CA, the CA between, the cross certificate, and the issuing CA of the old root.
    assert all(chain[3] == cross and len(chain) == 5 for _, chain in rotation.chains())
    verified(rotation)
    everybody_verifies(rotation, tmp_path, first, root)

    rotation.moved(State.RETIRED)
    rotation.passes()
    assert hold(rotation, root.fingerprint) and all(len(chain) == 2 for _, chain in rotation.chains())
    rotation.moved(State.DONE)
    assert {name for name in rotation.certificates() if not name.startswith("above-")} == {"root-2", "root-2-by-root-1"}
    assert rotation.keys() == set() and cluster.root_sha256 == root.fingerprint
    move.asks_outside()
    joins_by(rotation, root, root)
    rotation.settled()
    rotation.passes()
    assert {name: chain[0] for name, chain in rotation.chains()} == leaves and hold(rotation, root.fingerprint)

    # And back, by a cross certificate that people carry.
    move.asks(f"root_ttl: 8y, root_sha256: {root.fingerprint}")
    (needed,) = cluster.plan()["rotation_needed"]
    assert needed["ca"] == "root"
    rotation.begin()
    step = rotation.advance()
    assert step.gate is not None and not step.moved and step.gate.waiting[0].node == "signer outside"
    rotation.settled()
    move.run("import", move.crossed("crossing", "-sha384"))
    # The command's clock is behind that of the test.
    assert rotation.advance().record.state is State.PUBLISHED
    rotation.settled()
    third = rotation.certificates()["root-3"]
    joins_by(rotation, root, root, third)
    rotation.moved(State.SWITCHED)
    joins_by(rotation, root, root, third)
    assert {ca: rotation.default(ca) for ca in CAS} == {ca: f"{ca}-1r3" for ca in CAS}
    # The mount of a root that signs has a maximum again.
    cluster.apply()
    rotation.settled()
    rotation.passes()
    everybody_verifies(rotation, tmp_path, third)
    verified(rotation)
    rotation.moved(State.RETIRED)
    rotation.moved(State.DONE)
    assert set(rotation.certificates()) == {"root-3", "root-3-by-root-2"} and rotation.keys() == {"root-3"}
    move.asks(f"root_ttl: 8y, root_sha256: {third.fingerprint}")
    rotation.settled()
    rotation.passes()
    assert hold(rotation, third.fingerprint)
    assert {name: chain[0] for name, chain in rotation.chains()} == leaves


TO = {State.SWITCHED: State.RETURNING, State.RETIRED: State.RETRUSTING, State.RETRUSTING: State.RETURNING}


def back(rotation: RootRotation, folder: Path) -> None:
    rotation.passes()
    while rotation.record.state is not State.STEADY:
        rotation.moved(TO.get(rotation.record.state, State.STEADY), back=True)
        rotation.passes()
        everybody_verifies(rotation, folder)


@pytest.mark.on_node
def test_from_outside_back_there_to_another_one_and_to_ours_again(move: RootMove, tmp_path: Path) -> None:
    rotation = move.rotation
    first, outside = move.out(), move.signer.root_sha256
    before, issuing = set(rotation.certificates()), {ca: rotation.default(ca) for ca in CAS}
    # Half of the way home, and back to the root outside.
    move.asks(f"root_sha256: {outside}")
    rotation.begin()
    move.run("import", move.crossed("crossing", "-sha256"))
    for state in (State.PUBLISHED, State.SWITCHED):
        rotation.moved(state)
    back(rotation, tmp_path)
    assert set(rotation.certificates()) == before and rotation.keys() == set()
    assert {ca: rotation.default(ca) for ca in CAS} == issuing and hold(rotation, outside)
    move.asks_outside()
    rotation.settled()

    # To another root outside, for which the first one vouches.
    other = OutsideSigner.made(tmp_path / "other")
    move.asks_outside(outside, signer=other)
    rotation.begin()
    move.run("import", move.crossed("to-another", "-sha256"))
    rotation.moved(State.PUBLISHED)
    rotation.settled()
    rotation.moved(State.SWITCHED)
    move.run("import", *move.signed("second", other))
    rotation.settled()
    rotation.passes()
    everybody_verifies(rotation, tmp_path)
    rotation.moved(State.RETIRED)
    rotation.moved(State.DONE)
    move.asks_outside(signer=other)
    rotation.settled()
    rotation.passes()
    assert hold(rotation, other.root_sha256)
    assert {name for name in rotation.certificates() if not name.startswith("above-")} == {"root-4", "root-4-by-root-2"}

    no_cross_certificate_but_a_list_in_agent_yaml(move, first, other.root_sha256)


def no_cross_certificate_but_a_list_in_agent_yaml(move: RootMove, first: Facts, outside: str) -> None:
    """To ours: the owner of each node writes the new root, and the gate names the nodes that lack it."""
    rotation = move.rotation
    move.asks(f"root_sha256: {outside}")
    rotation.begin()
    record = rotation.record
    assert record.new is not None
    name, nodes = record.new.name, list(rotation.nodes.values())
    made = rotation.certificates()[name]

    def waits() -> set[str]:
        rotation.passes()
        rotation.now += rotation.minutes(7)
        step = rotation.advance()
        assert step.gate is not None and not step.moved
        return {each.node for each in step.gate.waiting}

    rotation.crossed = False
    assert waits() == {"signer outside", "cp-1", "worker-1", "cluster.yaml"}
    move.asks(f"root_sha256: [{outside}, {made.fingerprint}]")
    for node, rest in zip(nodes, ({"signer outside", "worker-1"}, set[str]()), strict=True):
        assert rotation.record.state is State.PREPARED
        node.configure(f"root_sha256: {first.fingerprint}", f"root_sha256: [{first.fingerprint}, {made.fingerprint}]")
        if rest:
            assert waits() == rest
            # A record alone brings nothing in.
            assert rotation.roots(node) == {outside}
    rotation.moved(State.PUBLISHED)
    rotation.settled()
    rotation.passes()
    assert hold(rotation, outside, made.fingerprint)
    root = next(facts for facts in rotation.certificates().values() if facts.fingerprint == outside)
    joins_by(rotation, root, root, made)
    rotation.moved(State.SWITCHED)
    joins_by(rotation, root, root, made)
    rotation.cluster.apply()
    rotation.settled()
    rotation.moved(State.RETIRED)
    rotation.moved(State.DONE)
    rotation.passes()
    assert hold(rotation, made.fingerprint) and set(rotation.certificates()) == {name}


@pytest.mark.on_node
def test_the_way_back_from_outside(move: RootMove, tmp_path: Path) -> None:
    """From retired, and from switched where half of the issuing CAs are signed anew."""
    rotation = move.rotation
    (first,) = rotation.certificates().values()
    issuing, outside = {ca: rotation.default(ca) for ca in CAS}, move.signer.root_sha256
    for turned, count in ((State.RETIRED, 4), (State.SWITCHED, 2)):
        move.asks_outside(first.fingerprint)
        rotation.begin()
        rotation.moved(State.PUBLISHED)
        if turned is State.SWITCHED:
            # It was given up: only the nodes' owners bring it back.
            rotation.passes()
            assert hold(rotation, first.fingerprint)
            listed(move, first, outside)
        rotation.moved(State.SWITCHED)
        move.run("import", *move.signed(f"requests-{turned}")[:count])
        if turned is State.RETIRED:
            rotation.moved(State.RETIRED)
        back(rotation, tmp_path)
        assert set(rotation.certificates()) == {"root-1"} and rotation.keys() == {"root-1"}
        assert {ca: rotation.default(ca) for ca in CAS} == issuing and hold(rotation, first.fingerprint)
        move.asks(f"root_sha256: {first.fingerprint}")
        rotation.settled()


def recovered(move: RootMove) -> State:
    assert "read a newer record" in move.run("recover", "root", "--yes").stdout
    return move.rotation.record.state


@pytest.mark.on_node
def test_a_server_that_was_set_back_on_the_way_out_and_then_lost_the_record(move: RootMove, tmp_path: Path) -> None:
    rotation, cluster = move.rotation, move.rotation.cluster
    (first,) = rotation.certificates().values()
    move.asks_outside(first.fingerprint)
    move.published()
    rotation.passes()
    snapshot = Snapshot.of(rotation.cluster, DOMAINS)
    move.switched()
    rotation.passes()
    snapshot.restore()
    for node in rotation.nodes.values():
        assert "root rotation" in rotation.pass_of(node).failures and len(rotation.roots(node)) == 2
    everybody_verifies(rotation, tmp_path)
    assert recovered(move) is State.PUBLISHED
    rotation.passes()
    everybody_verifies(rotation, tmp_path)
    move.switched("again")
    rotation.passes()
    assert cluster.server.api("DELETE", f"{cluster.prefix}/config/metadata/rotation/root").status == 204
    rotation.passes()
    assert recovered(move) is State.RETRUSTING
    back(rotation, tmp_path)
    assert set(rotation.certificates()) == {"root-1"} and hold(rotation, first.fingerprint)
