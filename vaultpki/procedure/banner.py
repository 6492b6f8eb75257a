"""Says in a few lines that something is being replaced in steps: its state, since when, what the next one waits for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vaultpki.places import file_option
from vaultpki.procedure.gate import Gate
from vaultpki.procedure.standing import alike
from vaultpki.redact import first_few, stamp
from vaultpki.values.durations import long_span

_REASONS: Final = 4
_NAMES: Final = 4


@dataclass(frozen=True, slots=True)
class Banner:
    """A procedure that is under way. `since` has the time and how long ago that is; `waits` are one sentence or more.

    `holds` is what holds in its state, as the rest of a sentence.
    """

    title: str
    since: str
    holds: str
    waits: tuple[str, ...]


def banner(title: str, since: datetime, holds: str, gate: Gate | None, now: datetime, file: str) -> Banner:
    """Return the banner of a rotation that is under way, at the server's time `now`; `title` has its state."""
    ago = f"since {since:%Y-%m-%d %H:%M} UTC, {long_span(now - since)} ago"
    return Banner(title, ago, holds, tuple(_waits(gate, now, file)))


def _waits(gate: Gate | None, now: datetime, file: str) -> Iterator[str]:
    if gate is None:
        yield f"`vaultpki ca status{file_option(file)}` shows what it waits for"
    elif gate.waiting:
        found = sorted(alike(gate.waiting, many=2), key=lambda each: -len(each[1]))
        for reason, names in found[:_REASONS]:
            yield f"It waits for {first_few(names, _NAMES)}: {reason}"
        if len(found) > _REASONS:
            more = sum(len(names) for _, names in found[_REASONS:])
            yield f"It waits for {more:,} more: `vaultpki ca status{file_option(file)}`"
    elif gate.opens is not None and gate.opens > now:
        yield f"Every node is ready; it waits {long_span(gate.opens - now)} more, until {stamp(gate.opens)}"
    else:
        yield f"It waits for nobody: run `vaultpki ca continue{file_option(file)}`"
