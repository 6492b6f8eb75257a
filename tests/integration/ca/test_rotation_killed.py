"""A rotation cut off after any of its writes: the same command again continues, and nothing is doubled or left over.

These are all of its ends: a command keeps nothing on its own machine, so that one which is killed at a read leaves what
the write before left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from helpers.faults.cutting_proxy import proxied
from helpers.faults.drawn import Drawn
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.rotations import Rotation, rotation_of
from vaultpki.errors import Sealed, StateConflict, Unavailable
from vaultpki.records.rotation import Method, State
from vaultpki.vault import Settings, Vault


def forward(rotation: Rotation, through: Vault, method: Method) -> None:
    """A whole rotation, each command of which is run again, as a person would, if it was interrupted."""
    try:
        rotation.begin(method, through)
    except (Sealed, Unavailable):
        rotation.begin(method)
    while rotation.record.active:
        rotation.reported()
        cut_off(lambda vault: rotation.advance(vault=vault), rotation, through)


def back(rotation: Rotation, through: Vault, state: State) -> None:
    """A rotation up to a state, and all the rollback."""
    try:
        rotation.begin(vault=through)
    except (Sealed, Unavailable):
        rotation.begin()
    while rotation.record.state is not state:
        rotation.reported()
        cut_off(lambda vault: rotation.advance(vault=vault), rotation, through)
    while rotation.record.active:
        rotation.reported()
        cut_off(rotation.abort, rotation, through)


def cut_off(act: Callable[[Vault], object], rotation: Rotation, through: Vault) -> None:
    """A command that may be interrupted: then another one makes the server match the record, and takes no step more."""
    before = rotation.record
    try:
        act(through)
    except (Sealed, Unavailable):
        if rotation.record.active and rotation.record.state is before.state:
            act(rotation.vault)
        elif rotation.record.active:
            # Its record says the next state: whoever looks in first makes it so.
            assert not rotation.advance().moved or rotation.record.method is Method.EMERGENCY
        else:
            # After the last write there is nothing left to do.
            with contextlib.suppress(StateConflict):
                rotation.advance()


def check(rotation: Rotation, when: str) -> None:
    """The CA is one issuer with one key, which signs, and no command or apply finds anything to do."""
    leaf = rotation.record.leaf.name
    assert rotation.names() == ({leaf}, {leaf.partition("r")[0]}, leaf), when
    assert rotation.signs(leaf), when
    with pytest.raises(StateConflict, match="no CA of"):
        rotation.advance()
    rotation.settled()


WRITES = {
    "forward": 27,
    "same key": 22,
    "emergency": 20,
    "prepared": 9,
    "published": 18,
    "switched": 29,
    "retired": 37,
}
METHODS = {"forward": Method.NEW_KEY, "same key": Method.SAME_KEY, "emergency": Method.EMERGENCY}


@pytest.mark.parametrize(
    "way",
    [
        pytest.param("", id="sample", marks=pytest.mark.sample),
        *(pytest.param(way, marks=pytest.mark.conformance) for way in WRITES),
    ],
)
def test_cut_after_every_write(clusters: ClusterFactory, drawn: Drawn, way: str) -> None:
    rotation = rotation_of(clusters)
    every = [(each, cut) for each, last in WRITES.items() for cut in range(1, last + 1)]
    cuts = [(each, cut) for each, cut in every if each == way] or drawn.some(every, 3)
    with proxied(clusters.server) as proxy:
        through = Vault(Settings((proxy.address,), ca_pem=proxy.ca_pem, token=rotation.cluster.token()))
        for each, cut in cuts:
            proxy.arm(cut, reopens=False)
            if each in METHODS:
                forward(rotation, through, METHODS[each])
            else:
                back(rotation, through, State(each))
            assert proxy.closed, f"{each}: fewer than {cut} writes"
            check(rotation, f"{each}, cut after write {cut}")
