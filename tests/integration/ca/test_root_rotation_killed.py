"""The root's rotation cut off after any of its writes: the same command again continues, and leaves nothing over.

Why these are all of its ends is said in test_rotation_killed.
"""

from __future__ import annotations

import contextlib

import pytest

from helpers.faults.cutting_proxy import proxied
from helpers.faults.drawn import Drawn
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.root_operator import RootOperator
from vaultpki.ca import commands
from vaultpki.errors import StateConflict
from vaultpki.records.rotation import State
from vaultpki.vault import Settings, Vault

CAS = ("kubernetes", "kubelet", "etcd", "front-proxy")


def check(operator: RootOperator, when: str) -> None:
    """Nothing is left but the root in force with its cross certificate, and one issuer with one key for each CA."""
    vault = operator.cluster.client()
    with contextlib.suppress(StateConflict):
        # What was interrupted in the very last step.
        commands.advance(operator.cluster.model, vault, operator.now)
    with pytest.raises(StateConflict, match="no CA of"):
        commands.advance(operator.cluster.model, vault, operator.now)
    record = operator.record
    root = record.leaf.name
    issuers, *rest = operator.names("root")
    assert rest == [[root], root], when
    if record.state is State.DONE:
        assert issuers == sorted([root, f"{root}-by-{record.old.name}"]), when
    for ca in CAS:
        issuers, keys, default = operator.names(ca)
        assert issuers == [default] and keys == [f"{ca}-1"], (when, ca)
    plan = operator.cluster.plan()
    assert (plan["changes"], plan["unmanaged"], plan["dangers"]) == ([], [], []), when


WRITES = {"forward": range(1, 79), "published": range(1, 21), "switched": range(15, 83), "retired": range(52, 107)}
"""The writes after which each way is cut; what comes before is in the way before."""


@pytest.mark.parametrize(
    "way",
    [
        pytest.param("", id="sample", marks=pytest.mark.sample),
        *(pytest.param(way, marks=pytest.mark.conformance) for way in WRITES),
    ],
)
@pytest.mark.timeout(1800)
def test_cut_after_writes(clusters: ClusterFactory, drawn: Drawn, way: str) -> None:
    operator = RootOperator.standing(clusters)
    cuts = [(way, number) for number in WRITES.get(way, ())]
    every = [(each, number) for each in ("forward", "retired") for number in WRITES[each]]
    with proxied(clusters.server) as proxy:
        operator.through = Vault(Settings((proxy.address,), ca_pem=proxy.ca_pem, token=operator.cluster.token()))
        for each, number in cuts or drawn.some(every, 2):
            proxy.arm(number, reopens=False)
            operator.reach(State.DONE if each == "forward" else State(each))
            operator.back()
            assert proxy.closed, f"{each}: fewer than {number} writes"
            check(operator, f"{each}, cut after write {number}")
