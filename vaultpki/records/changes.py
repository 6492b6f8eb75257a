"""Writes and reads the record that agents poll at rest: it tells them whether to look at the other records; pure.

A command that changes what nodes follow writes `changing` before its first change, and `settled` with digests after its
last one. Agents compare the version in the KV store and the time of that version: the record can make them look, or
keep them from looking until their next whole look, and nothing else. The digests are for `plan`; an agent reads all
instead of a step of a rotation if that of the records is another one. Who applied last informs people alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vaultpki.model import VERSION
from vaultpki.records import written
from vaultpki.records.written import Written

CHANGES: Final = "changes"
"""The path of the record in the cluster's config store."""

PARTS: Final = ("records", "rotations", "issuers")
"""What nodes follow: the records of cluster, nodes and pools; those of rotations; the issuers that CA mounts show."""

LONGEST_LOOK: Final = 3600
"""Seconds after which an agent looks at all of it at the latest, whatever the record says."""

_SETTLED: Final = "settled"
_CHANGING: Final = "changing"


@dataclass(frozen=True, slots=True)
class Changes:
    """What the record says. `digests` are SHA-256 in hex by part, of the last time when that part was known.

    `applied` says who last changed the records of cluster, nodes and pools, with which version of this record. Those
    have no writer of their own: every plan compares the whole of them.
    """

    settled: bool
    digests: Mapping[str, str] = field(default_factory=dict)
    applied: Written = field(default_factory=Written, compare=False)


@dataclass(frozen=True, slots=True)
class Mark:
    """A version of the record and when Vault stored it, as Vault writes it (RFC 3339).

    Both count: content that was written again is a new version, and a restored snapshot may count to the same number.
    `records` is the digest of that part; "" if it is not known.
    """

    version: int
    created: str
    records: str = ""

    def ends_one_command(self, before: Mark) -> bool:
        """Return whether one command alone has ended since, and has changed no record of cluster, nodes and pools.

        Each writes `changing` and `settled`, and whoever else writes makes another version.
        """
        return self.version == before.version + 2 and "" != self.records == before.records


def to_json(changes: Changes) -> dict[str, Any]:
    """Return the record as it is stored."""
    return {
        "version": VERSION,
        "state": _SETTLED if changes.settled else _CHANGING,
        "digests": {part: changes.digests[part] for part in PARTS if part in changes.digests},
        **({"applied": changes.applied.document} if changes.applied.version else {}),
    }


def read(record: object) -> Changes:
    """Read the record.

    One that no vaultpki wrote, or a newer one, counts as `changing` with no digest, and is written anew: the record
    decides nothing, and must stop no command.
    """
    if not isinstance(record, Mapping) or record.get("version") != VERSION:
        return Changes(settled=False)
    digests = record.get("digests")
    known = digests if isinstance(digests, Mapping) else {}
    return Changes(
        settled=record.get("state") == _SETTLED,
        digests={part: text for part in PARTS if isinstance(text := known.get(part), str)},
        applied=written.of_document(record.get("applied")),
    )


def settled_mark(stored: Mapping[str, Any]) -> Mark | None:
    """Return the mark of a record that is settled; None while it is `changing`, missing or not to be understood.

    `stored` is what a KV v2 store holds: `data` and `metadata`.
    """
    record, about = stored.get("data"), stored.get("metadata")
    if not isinstance(record, Mapping) or not isinstance(about, Mapping) or record.get("state") != _SETTLED:
        return None
    version, created = about.get("version"), about.get("created_time")
    if type(version) is not int or not isinstance(created, str) or not created:
        return None
    return Mark(version, created, read(record).digests.get("records", ""))


def digest(entries: Iterable[tuple[str, object]]) -> str:
    """Return the SHA-256 in hex of a part: its entries, each a name and what JSON can hold, in any order."""
    whole = hashlib.sha256()
    for name, value in sorted(entries, key=lambda entry: entry[0]):
        whole.update(json.dumps([name, value], sort_keys=True, separators=(",", ":")).encode())
    return whole.hexdigest()
