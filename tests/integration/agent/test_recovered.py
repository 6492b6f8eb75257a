"""Agents of nodes while an operator puts a server right that was restored from a snapshot, in real passes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest

from helpers.node.agents_in_rotation import AgentsInRotation
from helpers.vault.applied_cluster import NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.snapshots import Snapshot
from vaultpki.records.rotation import MOST_SPREAD, Kept, State

# tests/integration/ca has the server's side, on both.
pytestmark = pytest.mark.on_node

CA = "etcd"
IN_FULL = pytest.mark.conformance
DUE = timedelta(days=25)
"""When the last third of a certificate's life has begun, and its CA is far from its end."""


@pytest.fixture
def rotation(clusters: ClusterFactory) -> Iterator[AgentsInRotation]:
    with AgentsInRotation.standing(clusters) as made:
        yield made


def refused(rotation: AgentsInRotation) -> None:
    """`ca continue` and `ca abort` name the command, change nothing, and exit 3."""
    cluster, before, default = rotation.cluster, rotation.record, rotation.default()
    start = cluster.server.audit_position()
    for command in ("continue", "abort"):
        ran = vaultpki("ca", command, "-f", cluster.file, env=cluster.environment(), expect=3)
        assert f"vaultpki ca recover {CA}" in ran.stderr and "No step is taken" in ran.stderr, ran
    assert [write for write in cluster.server.writes(start) if write[1] != "sys/capabilities-self"] == []
    assert (rotation.record, rotation.default()) == (before, default)


def faults(node: NodeFolder) -> dict[str, str]:
    """What `vaultpki status` says on the node."""
    ran = vaultpki("status", "-c", node.config, "--json", "--offline", expect={0, 3})
    found: dict[str, str] = json.loads(ran.stdout)["agent"]["faults"]
    return found


@pytest.mark.parametrize(
    ("reached", "moved", "back"),
    [
        (State.SWITCHED, 1, False),
        (State.SWITCHED, 2, True),
        pytest.param(State.SWITCHED, 0, True, marks=IN_FULL),
        pytest.param(State.SWITCHED, 1, True, marks=pytest.mark.exhaustive),
        pytest.param(State.SWITCHED, 2, False, marks=pytest.mark.exhaustive),
        pytest.param(State.RETIRED, 2, False, marks=pytest.mark.exhaustive),
        pytest.param(State.RETIRED, 2, True, marks=IN_FULL),
    ],
)
def test_each_leaf_keeps_its_ca_until_everybody_trusts_both(
    rotation: AgentsInRotation, reached: State, moved: int, *, back: bool
) -> None:
    """Published comes back after so many of two nodes have got leaves of the new CA; the helper checks the trust."""
    nodes = rotation.nodes
    rotation.begin(0 if moved else MOST_SPREAD)
    rotation.moved(State.PUBLISHED)
    snapshot = Snapshot.of(rotation.cluster, [CA])
    rotation.moved(State.SWITCHED)
    record = rotation.record
    assert record.new is not None
    old, new = record.old.sha256, record.new.sha256
    for node in nodes[: moved or 1]:
        assert not rotation.pass_of(node).failures
    if reached is State.RETIRED:
        rotation.moved(reached)
        rotation.passes()
    leaves = {node.name: rotation.leaves(node) for node in nodes}
    assert [rotation.of(node) for node in nodes] == [{new if index < moved else old} for index in range(2)]
    snapshot.restore()

    # Whoever has read more stands still, and nobody but `ca recover` goes on.
    for node in nodes:
        done = rotation.pass_of(node)
        assert f"vaultpki ca recover {CA}" in str(done.failures[f"{CA} rotation"])
        assert rotation.trusted(node) == {old, new}
    refused(rotation)
    ran = vaultpki("ca", "recover", CA, "-f", rotation.cluster.file, "--yes", env=rotation.cluster.environment())
    record = rotation.record
    kept = Kept.NEW if moved == 2 else Kept.OLD
    assert (record.state, record.kept) == (State.RETRUSTING, kept) and "each keeps its certificate" in ran.stdout, ran
    assert rotation.default() == (new if kept is Kept.NEW else old)
    for node in nodes:
        assert not rotation.pass_of(node).failures and rotation.trusted(node) == {old, new}
    assert {node.name: rotation.leaves(node) for node in nodes} == leaves

    # What is due is renewed by the same CA, or waits with a sentence.
    for node in nodes:
        (mine,) = rotation.of(node)
        if mine == rotation.default():
            assert not rotation.pass_of(node, force=True).failures
            assert rotation.of(node) == {mine} and not {*rotation.leaves(node)} & {*leaves[node.name]}
        else:
            assert rotation.pass_of(node, later=DUE).renewed == ()
            assert rotation.leaves(node) == leaves[node.name]
            said = faults(node)
            assert {*said} == {"etcd-server", "etcd-peer", "etcd-healthcheck-client"}
            sentence = "was recovered, and the server signs with another CA than that of this certificate"
            assert all(sentence in each and "vaultpki ca status" in each for each in said.values()), said
    assert all(rotation.trusted(node) == {old, new} for node in nodes)

    for state in (State.RETURNING, State.STEADY) if back else (State.SWITCHED, State.RETIRED, State.DONE):
        rotation.moved(state, back=back)
    rotation.passes()
    last = old if back else new
    assert all(rotation.of(node) == rotation.trusted(node) == {last} for node in nodes)
    assert rotation.names() == {"etcd-1" if back else "etcd-2"}
    rotation.cluster.settled()
    assert not rotation.cluster.plan()["dangers"]
