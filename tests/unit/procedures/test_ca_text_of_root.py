"""The page "Rotate the root CA" shows what `ca` prints for the root in each state."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from helpers import pages
from vaultpki.procedure.gate import Gate
from vaultpki.procedures import ca_text
from vaultpki.records.rotation import CaRef, RotationRecord, State

SHOWN = [line for block in pages.blocks(pages.text("ca-root")) for each in block.commands() for line in each.shown]
OLD, NEW = CaRef("root-1", key="key-1", sha256="ab" * 32), CaRef("root-2", key="key-2", sha256="cd" * 32)


def since(state: State) -> datetime:
    """When the page says that a state began."""
    (found, *_) = (line for line in SHOWN if line.startswith(f"root is {state.value} since "))
    return datetime.strptime(found.split()[4].rstrip(":"), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


@pytest.mark.parametrize("state", [State.PREPARED, State.PUBLISHED, State.SWITCHED, State.RETIRED, State.DONE])
def test_each_state_is_shown_as_it_is_printed(state: State) -> None:
    when = since(state) if state is not State.DONE else datetime(2026, 11, 26, tzinfo=UTC)
    record = RotationRecord("root", state, 5, when, OLD, NEW)
    lines = list(ca_text.record_lines(record, Gate(opens=when), when, "cluster.yaml"))
    assert lines[0] in SHOWN
    if state is State.PREPARED:
        assert all(line in SHOWN for line in lines), lines
