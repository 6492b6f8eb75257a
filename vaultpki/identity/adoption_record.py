"""Reads and writes the record of an adoption in the config store, by check-and-set."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from vaultpki.errors import BadAnswer, Denied, Refused, SpecError, StateConflict, VaultpkiError
from vaultpki.identity.access import may_be_taken_over
from vaultpki.model import VERSION, Cluster
from vaultpki.places import Layout
from vaultpki.records import adoption, foreign_cas
from vaultpki.records.adoption import RECORD, AdoptionRecord, AdoptionState
from vaultpki.records.written import Written
from vaultpki.vault import Vault, member
from vaultpki.vault.kv import Stored, changed_meanwhile, read_stored, write_once


def read_adoption(cluster: Cluster, vault: Vault) -> Stored[AdoptionRecord]:
    """Return the record. Raises SpecError if no vaultpki wrote it."""
    return read_stored(vault, cluster.mount("config"), RECORD, lambda found: _read(cluster, vault, found))


def _read(cluster: Cluster, vault: Vault, found: object) -> AdoptionRecord:
    where = f"{cluster.mount('config')}/{RECORD}"
    try:
        return adoption.read(found, where=where)
    except SpecError as error:
        if isinstance(found, Mapping) and found.get("version") != VERSION:
            # A newer vaultpki wrote it.
            raise
        raise SpecError(
            f"is not a record that vaultpki wrote{f' ({error.field})' if error.field else ''}; the KV store keeps its "
            f"earlier versions: write the last right one back (`{vault.program()} kv rollback "
            f"-mount={cluster.mount('config')} -version=N {RECORD}`)",
            file=where,
        ) from None


@dataclass(frozen=True, slots=True)
class FollowedAdoption:
    """The record of an adoption as all other commands follow it, None if they follow none.

    `problem` says in one sentence why one that is there is not followed; "" if it is, or if there is none. `written`
    says who wrote it.
    """

    record: AdoptionRecord | None = None
    problem: str = ""
    written: Written = field(default_factory=Written)


def follow_adoption(cluster: Cluster, vault: Vault) -> FollowedAdoption:
    """Return the record as it counts. A cluster that adopts nothing ignores one that is not done, as its nodes do.

    Such a cluster names no CA to take over: neither in cluster.yaml nor in the record `cluster`, which only an applier
    writes. So who may lead adoptions stops no other command there. Raises SpecError as `read_adoption` elsewhere.
    """
    store = cluster.mount("config")
    if may_be_taken_over(cluster):
        own = read_adoption(cluster, vault)
        return FollowedAdoption(own.record, written=own.written)
    found = read_stored(vault, store, RECORD, lambda value: value)
    if found.record is None:
        return FollowedAdoption()
    applied = member(vault.stored(store, "cluster"), "data")
    if applied.get("layout") == Layout.KUBEADM.value and applied.get(foreign_cas.FIELD):
        return FollowedAdoption(_read(cluster, vault, found.record), written=found.written)
    with contextlib.suppress(SpecError):
        record = adoption.read(found.record, where=f"{store}/{RECORD}")
        if not record.active:
            return FollowedAdoption(record, written=found.written)
    return FollowedAdoption(
        problem=f"there is a record of an adoption ({store}/{RECORD}), and {cluster.name} adopts nothing, since it "
        "names no CA of kubeadm in ca.also_trust. The record is ignored. Find out who wrote it, and remove it: "
        f"`{vault.program()} kv metadata delete -mount={store} {RECORD}`"
    )


def shown_adoption(cluster: Cluster, vault: Vault) -> FollowedAdoption:
    """Return the record for a view, which shows as a problem what cannot be read."""
    try:
        return follow_adoption(cluster, vault)
    except (SpecError, Denied, Refused, BadAnswer) as error:
        return FollowedAdoption(problem=f"where an adoption stands is not known: {error}")


def unread(cluster: Cluster, vault: Vault) -> str:
    """Return a sentence for who has gone on without the record, if it cannot be read; "" if it can. Raises nothing."""
    try:
        read_adoption(cluster, vault)
    except VaultpkiError as error:
        return f"the record of an adoption was left aside, since it cannot be read: {error}"
    return ""


def write_adoption(cluster: Cluster, vault: Vault, record: AdoptionRecord, version: int) -> Stored[AdoptionRecord]:
    """Write a record over the version of the KV store that was read; ChangedMeanwhile if somebody wrote meanwhile."""
    lost = changed_meanwhile(f"the adoption of {cluster.name}", f"vaultpki adopt status{cluster.file_option}")
    write_once(vault, cluster.mount("config"), RECORD, adoption.to_json(record), version, lost)
    return Stored(record, version + 1)


def delete_adoption(cluster: Cluster, vault: Vault) -> None:
    """Delete the record: the adoption was given up before anything was changed. Its version stays, and only grows."""
    vault.api.secrets.kv.v2.delete_latest_version_of_secret(RECORD, mount_point=cluster.mount("config"))


def refuse_adoption(cluster: Cluster, vault: Vault) -> None:
    """Raise StateConflict if the cluster is being taken over: all its CAs change together then."""
    found = follow_adoption(cluster, vault).record
    if found is not None and found.active:
        raise StateConflict(
            f"{cluster.name} is being taken over ({found.state.value}), and no CA is rotated meanwhile; go on with "
            f"`vaultpki adopt continue{cluster.file_option}`"
        )


def refuse_leaving(cluster: Cluster, vault: Vault, node: str) -> None:
    """Raise StateConflict if a node would lose its agent half-way: nobody would do its further steps, or renew."""
    found = follow_adoption(cluster, vault).record
    if found is not None and found.active and found.state is not AdoptionState.PREPARED:
        raise StateConflict(
            f"{cluster.name} is being taken over ({found.state.value}), and {node} needs its agent until that is over. "
            f"If the node itself is gone, pass --gone, and delete it first: `kubectl delete node {node}`"
        )
