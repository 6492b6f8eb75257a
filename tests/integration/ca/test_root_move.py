"""The root moves outside and back: a rotation of the root on a real server, with real passes of the nodes' agents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.node.root_move import RootMove
from helpers.node.root_rotation import RootRotation, everybody_verifies
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_signer import OutsideSigner
from vaultpki.pki import x509
from vaultpki.records.rotation import State

CAS = ("kubernetes", "kubelet", "etcd", "front-proxy")


@pytest.fixture
def move(clusters: ClusterFactory, tmp_path: Path) -> Iterator[RootMove]:
    with RootRotation.standing(clusters) as made:
        yield RootMove.of(made, OutsideSigner.made(tmp_path / "offline", ["Corp Policy CA"]))


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
    assert all(rotation.roots(node) == {first.fingerprint, root.fingerprint} for node in rotation.nodes.values())
    everybody_verifies(rotation, tmp_path, first)

    rotation.moved(State.SWITCHED)
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
    everybody_verifies(rotation, tmp_path, first, root)

    rotation.moved(State.RETIRED)
    rotation.passes()
    assert all(
        rotation.roots(node) == {root.fingerprint} and len(chain) == 2
        for node in rotation.nodes.values()
        for _, chain in rotation.chains()
    )
    rotation.moved(State.DONE)
    assert {name for name in rotation.certificates() if not name.startswith("above-")} == {"root-2", "root-2-by-root-1"}
    assert rotation.keys() == set() and cluster.root_sha256 == root.fingerprint
    move.asks_outside()
    rotation.settled()
    rotation.passes()
    assert {name: chain[0] for name, chain in rotation.chains()} == leaves
    assert all(rotation.roots(node) == {root.fingerprint} for node in rotation.nodes.values())

    # And back, by a cross certificate that people carry.
    move.asks(f"root_ttl: 8y, root_sha256: {root.fingerprint}")
    (needed,) = cluster.plan()["rotation_needed"]
    assert needed["ca"] == "root"
    rotation.begin()
    step = rotation.advance()
    assert step.gate is not None and not step.moved and step.gate.waiting[0].node == "signer outside"
    rotation.settled()
    made = move.crossed("crossing", "-sha384")
    move.run("import", made)
    # The command's clock is behind that of the test.
    assert rotation.advance().record.state is State.PUBLISHED
    rotation.settled()
    third = rotation.certificates()["root-3"]
    rotation.moved(State.SWITCHED)
    assert {ca: rotation.default(ca) for ca in CAS} == {ca: f"{ca}-1r3" for ca in CAS}
    # The mount of a root that signs has a maximum again.
    cluster.apply()
    rotation.settled()
    rotation.passes()
    everybody_verifies(rotation, tmp_path, third)
    rotation.moved(State.RETIRED)
    rotation.moved(State.DONE)
    assert set(rotation.certificates()) == {"root-3", "root-3-by-root-2"} and rotation.keys() == {"root-3"}
    move.asks(f"root_ttl: 8y, root_sha256: {third.fingerprint}")
    rotation.settled()
    rotation.passes()
    assert all(rotation.roots(node) == {third.fingerprint} for node in rotation.nodes.values())
    assert {name: chain[0] for name, chain in rotation.chains()} == leaves
