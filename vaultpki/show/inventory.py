"""Defines what was found of a cluster: each pair of each holder, the holders and the CAs; and sums it up by row."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from vaultpki.graph.content import ExpirySummary, Health
from vaultpki.pki.ca_life import Level


@dataclass(frozen=True, slots=True)
class HolderPair:
    """A pair that a node or an operator should have: its row's name and CA, and what was found of it.

    `not_after` is None if the certificate could not be read. `due` says that a renewal is overdue. `signer` is the key
    id of the CA that signed it, in hex, or empty. `revoked` says that it was revoked.
    """

    holder: str
    row: str
    ca: str
    not_after: datetime | None = None
    due: bool = False
    signer: str = ""
    revoked: bool = False

    def health(self, now: datetime) -> Health:
        """Return the state of this one pair."""
        return ExpirySummary(
            self.not_after, lacking=int(self.not_after is None), due=self.due, revoked=int(self.revoked)
        ).health(now)


@dataclass(frozen=True, slots=True)
class HolderSummary:
    """A node or an operator. `where` is its pool, or empty.

    `reported` is the time of its last report and `agent` the version that wrote it; `failures` are the sentences in
    that report. `silent` is a node that has never reported; of a folder there are no reports.
    """

    name: str
    roles: tuple[str, ...]
    pool: str = ""
    reported: datetime | None = None
    agent: str = ""
    failures: tuple[str, ...] = ()
    silent: bool = False


@dataclass(frozen=True, slots=True)
class CaFound:
    """A CA's certificate. `ca` is its domain, `name` what people call it, `sha256` its fingerprint in hex.

    `key` is the kind of its key and `key_id` its id in hex, both empty if not known. `sentence` says how urgent its end
    is. `problem` is why it cannot sign, or empty.
    """

    ca: str
    name: str
    sha256: str
    not_after: datetime | None
    level: Level = Level.NONE
    sentence: str = ""
    key: str = ""
    key_id: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that was read of a cluster, and where it comes from in a few words.

    `pairs` are in the order of the holders. `ends` has the end of each CA by its domain, for pictures; `cas` are the
    certificates of CAs. `rotations` has the states of rotations by CA. `problems` are sentences on what could not be
    read.
    """

    pairs: tuple[HolderPair, ...]
    holders: tuple[HolderSummary, ...]
    ends: Mapping[str, ExpirySummary]
    source: str
    cas: tuple[CaFound, ...] = ()
    problems: tuple[str, ...] = ()
    rotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> Mapping[str, ExpirySummary]:
        """The expiry of each row by its name, of what its holders have; a silent node tells nothing."""
        silent = {holder.name for holder in self.holders if holder.silent}
        found: dict[str, list[HolderPair]] = {}
        for pair in self.pairs:
            if pair.holder not in silent:
                found.setdefault(pair.row, []).append(pair)
        return {name: _expiry(pairs) for name, pairs in found.items()}


def _expiry(pairs: Collection[HolderPair]) -> ExpirySummary:
    ends = [pair.not_after for pair in pairs if pair.not_after is not None]
    due = any(pair.due for pair in pairs if pair.not_after is not None)
    revoked = sum(pair.revoked for pair in pairs if pair.not_after is not None)
    return ExpirySummary(min(ends, default=None), len(ends), len(pairs) - len(ends), due, revoked)
