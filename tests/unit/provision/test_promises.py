"""What a plan promises at the edge of its cases."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from helpers.example_cluster import BASE, load
from vaultpki.certificates import ROOT
from vaultpki.model import OutsideRoot
from vaultpki.provision import plan
from vaultpki.provision.ca_facts import CaFacts, rotations_needed

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
