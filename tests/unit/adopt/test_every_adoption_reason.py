"""Every reason for which an adoption waits names commands, and each way that it names ends the wait.

The walk goes over every step, forward and back, and over everything that can be wrong with a machine and a cluster. Its
list of checks is the code's own. A command may lead to the next reason, and never back to one of before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from helpers.sentences import Way, every_sentence, walked, ways
from unit.adopt.test_gates import BEGUN, NOW, machine, record, report, seen
from unit.adopt.test_standing import look_at
from vaultpki.adopt import drive, gates, writes
from vaultpki.errors import StateConflict
from vaultpki.kube.cluster import AUTHENTICATION
from vaultpki.kube.objects import ROOT_COPY, PodStart
from vaultpki.kube.whole import BINDINGS
from vaultpki.procedure.gate import GateCheck
from vaultpki.procedure.phases import Side
from vaultpki.records.adoption import AdoptionRecord, AdoptionState
from vaultpki.records.adoption_report import Held, MountReport, OldKeys
from vaultpki.rotation import adoption_files
from vaultpki.rotation import adoption_reasons as reasons
from vaultpki.rotation.adoption_evidence import AdoptedMachine, ClusterSeen, IssuedRequest, Served
from vaultpki.rotation.adoption_states import FREE_STEPS, TRUSTED, AdoptionStep, command_to
from vaultpki.takeover import asked
from vaultpki.takeover.journal import Journal

_S = AdoptionState
STEPS = [(state, back) for state in AdoptionState for back in (False, True)]
LATER = NOW + timedelta(hours=1)
MOUNTED = "/etc/kubernetes/admin.conf"


@dataclass(frozen=True)
class World:
    """An adoption, what its cluster shows, and which way it is led. `written` is whether `issue` has made manifests."""

    record: AdoptionRecord
    seen: ClusterSeen
    back: bool
    written: bool = False

    @property
    def step(self) -> AdoptionStep:
        to = gates.next_state(self.record.state, back=self.back)
        return AdoptionStep(self.record, to or self.record.state, NOW)

    def waits(self, node: str) -> list[str]:
        found = drive.standing(look_at(self.record, self.seen), back=self.back).gate.waiting
        return [each.reason for each in found if each.node == node]

    def put(self, name: str, *changed: AdoptedMachine) -> World:
        """The same with another machine of this name, or with none."""
        kept = [each for each in self.seen.machines if each.name != name]
        return replace(self, seen=replace(self.seen, machines=tuple(sorted([*kept, *changed], key=lambda m: m.name))))

    def others_ready(self, node: str) -> World:
        """The same once the other machines have done their part, as their own reasons say."""
        world = self
        for each in self.seen.machines:
            world = world if each.name == node else world.put(each.name, whole(world, each))
        return world

    def after(self, way: Way, node: str) -> World:
        world = self
        for name, options in way:
            who, done = world.seen.machine(node), DONE_BY.get(name)
            assert done is not led or command_to(world.step.to).startswith(f"vaultpki {name} ")
            if done is not None:
                world = done(world.others_ready(node) if done is led else world, options)
            elif who is not None:
                world = world.put(node, *ON_MACHINE[name](world, who, options))
            else:
                # Such as the reset of a machine that was taken out.
                assert name in ON_MACHINE, name
        return world


# -- what commands do on a machine ------------------------------------------------------------------------------------


def whole(world: World, who: AdoptedMachine) -> AdoptedMachine:
    """A machine that has done all of its state, and whose agent has just said so."""
    state = world.record.state
    said = report(state, plane=who.plane, mounts=(), by_agent=who.report is None or who.report.by_agent)
    said = replace(said, keys=OldKeys.NONE) if state is _S.DONE else said
    if not who.kubelet:
        here = {"etcd"} if not who.plane else said.components.keys() - {"kubelet"}
        said = replace(said, components=dict.fromkeys(here, said.components["kubelet"]), rotates=None)
    shown = machine("cp-9" if who.plane else "w-9", state)
    return replace(
        who,
        enrolled=True,
        report=said,
        time=LATER,
        signs=shown.signs,
        rotates=shown.rotates if who.kubelet else None,
        silent=False,
        unknown="",
    )


def passes(world: World, who: AdoptedMachine, options: Mapping[str, Any]) -> list[AdoptedMachine]:
    """A pass of the agent: it reports, and does the steps where it may. What joined later has only its files."""
    assert options.get("once") or options["join_file"]
    made = whole(world, who)
    assert made.report is not None
    if who.later:
        # It has no certificate of the old CA.
        held = {name: replace(one, leaves=Held.NEW) for name, one in made.report.components.items()}
        return [replace(made, report=replace(made.report, leaves=Held.NEW, components=held))]
    if who.report is None or (who.report.by_agent and has_turn(world, who)):
        return [made]
    said = who.report
    mine = {
        name: replace(one, trust=said.components[name].trust, leaves=said.components[name].leaves)
        for name, one in made.report.components.items()
        if name in said.components
    }
    kept = {name: getattr(said, name) for name in ("reached", "owed", "trust", "leaves", "signer", "keys")}
    return [replace(made, report=replace(made.report, components={**made.report.components, **mine}, **kept))]


def has_turn(world: World, who: AdoptedMachine) -> bool:
    """In closed the controller manager alone restarts, and in done nothing does."""
    free = not who.by_turn or world.record.turn == who.name or world.record.state in (_S.CLOSED, _S.DONE)
    return free or who.report is None or (who.report.reached is world.record.state and not who.report.owed)


def steps(world: World, who: AdoptedMachine, options: Mapping[str, Any]) -> list[AdoptedMachine]:
    """`vaultpki adopt node`, which asks Vault first and reports at the end."""
    assert not who.later and not options["dry_run"], "it has no step there"
    ends = world.record.state is _S.DONE and (who.report is None or who.report.reached is not _S.DONE)
    assert options["finish"] or not ends, "the end is refused without --finish"
    assert has_turn(world, who), f"it is the turn of {world.record.turn or 'nobody'}"
    return [whole(world, who)]


def enrolled(world: World, who: AdoptedMachine, options: Mapping[str, Any]) -> list[AdoptedMachine]:
    assert options["node"] == who.name and options["replace"] is who.enrolled and bool(options["pool"]) is who.pooled
    return [whole(world, who)]


def counts(*kept: AdoptedMachine) -> list[AdoptedMachine]:
    """One of the control plane or of etcd counts too while its agent can log in."""
    return [each for each in kept if each.kubelet or each.member or (each.enrolled and each.plane)]


def locked(_: World, who: AdoptedMachine, options: Mapping[str, Any]) -> list[AdoptedMachine]:
    assert options["node"] == who.name
    return counts(replace(who, enrolled=False, report=None, time=None, pooled=False))


def node_deleted(_: World, who: AdoptedMachine, options: Mapping[str, Any]) -> list[AdoptedMachine]:
    assert options["words"][-1] == who.name
    return counts(replace(who, kubelet=False, silent=False, unknown="", started={}, stopped=(), served=()))


def member_removed(_: World, who: AdoptedMachine, __: Mapping[str, Any]) -> list[AdoptedMachine]:
    return counts(replace(who, member=False))


def kubelet_started(world: World, who: AdoptedMachine, _: Mapping[str, Any]) -> list[AdoptedMachine]:
    """It starts static pods that have ended, shows their starts anew, and reads its configuration."""
    made = whole(world, who)
    assert who.report is not None and made.report is not None
    told = {name: one.started for name, one in who.report.components.items() if one.started is not None}
    return [
        replace(
            who,
            stopped=(),
            started={name: told.get(name, BEGUN) for name in who.started},
            served=tuple(each for each in who.served if each.row != "kubelet"),
            rotates=made.rotates,
            report=replace(who.report, rotates=made.report.rotates),
        )
    ]


def container_stopped(_: World, who: AdoptedMachine, __: Mapping[str, Any]) -> list[AdoptedMachine]:
    return [replace(who, served=tuple(each for each in who.served if each.row == "kubelet"))]


def _mounts(**changes: Any) -> Callable[[World, AdoptedMachine, Mapping[str, Any]], list[AdoptedMachine]]:
    """A mounted file was written; who has it mounted reads it when it is started again."""

    def changed(_: World, who: AdoptedMachine, options: Mapping[str, Any]) -> list[AdoptedMachine]:
        assert who.report is not None and who.report.mounts
        assert "--kubeconfig" not in options.get("words", ()) or MOUNTED in options["words"]
        mounts = tuple(replace(each, fresh=False, **changes) for each in who.report.mounts)
        return [replace(who, report=replace(who.report, mounts=mounts))]

    return changed


ON_MACHINE: Mapping[str, Callable[[World, AdoptedMachine, Mapping[str, Any]], list[AdoptedMachine]]] = {
    "agent": passes,
    "join": passes,
    "adopt node": steps,
    "enroll": enrolled,
    "lock": locked,
    "kubectl delete node": node_deleted,
    "etcdctl member remove": member_removed,
    "kubeadm reset": lambda _, who, __: [who],
    "systemctl restart kubelet": kubelet_started,
    "crictl stop": container_stopped,
    "kubectl config set-cluster": _mounts(trust=Held.BOTH),
    "kubeadm kubeconfig user": _mounts(leaves=Held.OLD),
    "bao kv rollback": lambda world, who, _: [whole(world, who)],
}


# -- what commands do in the cluster ----------------------------------------------------------------------------------


def led(world: World, options: Mapping[str, Any]) -> World:
    """`adopt continue` or `adopt abort`."""
    step = world.step
    assert options["kubeconfig"]
    for word in options["checked"]:
        assert gates.word_refused(step, word, world.seen) == ""
    for word in options["restarted"]:
        assert gates.restart_refused(step, world.seen.machine(word.partition("/")[0]), word) == ""
    if options["checked"] or options["restarted"]:
        return replace(
            world, record=replace(world.record, confirmed=options["checked"], restarted=options["restarted"])
        )
    found = replace(world.seen, unread={})
    for each in writes.due(world.record, found):
        found = {
            writes.INFO_PATH: replace(found, info=world.record.accepts),
            writes._AUTHENTICATION_PATH: replace(found, clients=dict.fromkeys(found.clients, step.trust)),
            writes._KEYS_PATH: replace(found, keys_secret=False),
        }.get(each.path, replace(found, tokens=()))
    held = replace(world.record, turn=gates.turn(world.record, found.machines), joins_closed=BEGUN)
    return replace(world, record=held, seen=found)


def configmap_deleted(world: World, options: Mapping[str, Any]) -> World:
    """Who keeps it up writes it anew, with what it holds now."""
    found, wanted = world.seen, world.step.trust
    if options["words"][-1] == ROOT_COPY:
        wrong = {space for space, side in found.roots.items() if side is not wanted or found.changed.get(space) is None}
        roots, changed = {**found.roots}, {**found.changed}
        for space in wrong:
            roots[space], changed[space] = wanted, NOW
        return replace(world, seen=replace(found, roots=roots, changed=changed))
    assert options["words"][-1] == AUTHENTICATION
    return replace(world, seen=replace(found, clients=dict.fromkeys(found.clients, wanted)))


def pod_deleted(world: World, _: Mapping[str, Any]) -> World:
    """Whoever makes it makes it anew. A static pod is shown anew, and nothing restarts."""
    for each in world.seen.machines:
        if each.report is not None and each.report.mounts:
            mounts = tuple(
                one if one.who.startswith("the static pod ") else replace(one, fresh=True) for one in each.report.mounts
            )
            world = world.put(each.name, replace(each, report=replace(each.report, mounts=mounts)))
    return replace(world, seen=replace(world.seen, pods=()))


def issued(world: World, options: Mapping[str, Any]) -> World:
    assert options["name"] == "admin" and options["directory"]
    for each in world.seen.machines:
        if each.report is not None and each.report.mounts:
            world = world.put(each.name, *_mounts(leaves=Held.NEW)(world, each, {}))
    return replace(world, written=True)


def applied(world: World, _: Mapping[str, Any]) -> World:
    assert world.written
    return replace(world, seen=replace(world.seen, without_rights=()))


def csr_deleted(world: World, options: Mapping[str, Any]) -> World:
    left = tuple(each for each in world.seen.requests if each.name != options["words"][-1])
    return replace(world, seen=replace(world.seen, requests=left))


DONE_BY: Mapping[str, Callable[[World, Mapping[str, Any]], World]] = {
    "adopt continue": led,
    "adopt abort": led,
    "apply": lambda world, _: world,
    "issue": issued,
    "kubectl apply": applied,
    "kubectl delete configmap": configmap_deleted,
    "kubectl delete csr": csr_deleted,
    "kubectl delete pod": pod_deleted,
    "kubectl delete secret": lambda world, _: replace(world, seen=replace(world.seen, keys_secret=False)),
}


# -- what can be wrong ------------------------------------------------------------------------------------------------


Change = Callable[[AdoptedMachine], AdoptedMachine]


def _only(**changes: Any) -> Change:
    return lambda who: replace(who, **changes)


def _said(**changes: Any) -> Change:
    def changed(who: AdoptedMachine) -> AdoptedMachine:
        assert who.report is not None
        return replace(who, report=replace(who.report, **changes))

    return changed


def _component(name: str, **changes: Any) -> Change:
    def changed(who: AdoptedMachine) -> AdoptedMachine:
        assert who.report is not None
        held = who.report.components
        name_ = name if name in held else "kubelet"
        return _said(components={**held, name_: replace(held[name_], **changes)})(who)

    return changed


def _both(*changes: Change) -> Change:
    def changed(who: AdoptedMachine) -> AdoptedMachine:
        for each in changes:
            who = each(who)
        return who

    return changed


def _without_kubelet(who: AdoptedMachine) -> AdoptedMachine:
    assert who.report is not None
    return _said(components={k: one for k, one in who.report.components.items() if k != "kubelet"})(who)


def _shown(at: datetime) -> Change:
    """The API server shows the starts of static pods."""
    return lambda who: replace(who, started=dict.fromkeys({"etcd", "kube-apiserver"} if who.plane else (), at))


POD = "exporter (process 7)"
STATIC = "the static pod kube-vip"
OWES: dict[str, Any] = {"reached": None, "owed": ("exchange x.",)}
MACHINES: Mapping[str, Change] = {
    "no agent": _only(enrolled=False, report=None, time=None),
    "an external member without an agent": _only(enrolled=False, report=None, time=None, kubelet=False, member=True),
    "enrolled and never seen": _only(report=None, time=None),
    "its agent is too old": _only(report=None),
    "one of a pool that is too old": _only(report=None, pooled=True),
    "its kubelet cannot be asked": _only(report=None, unknown="no right"),
    "it does not follow the record": _said(not_followed=5000),
    "it has read a later record": _said(highest=14),
    "one of a pool has read a later record": _both(_said(highest=14), _only(pooled=True)),
    "it has not read the record": _said(revision=9),
    "it has not, and nobody knows since when": _both(_said(revision=9), _only(time=None)),
    "only its Node object was deleted": lambda who: (
        replace(who, kubelet=False, report=replace(who.report, revision=9)) if who.plane and who.report else who
    ),
    "its kubelet is silent": _both(_said(revision=9), _only(silent=True)),
    **{f"its signer is {on}": _said(signer=on) for on in (True, False, None)},
    **{f"the flags of its signer are {on}": _only(signs=on) for on in (True, False, None)},
    "it owes steps, and its agent does them": _said(**OWES),
    "it owes steps, and root does them": _said(**OWES, by_agent=False),
    "it owes steps and its signer is on": _said(**OWES, signer=True),
    "it owes steps and its signer is off": _said(**OWES, signer=False, by_agent=False),
    "it does not say what it owes": _said(reached=None, by_agent=False),
    "it has no kubelet": _without_kubelet,
    "it has no component": _said(components={}),
    "etcd has stopped": _only(stopped=("etcd",)),
    "a component is ill": _component("etcd", healthy=False, problem="no leader"),
    "a component is ill, and nobody says why": _component("kube-apiserver", healthy=False),
    "nobody knows since when a component runs": _both(_component("etcd", started=None), _shown(BEGUN)),
    "a component has started since its report": _shown(NOW + timedelta(hours=1)),
    "a start is not shown yet": _shown(BEGUN - timedelta(hours=1)),
    "joined later": _both(_only(later=True), _said(leaves=Held.NEW)),
    **{f"joined later, and trusts {held.value}": _both(_only(later=True), _said(trust=held)) for held in Held},
    **{f"on its disk {held.value} is trusted": _said(trust=held) for held in Held},
    **{f"in etcd {held.value} is trusted": _component("etcd", trust=held) for held in Held},
    "nobody knows what its kubelet trusts": _component("kubelet", trust=Held.UNKNOWN, problem="it was not seen"),
    "and the record is asked for no more": _both(_component("etcd", trust=Held.UNKNOWN), _said(revision=0)),
    **{f"its certificates are {held.value}": _said(leaves=held) for held in Held},
    **{f"its certificates are {held.value}, by root": _said(leaves=held, by_agent=False) for held in Held},
    **{f"etcd shows {held.value}": _component("etcd", leaves=held) for held in Held},
    "its old pairs have expired": _said(leaves=Held.NEW, kept_until=BEGUN),
    **{f"a listener shows {side}": _only(served=(Served("etcd-server", "198.51.100.11:2379", side),)) for side in Side},
    "its kubelet shows one of its own": _only(served=(Served("kubelet", "198.51.100.11:10250", None, own=True),)),
    **{f"its kubelet rotates: {on}": _said(rotates=on) for on in (True, False)},
    **{f"its kubelet's configuration rotates: {on}": _only(rotates=on) for on in (True, False)},
    **{
        f"{who} has a file of before: {trust.value}, {leaves.value}, {fresh}": _said(
            mounts=(MountReport(who, MOUNTED, fresh, trust, leaves),)
        )
        for who in (POD, STATIC)
        for trust in (Held.OLD, Held.BOTH, Held.NEW)
        for leaves in (Held.OLD, Held.NEW)
        for fresh in (True, False)
    },
    "nobody knows what is mounted": _both(
        _said(mounts=None), _only(mounting=(f"kube-system/kube-vip-cp-1 ({MOUNTED})",))
    ),
    "a mounted file, and the pod is named": _both(
        _said(mounts=(MountReport(POD, MOUNTED, False),)), _only(mounting=(f"app/exporter-x1 ({MOUNTED})",))
    ),
    "a pair beside the table": _said(pairs=("/etc/own/x.crt (--tls-cert-file of kube-scheduler.yaml)",)),
    **{f"its old keys are {where.value}": _said(keys=where) for where in OldKeys},
}


def clusters(state: AdoptionState) -> Iterator[dict[str, Any]]:
    """What the cluster may show that is not right."""
    other = Side.OLD if TRUSTED[state] is Side.NEW else Side.NEW
    yield {"info": other}
    yield {"tokens": ("abcdef",)}
    yield {"keys_secret": True}
    yield {"requests": (IssuedRequest("csr-1", "system:bootstrap:abcdef", "w-9"),)}
    yield {"roots": {"default": TRUSTED[state], "app": other, "new": None}}
    yield {"clients": {"client-ca-file": TRUSTED[state], "requestheader-client-ca-file": other}}
    yield {"changed": {"default": BEGUN, "app": None}}
    yield {"pods": (PodStart("app", "web", BEGUN - timedelta(minutes=9), BEGUN - timedelta(minutes=8)),)}
    yield {"without_rights": ("kube-apiserver-kubelet-client",)}
    yield {"servers": ("ValidatingWebhookConfiguration x: webhook y",)}
    parts = (*gates._NEEDED, *gates._NEEDED_FOR_TRUST, BINDINGS, *gates._OF_SERVERS)
    yield from ({"unread": {part: "no right"}} for part in parts)


def at_rest(state: AdoptionState, back: bool) -> World:
    """A world in which nothing is waited for but a person's words, if any."""
    world = World(record(state), seen(state), back)
    for each in world.seen.machines:
        world = world.put(each.name, replace(whole(world, each), time=NOW))
    return world


SENTENCES: tuple[Callable[..., Any] | GateCheck[...], ...] = (
    *gates.ADOPTION_CHECKS,
    *reasons.MACHINE_CHECKS,
    reasons._no_agent,
    reasons._wrong,
    adoption_files._unseen,
)


def test_every_reason_of_a_machine_or_of_the_cluster_names_commands_each_of_which_ends_it() -> None:
    met = set()
    with every_sentence(SENTENCES):
        for state, back in STEPS:
            world = at_rest(state, back)
            assert not drive.standing(look_at(world.record, world.seen), back=back).gate.waiting
            for who in (world.seen.machines[0], world.seen.machines[-1]):
                for what, change in MACHINES.items():
                    for turn in ("", "cp-1", "cp-2") if "owes" in what else ("",):
                        turned = replace(world, record=replace(world.record, turn=turn))
                        met |= ended(turned.put(who.name, change(who)), who.name)
            said_nothing = replace(world.record, joins_closed=None, confirmed=())
            for held in (world.record, said_nothing):
                for shown in clusters(state):
                    wrong = replace(world, record=held, seen=replace(world.seen, **shown))
                    for node in {
                        each.node for each in drive.standing(look_at(held, wrong.seen), back=back).gate.waiting
                    }:
                        met |= ended(wrong, node)
            # What a restart of another machine writes anew is ended by what that one is told.
            late = replace(world, seen=replace(world.seen, clients=dict.fromkeys(world.seen.clients, None)))
            late.put("cp-1", _said(**OWES)(world.seen.machines[0])).waits(AUTHENTICATION)
    assert len(met) > 60


def ended(world: World, node: str) -> set[str]:
    """Go each way that the reasons of a machine, or of a part of the cluster, name to its end."""
    return walked(world, lambda now: now.waits(node), lambda now, way: now.after(way, node))


def test_a_turn_is_passed_on_and_a_machine_that_is_away_comes_back() -> None:
    """Of two that wait each is named with what ends its own wait."""
    for state, back in STEPS:
        world = at_rest(state, back)
        if world.step.path in FREE_STEPS or state in (_S.CLOSED, _S.DONE):
            continue
        one, two = (replace(m, report=replace(m.report, **OWES)) for m in world.seen.machines[:2] if m.report)
        both = world.put("cp-1", one).put("cp-2", two)
        assert world.step.command in both.waits("cp-1")[0]
        given = replace(both, record=replace(both.record, turn="cp-2"))
        assert "waits for its turn after cp-2" in given.waits("cp-1")[0] and ended(given, "cp-1")
        away = world.put("cp-1", one).put("cp-2", replace(MACHINES["it has not read the record"](two), silent=True))
        assert gates.turn(away.record, away.seen.machines) == ""
        assert "no other one restarts etcd" in away.waits("cp-2")[0] and ended(away, "cp-1") and ended(away, "cp-2")


def refusals() -> Iterator[str]:
    """Why no step is taken at all, or no new adoption begins."""
    back = replace(at_rest(_S.SWITCHED, True).step, to=_S.RETURNING)
    without = tuple(_said(keys=OldKeys.NONE)(each) for each in seen(back.record.state).machines)
    silent = tuple(replace(m, report=None) if m.name == "cp-2" else m for m in without)
    for machines, ends in ((without, NOW), (without, None), (silent, None)):
        with pytest.raises(StateConflict) as refused:
            gates.refuse_hopeless(back, ClusterSeen(machines=machines), ends)
        yield str(refused.value)
    with pytest.raises(StateConflict) as refused:
        gates.refuse_set_back(back.record, ClusterSeen(machines=(machine("cp-2", _S.SWITCHED, report=AHEAD),)))
    yield str(refused.value)
    with pytest.raises(StateConflict) as refused:
        gates.first_revision(ClusterSeen(machines=(machine("cp-2", _S.RETIRED),)), 0)
    yield str(refused.value)
    # A machine that stays as it is says so in its report.
    yield from (asked._jumped(_S.DONE, None), asked._behind(back.record, 14), asked._ahead(5000, 12))
    yield asked._without_record(Journal(_S.SWITCHED, asked=_S.SWITCHED)).stays


AHEAD = replace(report(_S.SWITCHED), highest=14)


def test_what_keeps_every_step_from_being_taken_names_commands_too() -> None:
    told = list(refusals())
    assert len(told) == 9 and all(ways(each) for each in told)
