"""The gates of an adoption: whoever could be locked out keeps them closed, and is named; held against the model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models import adoption_tables as model
from models.adoption import Settings
from models.adoption_moves import ok
from vaultpki.adopt import gates
from vaultpki.errors import StateConflict
from vaultpki.kube.cluster import AUTHENTICATION, CLUSTER_INFO
from vaultpki.kube.objects import ROOT_COPY, PodStart
from vaultpki.kube.whole import BINDINGS
from vaultpki.procedure.phases import Side
from vaultpki.records.adoption import ADOPTION_TABLE, AdoptionRecord, AdoptionState
from vaultpki.records.adoption_report import AdoptionReport, ComponentReport, Held, OldKeys
from vaultpki.records.rotation import MOST_AHEAD
from vaultpki.rotation import adoption_reasons as reasons
from vaultpki.rotation.adoption_evidence import HELD, AdoptedMachine, ClusterSeen, IssuedRequest, Served, side_of
from vaultpki.rotation.adoption_states import (
    FREE_STEPS,
    LAST_STEP,
    LEAVES_OF,
    SIGNER_ON,
    STEPS_BY_LEAVES,
    STEPS_BY_TRUST,
    TRUSTED,
    AdoptionStep,
)

NOW = datetime(2027, 3, 1, tzinfo=UTC)
BEGUN = NOW - timedelta(hours=2)
STATES = {letter: AdoptionState(word) for letter, word in model.STATES.items()}
SIDES = {model.OLD: Side.OLD, model.NEW: Side.NEW, model.BOTH: Side.BOTH}
OLD = {"kubernetes": ("a" * 64,), "etcd": ("b" * 64,), "front-proxy": ("c" * 64,)}
_S = AdoptionState
US, SC = (_S.PUBLISHED, _S.SWITCHED), (_S.SWITCHED, _S.CLOSED)
RD, TB, BP = (_S.RETIRED, _S.DONE), (_S.RETRUSTING, _S.RETURNING), (_S.RETURNING, _S.PREPARED)
STEPS = (*STEPS_BY_TRUST, *(each for each in STEPS_BY_LEAVES if each not in STEPS_BY_TRUST))
Step = tuple[AdoptionState, AdoptionState]


def record(state: AdoptionState, **more: Any) -> AdoptionRecord:
    values: dict[str, Any] = {"joins_closed": BEGUN, "confirmed": tuple(gates.CONFIRMABLE), **more}
    return AdoptionRecord(state, 12, 10, BEGUN, OLD, **values)


def step(path: Step, **more: Any) -> AdoptionStep:
    return AdoptionStep(record(path[0], **more), path[1], NOW)


def report(state: AdoptionState, *, plane: bool = True, **more: Any) -> AdoptionReport:
    """What a machine reports that has done all of a state."""
    names = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler") if plane else ()
    one = ComponentReport(BEGUN, HELD[TRUSTED[state]], HELD[LEAVES_OF[state]], healthy=True)
    aside = OldKeys.ASIDE if LEAVES_OF[state] is Side.NEW else OldKeys.IN_PLACE
    values: dict[str, Any] = {
        "reached": state,
        "trust": HELD[TRUSTED[state]],
        "leaves": HELD[LEAVES_OF[state]],
        "components": dict.fromkeys((*names, "kubelet"), one),
        "signer": state in SIGNER_ON if plane else None,
        "rotates": LEAVES_OF[state] is Side.OLD,
        "keys": aside if plane else OldKeys.NONE,
        "by_agent": True,
        "since": BEGUN,
        **more,
    }
    return AdoptionReport(12, **values)


def machine(name: str, state: AdoptionState, **more: Any) -> AdoptedMachine:
    plane = name.startswith("cp")
    values: dict[str, Any] = {
        "plane": plane,
        "member": plane,
        "enrolled": True,
        "report": report(state, plane=plane),
        "time": NOW - timedelta(minutes=1),
        "signs": state in SIGNER_ON if plane else None,
        "rotates": LEAVES_OF[state] is Side.OLD,
        **more,
    }
    return AdoptedMachine(name, **values)


def seen(state: AdoptionState, **more: Any) -> ClusterSeen:
    """What a cluster shows in which everybody is ready for the next step."""
    values: dict[str, Any] = {
        "machines": tuple(machine(name, state) for name in ("cp-1", "cp-2", "cp-3", "w-1")),
        "info": TRUSTED[state],
        "clients": {"client-ca-file": TRUSTED[state], "requestheader-client-ca-file": TRUSTED[state]},
        "roots": {"default": TRUSTED[state], "app": TRUSTED[state]},
        "changed": {"default": BEGUN, "app": BEGUN},
        **more,
    }
    return ClusterSeen(**values)


def with_machine(state: AdoptionState, name: str, **more: Any) -> ClusterSeen:
    """The same where one machine is another."""
    whole = seen(state)
    return replace(whole, machines=tuple(replace(m, **more) if m.name == name else m for m in whole.machines))


def with_etcd(said: AdoptionReport, **more: Any) -> AdoptionReport:
    """The same where etcd is otherwise."""
    return replace(said, components={**said.components, "etcd": replace(said.components["etcd"], **more)})


def waits(path: Step, found: ClusterSeen, **more: Any) -> dict[str, str]:
    return {each.node: each.reason for each in gates.gate(step(path, **more), found).waiting}


@pytest.mark.parametrize("path", STEPS)
def test_a_gate_opens_when_everybody_is_ready(path: Step) -> None:
    found = gates.gate(step(path), seen(path[0]))
    assert not found.waiting and found.open(NOW) and not found.turn


@pytest.mark.parametrize("path", STEPS)
def test_a_gate_waits_for_the_slowest_reader(path: Step) -> None:
    late = report(path[0], since=NOW - timedelta(seconds=60))
    found = gates.gate(step(path), with_machine(path[0], "cp-2", report=late))
    assert not found.waiting and found.opens == NOW + timedelta(seconds=reasons.LONGEST_LOOK_AGAIN - 60)
    # A clock that is wrong, or a lie, opens nothing earlier.
    early = report(path[0], since=BEGUN - timedelta(days=9))
    found = gates.gate(
        replace(step(path), record=record(path[0], joins_closed=BEGUN), now=BEGUN + timedelta(seconds=30)),
        replace(seen(path[0]), machines=tuple(replace(m, report=early) for m in seen(path[0]).machines)),
    )
    assert found.opens is None or found.opens >= BEGUN + timedelta(seconds=reasons.LONGEST_LOOK_AGAIN)


@pytest.mark.parametrize("path", sorted(FREE_STEPS, key=str))
def test_free_steps_wait_for_nobody(path: Step) -> None:
    nobody = ClusterSeen(machines=(AdoptedMachine("w-1"),), unread={"nodes": "no"})
    assert gates.gate(AdoptionStep(AdoptionRecord(path[0], 1, 1, NOW, OLD), path[1], NOW), nobody).open(NOW)


def test_the_steps_are_those_of_the_model() -> None:
    for table, back in ((model.FORWARD, False), (model.BACK, True)):
        for letter, state in STATES.items():
            to = table.get(letter)
            assert gates.next_state(state, back=back) is (STATES[to] if to else None)
    assert ADOPTION_TABLE.ahead(_S.SWITCHED, back=True) == {_S.SWITCHED, _S.RETURNING, _S.PREPARED}
    assert _S.RETURNING not in ADOPTION_TABLE.ahead(_S.SWITCHED, back=False)


def worlds() -> Iterator[tuple[int, int, int, int, bool, bool, str]]:
    return itertools.product((1, 2, 3), (1, 2, 3), (1, 2), (1, 2), (False, True), (False, True), ("", "p", "a", "-"))


@pytest.mark.parametrize("path", STEPS)
@pytest.mark.parametrize("role", ["m", "w"])
def test_no_report_passes_that_the_model_refuses(path: Step, role: str) -> None:
    """Each raw report of the model, as a machine would say it: whatever opens the gate is right in the model."""
    letters = {state: letter for letter, state in STATES.items()}
    name, passed = ("cp-1" if role == "m" else "w-1"), 0
    keys = {"": OldKeys.NONE, "p": OldKeys.IN_PLACE, "a": OldKeys.ASIDE, "-": OldKeys.NONE}
    for raw in worlds():
        disk, memory, leaf, show, rotates, signs, key = raw
        held = {number: HELD[SIDES[number]] for number in SIDES}
        one = ComponentReport(BEGUN, held[memory], held[show], healthy=True)
        said = report(
            path[0],
            plane=role == "m",
            trust=held[disk],
            leaves=held[leaf],
            components={"kubelet": one},
            rotates=rotates,
            signer=signs if role == "m" else signs or None,
            keys=keys[key],
        )
        each = machine(name, path[0], report=said, rotates=rotates, signs=signs if role == "m" else None)
        if not reasons.waits_for(step(path), each).reason:
            passed += 1
            assert ok(letters[path[0]] + letters[path[1]], raw, role, Settings("mw")), raw
            if path == LAST_STEP and role == "m":
                assert ok("off", raw, role, Settings("mw"))
    assert passed


@pytest.mark.parametrize("path", STEPS)
def test_who_has_no_agent_is_named(path: Step) -> None:
    found = with_machine(path[0], "w-1", enrolled=False, report=None, time=None)
    assert "has no agent. Enrol it: `vaultpki enroll w-1`" in waits(path, found)["w-1"]
    external = replace(
        seen(path[0]), machines=(*seen(path[0]).machines, AdoptedMachine("etcd-1", member=True, kubelet=False))
    )
    assert "is a member of etcd without an agent" in waits(path, external)["etcd-1"]
    silent = with_machine(path[0], "w-1", report=None, time=None)
    assert "reports nothing of the adoption" in waits(path, silent)["w-1"]


@pytest.mark.parametrize("path", STEPS)
def test_a_report_of_another_state_does_not_count(path: Step) -> None:
    old = with_machine(path[0], "cp-1", report=replace(report(path[0]), revision=9))
    assert "has not read the record of" in waits(path, old)["cp-1"]
    ahead = with_machine(path[0], "cp-1", report=replace(report(path[0]), revision=13))
    assert "restored from a snapshot" in waits(path, ahead)["cp-1"]
    other = next(state for state in AdoptionState if state is not path[0])
    undone = with_machine(path[0], "w-1", report=report(path[0], plane=False, reached=other, owed=("exchange x.",)))
    assert "exchange x. Its agent does them" in waits(path, undone)["w-1"]


def test_what_the_cluster_shows_must_not_contradict_a_report() -> None:
    state, path = _S.CLOSED, LAST_STEP
    assert "still signs CSRs" in waits(path, with_machine(state, "cp-1", signs=True))["cp-1"]
    assert "still signs CSRs" in waits(path, with_machine(state, "cp-1", signs=None))["cp-1"]
    assert "rotateCertificates" in waits(path, with_machine(state, "w-1", rotates=True))["w-1"]
    served = (Served("kube-apiserver", "198.51.100.11:6443", Side.OLD),)
    assert "of the old CA at 198.51.100.11:6443" in waits(path, with_machine(state, "cp-1", served=served))["cp-1"]
    own = (Served("kubelet", "198.51.100.31:10250", None, own=True),)
    assert "its kubelet has made itself" in waits(path, with_machine(state, "w-1", served=own))["w-1"]
    balancer = (Served("kube-apiserver", "198.51.100.11:6443", None),)
    assert not waits(path, with_machine(state, "cp-1", served=balancer))
    older = {"kube-apiserver": BEGUN - timedelta(hours=1)}
    assert "the API server shows" in waits(path, with_machine(state, "cp-1", started=older))["cp-1"]
    newer = {"etcd": NOW + timedelta(hours=1)}
    assert "after its last report" in waits(path, with_machine(state, "cp-1", started=newer))["cp-1"]


def test_a_component_that_is_down_or_unknown_holds_the_gate_until_a_person_says_so() -> None:
    base = report(_S.PUBLISHED)

    def found(**more: Any) -> ClusterSeen:
        return with_machine(_S.PUBLISHED, "cp-1", report=with_etcd(base, **more))

    assert "etcd is not healthy there (no leader)" in waits(US, found(healthy=False, problem="no leader"))["cp-1"]
    unknown = found(trust=Held.UNKNOWN)
    assert "--restarted cp-1/etcd`" in waits(US, unknown)["cp-1"]
    assert not waits(US, unknown, restarted=("cp-1/etcd",))
    # A person's word does not stand against what is known.
    told = waits(US, found(trust=Held.OLD), restarted=("cp-1/etcd",))["cp-1"]
    assert "does not trust the new CA in etcd" in told


def test_joins_of_before_keep_the_gate_closed() -> None:
    state = _S.PUBLISHED
    assert CLUSTER_INFO in waits(US, replace(seen(state), info=Side.OLD))
    # A cluster without cluster-info has no joins by tokens.
    assert not waits(US, replace(seen(state), info=None))
    assert gates.TOKENS in waits(US, seen(state), joins_closed=None)
    late = gates.gate(step(US, joins_closed=NOW - timedelta(seconds=60)), seen(state))
    assert not late.waiting and late.opens == NOW + timedelta(seconds=gates.JOIN - 60)
    assert gates.KEYS_SECRET in waits(US, replace(seen(state), keys_secret=True))
    assert gates.KEYS_SECRET in waits(SC, replace(seen(_S.SWITCHED), keys_secret=True))
    assert gates.KEYS_SECRET not in waits(BP, replace(seen(_S.RETURNING), keys_secret=True))


def test_a_certificate_whose_node_is_not_there_yet_keeps_the_last_step_closed() -> None:
    issued = (IssuedRequest("csr-1", "system:bootstrap:abcdef", "w-9"), IssuedRequest("csr-2", "jane", ""))
    found = waits(LAST_STEP, replace(seen(_S.CLOSED), requests=issued))
    assert "csr-1 gave w-9 a certificate of the old CA" in found[gates.REQUESTS]
    known = (IssuedRequest("csr-3", "system:node:w-1", "w-1"),)
    assert not waits(LAST_STEP, replace(seen(_S.CLOSED), requests=known))


def test_copies_and_pods() -> None:
    state = _S.PUBLISHED
    lacks = replace(seen(state), roots={"default": Side.BOTH, "app": Side.OLD, "new": None})
    assert "does not hold both CAs in app, new" in waits(US, lacks)[ROOT_COPY]
    clients = replace(seen(state), clients={"client-ca-file": Side.BOTH, "requestheader-client-ca-file": Side.OLD})
    assert "look at its log" in waits(US, clients)[AUTHENTICATION]
    kept = replace(seen(_S.RETIRED), clients={"client-ca-file": Side.BOTH})
    assert "To delete it" in waits(RD, kept)[AUTHENTICATION]
    older = PodStart("app", "web", BEGUN - timedelta(minutes=9), BEGUN - timedelta(minutes=8))
    assert "app/web started before" in waits(US, replace(seen(state), pods=(older,)))[gates.PODS]
    # Pods are looked at only when every controller manager holds both.
    both = replace(with_machine(state, "cp-1", report=None), pods=(older,))
    assert gates.PODS not in waits(US, both)
    assert not waits(US, replace(seen(state), pods=(replace(older, started=NOW),)))
    undated = replace(seen(state), changed={"app": None})
    assert "does not say when it changed in app" in waits(US, undated)[ROOT_COPY]


def test_what_a_restart_writes_anew_is_waited_for_as_long_as_a_machine_has_its_turn_before_it() -> None:
    """To delete it would change nothing, and no log says why it is as before."""
    state = _S.PUBLISHED
    lacks = with_machine(state, "cp-2", report=report(state, reached=_S.PREPARED, owed=("restart etcd",)))
    lacks = replace(lacks, roots={"app": Side.OLD}, clients={"client-ca-file": Side.OLD})
    found = {each.node: each for each in gates.gate(step(US), lacks).waiting}
    done = "once the steps of published are done on cp-2"
    assert found[ROOT_COPY].reason == f"does not hold both CAs in app. A controller manager writes it {done}"
    assert found[AUTHENTICATION].reason == f"does not hold both CAs. kube-apiserver writes it {done}"
    # Nobody has to do anything, so it is not what a person is told to do next.
    assert found[ROOT_COPY].itself and found[AUTHENTICATION].itself


def test_a_user_without_rights_keeps_nodes_on_their_old_certificates() -> None:
    """With kubeadm's certificates kube-apiserver is an administrator by its group; ours has a user's rights alone."""
    lacks = replace(seen(_S.PUBLISHED), without_rights=("kube-apiserver-kubelet-client",))
    assert "kubectl apply -f operator/manifests" in waits(US, lacks)[gates.RIGHTS]
    assert BINDINGS in waits(US, replace(seen(_S.PUBLISHED), unread={BINDINGS: "no right"}))
    assert not waits(SC, replace(seen(_S.SWITCHED), without_rights=("x",), unread={BINDINGS: "no right"}))


def test_words_of_a_person() -> None:
    for path, what in (
        (US, "the old CA and the new one"),
        (TB, "the old CA and the new one"),
        (LAST_STEP, "a pair of the new CA"),
        (BP, "a pair of the old CA"),
    ):
        assert what in waits(path, seen(path[0]), confirmed=())[gates.OUTSIDE]
    assert gates.OUTSIDE not in waits(SC, seen(_S.SWITCHED), confirmed=())
    assert "leave out `--checked outside`" in gates.word_refused(step(SC), gates.OUTSIDE, seen(_S.SWITCHED))
    hooked = replace(seen(_S.RETIRED), servers=("ValidatingWebhookConfiguration x: webhook y",))
    assert gates.OTHER_SERVERS in waits(RD, hooked, confirmed=())
    assert not waits(RD, hooked, confirmed=(gates.OTHER_SERVERS,))
    assert not gates.word_refused(step(RD), gates.OTHER_SERVERS, hooked)
    assert gates.word_refused(step(US), gates.OTHER_SERVERS, hooked)


def test_what_was_not_read_keeps_the_gate_closed() -> None:
    for part in ("nodes", "static pods", "certificatesigningrequests", "bootstrap tokens", "kubeadm-certs"):
        assert "cannot be looked at: no right" in waits(SC, replace(seen(_S.SWITCHED), unread={part: "no right"}))[part]
    assert "pods" in waits(US, replace(seen(_S.PUBLISHED), unread={"pods": "no right"}))
    assert not waits(SC, replace(seen(_S.SWITCHED), unread={"pods": "no right"}))
    # Objects may name an old CA for a server of their own, and a person may know that none does.
    for part in ("mutatingwebhookconfigurations", "apiservices", "customresourcedefinitions", "clustertrustbundles"):
        hidden = replace(seen(_S.RETIRED), unread={part: "no right"})
        assert "cannot be looked at (no right)" in waits(RD, hidden, confirmed=())[part]
        assert not gates.word_refused(step(RD), gates.OTHER_SERVERS, hidden)
        assert not waits(RD, hidden, confirmed=(gates.OTHER_SERVERS,))
        assert not waits(SC, replace(seen(_S.SWITCHED), unread={part: "no right"}))


@pytest.mark.parametrize("path", STEPS)
def test_a_node_whose_agent_finds_no_kubelet_keeps_every_step_onward_closed(path: Step) -> None:
    """Such as one whose certificates lie elsewhere: the rest of the machine does its steps without it."""
    whole = report(path[0])
    without = {name: one for name, one in whole.components.items() if name != "kubelet"}
    found = with_machine(path[0], "cp-1", report=replace(whole, components=without, rotates=None), rotates=None)
    onward = LEAVES_OF[path[1]] is Side.NEW
    assert ("its agent finds no kubelet there" in waits(path, found).get("cp-1", "")) is onward
    # A member of etcd alone has none.
    member = replace(found.machines[0], kubelet=False, plane=False)
    assert "no kubelet" not in waits(path, replace(found, machines=(member,))).get("cp-1", "")


def test_turns_pass_one_by_one() -> None:
    def turn(of: AdoptionRecord, *each: AdoptedMachine) -> str:
        return gates.turn(of, each)

    state = _S.PUBLISHED
    owes = report(state, reached=_S.PREPARED, owed=("x",))
    one, two = (machine(name, state, report=owes) for name in ("cp-1", "cp-2"))
    worker = machine("w-1", state, report=report(state, plane=False, reached=_S.PREPARED, owed=("x",)))
    assert turn(record(state), two, one, worker) == "cp-1"
    assert turn(record(state, turn="cp-2"), two, one) == "cp-2"
    ready = machine("cp-1", state)
    assert turn(record(state, turn="cp-1"), ready, two) == "cp-2"
    # Who is not healthy again keeps it, and nobody else restarts meanwhile.
    ill = with_etcd(report(state), healthy=False)
    assert turn(record(state, turn="cp-1"), machine("cp-1", state, report=ill), two) == "cp-1"
    # Who is down without having had the turn goes first; a machine that is gone loses it.
    assert turn(record(state), one, machine("cp-2", state, report=replace(owes, components=ill.components))) == "cp-2"
    assert turn(record(state, turn="cp-9"), one, two) == "cp-1"
    # Who has not read this state gets none: it would act on another.
    assert turn(record(state), replace(one, report=replace(owes, revision=9))) == ""
    assert turn(record(state), replace(one, enrolled=False)) == ""
    etcd = AdoptedMachine("etcd-1", member=True, kubelet=False, enrolled=True, report=owes)
    plane = machine("cp-1", state, member=False, report=owes)
    assert turn(record(state), plane, etcd) == "etcd-1"


def test_nobody_restarts_while_another_control_plane_is_away() -> None:
    """Two of three members would be left, and none may be restarted then: etcd has no majority of one."""
    state = _S.PUBLISHED
    owes = report(state, reached=_S.PREPARED, owed=("x",))
    one = machine("cp-1", state, report=owes)
    gone = machine("cp-3", state, report=replace(owes, revision=9), silent=True)
    assert gates.turn(record(state), (one, machine("cp-2", state), gone)) == ""
    assert gates.turn(record(state), (one, machine("cp-2", state), replace(gone, silent=False))) == "cp-1"
    ill = with_etcd(owes, healthy=False)
    assert gates.turn(record(state), (one, machine("cp-2", state, report=ill), gone)) == "cp-2"
    # Its report may be older than that: the agent may have died with it.
    dead = machine("cp-3", state, stopped=("etcd",))
    assert gates.turn(record(state), (one, machine("cp-2", state), dead)) == ""
    assert (
        gates.turn(record(state), (one, machine("cp-2", state), replace(dead, stopped=("kube-scheduler",)))) == "cp-1"
    )
    assert "etcd does not run there, as the API server shows" in waits(US, ClusterSeen(machines=(one, dead)))["cp-3"]
    # A worker that is away takes no majority.
    assert gates.turn(record(state), (one, machine("w-1", state, report=None, silent=True))) == "cp-1"
    found = waits(US, ClusterSeen(machines=(one, gone)))
    assert "its kubelet is silent. Bring it back. Until then no other one restarts etcd" in found["cp-3"]


def test_a_way_back_that_cannot_work_is_refused_with_the_way_forward() -> None:
    back = step((_S.SWITCHED, _S.RETURNING))
    gates.refuse_hopeless(back, seen(_S.SWITCHED), NOW + timedelta(days=1))
    none = tuple(
        replace(each, report=replace(each.report, keys=OldKeys.NONE)) if each.report else each
        for each in seen(_S.SWITCHED).machines
    )
    with pytest.raises(StateConflict, match=r"on no machine any more.*adopt continue"):
        gates.refuse_hopeless(back, replace(seen(_S.SWITCHED), machines=none), None)
    # With all of them in Vault it can; with some it is said which are lacking.
    gates.refuse_hopeless(back, replace(seen(_S.SWITCHED), machines=none), None, tuple(back.record.old))
    last = [*back.record.old][-1]
    with pytest.raises(StateConflict, match=f"import the keys of {last} from there"):
        gates.refuse_hopeless(back, replace(seen(_S.SWITCHED), machines=none), None, [*back.record.old][:-1])
    silent = tuple(replace(each, report=None) if each.name == "cp-2" else each for each in none)
    with pytest.raises(StateConflict, match="cp-2 did not report"):
        gates.refuse_hopeless(back, replace(seen(_S.SWITCHED), machines=silent), None)
    with pytest.raises(StateConflict, match=r"an old CA expired.*adopt continue"):
        gates.refuse_hopeless(back, seen(_S.SWITCHED), NOW)
    # Before switched nobody needs the key, and once returning the way is taken.
    gates.refuse_hopeless(step((_S.PUBLISHED, _S.PREPARED)), replace(seen(_S.PUBLISHED), machines=none), NOW)
    gates.refuse_hopeless(step(BP), replace(seen(_S.RETURNING), machines=none), NOW)


def test_a_record_that_was_set_back_is_no_ground_for_a_step() -> None:
    behind = replace(report(_S.PUBLISHED), highest=14)
    found = with_machine(_S.PUBLISHED, "cp-2", report=behind)
    assert waits(US, found)["cp-2"].startswith("has read revision 14 of the record, and Vault has 12")
    assert not reasons.fresh(record(_S.PUBLISHED), behind)
    with pytest.raises(StateConflict, match=r"cp-2 read revision 14 .* and Vault has revision 12"):
        gates.refuse_set_back(record(_S.PUBLISHED), found)
    gates.refuse_set_back(record(_S.PUBLISHED), seen(_S.PUBLISHED))
    # A locked machine, and a claim that no machine could follow, hold nobody up.
    gates.refuse_set_back(record(_S.PUBLISHED), with_machine(_S.PUBLISHED, "cp-2", report=behind, enrolled=False))
    wild = replace(behind, highest=12 + MOST_AHEAD + 1)
    gates.refuse_set_back(record(_S.PUBLISHED), with_machine(_S.PUBLISHED, "cp-2", report=wild))
    # What one of a pool says is its own affair: the gate waits for it, and everything else goes on.
    pooled = with_machine(_S.PUBLISHED, "w-1", report=behind, pooled=True)
    gates.refuse_set_back(record(_S.PUBLISHED), pooled)
    assert waits(US, pooled)["w-1"].startswith("has read revision 14")


def test_a_record_too_far_ahead_keeps_the_gate_closed() -> None:
    far = replace(report(_S.PUBLISHED), not_followed=5000)
    assert "does not follow revision 5000" in waits(US, with_machine(_S.PUBLISHED, "w-1", report=far))["w-1"]


@pytest.mark.parametrize("path", [each for each in itertools.product(_S, repeat=2) if each in FREE_STEPS])
def test_a_step_that_waits_for_nobody_waits_for_every_machine_that_has_read_a_later_record(path: Step) -> None:
    """Also for those behind one that has not: the step would be written over what they follow."""
    ahead = replace(report(path[0]), highest=14)
    found = waits(path, with_machine(path[0], "w-1", report=ahead))
    assert found.keys() == {"w-1"} and found["w-1"].startswith("has read revision 14")


def test_a_new_adoption_begins_above_what_machines_have_read() -> None:
    fresh = report(_S.PREPARED, highest=15)
    calm = ClusterSeen(machines=(machine("cp-1", _S.PREPARED, report=fresh), AdoptedMachine("w-1")))
    assert gates.first_revision(calm, 0) == 16
    assert gates.first_revision(calm, 20) == 21
    # A false word of one may not lead to revisions that others, who have read none, do not follow.
    for claim, first in ((1, 4), (MOST_AHEAD // 2, MOST_AHEAD // 2 + 1), (MOST_AHEAD // 2 + 1, 4), (MOST_AHEAD, 4)):
        liar = machine("w-1", _S.PREPARED, report=replace(report(_S.PREPARED), revision=0, highest=claim))
        honest = machine("cp-1", _S.PREPARED, report=replace(report(_S.PREPARED), revision=0))
        assert gates.first_revision(ClusterSeen(machines=(honest, liar)), 3) == first
        pooled = ClusterSeen(machines=(honest, replace(liar, pooled=True)))
        assert gates.first_revision(pooled, 3) == 4
    # Its record is lost: the first state of a new one would lead it straight back.
    with pytest.raises(StateConflict, match=r"cp-2 \(retired\) stand in an adoption whose record is gone"):
        gates.first_revision(ClusterSeen(machines=(machine("cp-2", _S.RETIRED),)), 0)


def test_restarts_by_hand_count_after_the_steps() -> None:
    ready, base = step(US), report(_S.PUBLISHED)
    unseen = machine("cp-1", _S.PUBLISHED, report=with_etcd(base, trust=Held.UNKNOWN))
    assert gates.restart_refused(ready, unseen, "cp-1/etcd") == ""
    assert "name a component; write `--restarted cp-1/etcd`" in gates.restart_refused(ready, unseen, "cp-1")
    assert "sees what kubelet holds; write" in gates.restart_refused(ready, unseen, "cp-1/kubelet")
    seen_all = machine("cp-1", _S.PUBLISHED, report=with_etcd(base))
    assert "leave out `--restarted cp-1/etcd`" in gates.restart_refused(ready, seen_all, "cp-1/etcd")
    early = machine("cp-1", _S.PUBLISHED, report=report(_S.PUBLISHED, reached=_S.PREPARED))
    assert "has not done the steps" in gates.restart_refused(ready, early, "cp-1/etcd")
    assert "the cluster has no node cp-9" in gates.restart_refused(ready, None, "cp-9/etcd")


def test_agents_without_a_machine_are_named_and_not_waited_for() -> None:
    found = gates.gate(step(SC), replace(seen(_S.SWITCHED), spare=("w-7",)))
    assert found.open(NOW) and [each.node for each in found.excused] == ["w-7"]


def test_sides() -> None:
    assert side_of({"x"}, {"a"}, {"b"}) is None
    assert side_of({"x", "a"}, {"a"}, {"b"}) is Side.OLD
    assert side_of({"a", "b"}, {"a"}, {"b"}) is Side.BOTH


def test_a_control_plane_whose_key_is_in_vault_alone_need_not_sign_csrs() -> None:
    off = machine(
        "cp-1", _S.RETURNING, signs=False, report=report(_S.RETURNING, plane=True, signer=False, no_signer=True)
    )
    there = step(BP)
    assert "does not sign CSRs again yet" in reasons.waits_for(there, off).reason
    with_keys = replace(there, record=replace(there.record, imported=("kubernetes",)))
    assert "CSRs" not in reasons.waits_for(with_keys, off).reason
    # Who has the key must, and before the last step nobody may sign.
    late = replace(off, report=report(_S.RETURNING, plane=True, signer=False))
    assert "does not sign CSRs again yet" in reasons.waits_for(with_keys, late).reason
    last = step(LAST_STEP)
    last = replace(last, record=replace(last.record, imported=("kubernetes",)))
    signs = machine("cp-1", _S.CLOSED, signs=True, report=report(_S.CLOSED, plane=True, signer=True, no_signer=True))
    assert "still signs CSRs" in reasons.waits_for(last, signs).reason
