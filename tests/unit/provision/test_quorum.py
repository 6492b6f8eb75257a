"""What a plan says when members of etcd and nodes of the control plane come and go."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.example_cluster import load
from vaultpki.provision.desired import desired
from vaultpki.provision.plan import Impact, Observed, plan
from vaultpki.provision.quorum import impact_of
from vaultpki.records.server_facts import ServerFacts

KNOWN = ServerFacts(addresses=("https://vault.example.com:8200",), root_sha256="ab")
CP = "control-plane, etcd"


HEAD = "cluster: prod\napi_server: {endpoint: https://api.example.com:6443, names: [api.example.com]}\nnodes:"


def spec(*names: str, roles: str = CP) -> str:
    nodes = [f"- {{name: {name}, roles: [{roles}], addresses: [10.0.0.{name[-1]}]}}" for name in names]
    return "\n".join([HEAD, *nodes, "- {name: worker-9, roles: [worker], addresses: [10.0.0.9]}", ""])


def told(folder: Path, before: str | None, after: str) -> list[Impact]:
    found = desired(load(folder, before), KNOWN) if before else {}
    cluster = load(folder, after)
    made = plan(desired(cluster, KNOWN), Observed(found, frozenset(found)))
    return list(impact_of(cluster, made.changes))


# Members before and after, with the effect.
COME_AND_GO = {
    "e-1 e-2 e-3 > e-1 e-2: smaller-quorum": (
        "etcd: 3 -> 2 members (e-3 leaves): the quorum is 2, so etcd tolerates the loss of none (the loss of 1 "
        "before); an even number is no safer than 1; remove it from etcd first (`etcdctl member remove`)"
    ),
    "e-1 e-2 > e-1: quorum": (
        "etcd: 2 -> 1 member (e-2 leaves): the quorum is 1, so etcd tolerates the loss of none (the loss of none "
        "before); remove it from etcd first (`etcdctl member remove`)"
    ),
    "e-1 e-2 e-3 e-4 e-5 > e-1 e-2 e-3: smaller-quorum": (
        "etcd: 5 -> 3 members (e-4, e-5 leave): the quorum is 2, so etcd tolerates the loss of 1 (the loss of 2 "
        "before); remove them from etcd one at a time first (`etcdctl member remove`)"
    ),
    "e-1 e-2 e-3 > e-1 e-2 e-3 e-4: quorum": (
        "etcd: 3 -> 4 members (e-4 joins): the quorum is 3, so etcd tolerates the loss of 1 (the loss of 1 before); "
        "an even number is no safer than 3"
    ),
    "e-1 e-2 e-3 > e-1 e-2 e-4: quorum": (
        "etcd: 3 members as before (e-4 joins, e-3 leaves): exchange one member at a time"
    ),
}


@pytest.mark.parametrize("change", COME_AND_GO)
def test_members_that_come_and_go(tmp_path: Path, change: str) -> None:
    members, _, effect = change.partition(": ")
    before, after = (names.split() for names in members.split(">"))
    (impact,) = told(tmp_path, spec(*before), spec(*after))
    assert (impact.effect, impact.detail) == (effect, COME_AND_GO[change])
    assert impact.node is None and impact.nodes == len({*before} ^ {*after})


def test_the_last_ones_end_etcd_and_the_control_plane(tmp_path: Path) -> None:
    etcd, plane = told(tmp_path, spec("e-1"), spec("e-1", roles="worker"))
    assert (etcd.effect, plane.effect) == ("no-etcd", "no-control-plane")
    assert etcd.detail.startswith("etcd: no member is left (e-1 leaves): this ends the cluster's etcd")
    assert plane.detail.startswith(
        "no control-plane node is left (e-1 leaves): nobody gets a certificate of kube-apiserver"
    )
    (etcd,) = told(tmp_path, spec("e-1"), spec("e-1", roles="control-plane"))
    assert etcd.effect == "no-etcd"


def test_a_worker_says_nothing_and_a_new_cluster_only_of_an_even_number(tmp_path: Path) -> None:
    assert told(tmp_path, spec("e-1"), spec("e-1").replace("worker-9", "worker-8")) == []
    assert told(tmp_path, None, spec("e-1")) == told(tmp_path, None, spec("e-1", "e-2", "e-3")) == []
    (impact,) = told(tmp_path, None, spec("e-1", "e-2"))
    assert impact.effect == "quorum" and impact.detail == (
        "etcd: 2 members: the quorum is 2, so etcd tolerates the loss of none; an even number is no safer than 1"
    )
