"""Sums a node up in one row: its state and why, its first expiry, what it runs; for `nodes` and for `status`.

A row comes from a node's report in Vault or from its own files. Pure: the time is an argument.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from vaultpki import readers
from vaultpki.certificates import SERVICE_ACCOUNT
from vaultpki.findings import foreign_cas, late, pairs
from vaultpki.findings.catalogue import AGENT_ONCE, ENROLL, ENROLL_AGAIN, LOCK_NODE, ORDER, NodeState, Severity
from vaultpki.findings.finding import Finding, found, named_command, of_ends, some
from vaultpki.findings.finding import to_json as finding_json
from vaultpki.pki import renewal
from vaultpki.readers import CA_OF_BUNDLE, KUBECONFIG_SERVERS
from vaultpki.records import gaps
from vaultpki.records.gaps import left_over_sentence
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS
from vaultpki.redact import printable, stamp
from vaultpki.values import release_order
from vaultpki.values.durations import short_span

if TYPE_CHECKING:
    from vaultpki.agent.status import Status
    from vaultpki.identity.ending import LockRecord
    from vaultpki.identity.nodes import Member, Unfit
    from vaultpki.identity.revoked_list import Revoked
    from vaultpki.pki.facts import Facts
    from vaultpki.records.node_report import NodeReport

# A node has one live credential, and for five minutes also the one before.
_MOST_CREDENTIALS: Final = 2
# Of the life that is left: a renewal is due at a third at the latest, and then late by a tenth.
LATE: Final = 1 - 2 / 3 - 1 / 10
"""The part of a life at which its renewal is late."""

_LATE_SECONDS: Final = 900
_LONGEST: Final = 100
# The first build whose agent keeps what its record does not name.
_KEEPS: Final = release_order.key("0.3.0.dev0")
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node. `life_left` is the part of the life that is left to the certificate that expires first, 0 to 1.

    `trust` names the CAs in its bundles. `credentials` is None if nobody looked, and for a node that needs none.
    `wrong` has the certificates that need attention, with the names of their findings. `kubernetes` are the versions
    of Kubernetes that the node's components run with, where its agent can see them. `keys` says in a few words which
    service-account keys a control-plane node has; empty where it has none of its own.
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
    wrong: Mapping[str, str] = field(default_factory=dict)
    kubernetes: Mapping[str, str] = field(default_factory=dict)
    keys: str = ""

    @property
    def state(self) -> NodeState:
        return min((finding.state for finding in self.findings), key=ORDER.__getitem__, default=NodeState.OK)

    @property
    def worst_first(self) -> tuple[Finding, ...]:
        """The findings in the order in which they need attention."""
        return tuple(sorted(self.findings, key=lambda each: ORDER[each.state]))

    @property
    def pressing(self) -> tuple[Finding, ...]:
        """The same without those that a node which is well may have, too."""
        return tuple(each for each in self.worst_first if each.state is not NodeState.OK)

    @property
    def message(self) -> str:
        """Return the findings in words, the worst first; empty if there is none."""
        return "; ".join(finding.text for finding in self.pressing)

    @property
    def attention(self) -> bool:
        """Whether a person must act: exit codes tell it."""
        return any(finding.attention for finding in self.findings)


def order(row: NodeRow) -> tuple[int, datetime, str]:
    """Return the place of a row among others: what needs attention first, then what expires first, then by name."""
    return ORDER[row.state], row.first_expiry or _LAST, row.node


def versions(rows: Iterable[NodeRow]) -> list[tuple[str, int]]:
    """Return each version that an agent has reported and of how many nodes it is, the oldest first."""
    count = Counter(printable(row.version) for row in rows if row.version)
    return sorted(count.items(), key=lambda each: release_order.key(each[0]))


def to_json(row: NodeRow) -> dict[str, Any]:
    """Return a row as `nodes --json` and `status --json` have it."""
    return {
        "node": printable(row.node),
        "pool": row.pool,
        "roles": list(row.roles),
        "state": row.state.value,
        "reasons": [finding.name for finding in row.findings if finding.state is not NodeState.OK],
        "message": printable(row.message) or None,
        "first_expiry": None if row.first_expiry is None else stamp(row.first_expiry),
        "life_left": None if row.life_left is None else round(row.life_left, 3),
        "reported": None if row.reported is None else stamp(row.reported),
        "agent_version": row.version or None,
        "kubernetes": dict(sorted(row.kubernetes.items())),
        "ca_generation": row.trust or None,
        "hooks_owed": list(row.owed),
        "credentials": row.credentials,
        "findings": [finding_json(each) for each in row.worst_first],
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
    *,
    file: str = "",
    foreign: Mapping[str, Collection[Facts]] = MappingProxyType({}),
    lock: LockRecord | None = None,
    recover: Mapping[str, str] | None = None,
) -> NodeRow:
    """Return the row of a node by what Vault has of it; `ttls` are seconds by certificate, where it lacks a begin.

    `revoked` is what the mounts of the CAs show as revoked: a node's own word is not enough. `revisions` are those of
    the rotation records by domain, None if nobody has read them. `file` is the cluster.yaml that commands name,
    and `foreign` are the foreign CAs in it, by domain. `lock` is the record that somebody has locked the node.
    `recover` has what `ca recover` puts right, by the CAs that need it; None if nobody knows. What a node says of
    another CA is its word alone, which joining anew ends.
    """
    report, finds = member.report, _Finder(member.name, member.pool, file, jwt=member.kind == "jwt")
    if report is None:
        findings = [*_credentials(member, lock, finds)]
        if lock is None or member.stored:
            findings += _without_report(member, finds)
        return NodeRow(member.name, member.pool, member.roles, tuple(findings), credentials=member.credentials)
    lives = dict(_lives(report, ttls))
    first = min(lives.values(), key=lambda span: span[1], default=None)
    apart = tuple(gaps.of_report(report, revisions))
    states = dict(_certificates(report, lives, now, revoked))
    findings = [
        *_credentials(member, lock, finds, copied=late.copied(member.secret_ids, report, now)),
        *([] if report.certificates else [finds("empty", "it reports no certificate")]),
        *pairs.of_node(states),
        *_surplus({place: one.not_after for place, one in report.surplus.items()}, finds),
        *_agent(report, now, [gap.domain for gap in apart], finds),
        *(finds.gap(gap, recover) for gap in apart),
        *_foreign(foreign_cas.of_report(report, foreign), finds),
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
        wrong=states,
        kubernetes=report.kubernetes,
        keys=_reported_keys(report),
    )


def _reported_keys(report: NodeReport) -> str:
    from vaultpki.pki import x509

    keys = report.token_keys
    if keys is None:
        return ""
    own = ((number, facts) for number, pem in keys.own.items() for facts in x509.readable(pem)[:1])
    signing = next((number for number, facts in own if facts.fingerprint == keys.signing), None)
    return _keys(signing, len(keys.union), bool(keys.shared))


def _keys(signing: int | None, accepted: int, shared: bool) -> str:
    if shared:
        return "signs tokens with an sa.key that its agent has not made"
    if signing is None:
        return "has no service-account key yet"
    return f"signs tokens with its service-account key {signing}, and accepts those of {accepted}"


def of_unfit(unfit: Unfit, *, file: str = "") -> NodeRow:
    """Return the row of an identity that does not belong to a node."""
    ends = named_command(unfit.sentence, file)
    finding = found("fits-no-pool", unfit.sentence, file=file, command=ends)
    return NodeRow(printable(unfit.name[:_LONGEST]), "-", (), (finding,), credentials=unfit.credentials)


@dataclass(frozen=True, slots=True)
class _Finder:
    """Makes the findings of one node, with its name in their commands."""

    node: str
    pool: str | None
    file: str
    jwt: bool = False

    def __call__(
        self,
        name: str,
        text: str,
        *,
        state: NodeState | None = None,
        severity: Severity | None = None,
        ca: str = "",
        template: str = "",
    ) -> Finding:
        places = {"node": self.node, "pool": self.pool or "", "ca": ca}
        return found(name, text, state=state, severity=severity, file=self.file, template=template, **places)

    def gap(self, gap: gaps.Gap, recover: Mapping[str, str] | None = None) -> Finding:
        """Return that node and server do not have the same record; `recover` as in `of_member`."""
        name = "record-not-followed" if gap.name == gaps.NOT_FOLLOWED else "server-behind"
        ca = gap.domain if recover is None else recover.get(gap.domain, "")
        if ca:
            return self(name, gap.text if ca == gap.domain else gap.what, ca=ca)
        # It alone says so, and its word does not count. A join file is nothing for one that logs in by a token.
        return self(name, gap.what, template=LOCK_NODE if self.jwt else ENROLL_AGAIN)


def _without_report(member: Member, finds: _Finder) -> Iterator[Finding]:
    if member.stored:
        yield finds("report-unreadable", "its report cannot be read")
    elif member.credentials == 0:
        yield finds("not-enrolled", "not enrolled")
    elif member.join_until is not None:
        yield finds("join-file-unused", f"has a join file that nobody has used, until {stamp(member.join_until)}")
    else:
        yield finds("never-reported", "never reported")


def _credentials(member: Member, lock: LockRecord | None, finds: _Finder, *, copied: bool = False) -> Iterator[Finding]:
    count, joined = member.credentials, bool(member.stored)
    lost = member.report.lost if member.report is not None else 0
    if member.disabled:
        yield finds("locked", lock.sentence if lock is not None else "locked")
    elif lock is not None and (count or member.kind == "jwt"):
        lives = f"has {count} live {'credential' if count == 1 else 'credentials'}" if count else "can log in"
        yield finds("locked-and-live", f"was {lock.sentence}, and {lives}")
    elif lock is not None:
        yield finds("locked", lock.sentence, template=ENROLL)
    elif count == 0 and joined:
        yield finds("no-credential", "no live credential, so it needs a new join file")
    elif joined and member.join_until is not None:
        text = f"can log in only with a join file that nobody has used, until {stamp(member.join_until)}"
        yield finds("not-joined-again", text)
    if count is not None and (copied or count > _MOST_CREDENTIALS + lost):
        yield finds("many-credentials", f"{count} live credentials (a clone?)")


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
    report: NodeReport,
    lives: Mapping[str, tuple[datetime, datetime]],
    now: datetime,
    revoked: Revoked,
) -> Iterator[tuple[str, str]]:
    """Yield the certificates that need attention, with the names of their findings."""
    for name, one in report.certificates.items():
        ends = one.not_after
        if one.state in ("missing", "broken") or ends is None:
            yield name, one.state if one.state in ("missing", "broken") else "missing"
        elif one.state == "expired" or ends <= now:
            yield name, "expired"
        elif one.state == "revoked" or revoked.has(name, one.serial):
            yield name, "revoked"
        elif _late(one.renew_after, lives[name], report.poll, now):
            yield name, "overdue"


def _surplus(ends: Mapping[str, datetime | None], finds: _Finder) -> Iterator[Finding]:
    """Yield what is on the node beside what its record names; `ends` are when they expire, by their files."""
    if ends:
        last = max((each for each in ends.values() if each is not None), default=None)
        until = f", until {stamp(last)} at the latest" if last is not None else ""
        yield finds("surplus", f"surplus: {some(sorted(ends))}{until}")


def _late(renew_after: datetime | None, span: tuple[datetime, datetime], poll: int, now: datetime) -> bool:
    if renew_after is None:
        return life_left(*span, now) < LATE
    return (now - renew_after).total_seconds() > max(2 * poll, _LATE_SECONDS)


def _agent(report: NodeReport, now: datetime, apart: Collection[str], finds: _Finder) -> Iterator[Finding]:
    if late.silent(now - report.time, report.next_within):
        yield finds("silent", f"last report {ago(now - report.time)}")
    if release_order.key(report.agent) < _KEEPS:
        yield finds("agent-old", f"its agent ({printable(report.agent)}) deletes at once what its record does not name")
    # A record that the node does not follow is a finding of its own.
    failures = [each for each in report.failures if each not in {f"{domain} rotation" for domain in apart}]
    if failures:
        yield finds("failed", f"failed: {some(failures)}")
    waits = {key for key, ca in CA_OF_BUNDLE.items() if ca in report.waiting}
    owed = [key for key in report.owed if key not in report.by_hand]
    yield from _hooks([key for key in report.failed if key not in waits], owed, finds)
    untried = _cas_of(key for key in report.owed if key not in report.failed)
    waiting = _cas_of(report.waiting).union(report.waiting)
    yield from _behind(gaps.readers_behind(report), {*waiting, *untried}, finds)
    if report.token_keys is not None and not report.token_keys.admitted:
        yield finds("key-not-admitted", readers.not_admitted(report.token_keys.reader.running))


def _cas_of(keys: Iterable[str]) -> set[str]:
    """Return the CAs whose files the hooks of these keys are for, and `kubeconfigs`; another key is left out."""
    named = {**CA_OF_BUNDLE, SERVICE_ACCOUNT_KEYS: SERVICE_ACCOUNT, KUBECONFIG_SERVERS: KUBECONFIG_SERVERS}
    return {named[key] for key in keys if key in named}


def _foreign(said: Iterable[foreign_cas.Said], finds: _Finder) -> Iterator[Finding]:
    for text, needs, template in said:
        state, severity = (None, None) if needs else (NodeState.OK, Severity.INFO)
        # By the line that its owner has written into agent.yaml.
        own = template or (AGENT_ONCE if finds.jwt else "")
        yield finds("foreign-ca", text, state=state, severity=severity, template=own)


def _hooks(failed: Collection[str], owed: Collection[str], finds: _Finder) -> Iterator[Finding]:
    if failed:
        yield finds("hook-failed", f"hooks failed: {some(sorted(failed))}")
    if waiting := sorted(set(owed) - set(failed)):
        yield finds("hook-owed", f"hooks that have not run yet: {some(waiting)}")


def _behind(wrong: Iterable[tuple[str, str]], turns: Collection[str], finds: _Finder) -> Iterator[Finding]:
    """Yield the components that are behind, but for those that wait for the node's turn in a rotation, by their CAs."""
    texts = [text for name, text in wrong if name.partition("/")[0] not in turns]
    if texts:
        yield finds("reader-behind", "; ".join(dict.fromkeys(texts)))


def of_status(status: Status, now: datetime, *, name: str) -> NodeRow:
    """Return the row of a node by its own files; `name` is for a status that does not know its node."""
    lives = [life(one.leaf) for one in status.seen if one.leaf is not None]
    first = min(lives, key=lambda span: span[1], default=None)
    # A kubeconfig can be wrong beside a whole pair.
    words = {"due": "overdue", "ok": "broken"}
    states = {one.name: words.get(one.state.value, one.state.value) for one in status.seen if one.wrong}
    return NodeRow(
        node=status.node or name,
        pool=status.pool,
        roles=status.roles,
        findings=tuple(_of_files(status, states, now, _Finder(status.node or name, status.pool, "", status.jwt))),
        first_expiry=first[1] if first else None,
        life_left=life_left(*first, now) if first else None,
        trust=status.trust,
        owed=tuple(sorted(status.owed)),
        wrong=states,
        kubernetes=status.kubernetes,
        keys=_keys(status.keys.signing, len(status.keys.union), status.keys.shared) if status.keys is not None else "",
    )


def _of_files(status: Status, states: Mapping[str, str], now: datetime, finds: _Finder) -> Iterator[Finding]:
    # No agent renews what an operator has, and a folder by itself does not say whose it is.
    own = {each.name: each.path for each in status.seen if status.node is None and each.name in pairs.OPERATORS}
    yield from pairs.of_node({name: state for name, state in states.items() if name not in own})
    for name in own.keys() & states.keys():
        yield from pairs.of_operator({name: states[name]}, own[name].rpartition("/")[0])
    left = {pair.place: pair.leaf.not_after if pair.leaf else None for pair in status.surplus.values()}
    yield from _surplus(left, finds)
    if status.bundles:
        yield finds("bundle", "; ".join(status.bundles))
    if status.token_keys:
        yield finds("token-keys", "; ".join(status.token_keys))
    if status.agent == "needs-join":
        yield finds("needs-join", "its credential is not accepted, so it needs a new join file")
    if status.asked is not None and late.silent(now - status.asked, status.next_within):
        yield finds("silent", f"its agent last asked Vault {ago(now - status.asked)}")
    apart = [ca.gap for ca in status.cas if ca.gap is not None]
    # A record that the node does not follow is a finding of its own.
    kept = {f"{gap.domain} rotation" for gap in apart}
    if faults := [text for what, text in status.faults.items() if what not in kept]:
        unknown = status.agent is None and not status.seen
        yield finds("failed", "; ".join(faults), state=NodeState.UNKNOWN if unknown else NodeState.FAILING)
    elif status.agent == "backing-off" and not status.faults:
        yield finds("failed", "the agent waits before it tries again")
    owed = {key: each for key, each in status.owed.items() if key not in status.by_hand}
    yield from _hooks([key for key, each in owed.items() if each.attempts], owed, finds)
    yield from _foreign(foreign_cas.of_status(status), finds)
    yield from of_ends(status.ends)
    if status.reachable is False:
        # What an error says to do, `doctor` says of each address.
        yield finds("vault-away", (status.error or "Vault cannot be reached").partition("; ")[0])
    yield from (finds.gap(gap) for gap in apart)
    for ca in status.cas:
        for facts in ca.left_over:
            text = left_over_sentence(ca.domain, facts.fingerprint, [status.node or "this node"])
            yield found("ca-left-over", text, command=named_command(text, ""))
    untried = _cas_of(key for key, owed in status.owed.items() if not owed.attempts)
    yield from _behind(status.readers.items(), untried, finds)
    if status.not_admitted:
        yield finds("key-not-admitted", status.not_admitted)
    if status.notes:
        yield finds("files-alone", "; ".join(status.notes))
    if not status.seen and not status.faults:
        yield finds("empty", "there is no certificate here")


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
