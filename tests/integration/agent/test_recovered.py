"""Agents of nodes while an operator puts a server right that was restored from a snapshot, in real passes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from helpers.node.agents_in_rotation import AgentsInRotation
from helpers.vault.applied_cluster import Seat, vaultpki
from helpers.vault.servers import Server
from helpers.vault.snapshots import Snapshot
from vaultpki.spec.rotation_record import MOST_SPREAD, Kept, State

CA = "etcd"
IN_FULL = pytest.mark.conformance
DUE = timedelta(days=25)
"""When the last third of a certificate's life has begun, and its CA is far from its end."""


@pytest.fixture
def rotation(server: Server, tmp_path: Path, cluster_name: str) -> Iterator[AgentsInRotation]:
    with AgentsInRotation.standing(server, tmp_path, cluster_name) as made:
        yield made


def refused(rotation: AgentsInRotation) -> None:
    """`ca continue` and `ca abort` name the command, change nothing, and exit 3."""
    site, before, default = rotation.site, rotation.record, rotation.default()
    start = site.server.audit_position()
    for command in ("continue", "abort"):
        ran = vaultpki("ca", command, "-f", site.file, env=site.environment(), expect=3)
        assert f"vaultpki ca recover {CA}" in ran.stderr and "nothing was changed" in ran.stderr, ran
    assert [write for write in site.server.writes(start) if write[1] != "sys/capabilities-self"] == []
    assert (rotation.record, rotation.default()) == (before, default)


def faults(seat: Seat) -> dict[str, str]:
    """What `vaultpki status` says on the node."""
    ran = vaultpki("status", "-c", seat.config, "--json", "--offline", expect={0, 3})
    found: dict[str, str] = json.loads(ran.stdout)["agent"]["faults"]
    return found


@pytest.mark.parametrize(
    ("reached", "moved", "back"),
    [
        (State.SWITCHED, 1, False),
        (State.SWITCHED, 2, True),
        pytest.param(State.SWITCHED, 0, True, marks=IN_FULL),
        pytest.param(State.SWITCHED, 1, True, marks=IN_FULL),
        pytest.param(State.SWITCHED, 2, False, marks=IN_FULL),
        pytest.param(State.RETIRED, 2, False, marks=IN_FULL),
        pytest.param(State.RETIRED, 2, True, marks=IN_FULL),
    ],
)
def test_each_leaf_keeps_its_ca_until_everybody_trusts_both(
    rotation: AgentsInRotation, reached: State, moved: int, *, back: bool
) -> None:
    """Published comes back after so many of two nodes have got leaves of the new CA; the helper checks the trust."""
    seats = rotation.seats
    rotation.begin(0 if moved else MOST_SPREAD)
    rotation.moved(State.PUBLISHED)
    snapshot = Snapshot.of(rotation.site, [CA])
    rotation.moved(State.SWITCHED)
    record = rotation.record
    assert record.new is not None
    old, new = record.old.sha256, record.new.sha256
    for seat in seats[: moved or 1]:
        assert not rotation.pass_of(seat).failures
    if reached is State.RETIRED:
        rotation.moved(reached)
        rotation.passes()
    leaves = {seat.name: rotation.leaves(seat) for seat in seats}
    assert [rotation.of(seat) for seat in seats] == [{new if index < moved else old} for index in range(2)]
    snapshot.restore()

    # Whoever has read more stands still, and nobody but `ca recover` goes on.
    for seat in seats:
        done = rotation.pass_of(seat)
        assert f"vaultpki ca recover {CA}" in str(done.failures[f"{CA} rotation"])
        assert rotation.trusted(seat) == {old, new}
    refused(rotation)
    ran = vaultpki("ca", "recover", CA, "-f", rotation.site.file, "--yes", env=rotation.site.environment())
    record = rotation.record
    kept = Kept.NEW if moved == 2 else Kept.OLD
    assert (record.state, record.kept) == (State.RETRUSTING, kept) and "each keeps its certificate" in ran.stdout, ran
    assert rotation.default() == (new if kept is Kept.NEW else old)
    for seat in seats:
        assert not rotation.pass_of(seat).failures and rotation.trusted(seat) == {old, new}
    assert {seat.name: rotation.leaves(seat) for seat in seats} == leaves

    # What is due is renewed by the same CA, or waits with a sentence.
    for seat in seats:
        (mine,) = rotation.of(seat)
        if mine == rotation.default():
            assert not rotation.pass_of(seat, force=True).failures
            assert rotation.of(seat) == {mine} and not {*rotation.leaves(seat)} & {*leaves[seat.name]}
        else:
            assert rotation.pass_of(seat, later=DUE).renewed == ()
            assert rotation.leaves(seat) == leaves[seat.name]
            said = faults(seat)
            assert {*said} == {"etcd-server", "etcd-peer", "etcd-healthcheck-client"}
            sentence = "was recovered, and the server signs with another CA than that of this certificate"
            assert all(sentence in each and "vaultpki ca status" in each for each in said.values()), said
    assert all(rotation.trusted(seat) == {old, new} for seat in seats)

    for state in (State.RETURNING, State.STEADY) if back else (State.SWITCHED, State.RETIRED, State.DONE):
        rotation.moved(state, back=back)
    rotation.passes()
    last = old if back else new
    assert all(rotation.of(seat) == rotation.trusted(seat) == {last} for seat in seats)
    assert rotation.names() == {"etcd-1" if back else "etcd-2"}
    rotation.site.settled()
    assert not rotation.site.plan()["dangers"]
