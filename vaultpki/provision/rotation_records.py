"""Reads and writes the records of rotations, and that of a move, in the config store, by check-and-set."""

from __future__ import annotations

from collections.abc import Mapping

from vaultpki.certificates import all_cas
from vaultpki.errors import ChangedMeanwhile, Denied, SpecError, StateConflict
from vaultpki.model import VERSION, Cluster
from vaultpki.records import rotation as rotation_record
from vaultpki.records import service_account
from vaultpki.records.move import MOVE_RECORD, MoveRecord, move_json, read_move
from vaultpki.records.rotation import ROTATION_FOLDER, RotationRecord
from vaultpki.records.service_account import KEYS_RECORD, SERVICE_ACCOUNT_KEYS, KeyRecord
from vaultpki.records.written import Written
from vaultpki.redact import stamp
from vaultpki.vault import Vault
from vaultpki.vault.kv import Stored, changed_meanwhile, read_stored, write_once


def record_path(domain: str) -> str:
    """Return the path of a domain's record in the config store."""
    return f"{ROTATION_FOLDER}/{domain}"


def read_records(cluster: Cluster, vault: Vault, needed: str = "") -> dict[str, Stored[RotationRecord]]:
    """Return the records of all domains. Raises SpecError for one that no vaultpki wrote.

    With `needed` of that domain alone: any other that cannot be read counts as missing, with its `problem`.
    """

    def read(domain: str) -> Stored[RotationRecord]:
        try:
            return read_record(cluster, vault, domain)
        except SpecError as error:
            if needed in ("", domain):
                raise
            return Stored(problem=str(error))

    domains = all_cas(cluster)
    return dict(zip(domains, vault.map(read, domains), strict=True))


def existing(cluster: Cluster, vault: Vault) -> dict[str, RotationRecord]:
    """Return the records of the domains that have one. Raises as `read_records`."""
    found = read_records(cluster, vault)
    return {domain: each.record for domain, each in found.items() if each.record is not None}


def shown_records(cluster: Cluster, vault: Vault) -> dict[str, Stored[RotationRecord]] | None:
    """Return the records of the domains that have one, for a view; None if they cannot be read."""
    try:
        return {domain: each for domain, each in read_records(cluster, vault).items() if each.record is not None}
    except (Denied, SpecError):
        return None


def writers(records: Mapping[str, Stored[RotationRecord]]) -> dict[str, Written]:
    """Return who wrote the records that there are, by their paths in the config store."""
    return {record_path(domain): each.written for domain, each in records.items() if each.record is not None}


def read_record(cluster: Cluster, vault: Vault, domain: str) -> Stored[RotationRecord]:
    """Return one domain's record. Raises SpecError if no vaultpki wrote it."""
    path = record_path(domain)
    return read_stored(vault, cluster.mount("config"), path, lambda found: _read(cluster, vault, found, domain))


def read_key_record(cluster: Cluster, vault: Vault) -> Stored[KeyRecord]:
    """Return the record of service-account keys. Raises SpecError if no vaultpki wrote it."""
    store = cluster.mount("config")
    return read_stored(
        vault, store, KEYS_RECORD, lambda found: service_account.read(found, where=f"{store}/{KEYS_RECORD}")
    )


def write_key_record(cluster: Cluster, vault: Vault, record: KeyRecord, version: int) -> Stored[KeyRecord]:
    """Write the record over the version of the KV store that was read; raise Refused if somebody wrote meanwhile."""
    if record.revision >= rotation_record.BEYOND:
        raise SpecError(
            "the record of service-account keys has the highest revision that there is, which no vaultpki wrote: find "
            f"out who did, and delete it (`{vault.program()} kv metadata delete -mount={cluster.mount('config')} "
            f"{KEYS_RECORD}`)"
        )
    value = service_account.to_json(record)
    try:
        # What cannot be read stops every node and command; a number that somebody forged leads there.
        service_account.read(value, where=f"{cluster.mount('config')}/{KEYS_RECORD}")
    except SpecError as error:
        raise StateConflict(
            f"the next record of service-account keys could not be read by anybody, so it was not written: {error}"
        ) from None
    lost = other_operator(cluster, SERVICE_ACCOUNT_KEYS)
    write_once(vault, cluster.mount("config"), KEYS_RECORD, value, version, lost)
    return Stored(record, version + 1)


def _read(cluster: Cluster, vault: Vault, found: object, domain: str) -> RotationRecord:
    store, path = cluster.mount("config"), record_path(domain)
    try:
        return rotation_record.read(found, domain, where=f"{store}/{path}")
    except SpecError as error:
        if isinstance(found, Mapping) and found.get("version") != VERSION:
            # A newer vaultpki wrote it.
            raise
        raise SpecError(
            f"is not a record that vaultpki wrote{f' ({error.field})' if error.field else ''}; delete it "
            f"(`{vault.program()} kv metadata delete -mount={store} {path}`), and "
            f"`vaultpki ca recover {domain}{cluster.file_option}` writes it again",
            file=f"{store}/{path}",
        ) from None


def write_record(cluster: Cluster, vault: Vault, record: RotationRecord, version: int) -> Stored[RotationRecord]:
    """Write a record over the version of the KV store that was read; raise Refused if somebody wrote meanwhile."""
    if record.revision >= rotation_record.BEYOND:
        raise SpecError(
            f"the record of {record.domain} has the highest revision that there is, which no vaultpki wrote: find out "
            f"who did, and run `vaultpki ca recover {record.domain}{cluster.file_option}`"
        )
    path, value = record_path(record.domain), rotation_record.to_json(record)
    write_once(vault, cluster.mount("config"), path, value, version, other_operator(cluster, record.domain))
    return Stored(record, version + 1)


def other_operator(cluster: Cluster, domain: str) -> ChangedMeanwhile:
    """Return the error for a record that somebody else has changed."""
    return changed_meanwhile(f"the rotation of {domain}", f"vaultpki ca status{cluster.file_option}")


def read_move_record(cluster: Cluster, vault: Vault) -> Stored[MoveRecord]:
    """Return the record; an empty one if there is none, or no config store. SpecError if no vaultpki wrote it."""
    return read_stored(vault, cluster.mount("config"), MOVE_RECORD, lambda found: _read_move(cluster, vault, found))


def _read_move(cluster: Cluster, vault: Vault, found: object) -> MoveRecord:
    store = cluster.mount("config")
    where = f"{store}/{MOVE_RECORD}"
    try:
        return read_move(found, where=where)
    except SpecError as error:
        if isinstance(found, Mapping) and found.get("version") != VERSION:
            # A newer vaultpki wrote it.
            raise
        raise SpecError(
            f"is not a record that vaultpki wrote{f' ({error.field})' if error.field else ''}; the KV store keeps its "
            f"earlier versions: write the last right one back (`{vault.program()} kv rollback -mount={store} "
            f"-version=N {MOVE_RECORD}`)",
            file=where,
        ) from None


def write_move_record(cluster: Cluster, vault: Vault, record: MoveRecord, version: int) -> Stored[MoveRecord]:
    """Write a record over the version of the KV store that was read; ChangedMeanwhile if somebody wrote meanwhile."""
    if record.revision >= rotation_record.BEYOND:
        raise SpecError(
            "the record of the move has the highest revision that there is, which no vaultpki wrote: find out who did"
        )
    lost = changed_meanwhile(f"the move of {cluster.name}", f"vaultpki move status{cluster.file_option}")
    write_once(vault, cluster.mount("config"), MOVE_RECORD, move_json(record), version, lost)
    return Stored(record, version + 1)


def refuse_move(cluster: Cluster, vault: Vault) -> None:
    """Raise StateConflict while the cluster moves to another server: all its CAs change together then."""
    if why := move_in_the_way(cluster, vault):
        raise StateConflict(why)


def move_sentence(cluster: Cluster, record: MoveRecord) -> str:
    """Return that the cluster moves, where that stands, and the command that says more, as a sentence."""
    since = f"{record.state.value} since {stamp(record.since)}"
    where = f"from {record.old.addresses[0]} to {record.new.addresses[0]}"
    return f"{cluster.name} moves {where}, {since}: look at `vaultpki move status{cluster.file_option}`"


def move_in_the_way(cluster: Cluster, vault: Vault) -> str:
    """Return why nothing else may be replaced while the cluster moves, as a sentence; "" if it does not move."""
    found = read_move_record(cluster, vault).record
    if found is None or not found.active:
        return ""
    return (
        f"{cluster.name} is moving to another server ({found.state.value}), and nothing else is replaced meanwhile; go "
        f"on with `vaultpki move continue{cluster.file_option}`, or back with `vaultpki move abort`"
    )
