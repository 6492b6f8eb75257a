"""Reads what the rotation of the CA `service-account` waits for beyond its nodes: the certificates of their keys."""

from __future__ import annotations

from vaultpki.ca.scene import Scene
from vaultpki.certificates import SERVICE_ACCOUNT
from vaultpki.errors import StateConflict
from vaultpki.provision.rotation_records import read_key_record
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS
from vaultpki.redact import first_few
from vaultpki.rotation import mount_steps
from vaultpki.rotation.gates import Gate
from vaultpki.rotation.mount_steps import RotationMount
from vaultpki.token_keys import certificates
from vaultpki.token_keys.holders import KeyHolder
from vaultpki.token_keys.numbers import key_nodes, other_types


def joined(scene: Scene, record: RotationRecord, to: State, mount: RotationMount, found: Gate) -> Gate:
    """Return the gate of a step of this CA with what unions and certificates keep it from; `found` is of the nodes."""
    cluster, names = scene.cluster, frozenset(key_nodes(scene.cluster))
    holders = {
        each.name: KeyHolder(each.name, each.report, each.locked, each.former, each.join_until)
        for each in scene.members
        if each.kind == "listed" and each.name in names and not each.locked
    }
    issuer = mount_steps.issuer_of(cluster.name, record, mount, record.leaf)
    signer = issuer.facts if issuer is not None else None
    keys = read_key_record(cluster, scene.vault).record
    return certificates.with_unions(record, to, found, signer, keys, holders, other_types(cluster, keys))


def refuse_other_types(scene: Scene) -> None:
    """Raise StateConflict if Vault would not certify the keys of nodes again, since they are of another type."""
    other = other_types(scene.cluster, read_key_record(scene.cluster, scene.vault).record)
    if other:
        kind = min(other.values())
        raise StateConflict(
            f"the key of {first_few(sorted(other))} is {kind}, and {scene.cluster.file} asks for another type, so the "
            f"new CA could not certify it: run `ca rotate {SERVICE_ACCOUNT_KEYS}` first, which makes new ones, "
            f"or write `certificates: {{{SERVICE_ACCOUNT}: {{key: {kind}}}}}` and run `vaultpki apply`"
        )


def departed(scene: Scene) -> set[str]:
    """Return the names of nodes that are gone and whose keys still count."""
    keys = read_key_record(scene.cluster, scene.vault).record
    return {each.node for each in keys.departed if each.pem} if keys is not None else set()
