"""Reads and writes the records of rotations in the config store, by check-and-set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vaultpki.certificates import all_cas
from vaultpki.errors import ChangedMeanwhile, Denied, Refused, SpecError, StateConflict
from vaultpki.model import VERSION, Cluster
from vaultpki.records import rotation as rotation_record
from vaultpki.records import service_account
from vaultpki.records.rotation import ROTATION_FOLDER, RotationRecord
from vaultpki.records.service_account import KEYS_RECORD, SERVICE_ACCOUNT_KEYS, KeyRecord
from vaultpki.vault import Json, Vault, member


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A domain's record, None if there is none, and the version in the KV store that a check-and-set names.

    `problem` is why it was left aside, in one sentence; "" if it was not.
    """

    domain: str
    record: RotationRecord | None
    version: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class StoredKeyRecord:
    """The record of service-account keys, None if there is none, and its version, as in StoredRecord."""

    record: KeyRecord | None
    version: int = 0


def record_path(domain: str) -> str:
    """Return the path of a domain's record in the config store."""
    return f"{ROTATION_FOLDER}/{domain}"


def read_records(cluster: Cluster, vault: Vault, needed: str = "") -> dict[str, StoredRecord]:
    """Return the records of all domains. Raises SpecError for one that no vaultpki wrote.

    With `needed` of that domain alone: any other that cannot be read counts as missing, with its `problem`.
    """

    def read(domain: str) -> StoredRecord:
        try:
            return read_record(cluster, vault, domain)
        except SpecError as error:
            if needed in ("", domain):
                raise
            return StoredRecord(domain, None, problem=str(error))

    return {each.domain: each for each in vault.map(read, all_cas(cluster))}


def existing(cluster: Cluster, vault: Vault) -> dict[str, RotationRecord]:
    """Return the records of the domains that have one. Raises as `read_records`."""
    found = read_records(cluster, vault)
    return {domain: each.record for domain, each in found.items() if each.record is not None}


def read_revisions(cluster: Cluster, vault: Vault) -> dict[str, int] | None:
    """Return the revisions of the records by domain, of those that there are; None if they cannot be read."""
    try:
        return {domain: record.revision for domain, record in existing(cluster, vault).items()}
    except (Denied, SpecError):
        return None


def read_record(cluster: Cluster, vault: Vault, domain: str) -> StoredRecord:
    """Return one domain's record. Raises SpecError if no vaultpki wrote it."""
    store = cluster.mount("config")
    kv = vault.api.secrets.kv.v2
    # Of a deleted record there is the version, which a check-and-set must name.
    data = kv.read_secret(record_path(domain), mount_point=store, raise_on_deleted_version=False).data
    version = member(data, "metadata").get("version", 0)
    found = data.get("data")
    record = None if found is None else _read(cluster, found, domain)
    return StoredRecord(domain, record, version if type(version) is int else 0)


def read_key_record(cluster: Cluster, vault: Vault) -> StoredKeyRecord:
    """Return the record of service-account keys. Raises SpecError if no vaultpki wrote it."""
    store = cluster.mount("config")
    kv = vault.api.secrets.kv.v2
    data = kv.read_secret(KEYS_RECORD, mount_point=store, raise_on_deleted_version=False).data
    version = member(data, "metadata").get("version", 0)
    found = data.get("data")
    record = None if found is None else service_account.read(found, where=f"{store}/{KEYS_RECORD}")
    return StoredKeyRecord(record, version if type(version) is int else 0)


def write_key_record(cluster: Cluster, vault: Vault, record: KeyRecord, version: int) -> StoredKeyRecord:
    """Write the record over the version of the KV store that was read; raise Refused if somebody wrote meanwhile."""
    if record.revision >= rotation_record.BEYOND:
        raise SpecError(
            "the record of service-account keys has the highest revision that there is, which no vaultpki wrote: find "
            f"out who did, and delete it (`bao kv metadata delete -mount={cluster.mount('config')} {KEYS_RECORD}`)"
        )
    value = service_account.to_json(record)
    try:
        # What cannot be read stops every node and command; a number that somebody forged leads there.
        service_account.read(value, where=f"{cluster.mount('config')}/{KEYS_RECORD}")
    except SpecError as error:
        raise StateConflict(
            f"the next record of service-account keys could not be read by anybody, so it was not written: {error}"
        ) from None
    _write(cluster, vault, KEYS_RECORD, value, version, SERVICE_ACCOUNT_KEYS)
    return StoredKeyRecord(record, version + 1)


def _read(cluster: Cluster, found: object, domain: str) -> RotationRecord:
    store, path = cluster.mount("config"), record_path(domain)
    try:
        return rotation_record.read(found, domain, where=f"{store}/{path}")
    except SpecError as error:
        if isinstance(found, Mapping) and found.get("version") != VERSION:
            # A newer vaultpki wrote it.
            raise
        raise SpecError(
            f"is not a record that vaultpki wrote{f' ({error.field})' if error.field else ''}; delete it (`bao kv "
            f"metadata delete -mount={store} {path}`), and `vaultpki ca recover {domain} -f {cluster.file}` writes it "
            "again",
            file=f"{store}/{path}",
        ) from None


def write_record(cluster: Cluster, vault: Vault, record: RotationRecord, version: int) -> StoredRecord:
    """Write a record over the version of the KV store that was read; raise Refused if somebody wrote meanwhile."""
    if record.revision >= rotation_record.BEYOND:
        raise SpecError(
            f"the record of {record.domain} has the highest revision that there is, which no vaultpki wrote: find out "
            f"who did, and run `vaultpki ca recover {record.domain} -f {cluster.file}`"
        )
    _write(cluster, vault, record_path(record.domain), rotation_record.to_json(record), version, record.domain)
    return StoredRecord(record.domain, record, version + 1)


def _write(cluster: Cluster, vault: Vault, path: str, value: Json, version: int, domain: str) -> None:
    # Once: a second try of a write that was done could not be told from another operator's.
    kv, store = vault.sending(once=True).api.secrets.kv.v2, cluster.mount("config")
    try:
        kv.create_or_update_secret(path, value, cas=version, mount_point=store)
    except Refused as error:
        # Both servers answer 400 when the version has changed.
        if not any("check-and-set" in reason for reason in error.reasons):
            raise
        raise other_operator(cluster, domain) from None


def other_operator(cluster: Cluster, domain: str) -> ChangedMeanwhile:
    """Return the error for a record that somebody else has changed."""
    return ChangedMeanwhile(
        f"another operator has changed the rotation of {domain} meanwhile, and nothing more was done; look at "
        f"`vaultpki ca status -f {cluster.file}`",
        status=409,
    )
