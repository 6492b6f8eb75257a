"""Decides what the report of a cluster says: what needs attention, the CAs, the calendar of ends, every certificate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from vaultpki.certificates import ISSUING_CAS, rows
from vaultpki.findings.catalogue import NodeState, Severity
from vaultpki.findings.finding import some
from vaultpki.findings.nodes import ago
from vaultpki.graph import content
from vaultpki.graph.content import STATES, ExpirySummary, Graph, Health, ca_title, ca_until, count
from vaultpki.model import Cluster, Row
from vaultpki.pki.ca_life import Level
from vaultpki.procedure.banner import Banner
from vaultpki.redact import first_few
from vaultpki.show import attention
from vaultpki.show.attention import Notice
from vaultpki.show.calendar import Calendar, calendar
from vaultpki.show.check_summary import LIVE, CheckSummary
from vaultpki.show.inventory import CaFound, HolderPair, HolderSummary, Inventory
from vaultpki.values.durations import long_span

_WORST: Final = tuple(STATES)
BAD: Final = (Health.EXPIRED, Health.MISSING, Health.BROKEN, Health.REVOKED, Health.DUE)
"""The states of a certificate that need attention."""

_FIRST: Final = 8
# More notices are counted only.
_MOST: Final = 40
# Holders whose rows are shown from the start.
_OPEN: Final = 20
_OPEN_ANYWAY: Final = 3


@dataclass(frozen=True, slots=True)
class PairLine:
    """One certificate of one holder: `until` is its end, `time_left` how long that is away in words.

    `column` is its column in the calendar, None if its end is not known.
    """

    holder: str
    name: str
    component: str
    ca: str
    health: Health
    state: str
    until: str
    left: str
    column: int | None


@dataclass(frozen=True, slots=True)
class HolderBlock:
    """One holder with its certificates. `states` counts them by state, the worst first; `first` is the first to end.

    `word` is the state that `vaultpki nodes` shows, empty for one that is well, and `severity` its weight. `notes` are
    sentences about the holder, `faults` what is wrong there, each with its command. `open` shows its certificates from
    the start.
    """

    name: str
    about: str
    health: Health
    word: str
    severity: Severity
    states: tuple[tuple[Health, int, str], ...]
    first: PairLine | None
    pairs: tuple[PairLine, ...]
    notes: tuple[str, ...]
    faults: tuple[str, ...]
    open: bool


@dataclass(frozen=True, slots=True)
class CaLine:
    """A CA in the tree. `title` and `until` are the words on its border, as in the picture.

    `pairs` is the number of certificates that it signed, of those that were read. `first` is when the first of them
    ends, `rotation` the state of its rotation; both are empty if there is none.
    """

    ca: str
    title: str
    name: str
    sha256: str
    key: str
    until: str
    left: str
    health: Health
    sentence: str
    pairs: int
    first: str
    rotation: str


@dataclass(frozen=True, slots=True)
class Report:
    """All that the page says. `made` is the time to which every "left" refers.

    `notices` need attention, the worst first, and `more` is how many further ones there are; `known` are only worth
    knowing. `counts` has the number of certificates by state. `checks` is None if nothing was verified. `rotation` has
    lines on a rotation that is under way, and is None if Vault was not asked; `banner` sums it up. `written` are lines
    on who wrote the records that nodes follow.
    """

    cluster: str
    about: str
    made: str
    graph: Graph
    notices: tuple[Notice, ...]
    more: int
    known: tuple[Notice, ...]
    counts: Mapping[Health, int]
    roots: tuple[CaLine, ...]
    issuing: tuple[CaLine, ...]
    calendar: Calendar
    first: tuple[PairLine, ...]
    holders: tuple[HolderBlock, ...]
    components: tuple[str, ...]
    checks: CheckSummary | None
    rotation: tuple[str, ...] | None
    banner: Banner | None = None
    written: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def report(
    cluster: Cluster,
    found: Inventory,
    now: datetime,
    *,
    checks: CheckSummary | None = None,
    rotation: Iterable[str] | None = None,
    banner: Banner | None = None,
    written: tuple[str, ...] = (),
) -> Report:
    """Return the report of a cluster at the time `now`.

    `checks` is what `verify` found in a folder or a running cluster; `rotation` are lines on a rotation, if Vault was
    asked, and `banner` sums up one that is under way. `written` is as in Report.
    """
    table = {row.name: row for row in rows(cluster)}
    ends: dict[str, list[datetime]] = {name: [] for name in table if any(pair.row == name for pair in found.pairs)}
    for pair in found.pairs:
        if pair.not_after is not None:
            ends[pair.row].append(pair.not_after)
    weeks = calendar(ends, now)
    lines = [(pair, _line(pair, table[pair.row], weeks, now)) for pair in found.pairs]
    by_holder: dict[str, list[PairLine]] = {}
    for _, line in lines:
        by_holder.setdefault(line.holder, []).append(line)
    blocks = [_block(holder, by_holder.get(holder.name, ()), now) for holder in found.holders]
    blocks.sort(key=lambda block: _WORST.index(block.health))
    notices = attention.worst_first([*found.notices, *_check_notices(checks)])
    pressing = [each for each in notices if each.attention]
    drawn = content.graph(
        cluster, now, expiries=found.rows, cas=found.ends, rotations=found.rotations, source=found.source
    )
    cas = [_ca(ca, found, cluster.name, now) for ca in found.cas]
    soonest = sorted((pair.not_after, number) for number, (pair, _) in enumerate(lines) if pair.not_after is not None)
    return Report(
        cluster=cluster.name,
        about=drawn.about,
        made=f"{now:%Y-%m-%d %H:%M} UTC",
        graph=drawn,
        notices=tuple(pressing[:_MOST]),
        more=len(pressing[_MOST:]),
        known=tuple(each for each in notices if not each.attention)[:_MOST],
        counts=Counter(dict.fromkeys(STATES, 0) | Counter(line.health for _, line in lines)),
        roots=tuple(ca for ca in cas if ca.ca not in ISSUING_CAS),
        issuing=tuple(ca for ca in cas if ca.ca in ISSUING_CAS),
        calendar=weeks,
        first=tuple(lines[number][1] for _, number in soonest[:_FIRST]),
        holders=tuple(_opened(blocks)),
        components=tuple(dict.fromkeys(row.source for row in table.values() if row.name in ends)),
        checks=checks,
        rotation=None if rotation is None else tuple(rotation),
        banner=banner,
        written=written,
    )


def _line(pair: HolderPair, row: Row, weeks: Calendar, now: datetime) -> PairLine:
    health = pair.health(now)
    end = pair.not_after
    return PairLine(
        holder=pair.holder,
        name=pair.row,
        component=row.source,
        ca=pair.ca,
        health=health,
        state=STATES[health],
        until=f"{end:%Y-%m-%d %H:%M}" if end else "",
        left=_time_left(end, now) if end else "",
        column=weeks.index(end) if end else None,
    )


def _time_left(end: datetime, now: datetime) -> str:
    return f"in {long_span(end - now)}" if end > now else f"{long_span(now - end)} ago"


def _block(holder: HolderSummary, pairs: Sequence[PairLine], now: datetime) -> HolderBlock:
    states = Counter(pair.health for pair in pairs)
    worst = next((health for health in _WORST if states[health]), Health.UNKNOWN)
    ends = [pair for pair in pairs if pair.until]
    roles = ", ".join(holder.roles) or ("in no pool" if holder.silent else "operator")
    return HolderBlock(
        name=holder.name,
        about=f"{roles}, pool {holder.pool}" if holder.pool else roles,
        health=_health(holder, worst),
        word=holder.row.state.value if holder.row is not None and holder.row.state is not NodeState.OK else "",
        severity=_severity(holder),
        states=tuple((health, states[health], STATES[health]) for health in _WORST if states[health]),
        first=min(ends, key=lambda pair: pair.until, default=None),
        pairs=tuple(pairs),
        notes=tuple(_notes(holder, now)),
        faults=tuple(_faults(holder)),
        open=False,
    )


def _severity(holder: HolderSummary) -> Severity:
    found = holder.row.findings if holder.row is not None else ()
    return next((each for each in Severity if any(one.severity is each for one in found)), Severity.INFO)


def _health(holder: HolderSummary, worst: Health) -> Health:
    """Return the place of a holder among others: by its certificates, or by what else is wrong with it."""
    least = {Severity.CRITICAL: Health.BROKEN, Severity.WARNING: Health.DUE}.get(_severity(holder), Health.VALID)
    return min(worst, least, key=_WORST.index)


def _notes(holder: HolderSummary, now: datetime) -> Iterator[str]:
    row = holder.row
    if holder.silent:
        yield "This node has never reported."
    elif row is not None and row.reported is not None:
        agent = f", agent {row.version}" if row.version else ""
        yield f"Last report: {row.reported:%Y-%m-%d %H:%M} UTC, {ago(now - row.reported)}{agent}."
    if row is not None and row.credentials is not None:
        yield f"{count(row.credentials, 'live credential')}."
    if row is not None and row.owed:
        yield f"Hooks that are owed: {some(row.owed)}."
    if row is not None and row.keys:
        yield f"It {row.keys}."


def _faults(holder: HolderSummary) -> Iterator[str]:
    if holder.row is not None:
        yield from attention.sentences(holder.row)
    yield from holder.faults


def _opened(blocks: Sequence[HolderBlock]) -> Iterator[HolderBlock]:
    shown = 0
    for block in blocks:
        bad = block.health in BAD or len(blocks) <= _OPEN_ANYWAY
        shown += bad
        yield replace(block, open=bad and shown <= _OPEN)


def _ca(ca: CaFound, found: Inventory, cluster: str, now: datetime) -> CaLine:
    signed = [pair for pair in found.pairs if (pair.signer == ca.key_id if ca.key_id else pair.ca == ca.ca)]
    signed = [] if ca.foreign else signed
    ends = [pair.not_after for pair in signed if pair.not_after is not None]
    first = min(ends, default=None)
    health = Health.VALID
    if ca.not_after is None:
        health = Health.MISSING
    elif ca.problem:
        health = Health.BROKEN
    elif ca.not_after <= now:
        health = Health.EXPIRED
    elif ca.level.attention:
        health = Health.DUE
    return CaLine(
        ca=ca.ca,
        title=f"foreign CA of {ca.ca}" if ca.foreign else ca_title(ca.ca, cluster),
        name=ca.name,
        sha256=ca.sha256,
        key=ca.key,
        until=ca_until(ExpirySummary(ca.not_after, due=ca.level.attention), now),
        left=_time_left(ca.not_after, now) if ca.not_after else "",
        health=health,
        sentence=ca.problem or (ca.sentence if ca.level is not Level.NONE else ""),
        pairs=len(ends),
        first=f"{first:%Y-%m-%d}" if first else "",
        rotation="" if ca.foreign else found.rotations.get(ca.ca, ""),
    )


def _check_notices(checks: CheckSummary | None) -> Iterator[Notice]:
    """Yield that checks failed or were not made."""
    if checks is None:
        return
    again = f": run `{checks.command}`" if checks.command else ""
    if checks.failed:
        said = f"{checks.failed:,} of {count(checks.total, 'check')} failed{again}"
        yield Notice("", (said,), Severity.CRITICAL, "checks")
    beyond = sum(kind.unmade for kind in checks.kinds if kind.kind == LIVE)
    if unmade := checks.unmade - beyond:
        said = f"{unmade:,} of {count(checks.total, 'check')} could not be made as this user: run as root"
        yield Notice("", (said,), Severity.WARNING, "checks")
    if beyond:
        left = [each for each in checks.failures if each.kind == LIVE and each.unmade]
        parts = first_few([f"{each.target} ({each.why})" for each in left])
        yield Notice("", (f"not checked in the running cluster: {parts}",), Severity.INFO, "checks")
