"""Puts together what stands before a step of an issuing CA: nodes, operators' certificates, the cluster's ConfigMap."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from vaultpki.ca.facts import longest_ttl, read_operator_leaves, reload
from vaultpki.ca.scene import Scene
from vaultpki.kube.objects import KubeTrust
from vaultpki.records.rotation import Method, RotationRecord, State
from vaultpki.rotation import gates, listener_trust, recovery, serving_copy
from vaultpki.rotation.gates import Gate, OperatorLeaf, Participant
from vaultpki.rotation.mount_steps import RotationMount
from vaultpki.rotation.reasons import Transition

# Steps for which nobody is waited for: they take nobody's trust away and sign no leaf that is not trusted.
_FREE: Final = frozenset(
    {
        (State.PREPARED, State.STEADY),
        (State.PUBLISHED, State.STEADY),
        (State.SWITCHED, State.RETURNING),
        (State.RETIRED, State.RETRUSTING),
    }
)


def gate(
    scene: Scene,
    record: RotationRecord,
    to: State,
    mount: RotationMount,
    nodes: Collection[Participant],
    pods: KubeTrust | None,
    *,
    whole: bool = False,
    keeps: str = "",
) -> Gate:
    """Return the gate of a step. Unless it is wanted `whole`, operators' leaves are read once no node is waited for.

    A mount may have very many certificates, and whoever waits asks again and again. `pods` is what the Kubernetes
    cluster shows, None without `--kubeconfig`; `keeps` is the node that keeps the turn.
    """
    if (record.state, to) in _FREE or (record.method is Method.EMERGENCY and to in (State.PUBLISHED, State.RETIRED)):
        return Gate(opens=record.since)

    step = Transition(
        record,
        to,
        scene.now,
        reload(scene.cluster, record.domain),
        longest_ttl(scene.cluster, record.domain),
        recovery.key_ids(record, mount, nodes),
        scene.root.not_after,
        keeps,
    )

    def of(operators: tuple[OperatorLeaf, ...]) -> Gate:
        return gates.gate(step, nodes, operators)

    first = of(())
    found = first if first.waiting and not whole else of(_operators(scene, record, to, mount))
    return serving_copy.gate(record, to, found, pods)


def shown(
    scene: Scene,
    record: RotationRecord,
    to: State,
    mount: RotationMount,
    nodes: Collection[Participant],
    pods: KubeTrust | None,
) -> Gate:
    """Return the whole gate of a step as far as it is known without asking any listener."""
    found = gate(scene, record, to, mount, nodes, pods, whole=True)
    return listener_trust.held(record, to, found, [node.name for node in nodes])


def _operators(scene: Scene, record: RotationRecord, to: State, mount: RotationMount) -> tuple[OperatorLeaf, ...]:
    """Return the operators' leaves of the CA that is to leave."""
    leaving = {
        (State.SWITCHED, State.RETIRED): record.old,
        (State.RETURNING, State.STEADY): record.new,
    }.get((record.state, to))
    issuer = mount.issuer(leaving.issuer) if leaving is not None else None
    if issuer is None or issuer.facts is None or record.method is Method.SAME_KEY:
        return ()
    return read_operator_leaves(scene.cluster, scene.vault, issuer.facts, record.domain, scene.now)
