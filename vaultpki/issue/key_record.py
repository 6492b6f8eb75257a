"""Reads the record of service-account keys from Vault, and says whether it is the newest that the reader has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vaultpki.errors import Denied, SpecError
from vaultpki.records import service_account
from vaultpki.records.node_report import Seen
from vaultpki.records.rotation import MOST_AHEAD
from vaultpki.records.service_account import KEYS_RECORD, KeyRecord
from vaultpki.vault import Vault


@dataclass(frozen=True, slots=True)
class KeyRecordRead:
    """What was read of the record: None if there is none, `error` why it cannot be read.

    `not_followed` is its revision if that is too far ahead of what the node has read; it is not `record` then.
    """

    record: KeyRecord | None = None
    error: SpecError | None = None
    not_followed: int = 0

    def seen(self, highest: int) -> Seen:
        """Return the revision that was read and the highest ever read; `highest` is that of earlier reads."""
        revision = self.record.revision if self.record is not None else highest if self.not_followed else 0
        return Seen(revision, max(revision, highest))

    def frozen(self, highest: int) -> bool:
        """Return whether nothing may be dropped or replaced: it is unreadable, an older one, or too far ahead."""
        return self.error is not None or bool(self.not_followed) or self.seen(highest).behind


def fetch_key_record(vault: Vault, prefix: str) -> Any:
    """Return what the record contains; None if there is none, or if the token's policy is of an older apply."""
    try:
        return vault.stored(f"{prefix}/config", KEYS_RECORD).get("data")
    except Denied:
        return None


def read_key_record(content: object, prefix: str, highest: int | None = None) -> KeyRecordRead:
    """Read what `fetch_key_record` returned.

    `highest` is the highest revision that a node has read, 0 for none: a record that is more than MOST_AHEAD above it
    is not followed. None follows every record: nothing was ever read of this cluster.
    """
    if content is None:
        return KeyRecordRead()
    try:
        record = service_account.read(content, where=f"{prefix}/config/data/{KEYS_RECORD}")
    except SpecError as error:
        return KeyRecordRead(error=error)
    if highest is not None and record.revision > highest + MOST_AHEAD:
        return KeyRecordRead(not_followed=record.revision)
    return KeyRecordRead(record)
