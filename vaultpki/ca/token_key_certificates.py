"""Reads what the rotation of the CA `service-account` waits for beyond its nodes: the certificates of their keys."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from vaultpki.ca.scene import Scene
from vaultpki.certificates import ROOT, SERVICE_ACCOUNT, key_nodes
from vaultpki.errors import StateConflict
from vaultpki.identity.nodes import Member
from vaultpki.model import Cluster
from vaultpki.pki.key_numbers import other_types
from vaultpki.procedure.gate import Gate
from vaultpki.provision.rotation_records import read_key_record
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS
from vaultpki.redact import first_few
from vaultpki.rotation import mount_steps
from vaultpki.rotation.mount_steps import RotationMount
from vaultpki.token_keys import certificates
from vaultpki.token_keys.holders import KeyHolder
from vaultpki.token_keys.starts import READS_KEYS
from vaultpki.token_keys.words import restart_refused


def key_holders(cluster: Cluster, members: Iterable[Member], recorded: Collection[str] = ()) -> dict[str, KeyHolder]:
    """Return the control-plane nodes that can log in or have reported, locked ones only if `recorded`, by name."""
    names = frozenset(key_nodes(cluster))
    return {
        each.name: KeyHolder(each.name, None if each.locked else each.report, each.locked, each.join_until)
        for each in members
        if each.kind == "listed" and each.name in names
        if not each.locked or each.name in recorded
    }


def joined(scene: Scene, record: RotationRecord, to: State, mount: RotationMount, found: Gate) -> Gate:
    """Return the gate of a step of this CA with what unions and certificates keep it from; `found` is of the nodes."""
    cluster, holders = scene.cluster, key_holders(scene.cluster, scene.members)
    issuer = mount_steps.issuer_of(cluster.name, record, mount, record.leaf)
    signer = issuer.facts if issuer is not None else None
    keys = read_key_record(cluster, scene.vault).record
    return certificates.with_unions(record, to, found, signer, keys, holders, other_types(cluster, keys))


def word_refused(scene: Scene, record: RotationRecord, word: str, why: str) -> str:
    """Return why a person's word does not count, as a sentence; "" if it does.

    `why` is what the gates of the CA say against it. For kube-apiserver the record of keys has it, if it counts there.
    """
    name, _, component = word.partition("/")
    if not why or record.domain not in (ROOT, SERVICE_ACCOUNT) or component != READS_KEYS:
        return why
    keys = read_key_record(scene.cluster, scene.vault).record
    if keys is None or name not in keys.nodes:
        return why
    holder = key_holders(scene.cluster, scene.members).get(name)
    if name in keys.restarted:
        return ""
    return restart_refused(keys, holder, word) or why


def refuse_other_types(scene: Scene) -> None:
    """Raise StateConflict if Vault would not certify the keys of nodes again, since they are of another type."""
    other = other_types(scene.cluster, read_key_record(scene.cluster, scene.vault).record)
    if other:
        kind = min(other.values())
        raise StateConflict(
            f"the key of {first_few(sorted(other))} is {kind}, and {scene.cluster.file} asks for another type, so the "
            f"new CA could not certify it. Run `ca rotate {SERVICE_ACCOUNT_KEYS}` first, which makes new ones. Or "
            f"write `certificates: {{{SERVICE_ACCOUNT}: {{key: {kind}}}}}` and run `vaultpki apply`"
        )


def departed(scene: Scene) -> set[str]:
    """Return the names of nodes that are gone and whose keys still count."""
    keys = read_key_record(scene.cluster, scene.vault).record
    return {each.node for each in keys.departed if each.pem} if keys is not None else set()
