"""Says for how long the API of a cluster is away while it is taken over, by the shape of the cluster; pure.

Measured with kubeadm's own manifests, see tests/conformance/RESULTS.md. Most of it is kube-apiserver's end: as long as
clients keep their connections, the kubelet kills it only after 30 s (terminationGracePeriodSeconds).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from vaultpki.records.adoption import AdoptionState, ClusterShape
from vaultpki.rotation.adoption_states import HOMEWARD, LEAVES_OF, ONWARD, TRUSTED

_S = AdoptionState

_SECONDS: Final = {ClusterShape.ONE_PLANE: "35 to 45 seconds", ClusterShape.TWO_MEMBERS: "35 to 40 seconds"}
_TIMES: Final = {ClusterShape.ONE_PLANE: (1, "once"), ClusterShape.TWO_MEMBERS: (2, "once for each member")}
_TAKEN_BY: Final = {ClusterShape.ONE_PLANE: ("etcd", "kube-apiserver"), ClusterShape.TWO_MEMBERS: ("etcd",)}


def outages(shape: ClusterShape) -> str:
    """Return how often the API is away and for how long, as sentences without the last stop; "" if it stays."""
    if shape not in _SECONDS:
        return ""
    there, back = ([*_restarting(way, begin)] for way, begin in ((ONWARD, _S.PREPARED), (HOMEWARD, _S.RETIRED)))
    number, each = _TIMES[shape]
    return (
        f"the API is away {number * len(there)} times for {_SECONDS[shape]}, {each} in {_listed(there)}. The way back "
        f"costs as much, in {_listed(back)}"
    )


def outage_of(components: Collection[str], shape: ClusterShape) -> str:
    """Return for how long a restart of these on one machine takes the API away, as a sentence; "" if it stays."""
    taken = not {*_TAKEN_BY.get(shape, ())}.isdisjoint(components)
    return f"the API of the whole cluster is away for {_SECONDS[shape]} meanwhile" if taken else ""


def _listed(states: list[str]) -> str:
    return f"{', '.join(states[:-1])} and {states[-1]}"


def _restarting(way: Mapping[_S, _S], state: _S) -> Iterator[str]:
    """Yield the states of a way in which etcd and kube-apiserver restart: what they read changes there."""
    while state in way:
        before, state = state, way[state]
        if (TRUSTED[before], LEAVES_OF[before]) != (TRUSTED[state], LEAVES_OF[state]):
            yield state.value
