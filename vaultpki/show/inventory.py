"""Defines what was found of a cluster: each pair of each holder, the holders and the CAs; and sums it up by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from vaultpki.findings.nodes import NodeRow
from vaultpki.graph.content import ExpirySummary, Health
from vaultpki.pki.ca_life import Level, expiry, foreign_life
from vaultpki.pki.facts import Facts
from vaultpki.show.attention import Notice

FAULTS: Final[Mapping[str, Health]] = {
    "expired": Health.EXPIRED,
    "missing": Health.MISSING,
    "broken": Health.BROKEN,
    "revoked": Health.REVOKED,
    "overdue": Health.DUE,
}
"""The state of a pair by the name of its finding."""


@dataclass(frozen=True, slots=True)
class HolderPair:
    """A pair that a node or an operator should have: its row's name and CA, and what was found of it.

    `not_after` is None if it is not known. `fault` is what the judgement says of the pair, None if it is well. `signer`
    is the key id of the CA that signed it, in hex, or empty.
    """

    holder: str
    row: str
    ca: str
    not_after: datetime | None = None
    fault: Health | None = None
    signer: str = ""

    def health(self, now: datetime) -> Health:
        """Return the state of this one pair."""
        if self.not_after is not None and self.not_after <= now:
            return Health.EXPIRED
        if self.fault is not None:
            return self.fault
        return Health.UNKNOWN if self.not_after is None else Health.VALID


@dataclass(frozen=True, slots=True)
class HolderSummary:
    """A node or an operator. `pool` is its pool, or empty.

    `row` is what the judgement says of it, None if nobody judged it. `faults` are further sentences on its files.
    `silent` is a node that has never reported; of a folder there are no reports.
    """

    name: str
    roles: tuple[str, ...]
    pool: str = ""
    row: NodeRow | None = None
    faults: tuple[str, ...] = ()
    silent: bool = False


@dataclass(frozen=True, slots=True)
class CaFound:
    """A CA's certificate. `ca` is its domain, `name` what people call it, `sha256` its fingerprint in hex.

    `key` is the kind of its key and `key_id` its id in hex, both empty if not known. `sentence` says how urgent its end
    is. `problem` is why it cannot sign, or empty. `foreign` is a CA that is not the cluster's.
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
    foreign: bool = False

    @staticmethod
    def of_foreign(ca: str, facts: Facts, now: datetime) -> CaFound:
        """Return a foreign CA in the bundles of `ca`."""
        end = expiry(foreign_life(ca, facts), now)
        key = facts.key.value if facts.key else ""
        name = facts.subject_text
        return CaFound(ca, name, facts.fingerprint, facts.not_after, end.level, end.sentence, key, foreign=True)


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that was read of a cluster, and where it comes from in a few words.

    `pairs` are in the order of the holders. `ends` has the end of each CA by its domain, for pictures; `cas` are the
    certificates of CAs. `rotations` has the states of rotations by CA. `notices` say what needs attention, the worst
    first, and what is only worth knowing.
    """

    pairs: tuple[HolderPair, ...]
    holders: tuple[HolderSummary, ...]
    ends: Mapping[str, ExpirySummary]
    source: str
    cas: tuple[CaFound, ...] = ()
    notices: tuple[Notice, ...] = ()
    rotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> Mapping[str, ExpirySummary]:
        """The expiry of each row by its name, of what its holders have; what was not read tells nothing."""
        found: dict[str, list[HolderPair]] = {}
        for pair in self.pairs:
            if pair.not_after is not None or pair.fault not in (None, Health.UNKNOWN):
                found.setdefault(pair.row, []).append(pair)
        return {name: _expiry(pairs) for name, pairs in found.items()}


def _expiry(pairs: Collection[HolderPair]) -> ExpirySummary:
    states = Counter(pair.fault for pair in pairs)
    held = [pair for pair in pairs if pair.fault is not Health.MISSING]
    return ExpirySummary(
        min((pair.not_after for pair in held if pair.not_after is not None), default=None),
        len(held),
        states[Health.MISSING],
        due=states[Health.DUE] > 0,
        revoked=states[Health.REVOKED],
        broken=states[Health.BROKEN] + states[Health.EXPIRED],
    )
