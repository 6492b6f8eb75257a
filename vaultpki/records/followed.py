"""Digests what nodes follow of a cluster's objects, part by part as the record that agents poll has it; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vaultpki.model import Cluster
from vaultpki.records import adoption, changes, rotation, service_account
from vaultpki.records.adoption import AdoptionRecord
from vaultpki.records.paths import is_record, record_name
from vaultpki.records.rotation import RotationRecord
from vaultpki.records.server_facts import Fields, Key
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS, KeyRecord

_FOLDERS: Final = ("nodes/", "pools/")
# A lock changes the one, the end of the root's rotation the other; every plan compares both by themselves.
_LEFT_OUT: Final = {"nodes": "role_id", "cluster": "root_sha256"}


def is_followed(cluster: Cluster, key: Key) -> bool:
    """Return whether an object is a record that nodes follow and apply writes: of the cluster, a node or a pool."""
    return is_record(cluster, key) and _is_name(record_name(cluster, key))


def _is_name(record: str) -> bool:
    return record == "cluster" or record.startswith(_FOLDERS)


def digests(
    cluster: Cluster,
    objects: Mapping[Key, Fields],
    rotations: Mapping[str, RotationRecord],
    issuers: Mapping[str, Mapping[str, bool]],
    adopted: AdoptionRecord | None = None,
    keys: KeyRecord | None = None,
) -> dict[str, str]:
    """Return the digests of all parts; the last arguments are those of `of_rotation`."""
    return {"records": _of_records(cluster, objects), **of_rotation(rotations, issuers, adopted, keys)}


def of_rotation(
    rotations: Mapping[str, RotationRecord],
    issuers: Mapping[str, Mapping[str, bool]],
    adopted: AdoptionRecord | None = None,
    keys: KeyRecord | None = None,
) -> dict[str, str]:
    """Return the digests of the parts that a rotation, or an adoption, changes.

    `rotations` are the records of CAs by domain, of those that have one, and `issuers` the ids of each CA's issuers,
    with whether it is the default. `adopted` is the record of an adoption and `keys` that of service-account keys; None
    if there is none.
    """
    records = [(domain, rotation.to_json(record)) for domain, record in rotations.items()]
    records += [(adoption.NAME, adoption.to_json(adopted))] if adopted is not None else []
    records += [(SERVICE_ACCOUNT_KEYS, service_account.to_json(keys))] if keys is not None else []
    return {
        "rotations": changes.digest(records),
        "issuers": changes.digest((ca, dict(shown)) for ca, shown in issuers.items()),
    }


def _of_records(cluster: Cluster, objects: Mapping[Key, Fields]) -> str:
    followed = {record_name(cluster, key): fields for key, fields in objects.items() if is_followed(cluster, key)}
    return changes.digest((name, _digested(name, fields)) for name, fields in followed.items())


def _digested(name: str, fields: Fields) -> dict[str, Any]:
    left_out = _LEFT_OUT.get(name.partition("/")[0])
    return {field: value for field, value in fields.items() if field != left_out}
