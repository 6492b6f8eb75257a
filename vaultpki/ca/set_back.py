"""Finds out whether the server shows an older record of a CA's rotation than nodes have read, or has lost one.

Then `ca recover` alone goes on: what nodes say may be false, so that a person looks at it first. Every other command
says so, and takes no step.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from vaultpki.ca.scene import Scene
from vaultpki.certificates import ROOT, all_cas
from vaultpki.errors import ArgumentError, Attention
from vaultpki.model import Cluster
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.redact import first_few, printable
from vaultpki.rotation import recovery
from vaultpki.rotation.gates import Participant
from vaultpki.rotation.mount_steps import RotationMount

_MOST_NAMED = 3


def why(scene: Scene, domain: str, aside: Collection[str] = ()) -> str:
    """Return why a CA is to be recovered, as a sentence; "" if it need not be.

    `aside` are the nodes whose word does not count.
    """
    record = scene.records[domain].record
    return told(domain, record, scene.nodes(domain), aside) or (
        f"the record of {domain}'s rotation is lost" if lost_mount(scene, domain) is not None else ""
    )


def told(domain: str, record: RotationRecord | None, nodes: Collection[Participant], aside: Collection[str]) -> str:
    """Return what nodes say against the server's record of a CA, as a sentence; "" if nothing."""
    found = recovery.ahead(domain, record, nodes, aside)
    if found:
        names = first_few(sorted(node.name for node in found), _MOST_NAMED)
        highest = max(recovery.seen_of(domain, node).highest for node in found)
        has = f"revision {record.revision}" if record is not None else "none"
        verb = "says that it has" if len(found) == 1 else "say that they have"
        return (
            f"{names} {verb} read a newer record of {domain} than the server has (revision {highest}, and the server "
            f"has {has}). The server was restored from a snapshot, or that is false"
        )
    if recovery.out_of_reach(domain, record, nodes, aside) and record is not None:
        return f"no node takes revision {record.revision} of {domain}, so far is it above all that nodes have read"
    return ""


def pooled_claims(domain: str, record: RotationRecord | None, nodes: Collection[Participant]) -> tuple[str, ...]:
    """Return the pooled nodes that say the same; their word does not count."""
    now = record.revision if record is not None else 0
    return tuple(node.name for node in nodes if node.kind != "listed" and recovery.seen_of(domain, node).highest > now)


def refuse(scene: Scene, aside: Collection[str] = ()) -> None:
    """Raise Attention if one of the CAs is to be recovered first."""
    excused = {
        name for each in scene.records.values() if each.record and each.record.active for name in each.record.excused
    }
    for domain in all_cas(scene.cluster):
        if said := why(scene, domain, {*aside, *excused}):
            raise Attention(f"{said}. No step is taken: {what_to_do(scene.cluster, with_root(scene, domain))}")


def what_to_do(cluster: Cluster, domain: str) -> str:
    """Return the command that recovers a CA, as the rest of a sentence."""
    return f"run `vaultpki ca recover {domain}{cluster.file_option}`, which shows what each node says, and asks"


def refuse_no_member(scene: Scene, without: Collection[str], further: Collection[str] = ()) -> None:
    """Raise ArgumentError for a name in `without` that no node has and that is none of the `further` ones."""
    for name in without:
        if name not in {*further, *(each.name for each in scene.members)}:
            raise ArgumentError(
                f"no node of {scene.cluster.name} is called {printable(name)}; `vaultpki nodes` lists them"
            )


def beyond(scene: Scene, domain: str, record: RotationRecord) -> str:
    """Return which nodes do not follow a record, since they have read a newer one, as a sentence; "" if none."""
    found = recovery.ahead(domain, record, scene.nodes(domain))
    if not found:
        return ""
    names = first_few(sorted(node.name for node in found), _MOST_NAMED)
    has = f"{names} {'says that it has' if len(found) == 1 else 'say that they have'}"
    them = "it follows" if len(found) == 1 else "they follow"
    return (
        f"{has} read a newer record of {domain} than this one (revision {record.revision}), so {them} it only after "
        f"`vaultpki ca recover {domain}{scene.cluster.file_option}`, or once joined anew"
    )


def with_root(scene: Scene, domain: str) -> str:
    """Return the CA to recover in place of this one: while the root is rotated the root, which takes all along."""
    record = scene.records[ROOT].record
    return ROOT if record is not None and record.active else domain


def lost_mount(scene: Scene, domain: str) -> RotationMount | None:
    """Return the mount of a CA that was rotated and has no record; None for any other, and for the root."""
    if domain == ROOT or scene.records[domain].record is not None:
        return None
    mount = scene.mount(domain)
    return mount if recovery.lost(scene.cluster.name, domain, mount) else None


def lost_record(scene: Scene, domain: str) -> RotationRecord | None:
    """Return a record in place of a lost one, by which the CA that signs is replaced; None if none was lost."""
    mount = lost_mount(scene, domain)
    if mount is None:
        return None
    found = recovery.rebuilt(scene.cluster.name, domain, mount, (), scene.now)
    later = found.new is not None and mount.default == found.new.issuer
    return replace(found, state=State.DONE if later else State.STEADY)
