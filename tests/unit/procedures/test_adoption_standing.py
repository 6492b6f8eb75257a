"""Where an adoption stands, by the record and the reports alone: the machine that is waited for, and its reason."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from helpers import example_cluster
from vaultpki.findings.cluster import judge
from vaultpki.findings.finding import Finding
from vaultpki.identity.nodes import Member, NodeList
from vaultpki.identity.revoked_list import Revoked
from vaultpki.model import Node, NodeRole
from vaultpki.procedures.adoption_standing import of_adoption
from vaultpki.procedures.in_cluster import IN_CLUSTER
from vaultpki.provision.cluster_facts import ClusterFacts
from vaultpki.records.adoption import AdoptionRecord
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.records.adoption_report import AdoptionReport, ComponentReport, Held, OldKeys
from vaultpki.records.node_report import NodeReport
from vaultpki.show.fleet import inventory

NOW = datetime(2027, 3, 1, 12, tzinfo=UTC)
SINCE = NOW - timedelta(hours=1)
OLD = {"kubernetes": ("a" * 64,), "etcd": ("b" * 64,)}
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")


def record(state: S, **more: Any) -> AdoptionRecord:
    return AdoptionRecord(state, 12, 10, SINCE, OLD, **more)


def told(state: S, trust: Held, leaves: Held, **more: Any) -> AdoptionReport:
    one = ComponentReport(SINCE, trust, leaves, healthy=True)
    values: dict[str, Any] = {"components": dict.fromkeys(COMPONENTS, one), "keys": OldKeys.ASIDE, "by_agent": True}
    values |= {"signer": leaves is Held.OLD, "rotates": leaves is Held.OLD, "highest": 12}
    return AdoptionReport(12, state, trust, leaves, **(values | more))


def member(name: str, report: AdoptionReport | None, **more: Any) -> Member:
    roles = frozenset({NodeRole.CONTROL_PLANE, NodeRole.ETCD, NodeRole.WORKER})
    whole = NodeReport(NOW - timedelta(minutes=1), adoption=report)
    return Member(name, "listed", Node(name, roles, ()), 1, report=whole, **more)


def judged(record: AdoptionRecord | None, *members: Member, now: datetime = NOW) -> Finding | None:
    return of_adoption(record, members, now, "prod.yaml")


def test_nothing_is_said_without_an_adoption() -> None:
    assert judged(None, member("cp-1", None)) is None
    # The way back has ended, or the whole adoption.
    assert judged(None, member("cp-1", told(S.PREPARED, Held.OLD, Held.OLD))) is None
    done = told(S.DONE, Held.NEW, Held.NEW, keys=OldKeys.NONE)
    assert judged(None, member("cp-1", done)) is None and judged(record(S.DONE), member("cp-1", done)) is None


def test_every_view_of_a_cluster_says_so(tmp_path: Path) -> None:
    """The page and the picture did not, and ended with 0 where `nodes` ended with 3."""
    cluster = replace(example_cluster.load(tmp_path, example_cluster.WITH_POOL), file="prod.yaml")
    owing = member("cp-3", told(S.PREPARED, Held.OLD, Held.OLD, owed=("exchange",), by_agent=False))
    facts = ClusterFacts(
        cluster, NOW, NodeList((owing,), ()), Revoked(), {}, (), (), (), record(S.PUBLISHED, turn="cp-3")
    )
    made = judge(facts, IN_CLUSTER)
    assert [each.name for each in made.procedures] == ["adoption-blocked"] and not made.ok
    assert made.procedures[0].advice() in [each for notice in inventory(facts, made).notices for each in notice.lines]


def test_it_names_the_machine_and_the_reason() -> None:
    ready = member("cp-1", told(S.PUBLISHED, Held.BOTH, Held.OLD))
    found = judged(record(S.PUBLISHED), ready)
    assert found is not None and (found.name, found.attention) == ("adoption-waits", False)
    assert found.text == "adoption, published since 2027-03-01T11:00:00Z: no machine that reports owes anything"
    assert found.command == "vaultpki adopt status -f prod.yaml --kubeconfig admin.conf"
    owing = told(S.PREPARED, Held.OLD, Held.OLD, owed=("exchange /etc/kubernetes/pki",))
    found = judged(record(S.PUBLISHED, turn="cp-2"), ready, member("cp-2", owing))
    assert found is not None and found.name == "adoption-waits"
    assert "waits for cp-2: has not done the steps of published: exchange /etc/kubernetes/pki" in found.text
    # Nobody does it by itself, or it takes too long.
    by_hand = member("cp-3", replace(owing, by_agent=False))
    found = judged(record(S.PUBLISHED, turn="cp-3"), ready, member("cp-2", owing), by_hand)
    assert found is not None and found.name == "adoption-blocked" and found.attention
    assert "waits for cp-3 and 1 more: " in found.text and "Run there as root: `vaultpki adopt node`" in found.text
    late = judged(record(S.PUBLISHED, turn="cp-2"), member("cp-2", owing), now=NOW + timedelta(days=2))
    assert late is not None and late.name == "adoption-blocked"


def test_a_state_that_waits_for_nobody_says_so() -> None:
    calm = judged(record(S.PREPARED), member("cp-1", told(S.PREPARED, Held.OLD, Held.OLD, owed=("x",))))
    assert calm is not None and calm.name == "adoption-waits"
    assert calm.text.endswith("the next step waits for no machine")
    ahead = member("cp-1", told(S.PREPARED, Held.OLD, Held.OLD, highest=15))
    found = judged(record(S.PREPARED), ahead)
    assert found is not None and found.name == "adoption-blocked"
    assert "cp-1: has read revision 15 of the record, and Vault has 12" in found.text


def test_a_lost_record_is_told() -> None:
    found = judged(None, member("cp-1", told(S.RETIRED, Held.NEW, Held.NEW)), member("cp-2", None))
    assert found is not None and found.name == "adoption-lost" and found.attention
    assert found.text.startswith("cp-1 (retired) stand in an adoption whose record is gone")
    locked = replace(member("cp-1", told(S.RETIRED, Held.NEW, Held.NEW)), credentials=0)
    assert locked.locked and judged(None, locked) is None
