"""Says what is wrong with pairs: those of a node, which its agent renews, and those of an operator, who issues them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from vaultpki.certificates import TABLE
from vaultpki.findings.finding import Finding, found, some
from vaultpki.places import file_option

PAIR_FINDINGS: Final = ("expired", "missing", "broken", "revoked", "overdue")
"""The findings about pairs, the worst first."""

OPERATORS: Final = frozenset(row.name for row in TABLE if row.operator)
"""The certificates of the table that operators hold, and no node."""

# More names in one command than a person would want to run at once.
_MOST_NAMES: Final = 20


def of_node(states: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the findings of a node's pairs; `states` has the names of their findings by the pairs that have one."""
    for name in PAIR_FINDINGS:
        if held := [pair for pair, state in states.items() if state == name]:
            yield found(name, f"{name}: {some(held)}", names=" ".join(held[:_MOST_NAMES]))


def of_operator(states: Mapping[str, str], folder: str, file: str = "") -> Iterator[Finding]:
    """Yield a finding for each pair in an operator's folder, since `issue` makes one at a time."""
    for name in PAIR_FINDINGS:
        for pair in (pair for pair, state in states.items() if state == name):
            yield found(name, f"{name}: {pair}", command=issuing(pair, folder, file))


def issuing(name: str, folder: str, file: str = "") -> str:
    """Return the command that issues an operator's certificate into this folder again."""
    return f"vaultpki issue {name}{file_option(file)} --dir {folder}"
