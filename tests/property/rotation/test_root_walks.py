"""Random walks through the root's rotation: the product's own decisions beside a model of servers, nodes and clients.

After every step every client verifies every server: other nodes by their issuing-only bundles, pods by the copy of the
chain bundle that they began with, and a program outside by the roots that a person gave it. Without one rule of the
gates a walk breaks that, which shows that the walks can.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from helpers.root_certificates import NAME, NOW, Key
from vaultpki.certificates import ROOT
from vaultpki.kube.objects import KubeTrust, PodStart, RootCopy
from vaultpki.pki import x509
from vaultpki.pki.chains import trust_below
from vaultpki.pki.facts import Facts, Trust
from vaultpki.pki.roots import Roots, crosses, follow
from vaultpki.pki.succession import RotationView, chain, trust_during_rotation
from vaultpki.procedure.gate import Gate
from vaultpki.records.node_report import BundleReport, CertificateReport, NodeReport, ReaderReport, Seen
from vaultpki.records.rotation import CaRef, Method, RotationRecord, State
from vaultpki.rotation import gates, root_gates
from vaultpki.rotation.gates import Participant
from vaultpki.rotation.reasons import Transition
from vaultpki.rotation.root_gates import OUTSIDE, PODS, WITH_COMPANIONS
from vaultpki.rotation.states import next_state

CA = "etcd"
CA_NAME = "prod etcd CA"
ONE, TWO, ISSUING = Key(NAME), Key(f"{NAME} 2"), Key(CA_NAME)
R1, R2, X = ONE.root(), TWO.root(), ONE.certify(TWO, path=1)
I1, I2 = ONE.certify(ISSUING, path=0), TWO.certify(ISSUING, path=0)
LEAF = ISSUING.certify(Key("leaf"), path=0)
READER = f"{ROOT}/{root_gates.CONTROLLER_MANAGER}"
FREE = {(State.SWITCHED, State.RETURNING), (State.RETIRED, State.RETRUSTING), (State.PUBLISHED, State.STEADY)}
LATER = timedelta(hours=1)


def verifies(sent: Collection[Facts], store: Collection[Facts], *, partial: bool) -> bool:
    """Whether a leaf of the issuing CA's key verifies; `partial` as Go: any certificate of the store is an anchor."""
    reached, todo = set[str](), [LEAF]
    while todo:
        facts = todo.pop()
        for above in {*sent, *store}:
            if above.fingerprint not in reached and x509.signed_by(facts, above):
                if above in store and (partial or x509.signed_by(above, above)):
                    return True
                reached.add(above.fingerprint)
                todo.append(above)
    return False


@dataclass(slots=True)
class Machine:
    """A node: what it knows, what lies on its disk, what its controller manager began with, and its report."""

    name: str
    roots: Roots = field(default_factory=lambda: Roots((R1,)))
    strict: tuple[Facts, ...] = (I1,)
    above: frozenset[Facts] = frozenset({R1})
    sent: tuple[Facts, ...] = (I1,)
    started: frozenset[str] = frozenset({R1.fingerprint})
    report: NodeReport | None = None


@dataclass(slots=True)
class SimulatedCluster:
    record: RotationRecord
    own: RotationRecord
    machines: list[Machine]
    copy: frozenset[Facts] = frozenset({I1, R1})
    pods: set[frozenset[Facts]] = field(default_factory=lambda: {frozenset({I1, R1})})
    outside: frozenset[Facts] = frozenset({R1})
    skipped: str = ""

    @property
    def shown(self) -> tuple[Facts, ...]:
        made = self.record.state not in (State.STEADY, State.PREPARED)
        gone = self.record.state is State.DONE
        return (*(() if gone else (R1,)), *((R2, X) if made else ()))

    @property
    def issuing(self) -> tuple[Facts, ...]:
        signed = self.own.state is not State.STEADY
        return (*(() if self.own.state is State.DONE else (I1,)), *((I2,) if signed else ()))

    def passes(self, one: Machine) -> None:
        """A pass of an agent, by the product's own rules."""
        one.roots = follow(R1.fingerprint, one.roots, self.shown, self.record, NOW, name=NAME)
        pems = [facts.pem.encode() for facts in {*self.issuing, *one.strict}]
        known: Trust = trust_below(pems, one.roots.trusted, NOW, name=CA_NAME, parked=one.roots.parked)
        found = {facts.fingerprint for facts in known.issuing}
        serve = self.record.state in (State.SWITCHED, State.RETRUSTING) and self.skipped != "cross"
        trust = trust_during_rotation(
            replace(known, crosses=crosses(one.roots, self.shown) if serve else ()),
            RotationView(self.own, shown=found, held={facts.fingerprint for facts in one.strict}),
            NOW,
        )
        one.strict, one.above = trust.issuing, frozenset(one.roots.trusted)
        one.sent = chain(trust, trust.signers[0])
        self.reports(one)

    def reports(self, one: Machine) -> None:
        shas = frozenset(facts.fingerprint for facts in one.strict)
        above = frozenset(facts.fingerprint for facts in one.above)
        before = NOW - LATER
        one.report = NodeReport(
            time=NOW,
            agent="0.2.0",
            seen={each.domain: Seen(each.revision, each.revision) for each in (self.record, self.own)},
            certificates={
                "etcd-server": CertificateReport(
                    CA, "ok", NOW + LATER, "1", "", tuple(f.fingerprint for f in one.sent), installed=before
                )
            },
            bundles={CA: BundleReport(shas, before), ROOT: BundleReport(above, before)},
            readers={READER: ReaderReport(before, one.started, running=True, healthy=True)},
        )

    def gate(self, to: State) -> Gate:
        said = replace(self.record, since=NOW - LATER)
        if (self.record.state, to) in FREE or self.record.state is State.PREPARED:
            return Gate(opens=NOW - LATER)
        companions = {}
        if (self.record.state, to) in WITH_COMPANIONS and self.own.active and self.skipped != "sent":
            companions[CA] = self._gate(replace(self.own, since=NOW - LATER), to, CA)
        own = self._gate(said, to, ROOT)
        if self.skipped == "managers":
            own = Gate(tuple(w for w in own.waiting if "restart" not in w.reason), (), NOW - LATER)
        pods = None if self.skipped == "pods" else self.kube()
        words = (PODS, OUTSIDE) if self.skipped == "pods" else (OUTSIDE,)
        # A person says so when it is so.
        wants = R1 if said.state is State.RETRUSTING else R2
        told = replace(said, checked=words if wants in self.outside or self.skipped == "outside" else words[:-1])
        found = root_gates.gate(told, to, own, companions, pods)
        return replace(found, opens=None if found.waiting else NOW - LATER)

    def _gate(self, record: RotationRecord, to: State, domain: str) -> Gate:
        nodes = [
            Participant(
                one.name,
                "listed",
                frozenset() if domain == ROOT else frozenset({"etcd-server"}),
                True,
                (READER,) if domain == ROOT else (),
                1,
                one.report,
            )
            for one in self.machines
        ]
        step = Transition(record, to, NOW, longest_ttl=10**8, signer_ends=NOW + 10**3 * LATER)
        return gates.gate(step, nodes)

    def kube(self) -> KubeTrust:
        pem = "".join(facts.pem for facts in self.copy)
        old = [PodStart("default", "old", NOW - 2 * LATER, NOW - 2 * LATER)] if self.pods - {self.copy} else []
        return KubeTrust(("default",), (RootCopy("default", pem, NOW - LATER),), tuple(old))

    def moves(self, *, back: bool) -> None:
        to = next_state(self.record, back=back)
        if to is None:
            return
        found = self.gate(to)
        if not found.open(NOW):
            return
        if to in root_gates.COMING_TO_REST:
            self.follows(to)
        self.record = self.record.moved(to, NOW)
        if to is State.PUBLISHED:
            self.record = replace(self.record, new=CaRef("root-2", sha256=R2.fingerprint))
        self.follows(to)

    def follows(self, state: State) -> None:
        while (to := root_gates.next_companion(state, self.own)) is not None:
            self.own = self.own.moved(to, NOW)
            if to is State.PUBLISHED:
                new = CaRef("etcd-1r2", sha256=I2.fingerprint)
                self.own = replace(
                    self.own, method=Method.SAME_KEY, old=CaRef("etcd-1", sha256=I1.fingerprint), new=new
                )

    def wrong(self) -> str:
        for one in self.machines:
            for pod in self.pods:
                if not verifies(one.sent, pod, partial=False):
                    return f"a pod refuses {one.name} in {self.record.state}"
            if not verifies(one.sent, self.outside, partial=False):
                return f"who is outside refuses {one.name} in {self.record.state}"
            if any(not verifies(one.sent, other.strict, partial=True) for other in self.machines):
                return f"a node refuses {one.name} in {self.record.state}"
        if self.record.state is State.DONE and any(R2 not in pod for pod in self.pods):
            # Its copy of the issuing CA, whose key is the same, serves until that CA is rotated below the new root.
            return "a pod will refuse the next issuing CA"
        return ""


def beginning(skipped: str = "") -> SimulatedCluster:
    old, own = CaRef("root-1", sha256=R1.fingerprint), CaRef("etcd-1", sha256=I1.fingerprint)
    record = RotationRecord(ROOT, State.PREPARED, 1, NOW, old, CaRef("root-2", key="k"))
    return SimulatedCluster(
        record, RotationRecord(CA, State.STEADY, 1, NOW, own), [Machine("a"), Machine("b")], skipped=skipped
    )


def acts(cluster: SimulatedCluster, chance: random.Random, *, back: float) -> Callable[[], object]:
    """One of the things that may happen now."""
    one = chance.choice(cluster.machines)

    def restart() -> None:
        one.started = frozenset(facts.fingerprint for facts in one.above)
        if one.report is not None:
            cluster.reports(one)

    def publish() -> None:
        # The controller manager that leads gives away what it began with.
        begun = [facts for facts in (R1, R2) if facts.fingerprint in cluster.machines[0].started]
        cluster.copy = frozenset({*cluster.machines[0].strict, *begun})

    def gives_outside() -> None:
        if cluster.record.state in (State.PUBLISHED, State.SWITCHED, State.RETRUSTING):
            cluster.outside = frozenset({R1, R2})
        elif cluster.record.state in (State.RETIRED, State.DONE):
            cluster.outside = frozenset({R2})

    choices: list[tuple[float, Callable[[], object]]] = [
        (4, lambda: cluster.passes(one)),
        (2, restart),
        (2, publish),
        (1, lambda: cluster.pods.add(cluster.copy)),
        (0.7, lambda: setattr(cluster, "pods", {cluster.copy})),
        (0.3, gives_outside),
        (3 * (1 - back), lambda: cluster.moves(back=False)),
        (3 * back, lambda: cluster.moves(back=True)),
    ]
    return chance.choices([act for _, act in choices], [weight for weight, _ in choices])[0]


def walk(seed: int, length: int, skipped: str = "") -> tuple[str, SimulatedCluster]:
    chance = random.Random(seed)  # noqa: S311 - not a secret
    cluster = beginning(skipped)
    back = chance.choice((0.0, 0.1, 0.4))
    for _ in range(length):
        acts(cluster, chance, back=back)()
        if found := cluster.wrong():
            return found, cluster
        if cluster.record.state.resting:
            break
    return "", cluster


def test_no_client_refuses_a_server_at_any_time() -> None:
    ends = set()
    for seed in range(150):
        found, cluster = walk(seed, 250)
        assert not found, (seed, found)
        ends.add(cluster.record.state)
    assert ends >= {State.DONE, State.STEADY}


@pytest.mark.parametrize("skipped", ["cross", "pods", "outside", "sent"])
def test_without_a_rule_a_client_refuses_a_server(skipped: str) -> None:
    assert any(walk(seed, 250, skipped)[0] for seed in range(150)), skipped
