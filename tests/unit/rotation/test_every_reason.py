"""Every reason for which the rotation of a CA waits names commands, and each of them ends the wait.

The walk goes over every step, forward and back, and over everything that can be wrong with a node. Its list of checks
is the code's own: a check or a sentence that is added fails here until something meets it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from helpers.root_certificates import Key
from helpers.sentences import Way, commands, every_sentence, saying, walked
from vaultpki.certificates import ROOT, SERVICE_ACCOUNT, SKEW
from vaultpki.kube.objects import API_SERVER_SIGNER, ClusterTrustBundle, KubeTrust, PodStart, RootCopy
from vaultpki.procedure import words
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.records.node_report import BundleReport, CertificateReport, NodeReport, ReaderReport, Seen
from vaultpki.records.rotation import MOST_AHEAD, CaRef, Method, RotationRecord, State
from vaultpki.rotation import listener_trust, reasons, root_gates, serving_copy
from vaultpki.rotation.confirmations import Confirmations
from vaultpki.rotation.gates import OperatorLeaf, Participant, gate, restart_refused, without_refused
from vaultpki.rotation.reasons import LEAF_STEPS, TRUST_STEPS, Transition
from vaultpki.rotation.states import BACK, FORWARD

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
THEN = NOW - timedelta(minutes=30)
OLD, NEW = "a" * 64, "b" * 64
KEYS = {"old": "0a", "new": "0b"}
REVISION = 7
DAY = 86400

STEPS = sorted(
    {step for step in TRUST_STEPS | LEAF_STEPS | set(FORWARD.items()) | set(BACK.items()) if step[0] is not State.DONE},
    key=lambda step: [each.value for each in step],
)
READERS = {
    "etcd": ("etcd/etcd", "etcd/kube-apiserver"),
    "kubernetes": ("kubernetes/kube-controller-manager",),
    "front-proxy": (),
    SERVICE_ACCOUNT: (),
    ROOT: ("root/kube-controller-manager",),
}


def record(domain: str, state: State, **changes: Any) -> RotationRecord:
    old, new = CaRef(f"{domain}-1", "1", "1", OLD), CaRef(f"{domain}-2", "2", "2", NEW)
    return replace(RotationRecord(domain, state, REVISION, THEN, old, new), **changes)


def leaf(step: tuple[State, State], now: datetime = NOW) -> CertificateReport:
    side, served = ("old", OLD) if step[1] is State.STEADY else ("new", NEW)
    return CertificateReport("x", "ok", now + timedelta(days=20), "1", KEYS[side], (served,), THEN)


def as_wanted(domain: str, step: tuple[State, State]) -> NodeReport:
    """What an agent reports once it has done all of its part, a minute ago."""
    held = {State.DONE: {NEW}, State.STEADY: {OLD}}.get(step[1], {OLD, NEW})
    readers = {name: ReaderReport(THEN, frozenset(held), running=True, healthy=True) for name in READERS[domain]}
    return NodeReport(
        NOW - timedelta(minutes=1),
        "0.3.0",
        {domain: Seen(REVISION, REVISION)},
        {"leaf": leaf(step)},
        {domain: BundleReport(frozenset(held), THEN)},
        readers,
    )


def node(domain: str, step: tuple[State, State], **changes: Any) -> Participant:
    leaves = frozenset() if domain == ROOT else frozenset({"leaf"})
    member = domain in ("etcd", ROOT)
    made = Participant("cp-1", "listed", leaves, True, READERS[domain], 1, as_wanted(domain, step), member=member)
    return replace(made, **changes)


def _reader(**changes: Any) -> Callable[[NodeReport], NodeReport]:
    def changed(said: NodeReport) -> NodeReport:
        return replace(said, readers={name: replace(each, **changes) for name, each in said.readers.items()})

    return changed


def _only(**changes: Any) -> Callable[[NodeReport], NodeReport]:
    return lambda said: replace(said, **changes)


def _bundle(*held: str) -> Callable[[NodeReport], NodeReport]:
    return lambda said: replace(said, bundles={ca: BundleReport(frozenset(held), THEN) for ca in said.bundles})


def _seen(revision: int, highest: int) -> Callable[[NodeReport], NodeReport]:
    return lambda said: replace(said, seen={ca: Seen(revision, highest) for ca in said.seen})


def _leaf(**changes: Any) -> Callable[[NodeReport], NodeReport]:
    return lambda said: replace(said, certificates={"leaf": replace(said.certificates["leaf"], **changes)})


def _surplus(key: str) -> Callable[[NodeReport], NodeReport]:
    def changed(said: NodeReport) -> NodeReport:
        pairs = {f"{ca}.crt": replace(said.certificates["leaf"], ca=ca, issuer_key_id=key) for ca in said.bundles}
        return replace(said, surplus=pairs)

    return changed


EARLY = {"started": THEN - timedelta(seconds=1), "sha256": frozenset({OLD})}
GONE = {"started": None, "running": False, "healthy": False, "problem": "no process was seen"}
REPORTED: Mapping[str, Callable[[NodeReport], NodeReport]] = {
    "its clock is ahead": _only(time=NOW + timedelta(seconds=SKEW + 1)),
    "has read no record": _only(seen={}),
    "has read a later record": _seen(REVISION, REVISION + 3),
    "has read an older record": _seen(REVISION - 1, REVISION - 1),
    "cannot read the record": _only(seen={"kubelet": Seen(1, 1)}),
    "no bundle": _only(bundles={}),
    "only the old CA": _bundle(OLD),
    "only the new CA": _bundle(NEW),
    "both CAs": _bundle(OLD, NEW),
    "runs since before": _reader(**EARLY),
    "its hook is to run": lambda said: replace(_reader(**EARLY)(said), owed=("etcd-ca", "kubernetes-ca")),
    "its hook has failed": _only(owed=("etcd-ca", "kubernetes-ca", "front-proxy-ca", "leaf")),
    "its hook waits": _only(owed=("etcd-ca", "kubernetes-ca"), waiting=("etcd", "kubernetes", ROOT)),
    "an agent that looks at no process": _only(readers={}),
    "not seen to run": _reader(**GONE),
    "stopped": _reader(**GONE, stopped=THEN + timedelta(minutes=1)),
    "restarted and ill": _reader(healthy=False, problem="/readyz answers 503"),
    "no leaf": _only(certificates={}),
    **{f"a surplus pair of the {which} CA": _surplus(KEYS[which]) for which in KEYS},
    "a leaf of the old CA": _leaf(issuer_key_id=KEYS["old"], served=(OLD,)),
    "a leaf of the new CA": _leaf(issuer_key_id=KEYS["new"], served=(NEW,)),
}
UNREPORTED: Mapping[str, dict[str, Any]] = {
    "silent": {"report": None},
    "locked": {"report": None, "locked": True, "last_expiry": NOW + timedelta(days=1)},
    "a join file is open": {"report": None, "join_until": NOW + timedelta(hours=1)},
    "a pooled node's join file is open": {"report": None, "kind": "pooled", "join_until": NOW + timedelta(hours=1)},
}


def variants(domain: str, step: tuple[State, State]) -> Iterator[Participant]:
    whole = node(domain, step)
    assert whole.report is not None
    for change in REPORTED.values():
        yield replace(whole, report=change(whole.report))
        if not whole.member:
            yield replace(whole, kind="pooled", report=change(whole.report))
        for reader in whole.readers:
            # One component alone is not as it should be.
            changed = change(whole.report)
            kept = {name: each for name, each in whole.report.readers.items() if name != reader}
            yield replace(whole, report=replace(changed, readers={**changed.readers, **kept}))
    for changes in UNREPORTED.values():
        yield replace(whole, **changes)


def done(step: Transition, who: Participant, name: str, options: Mapping[str, Any]) -> tuple[Transition, Participant]:
    """The step and the node once a command of a reason was run, and what it asks a person to do was done."""
    if name in ("ca continue", "ca abort") and (options["restarted"] or options["without"]):
        for word in options["restarted"]:
            assert restart_refused(word, [(step, who)]) == ""
        for left_out in options["without"]:
            assert without_refused(step.record, who, step.now) == "" and left_out == who.name
        said = Confirmations(options["without"], options["restarted"])
        return replace(step, record=said.noted(step.record)), who
    if name == "lock":
        ends = NOW + timedelta(days=1) if who.report is not None else None
        return step, replace(who, credentials=0, join_until=None, report=None, locked=True, last_expiry=ends)
    if name == "unenroll":
        return step, replace(who, credentials=0, join_until=None)
    if name == "ca recover":
        assert who.report is not None
        step = replace(step, record=replace(step.record, revision=REVISION + 4))
        return step, replace(who, report=_seen(REVISION + 4, REVISION + 4)(as_wanted(step.record.domain, step.path)))
    assert name in ("agent", "renew", "enroll", "apply", "ca continue", "ca abort"), name
    return step, replace(who, report=as_wanted(step.record.domain, step.path), locked=False)


def waits(step: Transition, who: Participant) -> str:
    nodes = [who]
    if step.record.turn == "cp-9":
        other = node(step.record.domain, step.path, name="cp-9")
        assert other.report is not None
        nodes.append(replace(other, report=REPORTED["runs since before"](other.report)))
    return next((each.reason for each in gate(step, nodes).waiting if each.node == who.name), "")


def test_every_reason_of_a_node_names_commands_each_of_which_ends_it() -> None:
    met: set[str] = set()
    with every_sentence((*reasons.GATE_CHECKS, reasons.unreported, words.never_reported)):
        for domain in READERS:
            for path in STEPS:
                for changes in _records(path):
                    now = record(domain, path[0], **changes)
                    step = Transition(now, path[1], NOW, 0, 30 * DAY, KEYS, NOW + timedelta(days=3650))
                    met = met.union(*(_ended(step, who) for who in variants(domain, path)))
    assert len(met) > 50


def _records(path: tuple[State, State]) -> Iterator[dict[str, Any]]:
    """What else a record says: a revision that nobody follows, whose turn it is, or that the key is the same."""
    yield {}
    if path == (State.RETIRED, State.DONE):
        yield {"revision": REVISION + 2 * MOST_AHEAD}
    yield from ({"turn": turn} for turn in ("cp-1", "cp-9") if path in TRUST_STEPS)
    if path in LEAF_STEPS:
        yield {"method": Method.SAME_KEY}


def _ended(step: Transition, who: Participant) -> set[str]:
    """Go each way that the reason of a node names to its end. For another node whose turn it is the same is asked."""

    def told(now: tuple[Transition, Participant]) -> list[str]:
        reason = waits(*now)
        return [reason] if reason and not reason.endswith("whose turn it is") else []

    def after(now: tuple[Transition, Participant], way: Way) -> tuple[Transition, Participant]:
        for name, options in way:
            now = done(*now, name, options)
        return now

    return walked((step, who), told, after)


def test_a_step_that_waits_for_the_signer_or_for_operators_names_what_ends_it() -> None:
    soon = Transition(record("etcd", State.PREPARED), State.PUBLISHED, NOW, 0, 30 * DAY, KEYS, NOW)
    (waiting,) = gate(soon, []).waiting
    assert commands(waiting.reason)[0][1]["domain"] == ROOT
    assert gate(replace(soon, signer_ends=NOW + timedelta(days=3650)), []).open(NOW)
    admin = OperatorLeaf("admin", "1", NOW + timedelta(days=1))
    for path in LEAF_STEPS:
        step = Transition(record("kubernetes", path[0]), path[1], NOW, 0, 30 * DAY, KEYS)
        (waiting,) = gate(step, [], [admin]).waiting
        (issue, _), (name, without) = commands(waiting.reason)
        assert (issue, name, without["without"]) == ("issue", "ca continue", ("admin",))
        left = replace(step, record=Confirmations(without["without"]).noted(step.record))
        assert not gate(left, [], [admin]).waiting


def test_every_word_of_the_root_and_of_kubelets_is_one_that_the_command_takes() -> None:
    """In each state that waits for it, forward and on the way back."""
    opens, alone = Gate(opens=NOW), dict[str, Gate]()
    met = set()
    for state, to in STEPS:
        for crossed in (True, False):
            now = record(ROOT, state)
            for waiting in root_gates.gate(now, to, opens, alone, None, crossed=crossed).waiting:
                for name, options in commands(waiting.reason):
                    for word in options.get("checked", ()):
                        assert root_gates.word_refused(now, to, word, opens, crossed=crossed) == ""
                        said = Confirmations(checked=(word,)).noted(now)
                        left = root_gates.gate(said, to, opens, alone, None, crossed=crossed).waiting
                        assert waiting not in left, name
                        met.add(word)
                assert commands(waiting.reason), waiting
        kubelets = record("kubelet", state)
        for waiting in serving_copy.gate(kubelets, to, opens, None).waiting:
            for _, options in commands(waiting.reason):
                for word in options.get("checked", ()):
                    assert serving_copy.word_refused(kubelets, to, word) == ""
                said = Confirmations(options.get("without", ()), checked=options.get("checked", ())).noted(kubelets)
                shown = KubeTrust((), (), ()) if options.get("kubeconfig") else None
                if said != kubelets or shown is not None:
                    assert not serving_copy.gate(said, to, opens, shown).waiting
                    met |= {*options.get("checked", ())}
    assert met == {"pods", "outside", "kubelet-serving-ca"}


def test_what_was_seen_at_a_listener_is_answered_by_its_word() -> None:
    now = record("etcd", State.RETIRED, accepting=("cp-1/etcd",))
    (waiting,) = listener_trust.held(now, State.DONE, Gate(opens=NOW), ["cp-1"]).waiting
    (_, options), *_ = [each for each in commands(waiting.reason) if each[1].get("restarted")]
    step = Transition(now, State.DONE, NOW)
    assert restart_refused(options["restarted"][0], [(step, node("etcd", step.path))]) == ""
    said = Confirmations(restarted=options["restarted"]).noted(now)
    assert said.accepting == () and listener_trust.held(said, State.DONE, Gate(opens=NOW), ["cp-1"]).open(NOW)


@dataclass(frozen=True)
class Cluster:
    """A step of the root or of the kubelet CA, as `--kubeconfig` shows the cluster; `found` is None without it."""

    record: RotationRecord
    to: State
    own: Gate
    found: KubeTrust | None
    companions: Mapping[str, Gate] = field(default_factory=dict)

    def waits(self) -> list[str]:
        """What is waited for beside the nodes."""
        whole = (
            root_gates.gate(self.record, self.to, self.own, self.companions, self.found, crossed=False)
            if self.record.domain == ROOT
            else serving_copy.gate(self.record, self.to, self.own, self.found)
        )
        return [each.reason for each in whole.waiting if each.node != "cp-1"]

    def right(self) -> KubeTrust:
        """What the cluster shows once all is right."""
        pem = {State.DONE: ROOTS[1].pem, State.STEADY: ROOTS[0].pem}.get(self.to, ROOTS[0].pem + ROOTS[1].pem)
        copies = tuple(RootCopy(name, pem, NOW) for name in ("default", "new"))
        bundles = (ClusterTrustBundle("published", API_SERVER_SIGNER, pem), ClusterTrustBundle("own", "", pem))
        return KubeTrust(("default", "new"), copies, (), (pem,), bundles)

    def after(self, way: Way) -> Cluster:
        now = self
        for name, options in way:
            right, found = now.right(), now.found
            if name in ("ca continue", "ca abort"):
                # An option alone is that of either command.
                alone = options["kubeconfig"] or options["without"] or options["checked"]
                assert alone or reasons.command(now.to) == f"vaultpki {name}"
                for word in options["checked"]:
                    refused = root_gates.word_refused(now.record, now.to, word, now.own, crossed=False)
                    assert (now.record.domain != ROOT) or refused == "", refused
                said = Confirmations(options["without"], checked=options["checked"])
                # Who runs it again does so once the nodes, which are named beside this, are ready.
                found = right if options["kubeconfig"] else None if not options["checked"] else found
                now = replace(now, record=said.noted(now.record), found=found, own=Gate(opens=NOW), companions={})
            elif name == "issue":
                assert options["directory"]
            elif found is None:
                # Nobody looks; a word follows.
                assert name == "kubectl apply"
            elif name == "kubectl delete pod":
                now = replace(now, found=replace(found, pods=()))
            else:
                now = replace(now, found=replace(found, **{CHANGES[name]: getattr(right, CHANGES[name])}))
        return now


ROOTS = tuple(Key(name).root() for name in ("prod root CA", "prod root CA 2"))
CHANGES = {
    "kubectl apply": "serving",
    "kubectl delete configmap": "copies",
    "kubectl delete clustertrustbundle": "bundles",
    "kubectl edit clustertrustbundle": "bundles",
}
CLOSED, OTHER = (Gate((Waiting("cp-1", what),)) for what in ("what a node waits for", "what is etcd's"))


def clusters(shown: KubeTrust) -> Iterator[KubeTrust]:
    """What is not right in one that is; the roots of both sides, and none."""
    for pem in (ROOTS[0].pem, ROOTS[1].pem, ROOTS[0].pem + ROOTS[1].pem, ""):
        yield replace(shown, copies=(RootCopy("default", pem, NOW),))
        yield replace(shown, bundles=(replace(shown.bundles[0], pem=pem), shown.bundles[1]))
        yield replace(shown, bundles=(shown.bundles[0], replace(shown.bundles[1], pem=pem)))
        yield replace(shown, serving=(pem,))
    yield replace(shown, bundles_unread="no right")
    yield replace(shown, copies=tuple(replace(each, changed=None) for each in shown.copies))
    yield replace(shown, pods=(PodStart("default", "web", THEN, THEN),))


def joined_anew(now: RotationRecord, to: State) -> set[str]:
    """The reasons of a node without an agent, each way out of which ends them."""

    def waits(record: RotationRecord) -> list[str]:
        found = root_gates.gate(record, to, Gate(opens=NOW), {}, None, joined=["j-1"]).waiting
        return [each.reason for each in found if each.node == "j-1"]

    for reason in waits(now):
        for name, options in commands(reason):
            for word in options["restarted"]:
                assert f"vaultpki {name}" == reasons.command(to) and not root_gates.rejoin_refused(now, to, word, NOW)
            said = Confirmations(options["without"], options["restarted"]).noted(now)
            assert said != now and not waits(said), name
    return {*waits(now)}


def test_every_reason_of_the_root_in_the_cluster_names_commands_each_of_which_ends_it() -> None:
    """Copies of the root, ClusterTrustBundles, pods and `kubelet-serving-ca`, whether nodes are ready or not."""
    met = set[str]()
    refs = [CaRef(f"root-{number}", str(number), str(number), each.fingerprint) for number, each in enumerate(ROOTS, 1)]
    with every_sentence((*saying(root_gates), serving_copy._unknown)):
        for state, to in STEPS:
            for domain in (ROOT, "kubelet"):
                now = record(domain, state, old=refs[0], new=refs[1])
                for own in (Gate(opens=NOW), CLOSED):
                    first = Cluster(now, to, own, None, {"etcd": OTHER} if own is CLOSED else {})
                    for found in (None, first.right(), *clusters(first.right())):
                        met |= walked(replace(first, found=found), Cluster.waits, Cluster.after)
            met |= joined_anew(record(ROOT, state, old=refs[0], new=refs[1]), to)
    assert len(met) > 20
