"""The lines above a report about a rotation that is under way: its state, since when, and what it waits for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from helpers import example_cluster
from vaultpki.identity.nodes import NodeList
from vaultpki.identity.revoked_list import Revoked
from vaultpki.procedure.banner import Banner
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.procedures import ca_standing
from vaultpki.provision.cluster_facts import CaStatus, ClusterFacts
from vaultpki.records.rotation import CaRef, RotationRecord, State

NOW = datetime(2026, 11, 26, 10, tzinfo=UTC)
SINCE = NOW - timedelta(minutes=48)
MINE = tuple(Waiting(f"w-{number}", "it has not passed") for number in range(9))


def record(domain: str = "etcd") -> RotationRecord:
    old, new = (CaRef(f"{domain}-{number}", "", "", str(number) * 64) for number in (1, 2))
    return RotationRecord(domain=domain, state=State.PUBLISHED, revision=3, since=SINCE, old=old, new=new)


def banner(folder: Path, record: RotationRecord, gate: Gate | None) -> Banner:
    """What the page says above a report."""
    cluster = replace(example_cluster.load(folder, example_cluster.WITH_POOL), file="cluster.yaml")
    ca = CaStatus(record.domain, record.leaf.name, "", None, record, gate)
    made = ca_standing.view(ClusterFacts(cluster, NOW, NodeList((), ()), Revoked(), {}, (), (ca,), ())).banner
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("gate", "waits"),
    [
        (Gate((Waiting("cp-1", "it must start etcd"), *MINE)), ["w-0, w-1, w-2, w-3 and 5 more: it has not passed"]),
        (
            Gate(opens=NOW + timedelta(minutes=5)),
            ["Every node is ready; it waits 5 minutes more, until "],
        ),
        (Gate(opens=NOW), ["It waits for nobody: run `vaultpki ca continue`"]),
        (None, ["`vaultpki ca status` shows what it waits for"]),
    ],
)
def test_it_says_what_the_next_step_waits_for(tmp_path: Path, gate: Gate | None, waits: list[str]) -> None:
    made = banner(tmp_path, record(), gate)
    assert made.title == "CA etcd is being rotated: published"
    assert made.since == "since 2026-11-26 09:12 UTC, 48 minutes ago"
    assert "nodes learn to trust key 2 of the CA etcd beside key 1" in made.holds
    for said, expected in zip(made.waits, waits, strict=False):
        assert expected in said


def test_nobody_is_sent_to_a_step_while_a_ca_is_to_be_recovered(tmp_path: Path) -> None:
    """No step is taken then, also of another CA."""
    cluster = replace(example_cluster.load(tmp_path, example_cluster.WITH_POOL), file="cluster.yaml")
    made = record()
    cas = (CaStatus("kubelet", "kubelet-1", "", None), CaStatus("etcd", "etcd-1", "", None, made, Gate(opens=NOW)))
    for well in (True, False):
        cas = (replace(cas[0], recover="" if well else "kubelet"), cas[1])
        read = ClusterFacts(cluster, NOW, NodeList((), ()), Revoked(), {}, (), cas, ())
        shown = ca_standing.view(read)
        said = [*shown.lines, *(each.command for each in shown.findings)]
        said += shown.banner.waits if shown.banner is not None else ()
        assert any("ca continue" in each for each in said) is well, said
        assert any(each.startswith("etcd is published") for each in said)


def test_nodes_that_wait_for_the_same_are_one_sentence(tmp_path: Path) -> None:
    reasons = tuple(Waiting(f"cp-{number}", f"reason {number}") for number in range(6))
    made = banner(tmp_path, record("root"), Gate((*reasons, *MINE)))
    assert made.title == "The root CA of prod is being rotated: published"
    assert made.waits == (
        "It waits for w-0, w-1, w-2, w-3 and 5 more: it has not passed",
        "It waits for cp-0: reason 0",
        "It waits for cp-1: reason 1",
        "It waits for cp-2: reason 2",
        "It waits for 3 more: `vaultpki ca status`",
    )
