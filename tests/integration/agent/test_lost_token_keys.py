"""A service-account key whose pair is lost is certified again as what it was, and as nothing else; on a real server."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.node.passes import passed
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.handmade_keys import SPEC, HandmadeKeys, give_number, reported
from vaultpki.pki import keys, x509
from vaultpki.records.service_account import KeyState


@pytest.fixture
def cluster(with_keys: AppliedCluster) -> AppliedCluster:
    return with_keys


def failing(*nodes: NodeFolder) -> set[str]:
    """A pass on each node, which asks Vault for everything; what failed."""
    return {name for node in nodes for name in passed(node, share=0.0).failures}


def lose(node: NodeFolder, *pairs: str) -> None:
    for name in pairs:
        shutil.rmtree(os.path.realpath(node.pki / ".vaultpki" / name))


def public(path: Path) -> bytes:
    return keys.public_der(keys.read_key(path.read_bytes()))


def signs_with(node: NodeFolder) -> str:
    found = x509.read_certificates((node.pki / "sa.pub").read_bytes())
    (name,) = {each.subject.common_name for each in found if each.public_key == public(node.pki / "sa.key")}
    return name


def switched(cluster: AppliedCluster, one: NodeFolder, two: NodeFolder) -> HandmadeKeys:
    """Both nodes sign with key 2, and have key 1 too."""
    assert not failing(one, two)
    made = HandmadeKeys.of(cluster, "cp-1", "cp-2")
    made.write(KeyState.PUBLISHED, nodes={name: replace(each, new=2) for name, each in made.record.nodes.items()})
    give_number(cluster, 2)
    assert not failing(one, two)
    made.write(nodes=made.taken_in())
    made.write(KeyState.SWITCHED)
    assert not failing(one, two)
    return made


def test_a_key_that_was_taken_out_is_not_certified_under_the_next_number(
    cluster: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]
) -> None:
    """The machine of a stolen key joins again, and has lost the pair beside it."""
    one, two = planes
    assert not failing(one, two)
    made = HandmadeKeys.of(cluster, "cp-1", "cp-2")
    assert not failing(one, two)
    stolen = public(two.pki / "sa.key")
    made.write(nodes={"cp-1": made.record.nodes["cp-1"]}, lowest={"cp-2": 2}, highest={"cp-1": 1, "cp-2": 1})
    give_number(cluster, 2)
    lose(two, "sa-1")
    assert not failing(two)
    assert signs_with(two) == "sa:cp-2:2" and stolen not in (public(two.pki / "sa.key"), public(two.pki / "sa-2.key"))
    assert [*reported(cluster, "cp-2").own] == [2]


def test_one_whose_pair_is_lost_is_certified_again(
    cluster: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]
) -> None:
    one, _ = planes
    assert not failing(one)
    HandmadeKeys.of(cluster, "cp-1")
    assert not failing(one)
    key, before = (one.pki / "sa.key").read_bytes(), (one.pki / "sa.pub").read_bytes()
    lose(one, "sa-1")
    assert not failing(one)
    assert (one.pki / "sa.key").read_bytes() == key == (one.pki / "sa-1.key").read_bytes()
    assert (one.pki / "sa.pub").read_bytes() != before and signs_with(one) == "sa:cp-1:1"


def test_it_gets_its_own_number_where_both_pairs_are_lost(
    cluster: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]
) -> None:
    one, two = planes
    switched(cluster, one, two)
    key = public(one.pki / "sa.key")
    lose(one, "sa-1", "sa-2")
    assert not failing(one)
    assert signs_with(one) == "sa:cp-1:2" and public(one.pki / "sa-2.key") == key == public(one.pki / "sa.key")
    assert public(one.pki / "sa-1.key") != key


def test_it_stays_in_use_as_long_as_vault_does_not_certify_it(clusters: ClusterFactory) -> None:
    """Its role asks for another type of key now, with which the other one is made."""
    cluster = clusters.applied(SPEC)
    one, two = cluster.equip("cp-1"), cluster.equip("cp-2")
    switched(cluster, one, two)
    key, union = (one.pki / "sa.key").read_bytes(), (one.pki / "sa.pub").read_bytes()
    lose(one, "sa-1", "sa-2")
    cluster.write(SPEC + "certificates: {service-account: {key: ec-p384}}\n")
    cluster.apply()
    assert failing(one) == {"service-account-2"}
    assert (one.pki / "sa-1.key").exists() and not (one.pki / "sa-2.key").exists()
    assert ((one.pki / "sa.key").read_bytes(), (one.pki / "sa.pub").read_bytes()) == (key, union)
    cluster.write(SPEC)
    cluster.apply()
    assert not failing(one) and signs_with(one) == "sa:cp-1:2" and (one.pki / "sa.key").read_bytes() == key


def test_the_key_of_another_machine_is_replaced(cluster: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]) -> None:
    """A copy of another machine's folder must not become this node's key."""
    one, two = planes
    assert not failing(one, two)
    HandmadeKeys.of(cluster, "cp-1", "cp-2")
    assert not failing(one, two)
    other = (one.pki / "sa.key").read_bytes()
    Path(os.path.realpath(two.pki / "sa.key")).write_bytes(other)
    lose(two, "sa-1")
    failing(two)
    assert not failing(two)
    assert public(two.pki / "sa.key") != public(one.pki / "sa.key") and signs_with(two) == "sa:cp-2:1"
    assert other not in {path.read_bytes() for path in two.pki.glob("sa*.key")}
