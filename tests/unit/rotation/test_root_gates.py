"""What the rotation of the root waits for beside the nodes, and how the issuing CAs go along with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

from helpers.root_certificates import NAME, NOW, Key
from vaultpki.kube.objects import API_SERVER_SIGNER, ClusterTrustBundle, KubeTrust, PodStart, RootCopy
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.records.rotation import CaRef, Method, RotationRecord, State
from vaultpki.rotation.gates import Participant
from vaultpki.rotation.root_gates import (
    OUTSIDE,
    PODS,
    RESTARTED,
    gate,
    next_companion,
    rejoin_refused,
    without_leaves,
    word_refused,
)

R1, R2 = Key(NAME).root(), Key(f"{NAME} 2").root()
RECORD = RotationRecord(
    "root", State.PUBLISHED, 3, NOW, CaRef("root-1", sha256=R1.fingerprint), CaRef("root-2", sha256=R2.fingerprint)
)
OPEN = Gate(opens=NOW)
ALONE: dict[str, Gate] = {}
EDIT = "`kubectl edit clustertrustbundle NAME`"
MINUTE = timedelta(minutes=1)
ETCD = RotationRecord("etcd", State.STEADY, 1, NOW, CaRef("etcd-1", "id-1", "key-1", "ab" * 32))


def at(state: State, *words: str) -> RotationRecord:
    return replace(RECORD, state=state, checked=words)


def cluster(pem: str, *pods: PodStart, changed: object = NOW) -> KubeTrust:
    copies = tuple(RootCopy(name, pem, changed) for name in ("default", "kube-system"))  # type: ignore[arg-type]
    return KubeTrust(("default", "kube-system"), copies, pods)


def bundles(*found: ClusterTrustBundle, pem: str, unread: str = "") -> KubeTrust:
    """A cluster whose other copies hold `pem`."""
    return replace(cluster(pem), bundles=found, bundles_unread=unread)


def names(found: Gate) -> list[str]:
    return [each.node for each in found.waiting]


def test_published_waits_for_every_copy_and_for_older_pods() -> None:
    step = (at(State.PUBLISHED), State.SWITCHED, OPEN, ALONE)
    both = R1.pem + R2.pem
    assert gate(*step, cluster(both)).open(NOW)
    (waits,) = gate(*step, cluster(R1.pem)).waiting
    assert waits.node == "kube-root-ca.crt"
    assert waits.reason.startswith("does not hold the new root yet in namespaces default, kube-system. ")
    one_lacks = replace(cluster(both), namespaces=("default", "kube-system", "new"))
    assert "namespace new" in gate(*step, one_lacks).waiting[0].reason
    old = PodStart("default", "old", NOW - MINUTE, NOW - MINUTE)
    # The file in a pod that runs already is refreshed later than a container may have started again.
    again = PodStart("default", "again", NOW - MINUTE, NOW + MINUTE)
    later = PodStart("default", "later", NOW - MINUTE, NOW + 3 * MINUTE)
    fresh = PodStart("default", "fresh", NOW, NOW)
    (waits,) = gate(*step, cluster(both, old, again, later, fresh)).waiting
    assert waits == Waiting(
        PODS, f"pods default/again, default/old started before kube-root-ca.crt changed. {RESTARTED}"
    )
    assert names(gate(*step, cluster(both, changed=None))) == ["kube-root-ca.crt"]


OWN, OTHER = Key("own").root(), Key("other").root()
DAMAGED = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nMII"
BOTH = R1.pem + R2.pem


def published(pem: str) -> ClusterTrustBundle:
    return ClusterTrustBundle("kubernetes.io:kube-apiserver-serving:1", API_SERVER_SIGNER, pem)


def own(pem: str, name: str = "own") -> ClusterTrustBundle:
    return ClusterTrustBundle(name, "example.com/own", pem)


def test_a_bundle_with_the_old_root_must_hold_the_new_one_before_the_old_one_leaves() -> None:
    anew = "Once it is deleted, the controller manager that leads writes it anew. If it is as before then, look at its"
    anew += " log. Delete it: `kubectl delete clustertrustbundle NAME`"
    for state, to in ((State.PUBLISHED, State.SWITCHED), (State.SWITCHED, State.RETIRED)):
        step = (at(state, OUTSIDE), to, OPEN, ALONE)
        foreign = ClusterTrustBundle("public", "", OWN.pem + OTHER.pem + DAMAGED)
        right = own(OWN.pem + DAMAGED + BOTH, "right")
        assert gate(*step, bundles(published(BOTH), right, own(R2.pem), foreign, own("hello"), pem=BOTH)).open(NOW)
        found = gate(*step, bundles(published(R1.pem), right, own(OWN.pem + R1.pem + DAMAGED), foreign, pem=BOTH))
        assert [(each.node, each.reason) for each in found.waiting] == [
            ("ClusterTrustBundle", f"does not hold the new root yet in kubernetes.io:kube-apiserver-serving:1. {anew}"),
            (
                "ClusterTrustBundle",
                f"does not hold the new root yet in own. Add it, as every kube-root-ca.crt has it: {EDIT}",
            ),
        ]
    # The controller manager's is for the API server, whatever it holds.
    assert names(gate(at(State.PUBLISHED), State.SWITCHED, OPEN, ALONE, bundles(published(OWN.pem), pem=BOTH)))


def test_the_old_root_leaves_every_bundle_and_comes_back_into_every_bundle_that_dropped_it() -> None:
    step = (at(State.RETIRED), State.DONE, OPEN, ALONE)
    assert gate(*step, bundles(published(R2.pem), own(R2.pem), own(OWN.pem), pem=R2.pem)).open(NOW)
    (waits,) = gate(*step, bundles(*(own(BOTH, f"b-{number}") for number in range(9)), pem=R2.pem)).waiting
    assert waits.reason == f"still holds the old root in b-0, b-1, b-2, b-3, b-4 and 4 more. Take it out: {EDIT}"
    back = (at(State.RETRUSTING, OUTSIDE), State.RETURNING, OPEN, ALONE)
    assert gate(*back, bundles(own(BOTH), own(R1.pem), own(OWN.pem), pem=BOTH)).open(NOW)
    (waits,) = gate(*back, bundles(own(R2.pem), pem=BOTH)).waiting
    assert waits.reason == f"does not hold the old root yet in own. Add it, as every kube-root-ca.crt has it: {EDIT}"


def test_bundles_that_may_not_be_listed_are_one_sentence_beside_the_others() -> None:
    why = "the user of reader.conf may not list clustertrustbundles of certificates.k8s.io"
    found = gate(at(State.PUBLISHED), State.SWITCHED, OPEN, ALONE, bundles(pem=R1.pem, unread=why))
    assert names(found) == ["kube-root-ca.crt", "ClusterTrustBundle"]
    blind = "Allow it. Or be told what to look at yourself, without a kubeconfig: `vaultpki ca continue`"
    assert found.waiting[1].reason == f"cannot be looked at: {why}. {blind}"
    (waits,) = gate(at(State.RETIRED), State.DONE, OPEN, ALONE, bundles(pem=R2.pem, unread=why)).waiting
    assert waits.reason == f"cannot be looked at: {why}. {blind}"
    # Where no bundle counts, nobody is told.
    assert gate(at(State.RETURNING), State.STEADY, OPEN, {"etcd": OPEN}, bundles(pem=BOTH, unread=why)).open(NOW)


def test_without_a_kubeconfig_a_person_says_so_and_not_before_the_nodes_are_ready() -> None:
    step = (at(State.PUBLISHED), State.SWITCHED)
    assert names(gate(*step, OPEN, {}, None)) == [PODS]
    said = at(State.PUBLISHED, PODS)
    assert gate(said, State.SWITCHED, OPEN, {}, None).open(NOW)
    # What the cluster shows counts more than the word.
    assert names(gate(said, State.SWITCHED, OPEN, {}, cluster(R1.pem))) == ["kube-root-ca.crt"]
    closed = Gate((Waiting("cp-1", "restart it"),))
    assert "cp-1" in word_refused(*step, PODS, closed) and word_refused(*step, PODS, OPEN) == ""
    assert word_refused(*step, OUTSIDE, OPEN) and word_refused(at(State.SWITCHED), State.RETIRED, PODS, OPEN)
    assert word_refused(at(State.SWITCHED), State.RETIRED, OUTSIDE, OPEN) == ""


def test_switched_waits_for_kubeconfigs_outside_and_every_issuing_ca() -> None:
    found = gate(at(State.SWITCHED), State.RETIRED, OPEN, {"etcd": OPEN}, None)
    assert names(found) == [OUTSIDE] and "`vaultpki ca continue --checked outside`" in found.waiting[0].reason
    said = at(State.SWITCHED, OUTSIDE)
    assert gate(said, State.RETIRED, OPEN, {"etcd": OPEN}, None).open(NOW)
    closed = Gate((Waiting("cp-1", "etcd-server is still served with the old CA certificate"),))
    found = gate(said, State.RETIRED, OPEN, {"etcd": closed, "kubelet": OPEN}, None)
    assert names(found) == ["cp-1"] and found.waiting[0].reason.startswith("etcd: ") and not found.open(NOW)
    later = Gate(opens=NOW + MINUTE)
    found = gate(said, State.RETIRED, OPEN, {"etcd": later}, None)
    assert not found.open(NOW) and found.open(NOW + MINUTE)


def test_the_way_back_waits_for_the_old_root_where_it_had_left() -> None:
    step = (at(State.RETRUSTING), State.RETURNING, OPEN, ALONE)
    found = gate(*step, cluster(R2.pem))
    assert names(found) == ["kube-root-ca.crt", OUTSIDE]
    assert "`vaultpki ca abort --checked outside`" in found.waiting[1].reason
    said = (at(State.RETRUSTING, OUTSIDE), State.RETURNING, OPEN, ALONE)
    assert gate(*said, cluster(R1.pem + R2.pem)).open(NOW)
    assert gate(at(State.RETURNING), State.STEADY, OPEN, {"etcd": OPEN}, None).open(NOW)


def test_going_on_from_re_trusting_waits_for_the_old_root_outside_too() -> None:
    # From switched an abort waits for nobody: a kubeconfig that dropped the old root would then fail.
    found = gate(at(State.RETRUSTING, PODS), State.SWITCHED, OPEN, ALONE, None)
    assert names(found) == [OUTSIDE] and "hold the old one too" in found.waiting[0].reason
    assert "`vaultpki ca continue --checked outside`" in found.waiting[0].reason
    assert gate(at(State.RETRUSTING, PODS, OUTSIDE), State.SWITCHED, OPEN, ALONE, None).open(NOW)


def test_done_waits_until_no_copy_holds_the_old_root() -> None:
    step = (at(State.RETIRED), State.DONE, OPEN, ALONE)
    assert names(gate(*step, cluster(R1.pem + R2.pem))) == ["kube-root-ca.crt"]
    old = PodStart("default", "old", NOW - MINUTE, NOW - MINUTE)
    assert gate(*step, cluster(R2.pem, old)).open(NOW) and gate(*step, None).open(NOW)


def test_nodes_without_an_agent_are_named_until_each_has_joined_anew() -> None:
    for state, to in (
        (State.PUBLISHED, State.SWITCHED),
        (State.RETRUSTING, State.SWITCHED),
        (State.RETRUSTING, State.RETURNING),
    ):
        record = at(state, PODS, OUTSIDE)
        waiting = gate(record, to, OPEN, ALONE, None, joined=["j-2", "j-1"]).waiting
        assert [each.node for each in waiting] == ["j-1", "j-2"]
        assert "let it join anew" in waiting[0].reason and "--restarted j-1/kubelet" in waiting[0].reason
        said = replace(record, restarted=("j-1/kubelet",), excused=("j-2",))
        assert gate(said, to, OPEN, ALONE, None, joined=["j-1", "j-2"]).open(NOW)
        # It has a new certificate if it joined since, and nobody sees whether a renewal was more than that.
        assert rejoin_refused(record, to, "j-1/kubelet", NOW) == ""
        assert "has not joined anew" in rejoin_refused(record, to, "j-1/kubelet", NOW - MINUTE)
        assert "leave out" in rejoin_refused(record, to, "j-1/kube-proxy", NOW)
    # Nothing is taken from them later: who joined anew holds both.
    for state, to in ((State.SWITCHED, State.RETIRED), (State.RETIRED, State.DONE)):
        record = at(state, PODS, OUTSIDE)
        assert gate(record, to, OPEN, ALONE, None, joined=["j-1"]).open(NOW)
        assert "leave out" in rejoin_refused(record, to, "j-1/kubelet", NOW)


def test_one_node_at_a_time_has_the_turn_over_all_cas() -> None:
    def whose(turn: str, *turns: str) -> str:
        own, *others = (Gate(turn=each) for each in turns)
        found = {str(number): each for number, each in enumerate(others)}
        return gate(replace(RECORD, turn=turn), State.SWITCHED, own, found, None).turn

    assert whose("", "cp-1", "cp-2") == "cp-1" and whose("cp-2", "cp-1", "cp-2") == "cp-2"
    assert whose("cp-3", "", "cp-2") == "cp-2" and whose("cp-1", "", "") == ""


def test_every_node_holds_the_root_and_only_controller_managers_read_it_at_their_start() -> None:
    manager = Participant("cp-1", "listed", frozenset({"x"}), True, ("kubernetes/kube-controller-manager",), 1, None)
    member = Participant("etcd-1", "listed", frozenset({"etcd-server"}), False, ("etcd/etcd",), 1, None)
    found = without_leaves([manager, member])
    assert [(each.certificates, each.bundle, each.readers) for each in found] == [
        (frozenset(), True, ("root/kube-controller-manager",)),
        (frozenset(), True, ()),
    ]


def walk(states: Iterable[State]) -> list[tuple[State, bool]]:
    """The states of etcd's record as the root's takes these; a CA that is published has been signed."""
    found, own = [], ETCD
    for state in states:
        while (to := next_companion(state, own)) is not None:
            own = replace(own, state=to)
            if to is State.PUBLISHED:
                own = replace(own, method=Method.SAME_KEY, new=CaRef("etcd-1r2", key="key-1"))
                assert next_companion(state, own) is None
                own = replace(own, new=CaRef("etcd-1r2", "id-2", "key-1", "cd" * 32))
        found.append((own.state, own.active))
    return found


def test_an_issuing_ca_goes_along() -> None:
    assert walk([State.PREPARED, State.PUBLISHED]) == [(State.STEADY, False)] * 2
    assert walk([State.SWITCHED, State.RETIRED, State.DONE]) == [
        (State.SWITCHED, True),
        (State.RETIRED, True),
        (State.DONE, False),
    ]
    back = [State.SWITCHED, State.RETIRED, State.RETRUSTING, State.RETURNING, State.STEADY]
    assert [state for state, _ in walk(back)] == back
    forth = [State.SWITCHED, State.RETIRED, State.RETRUSTING, State.SWITCHED]
    assert [state for state, _ in walk(forth)] == forth


def test_one_that_was_never_rotated_begins_and_one_that_was_not_signed_yet_goes_back_at_once() -> None:
    assert next_companion(State.SWITCHED, None) is State.PUBLISHED
    assert next_companion(State.RETURNING, None) is None and next_companion(State.DONE, ETCD) is None
    begun = replace(ETCD, state=State.PUBLISHED, new=CaRef("etcd-1r2", key="key-1"))
    for state in (State.RETURNING, State.STEADY):
        assert next_companion(state, begun) is State.STEADY
