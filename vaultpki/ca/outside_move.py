"""Decides what a rotation of the root needs where one of the two roots is from outside, before anything is published.

Nodes take the new root by the word of the old one, a cross certificate, or by its SHA-256 in their agent.yaml. A root
of ours signs the cross certificate here; one from outside is not here, so people carry it (`ca csr`, `ca import`).
"""

from __future__ import annotations

from collections.abc import Iterator

from vaultpki.ca.scene import Scene, chain_of
from vaultpki.certificates import MOST_ISSUERS, ROOT, issuing_cas
from vaultpki.errors import StateConflict
from vaultpki.identity import outside_signer, root_in_force
from vaultpki.outside import root_vouching
from vaultpki.pki.facts import Facts
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.procedure.words import AGENT_DOES, WITHOUT
from vaultpki.records.rotation import CaRef, RotationRecord
from vaultpki.redact import printable
from vaultpki.rotation import root_steps
from vaultpki.rotation.gates import SIGNER_OUTSIDE, Participant
from vaultpki.rotation.mount_steps import RotationMount


def refuse_other_root(scene: Scene) -> None:
    """Raise StateConflict for the rotation of an issuing CA while cluster.yaml asks for another root."""
    if scene.moves:
        raise StateConflict(
            f"{scene.target.file} asks for another root than the one that signs, so nobody would sign the new CA. "
            f"Write `ca.root` as it was, or rotate the root first: `vaultpki ca rotate root{scene.target.file_option}`"
        )


def refuse_beginning(scene: Scene) -> None:
    """Raise StateConflict if a rotation of the root between these two roots cannot end well; nothing is written."""
    target, ours = scene.target, root_in_force.is_ours(scene.target, scene.root)
    if not scene.moves:
        if ours:
            return
        raise StateConflict(
            f"the root in force is from outside, and {target.file} names the same one. Write the new root there "
            "(another `ca.root_file`, or no `ca.root` for a root that vaultpki makes), and run this again"
        )
    chain = chain_of(target)
    if not chain:
        _refuse_short_path(scene, ours=ours)
        return
    outside_signer.refuse_our_name(target)
    for problem in outside_signer.problems(target, scene.vault, issuing_cas(target)):
        raise StateConflict(problem)
    if problem := root_vouching.why_not(scene.root, chain[0], chain[1:]):
        _refuse_unlisted(scene, chain[0], problem)
    issuers = len(scene.mount(ROOT).issuers)
    if issuers + len(chain) + 1 > MOST_ISSUERS:
        raise StateConflict(
            f"{target.mount(ROOT)} would have {issuers + len(chain) + 1} issuers, and nodes read {MOST_ISSUERS}: keep "
            "in ca.root_file only the root and the CAs that sign"
        )
    _refuse_other_names(scene)


def refuse_other_target(scene: Scene, record: RotationRecord) -> None:
    """Raise StateConflict if cluster.yaml asks for another root than the one to which the rotation leads."""
    new, chain = record.new, chain_of(scene.target)
    if new is None:
        return
    outside = root_steps.new_is_outside(record)
    if outside is bool(chain) and (not outside or chain[0].fingerprint == new.sha256):
        return
    leads = f"the root from outside with the SHA-256 {new.sha256}" if outside else f"{new.title}, which vaultpki makes"
    raise StateConflict(
        f"this rotation leads to {leads}, and {scene.target.file} asks for another root: write `ca.root` as it was "
        "when it began, or go back with `vaultpki ca abort`"
    )


def gate(scene: Scene, record: RotationRecord, mount: RotationMount) -> Gate:
    """Return what stands before the new root is published: that somebody vouches for it."""
    old, new = mount.issuer(record.old.issuer), record.new
    ours = old is not None and old.facts is not None and root_in_force.is_ours(scene.target, old.facts)
    if new is None or root_steps.cross_issuer(scene.cluster.name, record, mount) is not None:
        return Gate(opens=record.since, turn=record.turn)
    if ours and (not root_steps.new_is_outside(record) or _signs(mount)):
        return Gate(opens=record.since, turn=record.turn)
    lacking = [*_unlisted(scene, record, new.sha256), *_unpinned(scene, new)]
    if not lacking:
        return Gate(opens=record.since, turn=record.turn)
    waiting = (*([] if ours else [_for_old(scene, record, new)]), *lacking)
    return Gate(waiting, turn=record.turn)


def _signs(mount: RotationMount) -> bool:
    return root_steps.can_be_crossed(next(iter(mount.incoming), None))


def _for_old(scene: Scene, record: RotationRecord, new: CaRef) -> Waiting:
    option = scene.target.file_option
    return Waiting(
        SIGNER_OUTSIDE,
        f"has not vouched for {new.title} yet. Write what {record.old.title} must sign: `vaultpki ca csr{option} -o "
        f"DIR`. Take what comes back: `vaultpki ca import{option} FILE`",
    )


def _unlisted(scene: Scene, record: RotationRecord, sha256: str) -> Iterator[Waiting]:
    """Yield the nodes whose owners have not written the new root into agent.yaml."""
    for node in scene.nodes(ROOT):
        if _counts(node) and node.name not in record.excused and not _lists(node, sha256):
            yield Waiting(
                node.name,
                f"does not have {sha256} in root_sha256 of its agent.yaml. Write it there, beside the other one, as a "
                f"list. {AGENT_DOES}. {WITHOUT.format(node.name)}",
            )


def _unpinned(scene: Scene, new: CaRef) -> Iterator[Waiting]:
    authority = scene.target.authority
    pins = [pin for pin in (authority.root_sha256, *authority.other_roots) if pin]
    if pins and new.sha256 not in pins:
        yield Waiting(
            "cluster.yaml",
            "names no root that vouches for the new one. Write "
            f"`root_sha256: [{', '.join([*pins, new.sha256])}]` below `ca` in {scene.target.file}, and run `vaultpki "
            "ca continue`",
        )


def _counts(node: Participant) -> bool:
    return not node.locked and (node.credentials != 0 or node.report is not None)


def _lists(node: Participant, sha256: str) -> bool:
    return node.report is not None and sha256 in node.report.written_pins


def _refuse_unlisted(scene: Scene, new: Facts, problem: str) -> None:
    """Raise StateConflict unless every node has the new root from its owner: the old one cannot vouch for it."""
    missing = [node.name for node in scene.nodes(ROOT) if _counts(node) and not _lists(node, new.fingerprint)]
    if missing or not scene.nodes(ROOT):
        raise StateConflict(
            f"{problem}. Use another root, or have the owner of every node write {new.fingerprint} into root_sha256 "
            "of agent.yaml, beside the other one, as a list. Then run this again"
        )


def _refuse_short_path(scene: Scene, *, ours: bool) -> None:
    length = scene.root.path_length
    if not ours and length is not None and length < 2:
        raise StateConflict(
            f"the root {printable(scene.root.subject_text)} has path length {length}, so it can vouch for no root of "
            "ours, below which the issuing CAs stand. Make another cluster, or have a root without that made first"
        )


def _refuse_other_names(scene: Scene) -> None:
    """Raise StateConflict if a signer on a mount may sign other names than the issuing CAs have, which stay."""
    outside = scene.target.authority.outside
    if outside is None or outside.by_people:
        return
    for ca in issuing_cas(scene.cluster):
        mount = scene.mount(ca)
        found = mount.issuer(mount.default)
        if found is None or found.facts is None:
            continue
        names = outside_signer.keeping_name(scene.target, found.facts).authority.subject
        if names != scene.target.authority.subject:
            raise StateConflict(
                f"the CA {ca} is {printable(found.facts.subject_text)}, and keeps that name with its key. The policy "
                "of the signer allows what ca.subject says: write the same there until the rotation is done"
            )
