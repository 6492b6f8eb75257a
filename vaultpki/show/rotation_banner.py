"""Says in a few lines that a CA is being rotated: its state, since when, and what the next step waits for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vaultpki.certificates import ROOT
from vaultpki.graph.content import ca_title
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.records.rotation import RotationRecord
from vaultpki.records.service_account import KeyRecord
from vaultpki.redact import first_few, stamp
from vaultpki.show import ca as ca_text
from vaultpki.show import key_status
from vaultpki.token_keys.standing import KeyStepDone
from vaultpki.values.durations import long_span

_REASONS: Final = 4
_NAMES: Final = 4


@dataclass(frozen=True, slots=True)
class RotationBanner:
    """A rotation that is under way. `since` has the time and how long ago that is; `waits` are one sentence or more."""

    title: str
    since: str
    holds: str
    waits: tuple[str, ...]


def banner(cluster: str, record: RotationRecord, gate: Gate | None, now: datetime, file: str) -> RotationBanner:
    """Return the banner of a rotation that is under way, at the server's time `now`."""
    what = f"{'The ' if record.domain == ROOT else ''}{ca_title(record.domain, cluster)} is"
    return _banner(what, record, ca_text.state_sentence(record), gate, now, file)


def of_keys(keys: KeyStepDone | None, now: datetime, file: str) -> RotationBanner | None:
    """Return the banner of a rotation of service-account keys; None if none is under way."""
    if keys is None or keys.record is None or not keys.record.active:
        return None
    holds = key_status.state_sentence(keys.record)
    return _banner("The service-account keys are", keys.record, holds, keys.gate, now, file)


def _banner(
    what: str, record: RotationRecord | KeyRecord, holds: str, gate: Gate | None, now: datetime, file: str
) -> RotationBanner:
    return RotationBanner(
        title=f"{what} being rotated: {record.state.value}",
        since=f"since {record.since:%Y-%m-%d %H:%M} UTC, {long_span(now - record.since)} ago",
        holds=holds,
        waits=tuple(_waits(gate, now, file)),
    )


def _waits(gate: Gate | None, now: datetime, file: str) -> Iterator[str]:
    if gate is None:
        yield f"`vaultpki ca status -f {file}` shows what it waits for"
    elif gate.waiting:
        found = by_reason(gate.waiting)
        for reason, names in found[:_REASONS]:
            yield f"It waits for {first_few(names, _NAMES)}: {reason}"
        if len(found) > _REASONS:
            more = sum(len(names) for _, names in found[_REASONS:])
            yield f"It waits for {more:,} more: `vaultpki ca status -f {file}`"
    elif gate.opens is not None and gate.opens > now:
        yield f"Every node is ready; it waits {long_span(gate.opens - now)} more, until {stamp(gate.opens)}"
    else:
        yield f"It waits for nobody: run `vaultpki ca continue -f {file}`"


def by_reason(waiting: Sequence[Waiting]) -> list[tuple[str, list[str]]]:
    """Return the names by what must happen there, what most of them wait for first."""
    found: dict[str, list[str]] = {}
    for each in waiting:
        found.setdefault(each.reason, []).append(each.node)
    return sorted(found.items(), key=lambda each: -len(each[1]))
