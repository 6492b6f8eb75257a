"""What a report says: the state of every certificate, what needs attention, whose turn it is to expire."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

import example_report
from example_report import NOW
from vaultpki.graph.content import Health
from vaultpki.model import Cluster
from vaultpki.pki.ca_life import Level
from vaultpki.show.check_summary import check_summary
from vaultpki.show.inventory import HolderPair, HolderSummary, Inventory
from vaultpki.show.report_model import report
from vaultpki.verify.on_disk import tried


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return example_report.cluster(1, 2)


def well(cluster: Cluster, *, reported: bool = True) -> Inventory:
    return example_report.found(cluster, faults=False, reported=reported)


def test_a_healthy_cluster_has_no_notice(cluster: Cluster) -> None:
    made = report(cluster, well(cluster), NOW)
    assert made.notices == ()
    assert made.total == 9 + 2 * 3 == made.counts[Health.VALID]
    assert [holder.name for holder in made.holders] == ["cp-1", "worker-1", "worker-2"]
    assert sum(made.calendar.totals) == made.total
    ends = [pair.until for pair in made.first]
    assert ends == sorted(ends) and ends[0] == min(pair.until for holder in made.holders for pair in holder.pairs)


def test_the_worst_is_said_first_and_shown_first(cluster: Cluster) -> None:
    made = report(cluster, example_report.found(cluster, faults=True, reported=True), NOW)
    assert [notice.text for notice in made.notices] == [
        "kube-proxy: expired on worker-2",
        "etcd-peer: missing on cp-1",
        "kubelet: missing on worker-2",
        "kubelet-client: renewal overdue on worker-2",
    ]
    assert [holder.name for holder in made.holders] == ["worker-2", "cp-1", "worker-1"]
    states = {pair.name: (pair.state, pair.left) for pair in made.holders[0].pairs}
    assert states == {
        "kubelet": ("missing", ""),
        "kubelet-client": ("renewal overdue", "in 2 days"),
        "kube-proxy": ("expired", "2 days ago"),
    }
    assert made.first[0].name == "kube-proxy" and made.first[0].holder == "worker-2"


def test_many_holders_of_one_fault_are_one_notice(cluster: Cluster) -> None:
    found = well(cluster)
    more = tuple(HolderPair(f"w-{n}", "kubelet", "kubelet") for n in range(40))
    made = report(cluster, replace(found, pairs=(*found.pairs, *more)), NOW)
    assert [notice.text for notice in made.notices] == ["kubelet: missing on w-0, w-1, w-2, w-3 and 36 more"]


def test_a_silent_node_is_not_read_rather_than_missing(cluster: Cluster) -> None:
    found = well(cluster)
    pairs = tuple(pair for pair in found.pairs if pair.holder != "worker-2")
    silent = tuple(HolderPair("worker-2", row, "kubelet") for row in ("kubelet", "kubelet-client"))
    holders = (*found.holders[:2], HolderSummary("worker-2", ("worker",), silent=True))
    problems = ("worker-2 has never reported", "w-9: is a link")
    made = report(cluster, replace(found, pairs=pairs + silent, holders=holders, problems=problems), NOW)
    assert [(notice.text, notice.health) for notice in made.notices] == [
        ("worker-2 never reported", Health.UNKNOWN),
        ("w-9: is a link", Health.UNKNOWN),
    ]
    assert made.counts[Health.UNKNOWN] == 2 and made.counts[Health.MISSING] == 0
    assert made.holders[0].notes == ("This node has never reported.",)
    # It takes nothing from what the others reported.
    assert {pair.name: pair.health for pair in made.graph.pairs}["kubelet"] is Health.VALID


def test_failed_passes_and_checks_and_ends_of_cas_are_notices(cluster: Cluster) -> None:
    found = well(cluster)
    holders = (replace(found.holders[0], failures=("Vault is sealed",)), *found.holders[1:])
    soon = replace(found.cas[3], level=Level.CRITICAL, sentence="etcd CA: run `vaultpki ca rotate etcd`")
    gone = replace(found.cas[1], not_after=None, problem="kubernetes has no CA")
    cas = (found.cas[0], gone, found.cas[2], soon, found.cas[4])
    checks = check_summary([tried("a", "file", "w", "b", refusal="is missing")], [])
    made = report(cluster, replace(found, holders=holders, cas=cas), NOW, checks=checks)
    assert [notice.text for notice in made.notices] == [
        "1 of 1 check failed",
        "kubernetes has no CA",
        "etcd CA: run `vaultpki ca rotate etcd`",
        "the last pass of the agent failed on cp-1",
    ]
    assert [notice.part for notice in made.notices] == ["checks", "cas", "cas", "certificates"]
    block = next(holder for holder in made.holders if holder.name == "cp-1")
    assert block.health is Health.DUE and "It reported: Vault is sealed" in block.notes


def test_a_ca_counts_the_certificates_that_it_signed(cluster: Cluster) -> None:
    found = well(cluster)
    second = replace(found.cas[3], name="CN=prod etcd CA 2", key_id="etcd-2")
    pairs = tuple(replace(pair, signer="etcd-2") if pair.row == "etcd-peer" else pair for pair in found.pairs)
    made = report(cluster, replace(found, pairs=pairs, cas=(*found.cas, second)), NOW)
    counts = {ca.name: ca.pairs for ca in made.issuing}
    assert counts["CN=prod etcd CA"] == 3 and counts["CN=prod etcd CA 2"] == 1
    assert [ca.ca for ca in made.roots] == ["root"]


def test_more_than_a_page_of_what_could_not_be_read_is_counted(cluster: Cluster) -> None:
    problems = tuple(f"w-{n}: is a link" for n in range(40))
    made = report(cluster, replace(well(cluster), problems=problems), NOW)
    assert len(made.notices) == 13 and made.notices[-1].text == "28 more could not be read"


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (timedelta(hours=5, minutes=59), "in 5 hours"),
        (timedelta(minutes=59, seconds=59), "in 59 minutes"),
        (timedelta(minutes=12), "in 12 minutes"),
        (timedelta(seconds=40), "in 40 seconds"),
        (-timedelta(minutes=30), "30 minutes ago"),
    ],
)
def test_less_than_hours_is_told_in_minutes(cluster: Cluster, span: timedelta, said: str) -> None:
    found = well(cluster)
    pairs = (replace(found.pairs[0], not_after=NOW + span), *found.pairs[1:])
    assert report(cluster, replace(found, pairs=pairs), NOW).first[0].left == said
