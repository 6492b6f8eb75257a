"""What a report says: the state of every certificate, what needs attention, whose turn it is to expire."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

import example_report
from example_report import NOW
from vaultpki.findings.catalogue import Severity
from vaultpki.findings.finding import found as finding
from vaultpki.findings.nodes import NodeRow
from vaultpki.graph.content import Health
from vaultpki.model import Cluster
from vaultpki.pki.ca_life import Level
from vaultpki.show import attention
from vaultpki.show.attention import Notice
from vaultpki.show.check_summary import LIVE, check_summary
from vaultpki.show.inventory import HolderPair, HolderSummary, Inventory
from vaultpki.show.report_model import report
from vaultpki.verify.held_files import DENIED
from vaultpki.verify.on_disk import Check, tried


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
    assert [(notice.who, notice.sentences) for notice in made.notices] == [
        ("cp-1", ("missing: etcd-peer: run `vaultpki renew etcd-peer` on cp-1",)),
        (
            "worker-2",
            (
                "expired: kube-proxy: run `vaultpki renew kube-proxy` on worker-2",
                "missing: kubelet: run `vaultpki renew kubelet` on worker-2",
                "last report 3d ago: run `systemctl status vaultpki-agent` on worker-2",
                "overdue: kubelet-client: run `vaultpki renew kubelet-client` on worker-2",
            ),
        ),
    ]
    assert [holder.name for holder in made.holders] == ["worker-2", "cp-1", "worker-1"]
    states = {pair.name: (pair.state, pair.left) for pair in made.holders[0].pairs}
    assert states == {
        "kubelet": ("missing", ""),
        "kubelet-client": ("renewal overdue", "in 2 days"),
        "kube-proxy": ("expired", "2 days ago"),
    }
    assert made.first[0].name == "kube-proxy" and made.first[0].holder == "worker-2"
    assert (made.holders[0].word, made.holders[0].faults) == ("expired", made.notices[1].sentences)
    assert made.holders[0].notes[0].endswith("UTC, 3d ago, agent 0.2.0.")
    assert made.holders[0].notes[1] == "1 live credential."


def test_a_node_that_never_reported_is_not_read_rather_than_missing(cluster: Cluster) -> None:
    found = well(cluster)
    pairs = tuple(pair for pair in found.pairs if pair.holder != "worker-2")
    silent = tuple(HolderPair("worker-2", row, "kubelet") for row in ("kubelet", "kubelet-client"))
    row = NodeRow("worker-2", None, ("worker",), (finding("never-reported", "never reported", node="worker-2"),))
    holders = (*found.holders[:2], HolderSummary("worker-2", ("worker",), row=row, silent=True))
    notices = tuple(attention.of_nodes([row], "certificates"))
    made = report(cluster, replace(found, pairs=pairs + silent, holders=holders, notices=notices), NOW)
    # Nothing is wrong: nobody has told it to join yet.
    assert made.notices == ()
    said = "never reported: run `systemctl status vaultpki-agent` on worker-2"
    assert [notice.sentences for notice in made.known] == [(said,)]
    assert made.counts[Health.UNKNOWN] == 2 and made.counts[Health.MISSING] == 0
    assert made.holders[0].notes == ("This node has never reported.",) and made.holders[0].word == "new"
    # It takes nothing from what the others reported.
    assert {pair.name: pair.health for pair in made.graph.pairs}["kubelet"] is Health.VALID


def test_a_node_with_whole_certificates_can_need_attention(cluster: Cluster) -> None:
    found = well(cluster)
    row = replace(row_of(found, 2), findings=(finding("locked", "it is locked", node="worker-2"),), credentials=0)
    holders = (*found.holders[:2], replace(found.holders[2], row=row))
    made = report(cluster, replace(found, holders=holders), NOW)
    block = made.holders[0]
    assert (block.name, block.word, block.health, block.open) == ("worker-2", "locked", Health.BROKEN, True)
    assert block.faults == ("it is locked: run `vaultpki unlock worker-2`",)
    assert block.notes[-1] == "0 live credentials."


def test_failed_checks_are_notices_with_a_command(cluster: Cluster) -> None:
    checks = check_summary(
        [tried("a", "file", "w", "b", refusal="is missing"), tried("a", "file", "w", "c", refusal=DENIED)],
        [],
        "vaultpki verify -f x --dir y",
    )
    made = report(cluster, well(cluster), NOW, checks=checks)
    assert [(notice.sentences, notice.part) for notice in made.notices] == [
        (("1 of 2 checks failed: run `vaultpki verify -f x --dir y`",), "checks"),
        (("1 of 2 checks could not be made as this user: run as root",), "checks"),
    ]


def test_what_cannot_be_checked_in_a_running_cluster_needs_nobody(cluster: Cluster) -> None:
    left = Check("copy of a CA", LIVE, "API server", "clustertrustbundles", "accept", "unchecked", None, "may not")
    wrong = tried("copy of a CA", LIVE, "API server", "ClusterTrustBundle own", refusal="lacks CN=prod root CA")
    made = report(cluster, well(cluster), NOW, checks=check_summary([left, left], []))
    assert made.notices == () and [notice.sentences for notice in made.known] == [
        ("not checked in the running cluster: clustertrustbundles (may not), clustertrustbundles (may not)",)
    ]
    made = report(cluster, well(cluster), NOW, checks=check_summary([left, wrong], [], "vaultpki verify -f x --live"))
    assert [notice.sentences for notice in made.notices] == [
        ("1 of 2 checks failed: run `vaultpki verify -f x --live`",)
    ]


def row_of(found: Inventory, number: int) -> NodeRow:
    row = found.holders[number].row
    assert row is not None
    return row


def test_a_ca_that_cannot_sign_is_broken_in_the_tree(cluster: Cluster) -> None:
    found = well(cluster)
    soon = replace(found.cas[3], level=Level.CRITICAL, sentence="etcd CA: run `vaultpki ca rotate etcd`")
    gone = replace(found.cas[1], problem="kubernetes has no CA")
    made = report(cluster, replace(found, cas=(found.cas[0], gone, found.cas[2], soon, found.cas[4])), NOW)
    looks = {ca.ca: (ca.health, ca.sentence, ca.until) for ca in made.issuing}
    assert looks["kubernetes"][:2] == (Health.BROKEN, "kubernetes has no CA")
    assert looks["etcd"] == (Health.DUE, "etcd CA: run `vaultpki ca rotate etcd`", "rotate soon, until 2031-10-16")


def test_a_ca_counts_the_certificates_that_it_signed(cluster: Cluster) -> None:
    found = well(cluster)
    second = replace(found.cas[3], name="CN=prod etcd CA 2", key_id="etcd-2")
    pairs = tuple(replace(pair, signer="etcd-2") if pair.row == "etcd-peer" else pair for pair in found.pairs)
    made = report(cluster, replace(found, pairs=pairs, cas=(*found.cas, second)), NOW)
    counts = {ca.name: ca.pairs for ca in made.issuing}
    assert counts["CN=prod etcd CA"] == 3 and counts["CN=prod etcd CA 2"] == 1
    assert [ca.ca for ca in made.roots] == ["root"]


def test_more_notices_than_a_page_shows_are_counted(cluster: Cluster) -> None:
    notices = tuple(Notice(f"w-{n}", ("is a link",), Severity.WARNING, "checks") for n in range(60))
    made = report(cluster, replace(well(cluster), notices=notices), NOW)
    assert (len(made.notices), made.more) == (40, 20)


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
