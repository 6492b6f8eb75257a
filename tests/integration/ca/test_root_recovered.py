"""Agents of nodes while an operator puts a server right that was restored in a rotation of the root, in real passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.node.root_rotation import RootRotation, everybody_verifies, renew
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.snapshots import Snapshot
from vaultpki.certificates import ISSUING_CAS
from vaultpki.pki import x509
from vaultpki.records.rotation import DOMAINS, RotationRecord, State


@pytest.fixture
def rotation(clusters: ClusterFactory) -> Iterator[RootRotation]:
    with RootRotation.standing(clusters) as made:
        yield made


def recovered(rotation: RootRotation) -> RotationRecord:
    """What `ca recover root --yes` writes, with the printed policy."""
    cluster = rotation.cluster
    ran = vaultpki("ca", "recover", "root", "-f", cluster.file, "--yes", env=cluster.environment())
    assert "read a newer record" in ran.stdout, ran
    return rotation.record


def bundles(rotation: RootRotation) -> dict[str, set[str]]:
    """The CAs in every bundle of every node."""
    return {
        f"{node.name}/{file.name}": {facts.fingerprint for facts in x509.read_certificates(file.read_bytes())}
        for node in rotation.nodes.values()
        for kind in ("ca", "ca-chain")
        for file in node.pki.glob(f"*-{kind}.crt")
    }


def keys_of(rotation: RootRotation) -> dict[str, bytes]:
    """The key of the CA of every leaf: which of its certificates stands behind the leaf does not matter."""
    return {name: chain[1].public_key for name, chain in rotation.chains()}


ON = (State.SWITCHED, State.RETIRED, State.DONE)


@pytest.mark.on_node
@pytest.mark.parametrize(
    ("reached", "kept", "away", "back"),
    [
        (State.SWITCHED, State.PUBLISHED, True, True),
        pytest.param(State.RETIRED, State.PUBLISHED, True, True, marks=pytest.mark.conformance),
        pytest.param(State.RETIRED, State.SWITCHED, False, False, marks=pytest.mark.conformance),
    ],
)
def test_a_server_that_was_set_back_goes_on_with_both_roots(
    rotation: RootRotation, tmp_path: Path, reached: State, kept: State, *, away: bool, back: bool
) -> None:
    """A snapshot of `kept` comes back after nodes have read what was `reached`, one of them not if it was `away`."""
    cluster = rotation.cluster
    rotation.reach(State.PUBLISHED)
    for state in ON[: 1 + ON.index(reached)]:
        if rotation.record.state is kept:
            rotation.passes()
            snapshot = Snapshot.of(cluster, DOMAINS)
        rotation.moved(state)
    for node in [*rotation.nodes.values()][: 1 if away else None]:
        rotation.pass_of(node)
    files, keys = bundles(rotation), keys_of(rotation)
    snapshot.restore()

    def trusted_as_before() -> None:
        now = bundles(rotation)
        assert {name for name in files if not files[name] <= now.get(name, set())} == set()
        assert keys_of(rotation) == keys
        everybody_verifies(rotation, tmp_path)

    for node in rotation.nodes.values():
        done = rotation.pass_of(node)
        assert "root rotation" in done.failures or (away and node.name == "worker-1")
        assert len(rotation.roots(node)) == 2
    trusted_as_before()
    before, start = rotation.record, cluster.server.audit_position()
    for command in ("continue", "abort"):
        ran = vaultpki("ca", command, "-f", cluster.file, env=cluster.environment(), expect=3)
        assert "vaultpki ca recover root" in ran.stderr and "No step is taken" in ran.stderr, ran
    assert [write for write in cluster.server.writes(start) if write[1] != "sys/capabilities-self"] == []
    assert rotation.record == before
    whole = kept is State.SWITCHED
    assert recovered(rotation).state is (State.RETRUSTING if whole else State.PUBLISHED)
    if whole:
        assert all(rotation.domain(ca).state is State.RETRUSTING for ca in ISSUING_CAS)
    for node in rotation.nodes.values():
        assert not rotation.pass_of(node).failures
        assert len(rotation.roots(node)) == 2
        trusted_as_before()
        renew(node, "kubelet-client" if node.name == "worker-1" else "etcd-peer")
        everybody_verifies(rotation, tmp_path)
    assert keys_of(rotation) == keys
    for state in ((State.RETURNING, State.STEADY) if whole else (State.STEADY,)) if back else ON:
        rotation.moved(state, back=back)
        everybody_verifies(rotation, tmp_path)
    rotation.passes()
    everybody_verifies(rotation, tmp_path, rotation.certificates()["root-1" if back else "root-2"])
    assert keys_of(rotation) == keys and all(len(rotation.roots(node)) == 1 for node in rotation.nodes.values())
    rotation.settled()
