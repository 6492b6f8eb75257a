"""Which nodes keep a rotation from its next step: each rule, as it is kept and as it is broken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vaultpki.certificates import SKEW
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.records.node_report import PRUNE, BundleReport, CertificateReport, NodeReport, ReaderReport, Seen
from vaultpki.records.rotation import CaRef, Method, RotationRecord, State
from vaultpki.rotation.gates import OperatorLeaf, Participant, gate, restart_refused, unreplaced, without_refused
from vaultpki.rotation.reasons import SETTLE, Transition

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SINCE = NOW - timedelta(hours=1)
DAY = 86400
OLD, NEW, ALSO = "a" * 64, "b" * 64, "c" * 64
KEYS = {"old": "0a", "new": "0b"}
BOTH = {OLD, NEW}
REVISION = 7


def record(state: State, **changes: Any) -> RotationRecord:
    made = RotationRecord(
        domain="etcd",
        state=state,
        revision=REVISION,
        since=SINCE,
        old=CaRef("etcd-1", "1", "1", OLD),
        new=CaRef("etcd-2", "2", "2", NEW),
    )
    return replace(made, **changes)


def report(
    bundle: Iterable[str] = BOTH,
    *,
    leaf: str = KEYS["old"],
    started: Iterable[str] | None = None,
    **changes: Any,
) -> NodeReport:
    """A report of cp-1 from a minute ago, which read the record as it stands; its files are half an hour old."""
    then = NOW - timedelta(minutes=30)
    made = NodeReport(
        time=NOW - timedelta(minutes=1),
        agent="0.2.0",
        seen={"etcd": Seen(REVISION, REVISION)},
        certificates={"etcd-peer": CertificateReport("etcd", "ok", NOW + timedelta(days=20), "1", leaf, (OLD,), then)},
        bundles={"etcd": BundleReport(frozenset(bundle), then)},
        readers={
            "etcd/etcd": ReaderReport(
                then, frozenset(bundle if started is None else started), running=True, healthy=True
            )
        },
    )
    return replace(made, **changes)


def ended(said: NodeReport) -> dict[str, CertificateReport]:
    """Its certificate, which has expired."""
    return {"etcd-peer": replace(said.certificates["etcd-peer"], not_after=NOW)}


def member(said: NodeReport | None, name: str = "cp-1", **changes: Any) -> Participant:
    made = Participant(name, "listed", frozenset({"etcd-peer"}), True, ("etcd/etcd",), 1, said)
    return replace(made, **changes)


def between(
    state: State, to: State, *nodes: Participant, operators: tuple[OperatorLeaf, ...] = (), **changes: Any
) -> Gate:
    now = changes.pop("now", NOW)
    reload = changes.pop("reload", 0)
    ends = changes.pop("signer_ends", NOW + timedelta(days=3650))
    return gate(Transition(record(state, **changes), to, now, reload, 30 * DAY, KEYS, ends), nodes, operators)


def onward(*nodes: Participant, **changes: Any) -> Gate:
    """From published to switched, the step that waits for most."""
    return between(State.PUBLISHED, State.SWITCHED, *nodes, **changes)


def reason(found: Gate) -> str:
    assert len(found.waiting) == 1, found
    assert found.opens is None
    assert not found.open(NOW + timedelta(days=999))
    return found.waiting[0].reason


TRUST = [
    (State.PUBLISHED, State.SWITCHED, BOTH),
    (State.RETRUSTING, State.SWITCHED, BOTH),
    (State.RETRUSTING, State.RETURNING, BOTH),
    (State.RETURNING, State.SWITCHED, BOTH),
    (State.RETIRED, State.DONE, {NEW}),
]
LEAVES = [(State.SWITCHED, State.RETIRED, KEYS["new"]), (State.RETURNING, State.STEADY, KEYS["old"])]


@pytest.mark.parametrize(("state", "to", "bundle"), TRUST)
def test_bundles_and_processes_must_hold_what_the_state_says(state: State, to: State, bundle: set[str]) -> None:
    leaf = KEYS["new"] if state is State.RETIRED else KEYS["old"]
    assert between(state, to, member(report(bundle, leaf=leaf))).open(NOW)
    wrong = {OLD} if state is not State.RETIRED else BOTH
    if to is State.RETURNING:
        wrong = {NEW}
    assert "on its disk" in reason(between(state, to, member(report(wrong, leaf=leaf))))
    assert "restart etcd" in reason(between(state, to, member(report(bundle, leaf=leaf, started=wrong))))
    assert "restart etcd" in reason(between(state, to, member(report(bundle, leaf=leaf, readers={}))))
    assert "no bundle" in reason(between(state, to, member(report(leaf=leaf, bundles={}))))


def test_a_way_back_that_goes_forward_again_needs_the_new_ca_only() -> None:
    # The old one may be lost: then no node that joins now can have it.
    assert between(State.RETURNING, State.SWITCHED, member(report({NEW}))).open(NOW)
    assert "does not trust the new CA" in reason(between(State.RETURNING, State.SWITCHED, member(report({OLD}))))


def test_the_way_back_from_retired_needs_the_old_ca_only() -> None:
    # The new issuer may be lost: then no node that joins now can have it.
    assert between(State.RETRUSTING, State.RETURNING, member(report({OLD}))).open(NOW)
    assert "does not trust the old CA" in reason(between(State.RETRUSTING, State.SWITCHED, member(report({NEW}))))


def test_further_cas_of_the_old_days_must_go_with_it_and_need_not_come() -> None:
    here = member(report({NEW, ALSO}, leaf=KEYS["new"]))
    assert between(State.RETIRED, State.DONE, here).open(NOW)
    assert "old CA" in reason(between(State.RETIRED, State.DONE, here, also=(ALSO,)))
    assert onward(member(report()), also=(ALSO,)).open(NOW)


@pytest.mark.parametrize(("state", "to", "leaf"), LEAVES)
def test_every_leaf_must_be_of_the_ca_that_the_record_names(state: State, to: State, leaf: str) -> None:
    other = KEYS["old"] if leaf == KEYS["new"] else KEYS["new"]
    assert between(state, to, member(report(leaf=leaf))).open(NOW)
    assert "etcd-peer is not of the" in reason(between(state, to, member(report(leaf=other))))
    assert "has no etcd-peer" in reason(between(state, to, member(report(leaf=leaf, certificates={}))))
    assert "hook for etcd-peer" in reason(between(state, to, member(report(leaf=leaf, owed=("etcd-peer",)))))


@pytest.mark.parametrize(("state", "to", "leaf"), [*LEAVES, (State.RETIRED, State.DONE, KEYS["new"])])
def test_a_surplus_pair_holds_the_gate_until_it_ends_and_names_the_command(state: State, to: State, leaf: str) -> None:
    other = KEYS["old"] if leaf == KEYS["new"] else KEYS["new"]
    ends = NOW + timedelta(days=20)
    held = {"etcd-peer.crt": CertificateReport("etcd", "surplus", ends, "2", other)}
    bundle = {NEW} if to is State.DONE else BOTH
    # A node whose record names nothing of the CA any more is waited for too.
    for names in ({"etcd-peer"}, set[str]()):
        node = member(report(bundle, leaf=leaf, surplus=held), certificates=frozenset(names), bundle=bool(names))
        said = reason(between(state, to, node))
        assert said.startswith("etcd-peer.crt is surplus there, and of the ") and PRUNE in said
        past = {"etcd-peer.crt": replace(held["etcd-peer.crt"], not_after=NOW)}
        for free in ({}, past, {"kubelet.crt": replace(held["etcd-peer.crt"], ca="kubelet")}):
            fine = member(report(bundle, leaf=leaf, surplus=free), certificates=frozenset(names), bundle=bool(names))
            assert not between(state, to, fine).waiting


def test_a_leaf_of_the_old_ca_also_keeps_its_key_from_being_deleted() -> None:
    assert "not of the new CA" in reason(between(State.RETIRED, State.DONE, member(report({NEW}))))
    old = report({NEW})
    expired = replace(old.certificates["etcd-peer"], not_after=NOW - timedelta(days=1))
    here = member(replace(old, certificates={"etcd-peer": expired}))
    assert between(State.RETIRED, State.DONE, here).open(NOW)


@pytest.mark.parametrize(("state", "to", "leaf"), LEAVES)
def test_leaves_that_must_have_expired_are_not_waited_for(state: State, to: State, leaf: str) -> None:
    ended = SINCE + timedelta(seconds=30 * DAY + SKEW)
    silent = member(None)
    assert "never reported" in reason(between(state, to, silent, now=ended - timedelta(seconds=1)))
    assert between(state, to, silent, now=ended).open(ended)
    # A report knows better than the calculation: somebody signed with the other CA since.
    other = KEYS["old"] if leaf == KEYS["new"] else KEYS["new"]
    said = report(leaf=other)
    late = replace(said.certificates["etcd-peer"], not_after=ended + timedelta(days=1))
    node = member(replace(said, certificates={"etcd-peer": late}))
    assert "is not of the" in reason(between(state, to, node, now=ended))


def test_the_same_key_is_told_by_the_chain_that_is_served() -> None:
    said = report()
    kept = member(said)
    served = replace(said.certificates["etcd-peer"], served=(NEW,))
    rewritten = member(replace(said, certificates={"etcd-peer": served}))
    assert "still served with the old" in reason(between(State.SWITCHED, State.RETIRED, kept, method=Method.SAME_KEY))
    assert between(State.SWITCHED, State.RETIRED, rewritten, method=Method.SAME_KEY).open(NOW)
    assert "still served with the new" in reason(
        between(State.RETURNING, State.STEADY, rewritten, method=Method.SAME_KEY)
    )
    assert between(State.RETURNING, State.STEADY, kept, method=Method.SAME_KEY).open(NOW)
    admin = OperatorLeaf("admin", "1", NOW + timedelta(days=1))
    found = between(State.SWITCHED, State.RETIRED, rewritten, method=Method.SAME_KEY, operators=(admin,))
    assert found.open(NOW)


@pytest.mark.parametrize(("state", "to", "bundle"), TRUST)
def test_counted_a_node_that_never_reported_is_waited_for(state: State, to: State, bundle: set[str]) -> None:
    assert "never reported" in reason(between(state, to, member(None)))
    unknown = member(None, credentials=None)
    assert "never reported" in reason(between(state, to, unknown))
    # Listed in cluster.yaml, never enrolled: nobody can log in as it.
    assert between(state, to, member(None, credentials=0)).open(NOW)


def test_counted_a_node_without_credential_is_waited_for_as_long_as_its_certificates_live() -> None:
    stale = report(seen={"etcd": Seen(1, 1)})
    assert "latest step" in reason(onward(member(stale, credentials=0)))
    dead = replace(stale, certificates=ended(stale))
    found = onward(member(dead, credentials=0))
    assert found.open(NOW)
    assert found.excused == (Waiting("cp-1", "has no credential and no certificate that is in date"),)


def test_a_pooled_node_whose_certificates_have_expired_is_excused_and_named() -> None:
    said = report(seen={"etcd": Seen(1, 1)})
    dead = replace(said, certificates=ended(said))
    found = onward(member(dead, "w-1", kind="pooled", readers=()))
    assert found.open(NOW)
    assert found.excused == (Waiting("w-1", "its certificates have all expired"),)
    # Listed nodes are left out by name only; and one certificate that lives is enough to count.
    assert onward(member(dead)).waiting
    half = replace(dead, certificates={**dead.certificates, "kubelet": said.certificates["etcd-peer"]})
    assert onward(member(half, "w-1", kind="pooled", readers=())).waiting


def test_a_node_that_has_nothing_of_the_ca_is_neither_counted_nor_named() -> None:
    stranger = member(None, "w-1", certificates=frozenset(), bundle=False, readers=())
    assert onward(stranger) == Gate(opens=SINCE)


def test_a_node_with_the_bundle_alone_counts_for_trust_and_not_for_leaves() -> None:
    reader = member(None, certificates=frozenset(), readers=())
    assert onward(reader).waiting
    assert between(State.SWITCHED, State.RETIRED, reader).open(NOW)


@pytest.mark.parametrize("revision", [0, REVISION - 1])
def test_echo_a_report_counts_only_if_its_pass_read_the_record_as_it_stands(revision: int) -> None:
    stale = report(seen={"etcd": Seen(revision, revision)})
    assert "has not read the latest step" in reason(onward(member(stale)))
    assert "has not read the latest step" in reason(between(State.SWITCHED, State.RETIRED, member(stale)))


@pytest.mark.parametrize("to", [State.SWITCHED, State.RETURNING])
def test_a_node_that_has_seen_a_newer_record_says_that_the_server_is_behind(to: State) -> None:
    ahead = report(seen={"etcd": Seen(REVISION, REVISION + 3)})
    assert "and the server has 7. Run `vaultpki ca recover etcd`" in reason(
        between(State.RETRUSTING, to, member(ahead))
    )
    # What a pooled node says does not count, so nothing is recovered for it.
    pooled = replace(member(ahead, "w-1"), kind="pooled", member=False, pool="autoscaled")
    for node, command in (
        (pooled, "vaultpki enroll w-1 --pool autoscaled --replace -o w-1.json"),
        (replace(pooled, pool=""), "vaultpki lock w-1"),
    ):
        said = reason(between(State.RETRUSTING, to, node))
        assert f"`{command}`" in said and "ca recover" not in said


def test_agents_that_are_too_old_or_cannot_read_are_named() -> None:
    old = report(seen={}, agent="0.1.0")
    assert "too old to take part (0.1.0). Upgrade it" in reason(onward(member(old)))
    blind = report(seen={"kubelet": Seen(0, 0)})
    assert "cannot read the rotation's record" in reason(onward(member(blind)))


def test_a_report_from_the_future_is_not_believed() -> None:
    odd = report(time=NOW + timedelta(seconds=SKEW + 1))
    assert "from the future" in reason(onward(member(odd)))
    assert onward(member(report(time=NOW + timedelta(seconds=SKEW)))).open(NOW)


@pytest.mark.parametrize("reload", [0, 300])
def test_settle_the_gate_opens_when_the_slowest_reader_has_noticed(reload: int) -> None:
    changed = NOW - timedelta(seconds=10)
    said = report(bundles={"etcd": BundleReport(frozenset(BOTH), changed)})
    follower = member(said, readers=())
    found = onward(member(report(), "cp-0"), follower, reload=reload)
    opens = changed + timedelta(seconds=SETTLE + reload)
    assert found == Gate(opens=opens)
    assert not found.open(opens - timedelta(seconds=1))
    assert found.open(opens)


def test_settle_a_leaf_counts_from_its_installation_or_else_from_the_report() -> None:
    said = report(leaf=KEYS["new"])
    leaf = said.certificates["etcd-peer"]
    assert between(State.SWITCHED, State.RETIRED, member(said), reload=300).opens == leaf.installed + timedelta(  # type: ignore[operator]
        seconds=SETTLE + 300
    )
    unknown = replace(said, certificates={"etcd-peer": replace(leaf, installed=None)})
    assert between(State.SWITCHED, State.RETIRED, member(unknown), reload=300).opens == said.time + timedelta(
        seconds=SETTLE + 300
    )


def test_settle_a_process_counts_some_time_after_its_start() -> None:
    said = report(readers={"etcd/etcd": ReaderReport(NOW, frozenset(BOTH), running=True, healthy=True)})
    assert onward(member(said)).opens == NOW + timedelta(seconds=SETTLE)


def test_a_hook_that_has_not_succeeded_keeps_the_gate_closed() -> None:
    said = report(owed=("etcd-ca",))
    follower = member(said, readers=())
    assert "hook for etcd-ca" in reason(onward(follower))
    assert "`vaultpki agent --once`" in reason(onward(follower))


def test_memory_a_persons_restart_counts_as_started() -> None:
    said = report(readers={})
    assert onward(member(said)).waiting
    assert onward(member(said), restarted=("cp-1/etcd",)).open(NOW)
    # But it says nothing of the disk, and a new state forgets it.
    wrong = member(report({OLD}, readers={}))
    assert onward(wrong, restarted=("cp-1/etcd",)).waiting
    confirmed = record(State.PUBLISHED, restarted=("cp-1/etcd",), turn="cp-1")
    assert confirmed.moved(State.SWITCHED, NOW).restarted == ()


def test_bound_a_restart_counts_only_after_a_report_showed_the_final_bundle() -> None:
    assert refused(report(readers={})) == ""
    for said in (None, report({OLD}), report(seen={"etcd": Seen(REVISION - 1, REVISION - 1)})):
        assert "has not reported the bundle of this step" in refused(said)
    switched: dict[str, Any] = {"state": State.SWITCHED, "to": State.RETIRED}
    assert "waits for no restart of etcd on cp-1; leave out `--restarted cp-1/etcd`" in refused(report(), **switched)
    # Where only the turn is waited for, the word is about that.
    assert refused(report(), **switched, turn="cp-1") == ""


def refused(
    said: NodeReport | None,
    word: str = "cp-1/etcd",
    *,
    state: State = State.PUBLISHED,
    to: State = State.SWITCHED,
    **changes: Any,
) -> str:
    return restart_refused(word, [(Transition(record(state, **changes), to, NOW), member(said))])


def test_a_word_names_a_component_and_one_without_is_told_which_are_waited_for() -> None:
    assert "a word names a component; write `--restarted cp-1/etcd`" in refused(report(readers={}), "cp-1")
    assert "no restart of kubelet on cp-1; write `--restarted cp-1/etcd`" in refused(report(readers={}), "cp-1/kubelet")
    assert "waits for no restart on cp-1; leave out `--restarted cp-1`" in refused(report(), "cp-1")


def test_a_word_counts_for_what_cannot_be_seen_and_not_against_a_start_that_is() -> None:
    early = seen(installed=False, **HEALTHY)
    said = refused(early)
    assert "sees that etcd runs since 2026-11-25T11:29:59Z, and the bundle there is of 2026-11-25T11:30:00Z" in said
    assert "restart it there" in said and "no word is needed" in said
    assert "has seen etcd restarted and healthy; leave out `--restarted cp-1/etcd`" in refused(report())
    # Started since then, and only its agent takes it for ill; not seen at all; an agent of 0.2.0 that sees none.
    for counts in (seen(running=True, problem="no answer"), report(readers={}), seen(problem="no process")):
        assert refused(counts) == ""
    # What a listener showed is against the report, not the word.
    assert refused(report(), accepting=("cp-1/etcd",)) == ""


def stopped(since: datetime = SINCE - timedelta(days=1), reader: str = "etcd/kube-apiserver") -> Participant:
    gone = ReaderReport(None, problem="no process of it was seen", stopped=since)
    return replace(member(report(readers={reader: gone})), readers=(reader,))


def test_what_is_stopped_holds_nothing_and_what_nobody_can_see_waits_for_a_word() -> None:
    assert onward(stopped()).open(NOW) and next_turn(stopped(), owing("cp-2")) == "cp-2"
    assert onward(stopped(NOW)).open(NOW)
    unknown = replace(stopped(), report=report(readers={"etcd/kube-apiserver": ReaderReport(None, problem="not seen")}))
    assert "--restarted cp-1/kube-apiserver`" in reason(onward(unknown))
    assert onward(unknown, restarted=("cp-1/kube-apiserver",)).open(NOW)
    # A hook that fails, as nothing is there to be restarted, keeps nobody waiting.
    failing = stopped()
    assert failing.report is not None
    failing = replace(failing, report=replace(failing.report, owed=("etcd-ca",), waiting=("etcd",)))
    assert onward(failing).open(NOW) and next_turn(failing, owing("cp-2")) == "cp-2"


def test_a_member_of_etcd_that_is_stopped_is_waited_for() -> None:
    """While one is away, the restart of another may cost the quorum."""
    told = reason(onward(stopped(reader="etcd/etcd")))
    assert told.startswith("etcd is stopped there since ") and told.endswith("continue --restarted cp-1/etcd`")
    assert next_turn(stopped(reader="etcd/etcd"), owing("cp-2")) == "cp-1"


def test_what_was_stopped_in_its_turn_may_have_ended_by_what_it_read() -> None:
    """Else the next one would follow it, and the one after that."""
    crashed = stopped(NOW - timedelta(minutes=5))
    assert next_turn(crashed, owing("cp-2"), turn="cp-1") == "cp-1"
    told = reason(onward(crashed, turn="cp-1"))
    assert "kube-apiserver is stopped there since" in told and "--restarted cp-1/kube-apiserver`" in told
    said: dict[str, Any] = {"turn": "cp-1", "restarted": ("cp-1/kube-apiserver",)}
    assert onward(crashed, **said).open(NOW) and next_turn(crashed, owing("cp-2"), **said) == "cp-2"
    # A step that waits for nobody, such as `ca abort`, may have come meanwhile.
    assert next_turn(stopped(), owing("cp-2"), turn="cp-1") == "cp-1"


@pytest.mark.parametrize(("state", "to", "leaf"), LEAVES)
def test_operators_certificates_that_no_node_reports_must_be_replaced_or_expire(
    state: State, to: State, leaf: str
) -> None:
    ends = NOW + timedelta(days=9)
    admins = (OperatorLeaf("admin", "1", ends), OperatorLeaf("admin", "2", ends - timedelta(days=1)))
    node = member(report(leaf=leaf))
    found = between(state, to, node, operators=admins)
    assert found.waiting[0].node == "admin"
    assert "2 certificates, which expire at 2026-12-04T12:00:00Z" in reason(found)
    assert "vaultpki issue admin" in reason(found)
    assert between(state, to, node, operators=admins, now=ends).open(ends)
    left = between(state, to, node, operators=admins, excused=("admin",))
    assert left.open(NOW)
    assert left.excused == (Waiting("admin", "is left out by `--without`"),)


def test_a_new_certificate_of_an_operator_replaces_one_of_that_name() -> None:
    """`vaultpki issue admin` answers what the gate asks for; a colleague's own certificate still counts."""
    first, second = (OperatorLeaf("admin", str(day), NOW + timedelta(days=day)) for day in (1, 2))
    other = OperatorLeaf("super-admin", "3", NOW + timedelta(days=3))
    assert unreplaced((second, first, other), ()) == (first, second, other)
    assert unreplaced((second, first, other), ("admin",)) == (second, other)
    assert unreplaced((second, first, other), ("admin", "admin", "admin")) == (other,)
    assert unreplaced((), ("admin",)) == ()


def test_operators_certificates_are_no_matter_of_trust() -> None:
    admin = (OperatorLeaf("admin", "1", NOW + timedelta(days=9)),)
    assert onward(member(report()), operators=admin).open(NOW)


def test_excused_by_name_but_never_a_member_of_etcd_in_use() -> None:
    reader = member(None, "cp-2", readers=("etcd/kube-apiserver",))
    found = onward(reader, excused=("cp-2",))
    assert found.open(NOW)
    assert found.excused == (Waiting("cp-2", "is left out by `--without`"),)
    etcd = member(None)
    assert "A member of etcd cannot be left out" in reason(onward(etcd, excused=("cp-1",)))
    assert "which no gate leaves out" in without_refused(record(State.PUBLISHED), etcd, NOW)
    assert without_refused(record(State.PUBLISHED), reader, NOW) == ""
    said = report()
    dead = member(replace(said, certificates=ended(said)))
    assert without_refused(record(State.PUBLISHED), dead, NOW) == ""
    signs = member(None, "cp-2", readers=())
    assert "signs tokens" in without_refused(record(State.SWITCHED, domain="service-account"), signs, NOW)
    assert not without_refused(record(State.SWITCHED, domain="service-account"), replace(signs, bundle=False), NOW)
    # For another CA it may be left out as any node.
    assert without_refused(record(State.PUBLISHED, domain="kubernetes"), etcd, NOW) == ""


def test_the_signer_must_outlive_the_leaves_of_the_new_ca() -> None:
    life = timedelta(seconds=3600 + 30 * DAY + SKEW)
    assert between(State.PREPARED, State.PUBLISHED, signer_ends=NOW + life + timedelta(seconds=1)).open(NOW)
    found = between(State.PREPARED, State.PUBLISHED, signer_ends=NOW + life)
    assert found.waiting[0].node == "root"
    assert "vaultpki ca rotate root" in reason(found)
    emergency = between(State.PREPARED, State.PUBLISHED, signer_ends=NOW + life, method=Method.EMERGENCY)
    assert emergency.open(NOW)


@pytest.mark.parametrize(
    ("state", "to"),
    [
        (State.PREPARED, State.STEADY),
        (State.PUBLISHED, State.STEADY),
        (State.SWITCHED, State.RETURNING),
        (State.RETIRED, State.RETRUSTING),
        (State.PUBLISHED, State.RETIRED),
    ],
)
def test_steps_that_wait_for_nobody(state: State, to: State) -> None:
    found = between(state, to, member(None), turn="cp-2")
    assert found.open(NOW)
    # It may be restarting.
    assert found.turn == "cp-2"


def owing(name: str, **changes: Any) -> Participant:
    return member(report(started={OLD}, **changes), name)


def next_turn(*nodes: Participant, state: State = State.PUBLISHED, **changes: Any) -> str:
    to = {State.PUBLISHED: State.SWITCHED, State.SWITCHED: State.RETIRED, State.RETIRED: State.DONE}[state]
    return gate(Transition(record(state, **changes), to, NOW), nodes).turn


def test_turns_go_to_members_of_etcd_first_in_the_order_of_their_names() -> None:
    api = replace(owing("a-1", readers={}), readers=("etcd/kube-apiserver",))
    assert next_turn(api, owing("cp-2"), owing("cp-1")) == "cp-1"
    assert next_turn(api) == "a-1"
    assert next_turn(member(report())) == ""


def test_a_turn_ends_with_a_report_that_owes_nothing() -> None:
    others = (owing("cp-2"), owing("cp-3"))
    assert next_turn(owing("cp-1"), *others, turn="cp-1") == "cp-1"
    assert next_turn(member(report()), *others, turn="cp-1") == "cp-2"
    # Restarted, but its hook has not succeeded, or it has not reported since.
    for changes in ({"owed": ("etcd-ca",)}, {"waiting": ("etcd",)}, {"seen": {"etcd": Seen(1, 1)}}):
        assert next_turn(member(report(**changes)), *others, turn="cp-1") == "cp-1"
    assert next_turn(member(None), *others, turn="cp-1") == "cp-1"
    assert next_turn(*others, turn="cp-1") == "cp-2"
    said = replace(owing("cp-1"), report=report(started={OLD}, owed=("etcd-ca",)))
    assert next_turn(said, *others, turn="cp-1", restarted=("cp-1/etcd",)) == "cp-2"


def test_a_report_of_one_that_has_read_a_newer_record_opens_nothing_and_gets_no_turn() -> None:
    """The server was set back: what that node did last was a step that the record does not have any more."""
    ahead = {"etcd": Seen(REVISION, REVISION + 3)}
    assert next_turn(owing("cp-1", seen=ahead)) == ""
    assert next_turn(owing("cp-1", seen=ahead), owing("cp-2")) == "cp-2"
    # It does not end its turn by that either, and a person's restart counts only with the record as it stands.
    assert next_turn(member(report(seen=ahead)), owing("cp-2"), turn="cp-1") == "cp-1"
    assert "has not reported the bundle of this step" in refused(report(readers={}, seen=ahead))


def test_a_hook_whose_components_were_restarted_by_somebody_else_waits_for_its_turn() -> None:
    step = onward(member(report(owed=("etcd-ca",), waiting=("etcd",))))
    assert reason(step) == "its hook for etcd-ca waits for its turn. Run `vaultpki ca continue`"
    step = onward(member(report(owed=("etcd-ca",))))
    assert reason(step).startswith("its hook for etcd-ca has not succeeded. Correct it in its agent.yaml. Run there: ")


def seen(installed: bool = True, **changes: Any) -> NodeReport:
    """A report in which etcd was started after the bundle came, or before, and is not as it should be."""
    said = report()
    when = said.bundles["etcd"].installed - timedelta(seconds=0 if installed else 1)
    return replace(said, readers={"etcd/etcd": ReaderReport(when, frozenset(BOTH), **changes)})


HEALTHY: dict[str, Any] = {"running": True, "healthy": True}


@pytest.mark.parametrize(
    ("said", "says"),
    [
        # The hook has succeeded and nothing has restarted, as with a kubelet that is stopped.
        (seen(installed=False, **HEALTHY), "restart etcd there. Wait until its agent has seen it healthy, and run"),
        (seen(running=True, problem="/readyz answers 503"), "etcd was restarted there and is not healthy (/readyz"),
        (seen(problem="no process of it was found"), "etcd was not seen running there (no process of it was found)"),
        # An agent of before says that the hook has run, and no more.
        (seen(), "its agent does not say whether etcd runs (0.2.0). Upgrade the agent. Or restart etcd there"),
        (report(readers={}), "its agent does not say whether etcd runs"),
        (report(readers={"etcd/etcd": ReaderReport(None, frozenset(BOTH), **HEALTHY)}), "restart etcd there"),
        (report(readers={"etcd/etcd": ReaderReport(NOW, frozenset({OLD}), **HEALTHY)}), "restart etcd there"),
    ],
)
def test_seen_a_restart_counts_once_the_component_runs_since_then_and_is_healthy(said: NodeReport, says: str) -> None:
    told = reason(onward(member(said)))
    word = "run `vaultpki ca continue --restarted cp-1/etcd`"
    assert told.startswith(says) and told.endswith("run `vaultpki ca continue`" if says.startswith("restart") else word)
    # Nobody else restarts meanwhile, until a person says that all is well.
    others = (owing("cp-2"), owing("cp-3"))
    assert next_turn(member(said), *others, turn="cp-1") == "cp-1"
    assert next_turn(member(said), *others, turn="cp-1", restarted=("cp-1/etcd",)) == "cp-2"
    assert onward(member(said), restarted=("cp-1/etcd",)).open(NOW)


def test_a_node_that_is_not_healthy_comes_before_all_others() -> None:
    down = member(seen(running=True, problem="/readyz answers 503"), "cp-9")
    assert next_turn(owing("cp-1"), down) == "cp-9"
    found = onward(owing("cp-1"), down)
    assert [(each.node, each.reason[:39]) for each in found.waiting] == [
        ("cp-1", "restarts etcd after cp-9, whose turn it"),
        ("cp-9", "etcd was restarted there and is not hea"),
    ]
    # In a state whose step waits for no restart, hooks are run in turns all the same.
    waits = member(report(waiting=("etcd",)), "cp-1")
    assert next_turn(waits, down, state=State.SWITCHED, turn="cp-9") == "cp-9"
    assert next_turn(waits, member(report(), "cp-9"), state=State.SWITCHED, turn="cp-9") == "cp-1"


def test_no_other_node_restarts_while_one_is_ailing_that_has_not_read_the_step() -> None:
    """A member of etcd that is down, and another one that restarts, are the majority of three."""
    problem: dict[str, Any] = {"running": True, "problem": "/readyz answers 503"}
    unread = {"etcd": Seen(REVISION - 1, REVISION - 1)}
    down = member(replace(seen(**problem), seen=unread), "cp-9")
    assert next_turn(owing("cp-1"), down) == "cp-9"
    found = onward(owing("cp-1"), down)
    assert [(each.node, each.reason[:39]) for each in found.waiting] == [
        ("cp-1", "restarts etcd after cp-9, whose turn it"),
        ("cp-9", "has not read the latest step, and last "),
    ]
    # Who restarts goes on, one that is down too and can restart comes first, and without either nobody has a turn.
    assert next_turn(owing("cp-1"), down, turn="cp-1") == "cp-1"
    assert next_turn(owing("cp-1"), member(seen(**problem), "cp-99"), down) == "cp-99"
    assert next_turn(member(report()), down) == ""
    assert next_turn(owing("cp-1"), down, restarted=("cp-9/etcd",)) == "cp-1"
    assert next_turn(owing("cp-1"), down, method=Method.EMERGENCY) == "cp-1"


def test_a_turn_goes_only_to_a_node_that_has_the_bundle_to_restart_with() -> None:
    early = member(report({OLD}), "cp-1")
    stale = member(report(started={OLD}, seen={"etcd": Seen(1, 1)}), "cp-2")
    assert next_turn(early, stale, owing("cp-3")) == "cp-3"
    assert next_turn(early, stale) == ""


def test_a_node_whose_hooks_wait_gets_a_turn_in_every_state() -> None:
    waits = member(report(waiting=("etcd",), owed=("etcd-ca",)), "w-1", readers=())
    assert next_turn(waits) == "w-1"
    assert next_turn(waits, state=State.SWITCHED) == "w-1"


def test_reasons_name_the_node_whose_turn_it_is() -> None:
    found = onward(owing("cp-1"), owing("cp-2"))
    assert found.turn == "cp-1"
    assert [each.reason for each in found.waiting] == [
        "restart etcd there. Wait until its agent has seen it healthy, and run `vaultpki ca continue`",
        "restarts etcd after cp-1, whose turn it is",
    ]
    hooked = owing("cp-1", owed=("etcd-ca",))
    assert "has the turn to restart etcd. Wait for its hook" in reason(onward(hooked, turn="cp-1"))


def test_a_false_report_keeps_only_its_own_gate_closed_and_cannot_speak_for_others() -> None:
    liar = member(report(), "w-1")
    honest = member(report({OLD}))
    found = onward(liar, honest)
    assert [each.node for each in found.waiting] == ["cp-1"]


def test_memory_a_start_before_the_bundle_came_says_nothing_of_later_ones() -> None:
    # The bundle went and came back, and in between the component may have crashed and started with the other one.
    said = report()
    early = ReaderReport(
        said.bundles["etcd"].installed - timedelta(seconds=1), frozenset(BOTH), running=True, healthy=True
    )
    node = member(replace(said, readers={"etcd/etcd": early}))
    told = reason(between(State.RETRUSTING, State.RETURNING, node))
    # From re-trusting `ca continue` leads forward.
    assert told.startswith("restart etcd") and told.endswith("healthy, and run `vaultpki ca abort`")


def locked(name: str = "cp-1", *, ends: datetime | None = NOW + timedelta(days=3), **changes: Any) -> Participant:
    """A node that nobody can log in as; its last report showed a certificate that ends then."""
    return member(None, name, credentials=0, locked=True, last_expiry=ends, **changes)


def test_a_locked_listed_node_is_waited_for_until_it_is_enrolled_left_out_or_expired() -> None:
    said = reason(onward(locked(readers=())))
    assert (
        said
        == "is locked, or its credential has expired. Enrol it and join it again: `vaultpki enroll cp-1`. Or go on "
        "without it: `--without cp-1`"
    )
    left = onward(locked(readers=()), excused=("cp-1",))
    assert left.open(NOW + timedelta(days=1)) and [each.node for each in left.excused] == ["cp-1"]
    gone = onward(locked(ends=NOW, readers=()))
    assert gone.open(NOW + timedelta(days=1)) and "no certificate that is in date" in gone.excused[0].reason
    # A member of etcd that may run still is never left out.
    kept = onward(locked(), excused=("cp-1",))
    assert "A member of etcd cannot be left out" in reason(kept)
    assert without_refused(record(State.PUBLISHED), locked(), NOW) and not without_refused(
        record(State.PUBLISHED), locked(ends=NOW), NOW
    )


def test_a_locked_pooled_node_is_left_out_and_named_and_gets_no_turn() -> None:
    found = onward(locked("w-1", kind="pooled", readers=()), member(report()))
    assert [(each.node, each.reason) for each in found.excused] == [("w-1", "is locked, or its credential has expired")]
    assert found.open(NOW + timedelta(days=1))
    assert next_turn(locked()) == ""


def older(version: str, started: Iterable[str] = BOTH, **changes: Any) -> Participant:
    """A worker whose kubelet reads the CA of kubernetes only when it starts, since it is of this version."""
    then = NOW - timedelta(minutes=30)
    said = NodeReport(
        time=NOW - timedelta(minutes=1),
        agent="0.2.0",
        seen={"kubernetes": Seen(REVISION, REVISION)},
        bundles={"kubernetes": BundleReport(frozenset(BOTH), then)},
        readers={"kubernetes/kubelet": ReaderReport(then, frozenset(started), running=True, healthy=True)},
        kubernetes={"kubelet": version},
    )
    made = Participant("w-1", "pooled", frozenset(), True, ("kubernetes/kubelet",), 1, said)
    return replace(made, **changes)


def test_a_component_of_an_older_version_is_waited_for_with_its_version() -> None:
    published = record(State.PUBLISHED, domain="kubernetes")
    step = Transition(published, State.SWITCHED, NOW)
    assert gate(step, [older("v1.35.4")]).open(NOW)
    (waiting,) = gate(step, [older("v1.35.4", started=[OLD])]).waiting
    assert waiting.reason == (
        "restart kubelet there (Kubernetes 1.35 reads this CA only at start). Wait until its agent has seen it "
        "healthy, and run `vaultpki ca continue`"
    )
    # Of what every version reads at its start, the version is no reason.
    silent = older("v1.35.4", started=[OLD], readers=("kubernetes/kube-controller-manager",))
    assert "reads this CA" not in gate(step, [silent]).waiting[0].reason


def test_nodes_whose_versions_are_unknown_are_named_and_keep_no_step_waiting() -> None:
    step = Transition(record(State.PUBLISHED, domain="kubernetes"), State.SWITCHED, NOW)
    unknown = older("", readers=(), unversioned=("kubelet", "kube-proxy"))
    found = gate(step, [unknown])
    assert found.open(NOW) and found.unversioned == {"w-1": ("kubelet", "kube-proxy")}
    # One that is left out is left out.
    left = Transition(record(State.PUBLISHED, domain="kubernetes", excused=("w-1",)), State.SWITCHED, NOW)
    assert gate(left, [unknown]).unversioned == {}
