"""What a plan promises at the edge of its cases."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.example_cluster import BASE, load
from helpers.foreign_ca import ForeignCa
from vaultpki.certificates import ISSUING_CAS, ROOT
from vaultpki.model import NodeRole, OutsideRoot
from vaultpki.provision import foreign_cas, observe, plan
from vaultpki.provision.ca_facts import CaFacts, rotations_needed
from vaultpki.provision.foreign_cas import ForeignChange

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def test_no_rotation_is_asked_of_a_root_from_outside(tmp_path: Path) -> None:
    """Its name, key and end are its owner's choice; of one that was made for the cluster they are ours."""
    cluster = load(tmp_path, BASE)
    found = {ROOT: CaFacts("Corp Root", None, 86400, NOW)}
    assert [each.ca for each in rotations_needed(cluster, found)] == [ROOT]
    below = replace(cluster, authority=replace(cluster.authority, outside=OutsideRoot()))
    assert rotations_needed(below, found) == ()


def test_the_record_that_agents_poll_is_written_last(tmp_path: Path) -> None:
    """Agents that read it earlier would ask before all is there, and not again."""
    cluster = load(tmp_path, BASE)
    change = plan.notice_change(cluster, None, {"cp-1": "4f" * 32})
    assert change is not None and plan.stage(change) == plan.STAGES[-1]
    other = plan.Change("create", "config", f"{cluster.mount('config')}/cluster", {})
    assert plan.stage(other) != plan.STAGES[-1]


def test_each_thing_that_no_apply_changes_asks_for_a_person() -> None:
    made = plan.Plan((plan.Change("create", "policy", "p", {}),))
    assert not made.attention
    assert replace(made, dangers=(plan.Danger("issuer", "is foreign"),)).attention
    assert replace(made, waiting=("etcd",)).attention


def test_only_a_foreign_ca_that_goes_takes_trust_away() -> None:
    """A plan that says so of a new one would have a person refuse it, or get used to the warning."""
    facts = ForeignCa("another CA").facts
    for added, removed in (((facts,), ()), ((), (facts,)), ((facts,), (facts,))):
        told = list(foreign_cas.sentences(ForeignChange("etcd", added, removed)))
        assert [takes for takes, *_ in told] == [False] * len(added) + [True] * len(removed)


@pytest.mark.parametrize("ca", ISSUING_CAS)
def test_what_a_foreign_ca_means_is_told_in_short_lines(ca: str) -> None:
    facts = ForeignCa("another CA").facts
    told = list(foreign_cas.sentences(ForeignChange(ca, (facts,), (facts,))))
    # Before each of them stands which nodes it is about.
    lines = [f"3 nodes with the role control-plane or worker: {what}" for _, what, _ in told]
    assert all(means for *_, means in told)
    assert max(len(line.split()) for line in [*lines, *(each for *_, means in told for each in means)]) <= 25


def test_a_foreign_ca_is_told_with_who_restarts_for_it(tmp_path: Path) -> None:
    cluster, how = load(tmp_path, BASE), "run on one node after the other `vaultpki agent --once`"
    assert list(foreign_cas.restarts(cluster, "etcd")) == [
        (NodeRole.CONTROL_PLANE, f"needs a restart of kube-apiserver: {how}"),
        (NodeRole.ETCD, f"needs a restart of etcd: {how}"),
    ]
    assert list(foreign_cas.restarts(cluster, "front-proxy")) == []


def test_the_lives_that_a_mount_allows_are_compared() -> None:
    """Somebody who made them longer would get longer certificates of every role."""
    entry = {"type": "pki", "config": {"default_lease_ttl": 60, "max_lease_ttl": 3600, "force_no_cache": False}}
    assert observe._ttls(entry) == {"default_ttl": 60, "max_ttl": 3600}
