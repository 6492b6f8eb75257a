"""Decides what the rotation of the root waits for beyond a node's reports, and what it asks of the issuing CAs; pure.

The root has the states of every CA. In `switched` each issuing CA has a second certificate for its key, signed by the
new root: a renewal with the same key, whose record goes through the states that the root's goes through. In `published`
and during the rollback the pods of the cluster count, which hold a root from their start, and in `switched` kubeconfigs
outside of it. A ClusterTrustBundle with a root of the cluster counts as `kube-root-ca.crt` does, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from vaultpki.errors import CertificateUnreadable
from vaultpki.kube.objects import ROOT_COPY, ClusterTrustBundle, KubeTrust, PodStart
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.redact import first_few, stamp
from vaultpki.rotation.gates import Participant
from vaultpki.rotation.reasons import LEAF_STEPS, command
from vaultpki.values import pem

PODS: Final = "pods"
"""As `--checked pods`: a person's word that every `kube-root-ca.crt` and every pod was looked after."""

OUTSIDE: Final = "outside"
"""As `--checked outside`: a person's word that kubeconfigs outside the cluster hold the root that is named."""

CLUSTER_TRUST_BUNDLE: Final = "ClusterTrustBundle"

CONTROLLER_MANAGER: Final = "kube-controller-manager"
"""The component that reads the root when it starts, and gives it to the pods of every namespace."""

# A file in a pod that runs already changes with the kubelet's next look at it, which comes once a minute and a half.
_KUBELET: Final = timedelta(seconds=120)

_KUBELET_NAME: Final = "kubelet"

_ANEW: Final = (
    "Once it is deleted, the controller manager that leads writes it anew. If it is as before then, look at its log"
)

WRITTEN_ANEW: Final = f"{_ANEW}. Delete it there: `kubectl -n NAMESPACE delete configmap {ROOT_COPY}`"
"""What a person does where the copy of a namespace is not right, though every controller manager is."""

RESTARTED: Final = "Restart them, such as by `kubectl -n NAMESPACE delete pod NAME`"
"""What a person does with pods that hold what their copy was before."""

_EDIT: Final = "`kubectl edit clustertrustbundle NAME`"

_FOLLOWED: Final = frozenset(
    {State.SWITCHED, State.RETIRED, State.RETRUSTING, State.RETURNING, State.DONE, State.STEADY}
)

COMING_TO_REST: Final = frozenset({State.DONE, State.STEADY})
"""The states of the root in which the issuing CAs move before the root's record, since they come to rest with it."""

WITH_COMPANIONS: Final = LEAF_STEPS | {(State.RETIRED, State.DONE)}
"""The steps of the root that wait for what the issuing CAs wait for in the same step."""


def next_companion(state: State, own: RotationRecord | None) -> State | None:
    """Return the next state of an issuing CA that goes along with the root; None if it is where it must be.

    `state` is the root's. `own` is that CA's record, None if it was never rotated. PUBLISHED is where it begins.
    """
    if state not in _FOLLOWED:
        return None
    if own is None or not own.active:
        return State.PUBLISHED if state is State.SWITCHED else None
    if own.state is State.PUBLISHED:
        if state is not State.SWITCHED:
            return State.STEADY
        return State.SWITCHED if own.new is not None and own.new.sha256 else None
    return None if own.state is state else state


def without_leaves(nodes: Iterable[Participant]) -> tuple[Participant, ...]:
    """Return the participants of the kubernetes CA as those of the root.

    Every node holds the root and has no leaf of it, and the controller managers read it when they start.
    """
    manager = f"kubernetes/{CONTROLLER_MANAGER}"
    return tuple(
        replace(
            each,
            certificates=frozenset(),
            bundle=True,
            readers=(f"root/{CONTROLLER_MANAGER}",) if manager in each.readers else (),
        )
        for each in nodes
    )


def gate(
    record: RotationRecord,
    to: State,
    own: Gate,
    companions: Mapping[str, Gate],
    pods: KubeTrust | None,
    *,
    crossed: bool = True,
    joined: Collection[str] = (),
) -> Gate:
    """Return the whole gate of the root: its own, those of the issuing CAs that go along, pods and kubeconfigs outside.

    `own` is the gate of the nodes, `companions` those of the issuing CAs by their names. `pods` is what the cluster
    shows, None without `--kubeconfig`. `crossed` is whether there is a cross certificate, which is served. `joined` are
    the nodes without an agent.
    """
    gates = (own, *companions.values())
    waiting = [*own.waiting, *together(own, companions)]
    waiting += _pods(record, to, own, pods)
    waiting += _outside(record, to, crossed=crossed)
    waiting += _rejoining(record, to, joined)
    opens = [each.opens for each in gates if each.opens is not None]
    return Gate(
        waiting=tuple(dict.fromkeys(waiting)),
        excused=tuple(dict.fromkeys(one for each in gates for one in each.excused)),
        opens=max(opens) if len(opens) == len(gates) else None,
        turn=one_turn(record.turn, gates),
    )


def together(own: Gate, companions: Mapping[str, Gate]) -> list[Waiting]:
    """Return what is waited for of the issuing CAs, each once with their names; without what the root waits for too."""
    found: dict[Waiting, list[str]] = {}
    for ca, each in companions.items():
        for one in each.waiting:
            found.setdefault(one, []).append(ca)
    return [
        replace(one, reason=f"{', '.join(cas)}: {one.reason}") for one, cas in found.items() if one not in own.waiting
    ]


def waits_for_joined(record: RotationRecord, to: State) -> bool:
    """Return whether nodes without an agent must join anew before a step: they hold the root that they joined with."""
    return _roots_of_pods(record, to)[1]


def rejoin_refused(record: RotationRecord, to: State, word: str, signed: datetime) -> str:
    """Return why a person's word that a node without an agent has joined anew does not count, as a sentence.

    "" if it does. `word` is as in `--restarted j-1/kubelet`; `signed` is when the newest certificate of that kubelet
    was signed.
    """
    name, _, component = word.partition("/")
    if component != _KUBELET_NAME or not waits_for_joined(record, to):
        return f"root is {record.state.value}, which does not wait for {word}; leave out `--restarted {word}`"
    if signed < record.since:
        return (
            f"{name} got its newest certificate at {stamp(signed)}, before root was {record.state.value}, so it has "
            f"not joined anew. Let it join, and pass `--restarted {word}` then"
        )
    return ""


def _rejoining(record: RotationRecord, to: State, joined: Collection[str]) -> Iterator[Waiting]:
    """Yield the nodes without an agent of which nobody has said that they joined anew in this state."""
    for name in sorted(joined) if waits_for_joined(record, to) else ():
        word = f"{name}/{_KUBELET_NAME}"
        if word not in record.restarted and name not in record.excused:
            yield Waiting(
                name,
                "has no agent, and trusts the root that it joined with. Once cluster-info has both roots, let it join "
                f"anew, and say so: `{command(to)} --restarted {word}`. If it is gone: `--without {name}`",
            )


def word_refused(record: RotationRecord, to: State, word: str, own: Gate, *, crossed: bool = True) -> str:
    """Return why a person's word about pods or kubeconfigs outside does not count now, as a sentence; "" if it does."""
    if word == OUTSIDE and not _needs_outside(record, to, crossed=crossed):
        return f"root is {record.state.value}, which waits for no kubeconfig outside; leave out `--checked {OUTSIDE}`"
    if word == PODS and not _roots_of_pods(record, to)[1]:
        return f"root is {record.state.value}, which waits for no pod; leave out `--checked {PODS}`"
    if word == PODS and own.waiting:
        first = own.waiting[0]
        return (
            "the pods get the root from the controller managers, and not every node is ready. Restart them once every "
            f"node is, and pass `--checked {PODS}` then. Before that, {first.node}: {first.reason}"
        )
    if word not in (OUTSIDE, PODS):
        return f"root is {record.state.value}, which does not wait for {word}; leave out `--checked {word}`"
    return ""


def one_turn(turn: str, gates: Collection[Gate]) -> str:
    """Return whose turn it is: one node at a time over all CAs; the one that has the `turn` keeps it."""
    turns = [each.turn for each in gates if each.turn]
    return turn if turn in turns else next(iter(turns), "")


def _roots_of_pods(record: RotationRecord, to: State) -> tuple[bool, bool, str]:
    """Return whether `kube-root-ca.crt` must hold or lack a root, whether pods count, and which root it is."""
    new = record.new.sha256 if record.new is not None else ""
    return {
        (State.PUBLISHED, State.SWITCHED): (True, True, new),
        (State.RETRUSTING, State.SWITCHED): (True, True, new),
        (State.RETRUSTING, State.RETURNING): (True, True, record.old.sha256),
        (State.RETIRED, State.DONE): (False, False, record.old.sha256),
    }.get((record.state, to), (False, False, ""))


def _pods(record: RotationRecord, to: State, own: Gate, found: KubeTrust | None) -> list[Waiting]:
    holds, pods_count, root = _roots_of_pods(record, to)
    bundles = _bundles(record, to, found) if found is not None else []
    if not root:
        return bundles
    if found is not None:
        copies = _copies(found, root, holds=holds, which="new" if holds and to is State.SWITCHED else "old")
        return [*copies, *bundles] or (_started_before(found, to) if pods_count else [])
    if PODS in record.checked or not pods_count:
        return []
    which = "the old" if to is State.RETURNING else "the new"
    how = (
        f"have the command look at them: `--kubeconfig FILE`. Or see that every {ROOT_COPY} and {CLUSTER_TRUST_BUNDLE} "
        f"holds {which} root. Then restart every pod, and pass `--checked {PODS}`"
    )
    later = f"restart them once every node is ready. To see how, run then `{command(to)}`"
    return [Waiting(PODS, later if own.waiting else how)]


def _copies(found: KubeTrust, root: str, *, holds: bool, which: str) -> list[Waiting]:
    have = {copy.namespace: _fingerprints(copy.pem) for copy in found.copies}
    wrong = sorted(
        each for each in found.namespaces if (each not in have and holds) or (root in have.get(each, ())) != holds
    )
    if not wrong:
        return []
    return [Waiting(ROOT_COPY, f"{_fault(which, holds=holds)} in {_some(wrong, 'namespace')}. {WRITTEN_ANEW}")]


def _bundles(record: RotationRecord, to: State, found: KubeTrust) -> list[Waiting]:
    """Return what is waited for of ClusterTrustBundles: of the controller manager's, and of others with a root."""
    holds, _, root = _roots_of_pods(record, to)
    if (record.state, to) == (State.SWITCHED, State.RETIRED) and record.new is not None:
        # Anybody may have written one since; whoever reads it must not be left with the root that leaves.
        holds, root = True, record.new.sha256
    if not root:
        return []
    if found.bundles_unread:
        return [Waiting(CLUSTER_TRUST_BUNDLE, f"cannot be looked at: {found.bundles_unread}. Allow it. {_blind(to)}")]
    roots = {ca.sha256 for ca in (record.old, record.new) if ca is not None}
    fault = _fault("old" if root == record.old.sha256 else "new", holds=holds)

    def wrong(bundle: ClusterTrustBundle) -> bool:
        held = pem.fingerprints(bundle.pem)
        return (root in held) != holds and (bundle.published or bool(held & roots))

    bad = [bundle for bundle in found.bundles if wrong(bundle)]
    return [
        Waiting(CLUSTER_TRUST_BUNDLE, f"{fault} in {first_few(sorted(names))}. {what_to_do}")
        for published, what_to_do in (
            (True, f"{_ANEW}. Delete it: `kubectl delete clustertrustbundle NAME`"),
            (False, f"{f'Add it, as every {ROOT_COPY} has it' if holds else 'Take it out'}: {_EDIT}"),
        )
        if (names := [bundle.name for bundle in bad if bundle.published is published])
    ]


def _fault(which: str, *, holds: bool) -> str:
    return f"does not hold the {which} root yet" if holds else f"still holds the {which} root"


def _blind(to: State) -> str:
    """Return the way on without a look at the cluster."""
    return f"Or be told what to look at yourself, without a kubeconfig: `{command(to)}`"


def started_before(pods: Iterable[PodStart], changed: Mapping[str, datetime | None]) -> list[str]:
    """Return the pods that may hold what the copy of their namespace was before it `changed`, by their names.

    A container that started later may have read the older file too.
    """
    return sorted(
        f"{pod.namespace}/{pod.name}"
        for pod in pods
        if (when := changed.get(pod.namespace)) and pod.started < when and pod.first_container < when + _KUBELET
    )


def _started_before(found: KubeTrust, to: State) -> list[Waiting]:
    changed = {copy.namespace: copy.changed for copy in found.copies}
    undated = sorted(namespace for namespace, when in changed.items() if when is None)
    if undated:
        where = _some(undated, "namespace")
        return [Waiting(ROOT_COPY, f"does not say when it changed in {where}. {WRITTEN_ANEW}. {_blind(to)}")]
    old = started_before(found.pods, changed)
    return [Waiting(PODS, f"{_some(old, 'pod')} started before {ROOT_COPY} changed. {RESTARTED}")] if old else []


def _needs_outside(record: RotationRecord, to: State, *, crossed: bool) -> bool:
    if not crossed and (record.state, to) == (State.PUBLISHED, State.SWITCHED):
        # Nothing that is served then leads to the old root.
        return True
    # From retired they may have dropped the old root, and from SWITCHED a way back waits for nobody.
    return (record.state, to) == (State.SWITCHED, State.RETIRED) or record.state is State.RETRUSTING


def _outside(record: RotationRecord, to: State, *, crossed: bool) -> list[Waiting]:
    if not _needs_outside(record, to, crossed=crossed) or OUTSIDE in record.checked:
        return []
    which = "old" if record.state is State.RETRUSTING else "new"
    return [
        Waiting(
            OUTSIDE,
            f"every kubeconfig and program there that holds a root of the cluster must hold the {which} one too. Write "
            f"an operator's again: `vaultpki issue admin --dir DIR`. Once all hold it, say so: `{command(to)} "
            f"--checked {OUTSIDE}`",
        )
    ]


def _some(names: Collection[str], noun: str) -> str:
    return f"{noun}{'s' if len(names) > 1 else ''} {first_few(sorted(names))}"


def _fingerprints(pem: str) -> frozenset[str]:
    from vaultpki.pki import x509

    try:
        return frozenset(facts.fingerprint for facts in x509.read_certificates(pem.encode()))
    except CertificateUnreadable:
        return frozenset()
