"""Reads and writes one record of a KV v2 store by check-and-set: nobody writes over what he has not read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from vaultpki.errors import ChangedMeanwhile, Refused
from vaultpki.records import written
from vaultpki.records.written import Written
from vaultpki.vault.answers import Json, member, server_time
from vaultpki.vault.client import Vault

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Stored(Generic[_R]):
    """A record, None if there is none, and the version in the KV store that a check-and-set names.

    `problem` is why it was left aside, in one sentence; "" if it was not. `written` says who wrote this version.
    """

    record: _R | None = None
    version: int = 0
    problem: str = ""
    written: Written = field(default_factory=Written, compare=False)


def version_of(holding: Mapping[str, Any]) -> int:
    """Return the version of what a KV store holds at a path, its `data` and `metadata`; 0 if there was never one."""
    version = member(holding, "metadata").get("version")
    return version if type(version) is int else 0


def stored(holding: Mapping[str, Any], read: Callable[[Any], _R]) -> Stored[_R]:
    """Return the record in what a KV store holds at a path, as `read` reads it, with its version."""
    version, found = version_of(holding), holding.get("data")
    at = server_time(member(holding, "metadata").get("created_time"))
    record = None if found is None else read(found)
    return Stored(record, version, written=written.of_record(found, version, at))


def read_stored(vault: Vault, store: str, path: str, read: Callable[[Any], _R]) -> Stored[_R]:
    """Return the record at a path of a store, as `read` reads it, with its version."""
    # Of a deleted record there is the version, which a check-and-set must name.
    found = vault.api.secrets.kv.v2.read_secret(path, mount_point=store, raise_on_deleted_version=False)
    return stored(found.data, read)


def write_over(vault: Vault, store: str, path: str, value: Json, version: int) -> bool:
    """Write a record over the version that was read; return False if somebody else has written it meanwhile."""
    try:
        vault.api.secrets.kv.v2.create_or_update_secret(path, value, cas=version, mount_point=store)
    except Refused as error:
        # Both servers answer 400 when the version has changed.
        if not any("check-and-set" in reason for reason in error.reasons):
            raise
        return False
    return True


def write_once(vault: Vault, store: str, path: str, value: Json, version: int, lost: ChangedMeanwhile) -> None:
    """Write a record, and whose token writes it, over the version that was read.

    Raises `lost` if somebody else has written it meanwhile.
    """
    owner = vault.owner()
    if owner is not None:
        value = written.signed(value, owner.name, owner.entity)
    # Once: a second try of a write that was done could not be told from another operator's.
    if not write_over(vault.sending(once=True), store, path, value, version):
        raise lost


def changed_meanwhile(what: str, look: str) -> ChangedMeanwhile:
    """Return the error for a record that another operator has changed; `look` is the command that shows it."""
    return ChangedMeanwhile(
        f"another operator has changed {what} meanwhile, and nothing more was done; look at `{look}`", status=409
    )
