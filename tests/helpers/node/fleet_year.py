"""A fleet of agents over a year, with a simulated clock: when each renews, by the rules of `pki.renewal` alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from vaultpki.pki.facts import Replacement
from vaultpki.pki.renewal import LeafLife, jitter, late_share, postponed_to, renew_at, replaced_at

BEGIN: Final = datetime(2027, 1, 1, tzinfo=UTC)
YEAR: Final = timedelta(days=365)
WINDOW: Final = 1 / 6
"""The share of the life in which a certificate becomes due: from a half to two thirds."""

_NAME: Final = "kubelet"
_RELOAD: Final = 300

Jitter = Callable[[str, str, int], float]
Postponement = Callable[[datetime, LeafLife, datetime, datetime, float, int], datetime | None]


@dataclass(frozen=True, slots=True)
class Away:
    """A time in which no agent can renew.

    Vault was away, or with `off` the machines were: then all of them start at its end, and look at once. Otherwise
    agents ask again within their poll interval.
    """

    begin: datetime
    end: datetime
    off: bool = False


@dataclass(frozen=True, slots=True)
class Fleet:
    """Agents with one certificate each, which all got it at `BEGIN`. `rotations` replace the CA that signs."""

    agents: int
    ttl: timedelta
    away: Sequence[Away] = ()
    rotations: Sequence[Replacement] = ()
    poll: int = 300
    jitter: Jitter = jitter
    postponed_to: Postponement = postponed_to
    random: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311 - the same in each run

    def renewals(self, span: timedelta = YEAR) -> list[float]:
        """Return when all agents renew, as seconds since `BEGIN` in order; without what a rotation replaces."""
        found: list[float] = []
        for number in range(self.agents):
            found += self._of(f"node-{number}", BEGIN + span)
        return sorted(found)

    def _of(self, node: str, end: datetime) -> Iterator[float]:
        signed = BEGIN
        while signed < end:
            serial = self.random.getrandbits(159)
            share, ends = self.jitter(node, _NAME, serial), signed + self.ttl
            due = renew_at(signed, ends, share, _RELOAD)
            now = self._made(node, serial, due, LeafLife(signed, ends, _RELOAD)) if self.away else due
            replaced = [
                when
                for each in self.rotations
                if each.since > signed and (when := replaced_at(each, share)) is not None and when < now
            ]
            if replaced:
                signed = min(replaced)
                continue
            if now < end:
                yield (now - BEGIN).total_seconds()
            signed = now

    def _made(self, node: str, serial: int, due: datetime, life: LeafLife) -> datetime:
        """Return when a renewal is made that is due at `due`."""
        times = 0
        while True:
            away = next((each for each in self.away if each.begin <= due < each.end), None)
            if away is None:
                return due
            now = away.end if away.off else away.end + timedelta(seconds=self.random.uniform(0, self.poll))
            share = late_share(node, _NAME, serial, due)
            later = self.postponed_to(due, life, away.begin, now, share, times)
            if later is None:
                return now
            due, times = later, times + 1


def most(times: Sequence[float], seconds: float) -> int:
    """Return the most of these times, which are in order, that lie within any span of so many seconds."""
    first, found = 0, 0
    for last, time in enumerate(times):
        while time - times[first] > seconds:
            first += 1
        found = max(found, last - first + 1)
    return found


_DAY: Final = timedelta(days=1)
TTL: Final = timedelta(days=30)

ROTATIONS: Final = (Replacement(BEGIN + 100 * _DAY, 3600), Replacement(BEGIN + 200 * _DAY, 3600))
OUTAGE: Final = Away(BEGIN + 116 * _DAY, BEGIN + 117 * _DAY)
STOP: Final = Away(BEGIN + 216 * _DAY, BEGIN + 218 * _DAY, off=True)


def bad_year(agents: int) -> Fleet:
    """Return a fleet whose year has everything that brings nodes together, each at the worst time for the next.

    All start at once. Two rotations give every node its certificate within the same hour, and while these become due,
    Vault is away for a day, or all machines are off for two.
    """
    return Fleet(agents, TTL, (OUTAGE, STOP), ROTATIONS)
