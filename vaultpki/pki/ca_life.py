"""Decides how urgent the end of a CA is: pure rules from its dates, its kind, and the TTL of its leaves."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from vaultpki.certificates import ROOT
from vaultpki.pki.facts import Facts
from vaultpki.pki.trust import named
from vaultpki.redact import printable, stamp

_DAY: Final = 86400
WITH: Final = timedelta(days=1)
"""A CA that a signer cut where its chain ends, which takes an hour off, ends with that chain."""


class Level(enum.Enum):
    """How urgent the end of a CA is. NOTICE asks for a plan, WARNING for a rotation soon, CRITICAL for one now."""

    NONE = "none"
    NOTICE = "notice"
    WARNING = "warning"
    CRITICAL = "critical"
    EXPIRED = "expired"

    @property
    def attention(self) -> bool:
        """Return whether a person must act: exit codes tell it."""
        return self in (Level.WARNING, Level.CRITICAL, Level.EXPIRED)


_ORDER: Final = tuple(Level)
# Days before the end of a root and of an issuing CA.
_DAYS: Final[Mapping[Level, tuple[int, int]]] = {
    Level.NOTICE: (730, 180),
    Level.WARNING: (365, 60),
    Level.CRITICAL: (182, 30),
}
# No level begins earlier than in this last share of the life: a CA of three months is not critical from its first day.
_SHARE: Final[Mapping[Level, float]] = {Level.NOTICE: 1 / 2, Level.WARNING: 1 / 3, Level.CRITICAL: 1 / 6}
# Unless leaves need it: from the end minus their TTL on they get less than they ask for, whatever the CA's own life.
_TTLS: Final[Mapping[Level, float]] = {Level.NOTICE: 2.0, Level.WARNING: 1.5, Level.CRITICAL: 1.0}


@dataclass(frozen=True, slots=True)
class CaLife:
    """The life of one CA, called by its domain: root, etcd, ...

    `longest_ttl` is the longest TTL of its leaves in seconds, of those that the caller knows. `foreign` is the subject
    of a CA that is not the cluster's and that the bundles of `ca` hold too. `outside` is the subject of a CA of a PKI
    outside, which its owner renews; one above ours that is not the pinned anchor is called by its subject. Both are
    empty for the cluster's own. `held_by` is the subject of a CA outside that ends with this one, or before: then a
    rotation gains no time.
    """

    ca: str
    root: bool
    not_before: datetime
    not_after: datetime
    longest_ttl: int
    foreign: str = ""
    outside: str = ""
    held_by: str = ""

    def begins(self, level: Level) -> datetime:
        """Return when a level begins; that of NONE is the beginning of the life, that of EXPIRED its end."""
        if level is Level.NONE:
            return self.not_before
        if level is Level.EXPIRED:
            return self.not_after
        own = timedelta(days=_DAYS[level][0 if self.root else 1])
        # The successor of a foreign CA needs its SHA-256 in each agent.yaml, however short its life is.
        own = own if self.foreign else min(own, (self.not_after - self.not_before) * _SHARE[level])
        return self.not_after - max(own, timedelta(seconds=self.longest_ttl * _TTLS[level]))

    def level(self, now: datetime) -> Level:
        """Return the level at `now`."""
        return max((level for level in Level if self.begins(level) <= now), key=_ORDER.index, default=Level.NONE)

    @property
    def shortens(self) -> datetime:
        """Return from when on new leaves end with the CA, earlier than their TTL."""
        return self.not_after - timedelta(seconds=self.longest_ttl)


@dataclass(frozen=True, slots=True)
class CaExpiry:
    """How urgent the end of one CA is at one moment. `sentence` says what happens and the command against it.

    `foreign` is as in CaLife.
    """

    ca: str
    not_after: datetime
    level: Level
    sentence: str
    foreign: str = ""


def own(ends: Iterable[CaExpiry]) -> tuple[CaExpiry, ...]:
    """Return the ends of the cluster's own CAs, of which there is one for each domain."""
    return tuple(end for end in ends if not end.foreign)


def foreign_life(ca: str, facts: Facts) -> CaLife:
    """Return the life of a foreign CA in the bundles of `ca`; no leaf of it is known."""
    return CaLife(ca, False, facts.not_before, facts.not_after, 0, facts.subject_text)


def expiry(life: CaLife, now: datetime, *, rotating: bool = False) -> CaExpiry:
    """Return how urgent the end of a CA is at `now`; `rotating` if its rotation is under way."""
    command = "continue its rotation with `vaultpki ca continue`" if rotating else f"run `vaultpki ca rotate {life.ca}`"
    if life.held_by and not rotating:
        command = f"{printable(life.held_by)} above it ends then too, so have that renewed first; then {command}"
    return CaExpiry(life.ca, life.not_after, life.level(now), _sentence(life, now, command), life.foreign)


def below(lives: Iterable[CaLife], above: Iterable[CaLife]) -> tuple[CaLife, ...]:
    """Return the lives of issuing CAs, each with the CA of a PKI outside that ends with it or before, if one does."""
    first = min((life for life in above if life.outside), key=lambda life: life.not_after, default=None)
    return tuple(
        replace(life, held_by=first.outside)
        if first is not None and not life.root and not life.outside and first.not_after <= life.not_after + WITH
        else life
        for life in lives
    )


def of_root(root: Facts, longest_ttl: int, *, root_name: str) -> CaLife:
    """Return the life of the pinned root; one that has not the name of a root of this cluster is from outside."""
    outside = "" if named(root, root_name) else root.subject_text
    return CaLife(ROOT, True, root.not_before, root.not_after, longest_ttl, outside=outside)


def lives_above(above: Iterable[Facts], issuing: Iterable[Facts], longest_ttl: int) -> tuple[CaLife, ...]:
    """Return the lives of the CAs of a PKI outside that end before one of the issuing CAs below them, or with it.

    `above` are those between an issuing CA and the pinned anchor, and a root above that. Of certificates for one key
    the last one counts: a CA is renewed by another certificate for it.
    """
    last = max((facts.not_after for facts in issuing), default=None)
    by_key: dict[tuple[str, bytes], Facts] = {}
    for facts in sorted(above, key=lambda facts: facts.not_after):
        by_key[facts.subject_text, facts.public_key] = facts
    ends: dict[str, Facts] = {}
    for facts in sorted(by_key.values(), key=lambda facts: facts.not_after):
        if last is not None and facts.not_after <= last + WITH:
            ends.setdefault(facts.subject_text, facts)
    return tuple(
        CaLife(name, False, facts.not_before, facts.not_after, longest_ttl, outside=name)
        for name, facts in ends.items()
    )


def to_json(end: CaExpiry) -> dict[str, str]:
    """Return it as programs read it."""
    found = {"ca": end.ca, "not_after": stamp(end.not_after), "level": end.level.value, "message": end.sentence}
    return {**found, **({"foreign": end.foreign} if end.foreign else {})}


def _sentence(life: CaLife, now: datetime, command: str) -> str:
    end = f"{life.not_after:%Y-%m-%d %H:%M}Z"
    if life.foreign:
        when = f"expired on {end}" if life.not_after <= now else f"expires on {end}, in {_words(life.not_after - now)}"
        return (
            f"{life.ca} also trusts {life.foreign}, which {when}, and its certificates are refused then. Take it out "
            "of `ca.also_trust` in cluster.yaml, or name its successor there, and run `vaultpki apply`"
        )
    if life.outside:
        return _sentence_outside(life, now, end)
    if life.not_after <= now:
        if life.root:
            # Nodes are pinned to it, and it can vouch for no successor any more.
            return f"{life.ca} CA: it expired on {end}; the cluster needs a new root, and every node a new join file"
        return f"{life.ca} CA: it expired on {end}, and no certificate of it is valid; {command}"
    left = _words(life.not_after - now)
    if life.root:
        return f"{life.ca} CA: it expires on {end}, in {left}, and everything below it then; {command}"
    shorter = "new certificates end with it already"
    if life.shortens > now:
        shorter = f"from {life.shortens:%Y-%m-%d} on new certificates end with it"
    return f"{life.ca} CA: it expires on {end}, in {left}; {shorter}; {command}"


def _sentence_outside(life: CaLife, now: datetime, end: str) -> str:
    name = printable(life.outside)
    anchor = ", to which the nodes are pinned," if life.root else ", which stands above the CAs of this cluster,"
    # The certificate of the anchor is pinned: another one for its key is another pin.
    act = "ask its owner what follows it: each node must be pinned to that"
    if not life.root:
        act = "have its owner renew it with the same key; put that into ca.root_file, and run `vaultpki apply`"
    if life.not_after <= now:
        return f"{name}{anchor} expired on {end}, and clients that check the whole chain refuse everything below; {act}"
    left = _words(life.not_after - now)
    return f"{name}{anchor} expires on {end}, in {left}, and everything below it then; {act}"


def _words(left: timedelta) -> str:
    seconds = int(left.total_seconds())
    for length, one in ((_DAY, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 2 * length:
            return f"{seconds // length} {one}s"
    return f"{seconds} seconds"
