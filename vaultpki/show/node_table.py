"""The tables of `nodes` and `status`: one form for a state, the life that is left, an age and a reason."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from vaultpki.findings.catalogue import NodeState
from vaultpki.findings.finding import Finding
from vaultpki.findings.nodes import LATE, NodeRow, ago, bar, life, life_left, time_left, versions
from vaultpki.pki.ca_life import CaExpiry, Level
from vaultpki.procedure.gate import Waiting
from vaultpki.procedure.standing import MANY, alike, for_any
from vaultpki.redact import first_few, printable
from vaultpki.show.table import Cell, Column, Paint, lines, plain, wrapped

if TYPE_CHECKING:
    from vaultpki.agent.status import CertificateStatus, Status

_BAR: Final = 8
_INDENT: Final = "    "
_MOST_LINES: Final = 3
_MOST_VERSIONS: Final = 4
# Of the life: when the alert VaultpkiCertificateExpiresSoon fires.
_SOON: Final = 1 / 6
_GENERATION: Final = 8

_RED: Final = frozenset(
    {
        *(NodeState.EXPIRED, NodeState.CLONE, NodeState.BROKEN, NodeState.REVOKED),
        *(NodeState.LOCKED, NodeState.NEEDS_JOIN),
    }
)
_WORST: Final = ("expired", "missing", "broken", "revoked")

_NODE: Final = Column("NODE", most=40, least=28)
_POOL: Final = Column("POOL", most=20, optional=4)
_ROLES: Final = Column("ROLES", most=29, optional=5)
_STATE: Final = Column("STATE", most=12)
_EXPIRES: Final = Column("EXPIRES", most=9, right=True)
_LIFE: Final = Column("LIFE", most=_BAR)
_CAS: Final = Column("CAS", most=_GENERATION, optional=3)
_HOOKS: Final = Column("HOOKS", most=5, right=True, optional=1)
_OF_VAULT: Final = (
    _NODE,
    _POOL,
    _ROLES,
    _STATE,
    _EXPIRES,
    _LIFE,
    Column("REPORTED", most=9, right=True),
    Column("AGENT", most=27, optional=2),
    _CAS,
    _HOOKS,
    Column("LOGINS", most=6, right=True),
)
_OF_FILES: Final = (_NODE, _POOL, _ROLES, _STATE, _EXPIRES, _LIFE, _CAS, _HOOKS)
_CERTIFICATES: Final = (
    Column("CERTIFICATE", most=60, least=24),
    Column("STATE", most=12),
    _LIFE,
    Column("ENDS", most=20),
    Column("RENEWED AFTER", most=20, optional=1),
    Column("WHY", least=12),
)


@dataclass(frozen=True, slots=True)
class Screen:
    """Where a table is shown: how wide a line may be, None for any width; how colours are made; bars or numbers."""

    width: int | None = None
    paint: Paint = plain
    bars: bool = False


def node_lines(rows: Sequence[NodeRow], now: datetime, screen: Screen, *, files: bool = False) -> Iterator[str]:
    """Yield a line for each node, below it why it needs attention, and last how many are in which state.

    What many nodes have is told once, below all of them. Versions of agents are told where they differ. With `files`
    the rows come from files, which show no report and no credential.
    """
    if not rows:
        yield "There is no node."
        return
    made = lines(
        _OF_FILES if files else _OF_VAULT,
        (_row(row, now, screen, files) for row in rows),
        width=screen.width,
        paint=screen.paint,
    )
    yield next(made)
    said = [[Waiting(row.node, text) for text in _texts(row, files)] for row in rows]
    often = Counter(for_any(each.reason, each.node) for some in said for each in some)
    shared: list[Waiting] = []
    for line, some in zip(made, said, strict=True):
        yield line
        for each in some:
            if often[for_any(each.reason, each.node)] < MANY:
                yield from _indented(each.reason, screen)
            else:
                shared.append(each)
    for text, names in alike(shared):
        yield from wrapped(f"{first_few(names, MANY)}: {text}", screen.width or sys.maxsize, _MOST_LINES)
    agents = versions(rows)
    if len(agents) > 1:
        text = first_few([f"{count} of {version}" for version, count in agents], _MOST_VERSIONS)
        yield from wrapped(f"Agents: {text}", screen.width or sys.maxsize, _MOST_LINES)
    count = Counter(row.state for row in rows)
    states = ", ".join(f"{count[state]} {state.value}" for state in NodeState if count[state])
    yield f"{len(rows)} {'node' if len(rows) == 1 else 'nodes'}: {states}"


def end_lines(ends: Iterable[CaExpiry]) -> Iterator[str]:
    """Yield a line for each CA that expires soon."""
    for end in ends:
        if end.level is not Level.NONE:
            yield printable(f"{'!' if end.level.attention else '?'} {end.sentence}")


def finding_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield a line for each finding that is not one node's: `!` needs attention, `?` a plan."""
    for finding in findings:
        yield printable(f"{'!' if finding.attention else '?'} {finding.advice()}")


def key_lines(status: Status) -> Iterator[str]:
    """Yield which service-account keys a node has in its files, and that kube-apiserver must not run yet."""
    keys = status.keys
    if keys is not None and keys.shared:
        yield "sa.key is not of this agent; `vaultpki ca rotate service-account-keys` takes over a key that nodes share"
    elif keys is not None and keys.signing is not None:
        yield printable(f"sa.key is key {keys.signing} of this node; sa.pub accepts {', '.join(keys.union)}")
    elif keys is not None and keys.numbers:
        yield f"this node has made its key {max(keys.numbers)}; sa.key and sa.pub are written once the record admits it"
    elif keys is not None:
        yield "this node has no service-account key yet"
    if status.not_admitted:
        yield printable(status.not_admitted)


def command_lines(row: NodeRow) -> Iterator[str]:
    """Yield the next command of each finding of one node, for a person on that node."""
    for finding in row.worst_first:
        if finding.attention:
            where = "" if finding.where == "node" else " on the operator's machine"
            yield printable(f"{finding.name}: run `{finding.command}`{where}")


def certificate_lines(seen: Sequence[CertificateStatus], now: datetime, screen: Screen) -> Iterator[str]:
    """Yield the table of one node's certificates."""
    yield from lines(
        _CERTIFICATES, (_certificate(one, now, screen) for one in seen), width=screen.width, paint=screen.paint
    )


def _row(row: NodeRow, now: datetime, screen: Screen, files: bool) -> tuple[str | Cell, ...]:
    first = (
        row.node,
        # A node of no known pool, and a folder whose agent.yaml cannot be read, have neither.
        row.pool or ("listed" if row.roles else "-"),
        "+".join(row.roles) or "-",
        Cell(row.state.value, _colour(row.state)),
        "-" if row.first_expiry is None else time_left(row.first_expiry - now),
        _life(row.life_left, screen),
    )
    last = (row.trust[:_GENERATION] or "-", str(len(row.owed)))
    if files:
        return *first, *last
    return (
        *first,
        "never" if row.reported is None else ago(now - row.reported),
        row.version or "-",
        *last,
        "-" if row.credentials is None else str(row.credentials),
    )


def _texts(row: NodeRow, files: bool) -> list[str]:
    found = row.worst_first if files else row.pressing
    return [each.advice(row.node) if each.attention else each.text for each in found]


def _indented(text: str, screen: Screen) -> Iterator[str]:
    if screen.width is None:
        yield f"{_INDENT}{printable(text)}"
        return
    for line in wrapped(text, screen.width - len(_INDENT), _MOST_LINES):
        yield f"{_INDENT}{line}"


def _certificate(one: CertificateStatus, now: datetime, screen: Screen) -> tuple[str | Cell, ...]:
    share = life_left(*life(one.leaf), now) if one.leaf else None
    worst = one.state.value in _WORST
    return (
        one.name,
        Cell(one.state.value, "red" if worst else "yellow" if one.wrong else "green"),
        _life(share, screen),
        _time(one.leaf.not_after if one.leaf else None),
        _time(one.renew_after),
        ", ".join(one.reasons),
    )


def _life(share: float | None, screen: Screen) -> str | Cell:
    if share is None:
        return "-"
    text = bar(share, _BAR) if screen.bars else f"{int(share * 100)}%"
    return Cell(text, "red" if share < _SOON else "yellow" if share < LATE else "green")


def _time(when: datetime | None) -> str:
    return "-" if when is None else f"{when:%Y-%m-%d %H:%M:%S}Z"


def _colour(state: NodeState) -> str | None:
    if state is NodeState.NEW:
        return None
    return "red" if state in _RED else "yellow" if state.attention else "green"
