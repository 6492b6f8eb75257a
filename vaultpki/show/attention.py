"""Puts findings together for a person: all faults of one node in one notice, and like nodes in one notice with a count.

Pure. What needs attention is decided in the room `findings`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from vaultpki.findings.catalogue import Severity
from vaultpki.findings.finding import Finding, names_command
from vaultpki.findings.nodes import NodeRow
from vaultpki.procedure.standing import for_any
from vaultpki.redact import first_few

_NAMED: Final = 4
_WEIGHT: Final = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)
# Numbers and times, in which findings of like nodes differ.
_NUMBERS: Final = re.compile(r"\d[\d:.TZ-]*")


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that needs attention, or is worth knowing if its `severity` is INFO.

    `who` names the nodes, with a count if they are several, and is empty for the cluster. `sentences` say one fault
    each, with its next command between backticks. `part` is the part of the page that tells more.
    """

    who: str
    sentences: tuple[str, ...]
    severity: Severity
    part: str

    @property
    def attention(self) -> bool:
        """Whether a person must act."""
        return self.severity.attention

    @property
    def lines(self) -> tuple[str, ...]:
        """The faults for a terminal, one a line."""
        return tuple(f"{self.who}: {each}" if self.who else each for each in self.sentences)


def of_cluster(findings: Iterable[Finding], part: str) -> Iterator[Notice]:
    """Yield a notice for each finding that is not about one node."""
    for finding in findings:
        yield Notice("", (finding.advice(),), finding.severity, part)


def of_nodes(rows: Iterable[NodeRow], part: str) -> Iterator[Notice]:
    """Yield a notice for each node that has findings; nodes with the same findings come together."""
    alike: dict[tuple[tuple[str, str], ...], list[NodeRow]] = {}
    for row in rows:
        if row.worst_first:
            key = tuple((each.name, _NUMBERS.sub("0", each.text)) for each in row.worst_first)
            alike.setdefault(key, []).append(row)
    for found in alike.values():
        if len(found) == 1:
            (row,) = found
            who, said = row.node, sentences(row)
        else:
            names = [row.node for row in found]
            who = f"{first_few(names, _NAMED)} ({len(found):,} nodes)"
            columns = zip(*(row.worst_first for row in found), strict=True)
            said = tuple(_together(column, names) for column in columns)
        yield Notice(who, said, _worst(row.worst_first for row in found), part)


def sentences(row: NodeRow) -> tuple[str, ...]:
    """Return what was found at a node, the worst first, each with its command."""
    # An operator's folder is no machine on which a person runs it.
    return tuple(each.advice(row.node if row.roles else "") for each in row.worst_first)


def worst_first(notices: Iterable[Notice]) -> tuple[Notice, ...]:
    """Return the notices by their weight; those of one weight stay in their order."""
    return tuple(sorted(notices, key=lambda each: _WEIGHT.index(each.severity)))


def _together(found: Sequence[Finding], names: Sequence[str]) -> str:
    """Return the same finding of several nodes as one sentence, with a command for each of them."""
    texts = {each.text for each in found}
    text = found[0].text if len(texts) == 1 else f"{found[0].text}, the others alike"
    commands = {for_any(each.command, name) for each, name in zip(found, names, strict=True)}
    command = commands.pop() if len(commands) == 1 else found[0].command
    if names_command(text, command):
        return text
    there = " on each of them" if found[0].where == "node" else " for each of them" if "NODE" in command else ""
    return f"{text}: run `{command}`{there}"


def _worst(found: Iterable[Sequence[Finding]]) -> Severity:
    return min((each.severity for some in found for each in some), key=_WEIGHT.index)
