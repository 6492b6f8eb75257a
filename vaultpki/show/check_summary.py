"""Sums up what `verify` found: counts by kind, who gets in where, and every failure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from vaultpki.verify.on_disk import Check

# More failures are counted only: a page of them helps nobody.
MOST_SHOWN: Final = 100
_WORDS: Final = {
    "file": "Files: whole, of the right names, modes and owners",
    "chain": "Chains: OpenSSL accepts what it must, and nothing else",
    "handshake": "Handshakes: live TLS, allowed and forbidden",
}
LIVE: Final = "live"
"""The kind of checks of a running cluster. One that cannot be made from here needs nobody."""

_LIVE_WORDS: Final = "Running cluster: copies of CAs in its objects"


@dataclass(frozen=True, slots=True)
class KindSummary:
    """The checks of one kind: what they are, how many there are, how many failed or could not be made."""

    kind: str
    words: str
    total: int
    failed: int
    unmade: int


@dataclass(frozen=True, slots=True)
class Meeting:
    """Every handshake of one client pair with one server pair: how many were let in, kept out, and not as expected."""

    let_in: int
    kept_out: int
    wrong: int
    unmade: int

    @property
    def state(self) -> str:
        """Return `wrong`, `unmade`, `in`, `out`, or `none` if there was no handshake."""
        if self.wrong:
            return "wrong"
        if self.unmade:
            return "unmade"
        return "in" if self.let_in else "out" if self.kept_out else "none"


@dataclass(frozen=True, slots=True)
class Failure:
    """A check that failed or could not be made (`unmade`): where, and why."""

    kind: str
    source: str
    target: str
    why: str
    unmade: bool


@dataclass(frozen=True, slots=True)
class CheckSummary:
    """All checks. `servers` are the columns of `access`, whose rows are clients; `failures` are the first of them.

    `command` makes the checks again.
    """

    kinds: tuple[KindSummary, ...]
    servers: tuple[str, ...]
    access: tuple[tuple[str, tuple[Meeting, ...]], ...]
    failures: tuple[Failure, ...]
    command: str = ""

    @property
    def total(self) -> int:
        return sum(kind.total for kind in self.kinds)

    @property
    def failed(self) -> int:
        return sum(kind.failed for kind in self.kinds)

    @property
    def unmade(self) -> int:
        return sum(kind.unmade for kind in self.kinds)

    @property
    def hidden(self) -> int:
        """Return how many failures are not in `failures`."""
        return self.failed + self.unmade - len(self.failures)


def check_summary(checks: Sequence[Check], order: Sequence[str], command: str = "") -> CheckSummary:
    """Return the summary; `order` has the names of the rows in the order of the table. `command` made the checks."""
    meetings: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        # A client that is not a pair of a holder only shows which bundle accepts the server.
        if check.kind == "handshake" and "/" in check.source and "/" in check.target:
            ends = (check.source.rpartition("/")[2], check.target.rpartition("/")[2])
            meetings.setdefault(ends, []).append(check)
    clients = [name for name in order if any(client == name for client, _ in meetings)]
    servers = tuple(name for name in order if any(server == name for _, server in meetings))
    bad = [check for check in checks if not check.ok]
    bad.sort(key=lambda check: check.got == "unchecked")
    by_kind = {kind: [check for check in checks if check.kind == kind] for kind in (*_WORDS, LIVE)}
    # Without files there is nothing to say of them.
    words = dict(_WORDS) if len(by_kind[LIVE]) < len(checks) or not checks else {}
    if by_kind[LIVE]:
        words[LIVE] = _LIVE_WORDS
    return CheckSummary(
        kinds=tuple(_kind(kind, said, by_kind[kind]) for kind, said in words.items()),
        servers=servers,
        access=tuple(
            (client, tuple(_meeting(meetings.get((client, server), ())) for server in servers)) for client in clients
        ),
        failures=tuple(map(_failure, bad[:MOST_SHOWN])),
        command=command,
    )


def _kind(kind: str, words: str, checks: Sequence[Check]) -> KindSummary:
    unmade = sum(check.got == "unchecked" for check in checks)
    return KindSummary(kind, words, len(checks), sum(not check.ok for check in checks) - unmade, unmade)


def _meeting(checks: Iterable[Check]) -> Meeting:
    found = list(checks)
    unmade = sum(check.got == "unchecked" for check in found)
    return Meeting(
        sum(bool(check.ok) and check.got == "accept" for check in found),
        sum(bool(check.ok) and check.got == "refuse" for check in found),
        sum(not check.ok for check in found) - unmade,
        unmade,
    )


def _failure(check: Check) -> Failure:
    unmade = check.got == "unchecked"
    why = check.detail if unmade or check.got == "refuse" else f"was accepted {check.detail}".rstrip()
    source = f"{check.source}/{check.name}" if check.kind == "file" else check.source
    return Failure(check.kind, source, check.target, why, unmade)
