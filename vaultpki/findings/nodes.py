"""Sums a node up in one row: its state and why, its first expiry, what it runs; for `nodes` and for `status`.

A row comes from a node's report in Vault or from its own files. Pure: the time is an argument.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from vaultpki.pki import renewal
from vaultpki.readers import CA_OF_BUNDLE
from vaultpki.records import gaps
from vaultpki.redact import first_few, printable, stamp
from vaultpki.rotation import reasons
from vaultpki.values.durations import short_span

if TYPE_CHECKING:
    from vaultpki.agent.status import Status
    from vaultpki.identity.nodes import Member, Unfit
    from vaultpki.identity.revoked_list import Revoked
    from vaultpki.pki.facts import Facts
    from vaultpki.records.node_report import NodeReport

# A node has one live credential, and for five minutes also the one before.
_MOST_CREDENTIALS: Final = 2
# Seconds. An agent reports once in each poll; one that does not stay runs at a time that nobody has told.
_SLACK: Final = 600
_RUNS: Final = 2 * 86400
# Of the life that is left: a renewal is due at a third at the latest, and then late by a tenth.
LATE: Final = 1 - 2 / 3 - 1 / 10
"""The part of a life at which its renewal is late."""

_LATE_SECONDS: Final = 900
_SHOWN: Final = 5
_LONGEST: Final = 100


class NodeState(enum.Enum):
    """The state of a node, from what needs attention first to what needs none."""

    EXPIRED = "expired"
    CLONE = "clone"
    BROKEN = "broken"
    UNKNOWN = "unknown"
    REVOKED = "revoked"
    LOCKED = "locked"
    NEEDS_JOIN = "needs-join"
    SILENT = "silent"
    OVERDUE = "overdue"
    FAILING = "failing"
    NEW = "new"
    OK = "ok"

    @property
    def attention(self) -> bool:
        """Return whether a person must act: exit codes tell it."""
        return self not in (NodeState.NEW, NodeState.OK)


_ORDER: Final = {state: number for number, state in enumerate(NodeState)}
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found at a node: the state that it means, its name for programs, a few words for people."""

    state: NodeState
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node. `life_left` is the part of the life that is left to the certificate that expires first, 0 to 1.

    `trust` names the CAs in its bundles. `credentials` is None if nobody looked, and for a node that needs none.
    """

    node: str
    pool: str | None
    roles: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    first_expiry: datetime | None = None
    life_left: float | None = None
    reported: datetime | None = None
    version: str = ""
    trust: str = ""
    owed: tuple[str, ...] = ()
    credentials: int | None = None

    @property
    def state(self) -> NodeState:
        return min((finding.state for finding in self.findings), key=_ORDER.__getitem__, default=NodeState.OK)

    @property
    def message(self) -> str:
        """Return the findings in words, the worst first; empty if there is none."""
        return "; ".join(finding.text for finding in sorted(self.findings, key=lambda each: _ORDER[each.state]))


def order(row: NodeRow) -> tuple[int, datetime, str]:
    """Return the place of a row among others: what needs attention first, then what expires first, then by name."""
    return _ORDER[row.state], row.first_expiry or _LAST, row.node


def to_json(row: NodeRow) -> dict[str, Any]:
    """Return a row as `nodes --json` and `status --json` have it."""
    return {
        "node": printable(row.node),
        "pool": row.pool,
        "roles": list(row.roles),
        "state": row.state.value,
        "reasons": [finding.name for finding in row.findings],
        "message": printable(row.message) or None,
        "first_expiry": None if row.first_expiry is None else stamp(row.first_expiry),
        "life_left": None if row.life_left is None else round(row.life_left, 3),
        "reported": None if row.reported is None else stamp(row.reported),
        "agent_version": row.version or None,
        "ca_generation": row.trust or None,
        "hooks_owed": list(row.owed),
        "credentials": row.credentials,
    }


def life(leaf: Facts) -> tuple[datetime, datetime]:
    """Return when a certificate was signed and when it ends."""
    return renewal.signed_at(leaf.not_before, leaf.not_after), leaf.not_after


def life_left(signed: datetime, not_after: datetime, now: datetime) -> float:
    """Return which part of a certificate's life is left, 0 to 1."""
    whole = (not_after - signed).total_seconds()
    return min(max((not_after - now).total_seconds() / whole, 0.0), 1.0) if whole > 0 else 0.0


def of_member(
    member: Member,
    ttls: Mapping[str, int],
    now: datetime,
    revoked: Revoked,
    revisions: Mapping[str, int] | None = None,
) -> NodeRow:
    """Return the row of a node by what Vault has of it; `ttls` are seconds by certificate, for earlier agents.

    `revoked` is what the mounts of the CAs show as revoked: a node's own word is not enough. `revisions` are those of
    the rotation records by domain, None if nobody has read them.
    """
    report = member.report
    if report is None:
        joined = bool(member.stored or member.former)
        findings = [*_credentials(member, joined=joined), *_without_report(member)]
        return NodeRow(member.name, member.pool, member.roles, tuple(findings), credentials=member.credentials)
    lives = dict(_lives(report, ttls))
    first = min(lives.values(), key=lambda span: span[1], default=None)
    findings = [
        *_credentials(member, joined=True),
        *_certificates(report, lives, now, revoked),
        *_agent(report, now),
        *_records(report, revisions),
    ]
    return NodeRow(
        node=member.name,
        pool=member.pool,
        roles=member.roles,
        findings=tuple(findings),
        first_expiry=first[1] if first else None,
        life_left=life_left(*first, now) if first else None,
        reported=report.time,
        version=report.agent,
        trust=report.trust,
        owed=report.owed,
        credentials=member.credentials,
    )


def of_unfit(unfit: Unfit) -> NodeRow:
    """Return the row of an identity that does not belong to a node."""
    finding = Finding(NodeState.UNKNOWN, "fits-no-pool", unfit.sentence)
    return NodeRow(printable(unfit.name[:_LONGEST]), "-", (), (finding,), credentials=unfit.credentials)


def _without_report(member: Member) -> Iterator[Finding]:
    if member.stored:
        yield Finding(NodeState.FAILING, "report-unreadable", "its report cannot be read")
    elif member.former:
        yield Finding(NodeState.FAILING, "old-agent", reasons.too_old(member.former))
    elif member.credentials == 0:
        yield Finding(NodeState.NEW, "not-enrolled", "not enrolled")
    elif member.join_until is not None:
        until = f"has a join file that nobody has used, until {stamp(member.join_until)}"
        yield Finding(NodeState.NEW, "join-file-unused", until)
    else:
        yield Finding(NodeState.NEW, "never-reported", "never reported")


def _credentials(member: Member, *, joined: bool) -> Iterator[Finding]:
    count = member.credentials
    lost = member.report.lost if member.report is not None else 0
    if member.disabled:
        yield Finding(NodeState.LOCKED, "locked", "it is locked; `vaultpki unlock` lets it in again")
    if count is not None and count > _MOST_CREDENTIALS + lost:
        yield Finding(NodeState.CLONE, "many-credentials", f"{count} live credentials (a clone?)")
    if count == 0 and joined:
        yield Finding(NodeState.NEEDS_JOIN, "no-credential", "no live credential, so it needs a new join file")


def _lives(report: NodeReport, ttls: Mapping[str, int]) -> Iterator[tuple[str, tuple[datetime, datetime]]]:
    """Yield when each certificate was signed and when it ends, by name."""
    for name, one in report.certificates.items():
        if one.not_after is None:
            continue
        if one.not_before is not None and one.not_before <= one.not_after:
            yield name, (renewal.signed_at(one.not_before, one.not_after), one.not_after)
        else:
            # A node may report the first year that there is.
            ttl = min(timedelta(seconds=ttls.get(name, 0)), one.not_after - _FIRST)
            yield name, (one.not_after - ttl, one.not_after)


def _certificates(
    report: NodeReport, lives: Mapping[str, tuple[datetime, datetime]], now: datetime, revoked: Revoked
) -> Iterator[Finding]:
    if not report.certificates:
        yield Finding(NodeState.BROKEN, "empty", "it reports no certificate")
    states: dict[str, list[str]] = {}
    for name, one in report.certificates.items():
        ends = one.not_after
        if one.state in ("missing", "broken") or ends is None:
            states.setdefault(one.state if one.state in ("missing", "broken") else "missing", []).append(name)
        elif one.state == "expired" or ends <= now:
            states.setdefault("expired", []).append(name)
        elif one.state == "revoked" or revoked.has(name, one.serial):
            states.setdefault("revoked", []).append(name)
        elif _late(one.renew_after, lives[name], report.poll, now):
            states.setdefault("overdue", []).append(name)
    yield from _by_state(states)


def _late(renew_after: datetime | None, span: tuple[datetime, datetime], poll: int, now: datetime) -> bool:
    if renew_after is None:
        return life_left(*span, now) < LATE
    return (now - renew_after).total_seconds() > max(2 * poll, _LATE_SECONDS)


def _by_state(states: Mapping[str, Collection[str]]) -> Iterator[Finding]:
    for name, state in (
        ("expired", NodeState.EXPIRED),
        ("missing", NodeState.BROKEN),
        ("broken", NodeState.BROKEN),
        ("revoked", NodeState.REVOKED),
        ("overdue", NodeState.OVERDUE),
    ):
        if states.get(name):
            yield Finding(state, name, f"{name}: {_some(states[name])}")


def _agent(report: NodeReport, now: datetime) -> Iterator[Finding]:
    age = (now - report.time).total_seconds()
    if age > (2 * report.poll + _SLACK if report.poll else _RUNS):
        yield Finding(NodeState.SILENT, "silent", f"last report {ago(now - report.time)}")
    if report.failures:
        yield Finding(NodeState.FAILING, "failed", f"failed: {_some(report.failures)}")
    waits = {key for key, ca in CA_OF_BUNDLE.items() if ca in report.waiting}
    if failed := [key for key in report.failed if key not in waits]:
        yield Finding(NodeState.FAILING, "hook-failed", f"hooks failed: {_some(failed)}")


def _records(report: NodeReport, revisions: Mapping[str, int] | None) -> Iterator[Finding]:
    for gap in gaps.of_report(report, revisions):
        if gap.name == gaps.NOT_FOLLOWED:
            yield Finding(NodeState.FAILING, "record-not-followed", gap.text)
        else:
            yield Finding(NodeState.FAILING, "server-behind", gap.text)


def of_status(status: Status, now: datetime, *, name: str) -> NodeRow:
    """Return the row of a node by its own files; `name` is for a status that does not know its node."""
    lives = [life(one.leaf) for one in status.seen if one.leaf is not None]
    first = min(lives, key=lambda span: span[1], default=None)
    return NodeRow(
        node=status.node or name,
        pool=status.pool,
        roles=status.roles,
        findings=tuple(_of_files(status)),
        first_expiry=first[1] if first else None,
        life_left=life_left(*first, now) if first else None,
        trust=status.trust,
        owed=tuple(sorted(status.owed)),
    )


def _of_files(status: Status) -> Iterator[Finding]:
    states: dict[str, list[str]] = {}
    for one in status.seen:
        if one.wrong:
            # A kubeconfig can be wrong beside a whole pair.
            state = {"due": "overdue", "ok": "broken"}.get(one.state.value, one.state.value)
            states.setdefault(state, []).append(one.name)
    yield from _by_state(states)
    if status.agent == "needs-join":
        yield Finding(NodeState.NEEDS_JOIN, "needs-join", "its credential is not accepted, so it needs a new join file")
    if status.faults:
        unknown = status.agent is None and not status.seen
        text = "; ".join(status.faults.values())
        yield Finding(NodeState.UNKNOWN if unknown else NodeState.FAILING, "failed", text)
    elif status.agent == "backing-off":
        yield Finding(NodeState.FAILING, "failed", "the agent waits before it tries again")
    if failed := sorted(key for key, owed in status.owed.items() if owed.attempts):
        yield Finding(NodeState.FAILING, "hook-failed", f"hooks failed: {_some(failed)}")
    if urgent := [end.ca for end in status.ends if end.level.attention]:
        yield Finding(NodeState.FAILING, "ca-expires", f"CA expires soon: {_some(urgent)}")
    if status.reachable is False:
        yield Finding(NodeState.FAILING, "vault-away", "Vault does not answer")
    if not status.seen and not status.faults:
        yield Finding(NodeState.BROKEN, "empty", "there is no certificate here")


def _some(names: Collection[str]) -> str:
    return first_few([name[:_LONGEST] for name in names], _SHOWN)


def time_left(span: timedelta) -> str:
    """Return in words when something is that comes after this span: `in 29d`, or `2h ago`."""
    return f"in {short_span(span)}" if span > timedelta() else ago(-span)


def ago(span: timedelta) -> str:
    """Return in words how long ago something was; a clock that is ahead counts as now."""
    return f"{short_span(span)} ago"


def bar(share: float, width: int) -> str:
    """Return a bar of this width: a part of it filled, at least one cell unless the part is nothing."""
    filled = min(max(round(share * width), 1 if share > 0 else 0), width)
    return "#" * filled + "-" * (width - filled)
