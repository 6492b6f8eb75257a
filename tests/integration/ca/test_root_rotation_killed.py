"""The root's rotation cut off after any of its writes: the same command again continues, and leaves nothing over.

Why these are all of its ends is said in test_rotation_killed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.faults.cutting_proxy import Proxy, proxied
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.root_operator import RootOperator
from helpers.vault.servers import Server
from vaultpki.ca import commands
from vaultpki.errors import StateConflict
from vaultpki.records.rotation import State
from vaultpki.vault import Settings, Vault

CAS = ("kubernetes", "kubelet", "etcd", "front-proxy")


@pytest.fixture
def proxy(own_server: Server) -> Iterator[Proxy]:
    with proxied(own_server) as one:
        yield one


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


@pytest.mark.parametrize(
    ("way", "cuts"),
    [
        pytest.param("forward", [16], id="sample", marks=pytest.mark.sample),
        pytest.param("forward", range(1, 79), id="forward", marks=pytest.mark.conformance),
        pytest.param("published", range(1, 21), id="published", marks=pytest.mark.conformance),
        pytest.param("switched", range(15, 83), id="switched", marks=pytest.mark.conformance),
        pytest.param("retired", range(52, 107), id="retired", marks=pytest.mark.conformance),
    ],
)
@pytest.mark.timeout(1800)
def test_cut_after_writes(own_server: Server, proxy: Proxy, tmp_path: Path, way: str, cuts: range | list[int]) -> None:
    operator = RootOperator.standing(ClusterFactory(own_server, tmp_path))
    operator.through = Vault(Settings((proxy.address,), ca_pem=proxy.ca_pem, token=operator.cluster.token()))
    for number in cuts:
        proxy.arm(number, reopens=False)
        operator.reach(State.DONE if way == "forward" else State(way))
        operator.back()
        assert proxy.closed, f"{way}: fewer than {number} writes"
        check(operator, f"{way}, cut after write {number}")
