"""The rotation of service-account keys with real agents: no token that lives is refused, whatever the way."""

from __future__ import annotations

from helpers.node.agents_with_keys import AgentsWithKeys
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.records.service_account import KeyState

ONWARD = (KeyState.SWITCHED, KeyState.RETIRED, KeyState.DONE)


def test_a_whole_rotation_of_two(clusters: ClusterFactory) -> None:
    with AgentsWithKeys.standing(clusters, "cp-1", "cp-2") as made:
        made.settled()
        assert made.record.state is KeyState.STEADY and made.admitted() == {"cp-1", "cp-2"}
        done = made.begin()
        assert done.record is not None and done.record.state is KeyState.PUBLISHED
        made.settled()
        made.passes()
        for state in ONWARD:
            made.moved(state)
            made.settled()
            made.passes()
        assert {name: keys.numbers for name, keys in made.record.nodes.items()} == {"cp-1": (2,), "cp-2": (2,)}
        for plane in made.planes.values():
            made.passes()
            assert plane.union() == ["sa:cp-1:2", "sa:cp-2:2"]
            assert {path.name for path in plane.node.pki.glob("sa*.key")} == {"sa.key", "sa-2.key"}
