"""Finds where each CA of a cluster stands, and what its next step waits for; writes nothing."""

from __future__ import annotations

from dataclasses import replace

from vaultpki.ca import issuing, set_back
from vaultpki.ca.run import kind_of
from vaultpki.ca.scene import Scene, read_old_root
from vaultpki.certificates import ROOT, all_cas
from vaultpki.kube.objects import KubeTrust
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.provision.cluster_facts import CaStatus
from vaultpki.records import gaps
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.rotation import left_over, listener_trust, serving_copy, start
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount
from vaultpki.rotation.states import next_state


def status(scene: Scene, pods: KubeTrust | None = None) -> tuple[CaStatus, ...]:
    """Return where each CA stands, the root first. `pods` is what the Kubernetes cluster shows."""
    return tuple(scene.vault.map(lambda domain: _status(scene, domain, pods), all_cas(scene.cluster)))


def _status(scene: Scene, domain: str, pods: KubeTrust | None) -> CaStatus:
    if scene.move is not None and scene.move.active and domain in scene.move.cas:
        return _in_move(scene, domain)
    record, cluster, kind = scene.records[domain].record, scene.cluster, kind_of(domain)
    mount = scene.mount(domain)
    behind = set_back.why(scene, domain, record.excused if record is not None else ())
    recover = set_back.with_root(scene, domain) if behind else ""
    if behind:
        behind += f"; {set_back.what_to_do(cluster, recover)}"
    issuer = _first(scene, domain, mount) if record is None else kind.signer(cluster, record, mount)
    facts = issuer.facts if issuer is not None else None
    found = CaStatus(
        domain,
        issuer.name if issuer is not None else f"{domain}-1",
        facts.fingerprint if facts is not None else "",
        facts.not_after if facts is not None else None,
        record,
        problem=behind,
        key=facts.key.value if facts is not None and facts.key is not None else "",
        apart=_apart(scene, domain),
        left_over=left_over.left_over(record, mount, scene.nodes(domain)) if domain != ROOT else (),
        behind=() if record is not None and record.active else _behind(scene, domain),
        recover=recover,
    )
    if record is None:
        if issuer is not None:
            return found
        return replace(found, problem=behind or start.why_missing(cluster, domain, mount))
    to = next_state(record)
    return replace(
        found,
        name=record.leaf.name,
        sha256=record.leaf.sha256,
        gate=_gate(scene, record, to, mount, pods) if to is not None else issuing.lingering(scene, record),
        problem=behind or kind.problem(cluster, record, mount),
        advice=serving_copy.advice(record, pods),
    )


def _in_move(scene: Scene, domain: str) -> CaStatus:
    """Return the CA that the server signs by; where it stands is told by `move status`, which looks at both servers."""
    mount = scene.mount(domain)
    issuer = mount.issuer(mount.default)
    facts = issuer.facts if issuer is not None else None
    if issuer is None or facts is None:
        return CaStatus(domain, f"{domain}-1", "", None)
    key = facts.key.value if facts.key is not None else ""
    return CaStatus(domain, issuer.name, facts.fingerprint, facts.not_after, key=key)


def _gate(scene: Scene, record: RotationRecord, to: State, mount: RotationMount, pods: KubeTrust | None) -> Gate:
    """Return the whole gate of a step as far as it is known without asking any listener."""
    found = kind_of(record.domain).gate(scene, record, to, mount, pods, whole=True)
    return listener_trust.held(record, to, found, [node.name for node in scene.nodes(record.domain)])


def _first(scene: Scene, domain: str, mount: RotationMount) -> MountIssuer | None:
    """Return the issuer of a CA that was never rotated; of the old root as long as it has not followed the new one."""
    name = scene.cluster.name
    found = start.own_issuer(name, domain, mount)
    old = read_old_root(scene) if found is None else None
    return found if old is None else start.own_issuer(name, domain, replace(mount, root=old))


def _behind(scene: Scene, domain: str) -> tuple[Waiting, ...]:
    """Return the nodes with components of which `nodes` says that they are behind, each with what to do."""
    again = "restart it there, and wait until its agent has seen it healthy"
    return tuple(
        Waiting(node.name, f"{text}: {again}")
        for node in scene.nodes(domain)
        if node.report is not None
        for name, text in gaps.readers_behind(node.report)
        if name.partition("/")[0] == domain
    )


def _apart(scene: Scene, domain: str) -> tuple[Waiting, ...]:
    record = scene.records[domain].record
    revisions = {domain: record.revision} if record is not None else {}
    return tuple(
        Waiting(node.name, gap.text)
        for node in scene.nodes(domain)
        if node.report is not None
        for gap in gaps.of_report(node.report, revisions)
        if gap.domain == domain
    )
