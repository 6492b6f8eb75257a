"""The phases of the soak of service-account keys, what is wrong in one, and the tables of them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from soak.phases import SHOWN, Control, print_controls, print_head, print_table, told_wrong
from soak.printed import brief

_MOST_OTHERWISE: Final = 0.01
"""Which part of all uses may fail for another reason: a restart ends some connections."""


@dataclass(frozen=True, slots=True)
class KeyPhase:
    """One phase: its length, how many uses of tokens worked, and what failed.

    `unauthorized` are uses that were answered with 401, of tokens and, by the audit logs, of all other clients;
    `otherwise` are the other failures of both. `refused` are uses of tokens of stolen keys that were refused, as they
    must be, and `others` requests of other clients that worked. `outage` says that tokens may be refused, as in an
    emergency, in which all API servers restart at once too. `broken` says why the phase did not end.
    """

    server: str
    name: str
    seconds: float
    used: int
    unauthorized: tuple[str, ...] = ()
    otherwise: tuple[str, ...] = ()
    refused: int = 0
    others: int = 0
    outage: bool = False
    control: Control | None = None
    broken: str = ""

    def controlled(self) -> Control:
        """What a control run has shown."""
        assert self.control is not None
        refused = self.unauthorized
        return replace(self.control, seen=f"{len(refused)} refused: {refused[0]}" if refused else "none was refused")

    def wrong(self) -> Iterator[str]:
        """Yield a sentence for each thing that must not be."""
        if self.broken:
            yield brief(self.broken)
        if self.control is not None:
            if not self.unauthorized:
                yield f"no token was refused without the rule {self.control.rule}"
        elif self.unauthorized and not self.outage:
            yield f"{len(self.unauthorized)} answered with 401, such as {brief('; '.join(self.unauthorized[:SHOWN]))}"
        if not self.outage and len(self.otherwise) > (self.used + self.others) * _MOST_OTHERWISE:
            such = brief("; ".join(self.otherwise[:SHOWN]))
            yield f"{len(self.otherwise)} of {self.used + self.others} failed for other reasons, such as {such}"


_HEADS: Final = (
    *("server", "phase", "took", "tokens used", "401", "failed otherwise"),
    *("refused as they must be", "requests of others"),
)


def report(phases: Sequence[KeyPhase]) -> int:
    """Print the tables, and what was wrong; return the exit code."""
    print_head()
    rows = []
    for one in phases:
        counted = (one.used, len(one.unauthorized), len(one.otherwise), one.refused, one.others)
        rows.append((one.server, one.name, f"{one.seconds:.0f} s", *counted))
    print_table(_HEADS, rows)
    print_controls([(one.server, one.controlled()) for one in phases if one.control is not None])
    return told_wrong([f"{one.server}, {one.name}: {sentence}" for one in phases for sentence in one.wrong()])
