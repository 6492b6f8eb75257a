"""The state of a node, why it is that, and its place among others: from reports of any kind, and from files."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from helpers.foreign_ca import ForeignCa
from vaultpki.agent.status import CertificateStatus, Status
from vaultpki.findings import nodes
from vaultpki.findings.catalogue import NodeState
from vaultpki.findings.finding import found as finding
from vaultpki.findings.nodes import NodeRow, bar, of_member, of_status, order, time_left, to_json
from vaultpki.host.hooks import Owed
from vaultpki.identity.ending import LockRecord
from vaultpki.identity.nodes import Member, NodeKind
from vaultpki.identity.revoked_list import Revoked
from vaultpki.model import Node, NodeRole, Pool
from vaultpki.pki.ca_life import CaExpiry, Level
from vaultpki.pki.renewal import PairState
from vaultpki.records import node_report
from vaultpki.records.node_report import BundleReport, CertificateReport, NodeReport, ReaderReport, Seen
from vaultpki.show import node_table
from vaultpki.show.node_table import Screen, node_lines

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
DAY = timedelta(days=1)
NOTHING_REVOKED = Revoked()
NODE = Node("cp-1", frozenset({NodeRole.WORKER}))


def certificate(days: float, *, state: str = "ok", **further: Any) -> CertificateReport:
    """One of thirty days, of which so many are left."""
    end = NOW + days * DAY
    begin = end - 30 * DAY - timedelta(minutes=5)
    made = CertificateReport("kubelet", state, end, "1f", not_before=begin, renew_after=end - 12 * DAY, installed=begin)
    return replace(made, **further)


def report(**further: Any) -> NodeReport:
    made = NodeReport(
        NOW - timedelta(minutes=2),
        "0.3.0",
        certificates={"kubelet": certificate(25), "kube-proxy": certificate(28)},
        poll=300,
        trust="5b0c2f6f3c1d9a77",
    )
    return replace(made, **further)


def row(
    stored: NodeReport | Mapping[str, Any], credentials: int | None = 1, revoked: Revoked = NOTHING_REVOKED
) -> NodeRow:
    """The row of a node whose report is stored so, by way of the form in which it is stored."""
    value = node_report.to_json(stored) if isinstance(stored, NodeReport) else stored
    member = Member("cp-1", "listed", NODE, credentials, node_report.read(value), json.dumps(value) if value else "")
    return of_member(member, {"kubelet": 30 * 86400}, NOW, revoked)


def test_a_node_that_is_well() -> None:
    assert to_json(row(report())) == {
        "node": "cp-1",
        "pool": None,
        "roles": ["worker"],
        "state": "ok",
        "reasons": [],
        "message": None,
        "first_expiry": "2026-12-21T12:00:00Z",
        "life_left": 0.833,
        "reported": "2026-11-26T11:58:00Z",
        "agent_version": "0.3.0",
        "kubernetes": {},
        "ca_generation": "5b0c2f6f3c1d9a77",
        "hooks_owed": [],
        "credentials": 1,
        "findings": [],
    }


def test_the_versions_of_a_nodes_components_are_shown() -> None:
    assert to_json(row(report(kubernetes={"kubelet": "v1.35.4"})))["kubernetes"] == {"kubelet": "v1.35.4"}


@pytest.mark.parametrize(
    ("name", "kubernetes", "said"),
    [
        ("kubernetes/kubelet", {"kubelet": "v1.35.4"}, "kubelet of Kubernetes 1.35 was not started again"),
        ("kubernetes/kubelet", {}, "kubelet was not started again"),
        ("etcd/kube-apiserver", {"kube-apiserver": "v1.35.4"}, "kube-apiserver was not started again"),
    ],
)
def test_a_component_that_is_behind_is_named_with_its_version_where_that_is_why(
    name: str, kubernetes: dict[str, str], said: str
) -> None:
    ca = name.partition("/")[0]
    found = report(
        readers={name: ReaderReport(NOW - DAY, frozenset({"1" * 64}), running=True, healthy=True)},
        bundles={ca: BundleReport(frozenset({"2" * 64}), NOW)},
        kubernetes=kubernetes,
    )
    assert row(found).message.startswith(f"{said} since the bundle of the CA of {ca} changed")


EXPIRED = {"kubelet": certificate(-1), "kube-proxy": certificate(3, state="expired")}
BEHIND = (
    "has read revision 4 of the record of etcd, and Vault has revision 3. It was restored from a snapshot, or "
    "somebody changed the record. Nothing of etcd is dropped or replaced there. Correct it: `vaultpki ca "
    "recover etcd`"
)
AHEAD = (
    "has read revision 4 of the record of etcd, and does not follow revision 1000000000. No rotation comes so far "
    "ahead, so no vaultpki wrote it. Nothing of etcd is dropped or replaced there. Find out who wrote that record. "
    "Then write a right one: `vaultpki ca recover etcd`"
)
Case = tuple[NodeReport | Mapping[str, Any], int | None, str, list[str], str]


def case(
    stored: NodeReport | Mapping[str, Any],
    state: str = "ok",
    message: str = "",
    *reasons: str,
    credentials: int | None = 1,
) -> Case:
    """The reason has the name of the state where none is given."""
    return stored, credentials, state, list(reasons) or [state] * (state != "ok"), message


def one(days: float, state: str = "ok", **further: Any) -> NodeReport:
    """The report of a node with one certificate."""
    return report(certificates={"kubelet": certificate(days, state=state, **further)})


CASES: dict[str, Case] = {
    "expired": case(report(certificates=EXPIRED), "expired", "expired: kubelet, kube-proxy"),
    "clone": case(report(), "clone", "3 live credentials (a clone?)", "many-credentials", credentials=3),
    "two answers were lost": case(report(lost=2), credentials=4),
    "a clone beside a lost answer": case(
        report(lost=1), "clone", "4 live credentials (a clone?)", "many-credentials", credentials=4
    ),
    "while a credential is replaced": case(report(), credentials=2),
    "who may not look": case(report(), credentials=None),
    "missing": case(
        report(certificates={"kubelet": CertificateReport("kubelet", "missing")}),
        "broken",
        "missing: kubelet",
        "missing",
    ),
    "revoked": case(one(25, "revoked"), "revoked", "revoked: kubelet"),
    "broken": case(one(9, "broken"), "broken", "broken: kubelet"),
    "needs-join": case(
        report(), "needs-join", "no live credential, so it needs a new join file", "no-credential", credentials=0
    ),
    "silent": case(report(time=NOW - timedelta(minutes=21)), "silent", "last report 21m ago"),
    "at rest, between two whole looks": case(report(time=NOW - timedelta(minutes=79), look=3600)),
    "at rest, after a whole look": case(
        report(time=NOW - timedelta(minutes=81), look=3600), "silent", "last report 81m ago"
    ),
    "one that does not stay says no more by `look`": case(report(time=NOW - 1.9 * DAY, poll=0, look=60)),
    "between two polls": case(report(time=NOW - timedelta(minutes=19))),
    "an agent that does not stay": case(report(time=NOW - 1.9 * DAY, poll=0)),
    "one that nobody starts": case(report(time=NOW - 2.1 * DAY, poll=0), "silent", "last report 2d ago"),
    "overdue": case(one(11, "due"), "overdue", "overdue: kubelet"),
    "just due": case(one(11.995, "due")),
    "it waits for a window": case(one(5, renew_after=NOW + DAY)),
    "failing": case(report(failures=("kubelet", "agent")), "failing", "failed: kubelet, agent", "failed"),
    "a hook failed": case(
        report(owed=("kubelet",), failed=("kubelet",)), "failing", "hooks failed: kubelet", "hook-failed"
    ),
    "a hook runs": case(report(owed=("kubelet",)), "ok", "", "hook-owed"),
    "a hook waits for its turn": case(
        report(owed=("etcd-ca",), failed=("etcd-ca",), waiting=("etcd",)), "ok", "", "hook-owed"
    ),
    "a restored server": case(report(seen={"etcd": Seen(3, 4)}), "failing", BEHIND, "server-behind"),
    "a record too far ahead": case(
        report(seen={"etcd": Seen(4, 4)}, not_followed={"etcd": 10**9}), "failing", AHEAD, "record-not-followed"
    ),
    "pairs that its record does not name": case(
        report(surplus={"old.crt": certificate(25, state="surplus"), "a.crt": certificate(3, state="surplus")}),
        "surplus",
        "surplus: a.crt, old.crt, until " + (NOW + 25 * DAY).strftime("%Y-%m-%dT%H:%M:%SZ") + " at the latest",
        "surplus",
    ),
    "an agent that deletes such pairs": case(report(agent="0.2.0"), "ok", "", "agent-old"),
    "nothing": case(report(certificates={}), "broken", "it reports no certificate", "empty"),
    "never": case({}, "new", "never reported", "never-reported"),
    "not enrolled": case({}, "new", "not enrolled", "not-enrolled", credentials=0),
    "not readable": case({"time": "now"}, "failing", "its report cannot be read", "report-unreadable"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_state_and_its_reason(case: str) -> None:
    stored, credentials, state, reasons, message = CASES[case]
    found = row(stored, credentials)
    assert (found.state.value, [each.name for each in found.findings], found.message) == (state, reasons, message)
    assert found.state.attention is (state not in ("ok", "new"))


LOCK = LockRecord(NOW - DAY, "token-alice")
WHO = "locked at 2026-11-25T12:00:00Z by token-alice"
UNUSED = NOW + timedelta(minutes=30)
MEMBER = Member("w-1", "pooled", Pool("edge", frozenset({NodeRole.WORKER}), "w-*"), 1, report(), "{}")
ENROLL, LOCK_AGAIN = "vaultpki enroll w-1 -f c.yaml --pool edge -o w-1.json", "vaultpki lock w-1 -f c.yaml"
Judged = tuple[Member, LockRecord | None, str, list[tuple[str, str]], str]
LOCKED: dict[str, Judged] = {
    "locked": (replace(MEMBER, credentials=0), LOCK, "locked", [("locked", ENROLL)], WHO),
    "locked by an unknown token": (
        replace(MEMBER, credentials=0),
        LockRecord(),
        "locked",
        [("locked", ENROLL)],
        "locked",
    ),
    "locked, and nobody may look": (replace(MEMBER, credentials=None), LOCK, "locked", [("locked", ENROLL)], WHO),
    "locked and never joined": (
        replace(MEMBER, credentials=0, report=None, stored=""),
        LOCK,
        "locked",
        [("locked", ENROLL)],
        WHO,
    ),
    "no credential, and nobody has locked it": (
        replace(MEMBER, credentials=0),
        None,
        "needs-join",
        [("no-credential", ENROLL)],
        "no live credential, so it needs a new join file",
    ),
    "a record beside a live credential": (
        MEMBER,
        LOCK,
        "locked",
        [("locked-and-live", LOCK_AGAIN)],
        f"was {WHO}, and has 1 live credential",
    ),
    "a record beside an unused join file": (
        replace(MEMBER, credentials=2, join_until=UNUSED),
        LOCK,
        "locked",
        [("locked-and-live", LOCK_AGAIN)],
        f"was {WHO}, and has 2 live credentials",
    ),
    "an unused join file alone": (
        replace(MEMBER, join_until=UNUSED),
        None,
        "needs-join",
        [("not-joined-again", "vaultpki join w-1.json")],
        "can log in only with a join file that nobody has used, until 2026-11-26T12:30:00Z",
    ),
    "a node by token": (
        replace(MEMBER, kind="jwt", credentials=None, disabled=True),
        LOCK,
        "locked",
        [("locked", "vaultpki unlock w-1 -f c.yaml")],
        WHO,
    ),
    "a node by token of which only the record says so": (
        replace(MEMBER, kind="jwt", credentials=None),
        LOCK,
        "locked",
        [("locked-and-live", LOCK_AGAIN)],
        f"was {WHO}, and can log in",
    ),
}


@pytest.mark.parametrize("case", LOCKED)
def test_a_lock_is_told_with_who_did_it_and_only_where_the_server_shows_it(case: str) -> None:
    member, lock, state, findings, message = LOCKED[case]
    made = of_member(member, {}, NOW, NOTHING_REVOKED, file="c.yaml", lock=lock)
    assert made.state.value == state and made.message == message and made.attention
    assert [(each.name, each.command) for each in made.worst_first] == findings


def test_several_findings_are_told_the_worst_first() -> None:
    found = row(report(certificates=EXPIRED, failures=("agent",), time=NOW - DAY), 7)
    assert found.state is NodeState.EXPIRED
    assert found.message == (
        "expired: kubelet, kube-proxy; 7 live credentials (a clone?); last report 24h ago; failed: agent"
    )
    many = {f"c{number}": certificate(-1) for number in range(9)}
    assert row(report(certificates=many)).message == "expired: c0, c1, c2, c3, c4 and 4 more"


def test_a_report_that_lacks_the_times_of_certificates() -> None:
    """It says neither when a certificate begins, nor when it is renewed, nor how often the agent reports."""
    value = node_report.to_json(one(15))
    for name in ("poll", "trust"):
        del value[name]
    for name in ("not_before", "renew_after"):
        del value["certificates"]["kubelet"][name]
    found = row(value)
    assert (found.state, found.life_left, found.trust) == (NodeState.OK, 0.5, "")
    value["certificates"]["kubelet"]["not_after"] = "2026-12-02T12:00:00Z"
    assert row(value).state is NodeState.OVERDUE


@pytest.mark.parametrize(
    "entry",
    [
        {"not_after": "0001-01-01T00:00:00Z"},
        {"not_after": "9999-12-31T23:59:59Z", "not_before": "0001-01-01T00:00:00Z"},
        {
            "not_after": "2026-12-01T00:00:00Z",
            "not_before": "2027-01-01T00:00:00Z",
            "renew_after": "9999-12-31T23:59:59Z",
        },
        {"not_after": None, "state": "\x1b[31m"},
        {"not_after": "2026-12-01T00:00:00Z", "state": ["ok"], "serial": 7, "renew_after": "0001-01-01T00:00:00Z"},
    ],
)
def test_times_that_no_certificate_has(entry: dict[str, Any]) -> None:
    value = {
        **node_report.to_json(report()),
        "certificates": {"\x1b[2Jkubelet": entry},
        "poll": 10**30,
        "trust": "\x07",
    }
    found = row(value)
    assert found.life_left is None or 0 <= found.life_left <= 1
    shown = list(node_lines([found], NOW, Screen(80, bars=True)))
    assert all(line.isprintable() and len(line) <= 80 for line in shown), shown


def test_the_order() -> None:
    made = [
        NodeRow(f"{state.value}-{name}", None, (), (finding("failed", "x", state=state),), first_expiry=ends)
        for state in NodeState
        for name, ends in (("a", NOW), ("b", NOW), ("c", NOW + DAY), ("d", None))
    ]
    shuffled = made[:]
    random.Random(7).shuffle(shuffled)  # noqa: S311 -- no secret
    assert sorted(shuffled, key=order) == made
    assert [state.value for state in NodeState if not state.attention] == ["new", "joined", "ok"]


def seen(name: str, state: PairState, days: float, *, wrong: bool) -> CertificateStatus:
    from vaultpki.pki.facts import Facts

    leaf = Facts.__new__(Facts)
    object.__setattr__(leaf, "not_before", NOW + days * DAY - 30 * DAY - timedelta(minutes=5))
    object.__setattr__(leaf, "not_after", NOW + days * DAY)
    return CertificateStatus(name, f"/pki/{name}.crt", leaf, None, state, (), wrong)


GOOD = Status(
    "cp-1", "ok", (seen("kubelet", PairState.OK, 15, wrong=False),), {}, {}, True, None, trust="5b0c", roles=("etcd",)
)
RESTART = (
    "the foreign CAs of etcd changed, and components read them only when they start: run `vaultpki agent --once` on "
    "one node after the other"
)


def of_files(state: str, message: str, **further: Any) -> tuple[Status, str, str]:
    return replace(GOOD, **further), state, message


FILES: dict[str, tuple[Status, str, str]] = {
    "ok": of_files("ok", ""),
    "expired": of_files("expired", "expired: etcd-peer", seen=(seen("etcd-peer", PairState.EXPIRED, -1, wrong=True),)),
    "due": of_files("ok", "", seen=(seen("etcd-peer", PairState.DUE, 9, wrong=False),)),
    "overdue": of_files("overdue", "overdue: etcd-peer", seen=(seen("etcd-peer", PairState.DUE, 9, wrong=True),)),
    "revoked": of_files("revoked", "revoked: kubelet", seen=(seen("kubelet", PairState.REVOKED, 20, wrong=True),)),
    "kubeconfig": of_files("broken", "broken: kubelet", seen=(seen("kubelet", PairState.OK, 9, wrong=True),)),
    "needs-join": of_files(
        "needs-join", "its credential is not accepted, so it needs a new join file", agent="needs-join"
    ),
    "fault": of_files("failing", "the disk is full", agent="backing-off", faults={"agent": "the disk is full"}),
    "hook": of_files("failing", "hooks failed: kubelet", owed={"kubelet": Owed(1.0, attempts=2)}),
    "an agent that is stopped": of_files(
        "silent", "its agent last asked Vault 81m ago", asked=NOW - timedelta(minutes=81), next_within=4200
    ),
    "an agent between two looks": of_files("ok", "", asked=NOW - timedelta(minutes=79), next_within=4200),
    "an agent that does not stay": of_files("ok", "", asked=NOW - 1.9 * DAY),
    "one that nobody starts": of_files("silent", "its agent last asked Vault 3d ago", asked=NOW - 3 * DAY),
    "a clock that was ahead": of_files("ok", "", asked=NOW + 3 * DAY),
    "away": of_files("failing", "Vault cannot be reached", reachable=False),
    **{
        f"away, {cause}": of_files("failing", cause, reachable=False, error=f"{cause}; check it")
        for cause in (
            "https://v:8200 cannot be reached (Connection refused)",
            "https://v:8200 does not answer",
            "the Vault at https://v:8200 is sealed",
            "the TLS certificate of https://v:8200 does not verify (certificate has expired)",
        )
    },
    "CA": of_files("failing", "...", ends=(CaExpiry("etcd", NOW, Level.CRITICAL, "..."),)),
    "foreign": of_files("failing", "CN=old is offered", foreign=("CN=old is offered",)),
    "unused pin": of_files("ok", "", unused=("it has a pin",)),
    "restart by hand": of_files("failing", RESTART, owed={"etcd-ca": Owed(1.0)}, by_hand=("etcd-ca",)),
    "unknown": of_files("unknown", "denied", agent=None, seen=(), faults={"agent.yaml": "denied"}),
    "empty": of_files("broken", "there is no certificate here", agent=None, seen=()),
}


@pytest.mark.parametrize("case", FILES)
def test_a_node_by_its_files(case: str) -> None:
    status, state, message = FILES[case]
    found = of_status(status, NOW, name="folder")
    assert (found.state.value, found.message) == (state, message)
    # Both ways to say that a person must look agree.
    assert found.state.attention is found.attention
    assert found.node == "cp-1" and (found.life_left == 0.5 if case == "ok" else True)


OLD = ForeignCa()
NAMED = {"etcd": (OLD.facts,)}
BY_HAND = {"owed": ("etcd-ca",), "by_hand": ("etcd-ca",)}
HELD = {"etcd": BundleReport(frozenset({"a" * 64}), NOW - DAY)}


@pytest.mark.parametrize(
    ("further", "state", "said"),
    [
        ({"bundles": HELD, "foreign": {"etcd": frozenset({OLD.sha256})}}, "ok", ""),
        ({"bundles": HELD, "foreign_ignored": {"etcd": frozenset({OLD.sha256})}}, "failing", "enroll the node again"),
        # It has not read the record yet, or its agent is of an earlier release.
        ({"bundles": HELD}, "ok", "it has not reported yet whether it takes CN=kubernetes"),
        # It has no such bundle.
        ({}, "ok", ""),
        (
            {
                "bundles": HELD,
                "foreign": {"etcd": frozenset({OLD.sha256})},
                "owed": ("etcd-ca",),
                "by_hand": ("etcd-ca",),
            },
            "failing",
            RESTART,
        ),
    ],
)
def test_a_node_and_a_foreign_ca(further: dict[str, Any], state: str, said: str) -> None:
    stored = node_report.to_json(report(**further))
    member = Member("cp-1", "listed", NODE, 1, node_report.read(json.loads(json.dumps(stored))), "x")
    found = of_member(member, {"kubelet": 30 * 86400}, NOW, NOTHING_REVOKED, foreign=NAMED)
    assert found.state.value == state and found.attention is (state == "failing")
    texts = [finding.text for finding in found.findings]
    assert any(said in text for text in texts) if said else texts == []
    assert {finding.name for finding in found.findings} <= {"foreign-ca"}


@pytest.mark.parametrize(
    ("recover", "text", "command"),
    [
        # Nobody knows, or the server's record is behind by what others say too.
        (None, BEHIND, "vaultpki ca recover etcd"),
        ({"etcd": "etcd"}, BEHIND, "vaultpki ca recover etcd"),
        # The root takes it along.
        ({"etcd": "root"}, BEHIND.partition(". Correct it")[0], "vaultpki ca recover root"),
        # It alone says so, and its word does not count.
        (
            {"kubelet": "kubelet"},
            BEHIND.partition(". Correct it")[0],
            "vaultpki enroll cp-1 --replace -o cp-1.json",
        ),
    ],
)
def test_a_node_that_has_read_more_is_answered_by_what_helps(
    recover: Mapping[str, str] | None, text: str, command: str
) -> None:
    value = node_report.read(node_report.to_json(report(seen={"etcd": Seen(3, 4)})))
    member = Member("cp-1", "listed", NODE, 1, value, "x")
    (finding,) = of_member(member, {"kubelet": 30 * 86400}, NOW, NOTHING_REVOKED, recover=recover).findings
    assert (finding.name, finding.text, finding.command) == ("server-behind", text, command)


@pytest.mark.parametrize(
    ("kind", "commands"),
    [
        ("pooled", ["vaultpki enroll w-1 --pool autoscaled --replace -o w-1.json"] * 2),
        ("jwt", ["vaultpki lock w-1", "vaultpki agent --once"]),
    ],
)
def test_no_join_file_is_named_for_a_node_that_logs_in_by_a_token(kind: NodeKind, commands: list[str]) -> None:
    told = report(seen={"etcd": Seen(3, 4)}, bundles=HELD, foreign_ignored={"etcd": (OLD.sha256,)})
    pool = Pool("autoscaled", NODE.roles, "w-*")
    member = Member("w-1", kind, pool, None, node_report.read(node_report.to_json(told)), "x")
    found = of_member(member, {"kubelet": 30 * 86400}, NOW, NOTHING_REVOKED, foreign=NAMED, recover={})
    assert [finding.command for finding in found.findings] == commands


def test_a_report_without_foreign_cas_is_that_of_before() -> None:
    assert not {"foreign_cas", "foreign_cas_ignored", "by_hand"} & node_report.to_json(report()).keys()


def test_no_node_at_all() -> None:
    assert list(node_lines([], NOW, Screen())) == ["There is no node."]
    assert list(node_lines([], NOW, Screen(80, bars=True), files=True)) == ["There is no node."]


def test_versions_of_agents_are_told_where_they_differ() -> None:
    agents = ("0.2.0", "0.1.0", "0.2.0.dev120+gabcdef1", "0.2.0")
    rows = [row(report(agent=version)) for version in agents]
    *_, told, _ = node_lines(rows, NOW, Screen())
    assert told == "Agents: 1 of 0.1.0, 1 of 0.2.0.dev120+gabcdef1, 2 of 0.2.0"
    assert not any(line.startswith("Agents: ") for line in node_lines(rows[3:], NOW, Screen()))


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_lines_fit_whatever_nodes_say(width: int) -> None:
    hostile = "\x1b[2J\r\n\u202e" + "节点" * 40
    rows = [
        row(report(certificates=EXPIRED, failures=(hostile,) * 9, agent=hostile)),
        replace(
            row(report()), node="ip-10-1-0-240.eu-central-1.compute.internal", roles=("control-plane", "etcd", "worker")
        ),
        NodeRow(hostile, hostile, (hostile,), version=hostile),
    ]
    shown = list(node_lines(rows, NOW, Screen(width, bars=True)))
    from vaultpki.show.table import cells

    assert max(map(cells, shown)) <= width
    assert all(line.isprintable() for line in shown)
    assert shown[-1] == "3 nodes: 1 expired, 2 ok"
    heads = shown[0].split()
    assert {"NODE", "STATE", "EXPIRES", "LIFE", "REPORTED", "LOGINS"} <= set(heads)
    assert ("ROLES" in heads) is (width == 200)


def test_a_bar_and_a_part_in_words() -> None:
    assert [bar(share, 8) for share in (0.0, 0.01, 0.5, 0.97, 1.0)] == [
        "-" * 8,
        "#" + "-" * 7,
        "####----",
        "#" * 8,
        "#" * 8,
    ]
    spans = [
        timedelta(seconds=1),
        timedelta(seconds=119),
        timedelta(minutes=2),
        timedelta(hours=47),
        2 * DAY,
        400 * DAY,
    ]
    assert [time_left(span) for span in spans] == ["in 1s", "in 119s", "in 2m", "in 47h", "in 2d", "in 400d"]
    assert time_left(-3 * DAY) == "3d ago" and nodes.ago(-DAY) == "0s ago"
    on_a_terminal = list(node_lines([row(report())], NOW, Screen(100, bars=True)))
    in_a_file = list(node_lines([row(report())], NOW, Screen()))
    assert "#######-" in on_a_terminal[1] and "%" not in on_a_terminal[1]
    assert "83%" in in_a_file[1] and "#" not in in_a_file[1]


def test_what_the_mounts_show_as_revoked_counts_whatever_the_node_says() -> None:
    for ca in ("kubelet", "kubernetes", "none"):
        told = report(certificates={"kubelet": certificate(25, ca=ca, serial="1f")})
        assert row(told, revoked=Revoked({"kubelet": frozenset({0x1F})})).message == "revoked: kubelet"
        assert row(told, revoked=Revoked({"kube-proxy": frozenset({0x1F})})).state is NodeState.OK


def test_colours_say_what_is_urgent() -> None:
    def paint(text: str, colour: str | None) -> str:
        return f"{text}:{colour}" if colour else text

    rows = [row(one(days)) for days in (-1.0, 4.0, 6.8, 7.3)]
    lives = [
        next(each for each in line.split() if "%" in each)
        for line in list(node_lines(rows, NOW, Screen(paint=paint)))[1:]
        if line.startswith("cp-1 ")
    ]
    assert lives == ["0%:red", "13%:red", "22%:yellow", "24%:green"]
    assert [node_table._colour(state) for state in NodeState].count("red") == 6
