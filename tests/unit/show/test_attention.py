"""How findings are put together: the faults of one node in one notice, and like nodes in one notice with a count."""

from __future__ import annotations

from vaultpki.findings.catalogue import Severity
from vaultpki.findings.finding import Finding
from vaultpki.findings.finding import found as finding
from vaultpki.findings.nodes import NodeRow
from vaultpki.show.attention import Notice, of_cluster, of_nodes, worst_first

FILE = "prod.yaml"


def row(name: str, *findings: Finding) -> NodeRow:
    return NodeRow(name, None, ("worker",), findings)


def found(name: str, text: str, node: str) -> Finding:
    return finding(name, text, node=node, names="kubelet", file=FILE)


def test_all_faults_of_a_node_are_one_notice() -> None:
    silent, locked = found("silent", "last report 3d ago", "w-1"), found("locked", "it is locked", "w-1")
    assert list(of_nodes([row("w-1", silent, locked), row("w-2")], "certificates")) == [
        Notice(
            "w-1",
            (
                "it is locked: run `vaultpki unlock w-1 -f prod.yaml`",
                "last report 3d ago: run `systemctl status vaultpki-agent` on w-1",
            ),
            Severity.CRITICAL,
            "certificates",
        )
    ]


def test_many_like_nodes_are_one_notice_with_a_count() -> None:
    names = [f"w-{number}" for number in range(300)]
    rows = [row(name, found("silent", f"last report {at % 9 + 2}d ago", name)) for at, name in enumerate(names)]
    rows += [row(f"x-{at}", found("locked", "it is locked", f"x-{at}")) for at in range(2)]
    assert [(each.who, each.sentences) for each in of_nodes(rows, "certificates")] == [
        (
            "w-0, w-1, w-2, w-3 and 296 more (300 nodes)",
            ("last report 2d ago, the others alike: run `systemctl status vaultpki-agent` on each of them",),
        ),
        ("x-0, x-1 (2 nodes)", ("it is locked: run `vaultpki unlock NODE -f prod.yaml` for each of them",)),
    ]


def test_nodes_with_other_faults_are_not_alike() -> None:
    rows = [
        row("w-1", found("overdue", "overdue: kubelet", "w-1")),
        row("w-2", found("overdue", "overdue: kube-proxy", "w-2")),
        row("w-3", found("overdue", "overdue: kubelet", "w-3"), found("silent", "last report 3d ago", "w-3")),
    ]
    assert [each.who for each in of_nodes(rows, "certificates")] == ["w-1", "w-2", "w-3"]


def test_what_is_only_worth_knowing_comes_last() -> None:
    new = of_nodes([row("w-1", found("never-reported", "never reported", "w-1"))], "certificates")
    whole = of_cluster([finding("no-live-credential", "no node can log in", file=FILE)], "certificates")
    made = worst_first([*new, *whole])
    assert [each.attention for each in made] == [True, False]
    assert made[0].lines == ("no node can log in: run `vaultpki enroll --all -f prod.yaml -o joins`",)
    assert made[1].lines == ("w-1: never reported: run `systemctl status vaultpki-agent` on w-1",)
