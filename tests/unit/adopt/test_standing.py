"""What `adopt status` says, for people and for programs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from unit.adopt.test_gates import NOW, record
from unit.adopt.test_look import ROOT
from vaultpki.adopt import standing
from vaultpki.adopt.drive import AdoptionOutcome
from vaultpki.adopt.look import Sides
from vaultpki.records.adoption import AdoptionState
from vaultpki.rotation.adoption_evidence import ClusterSeen
from vaultpki.rotation.gates import Gate


def outcome(kept: str) -> AdoptionOutcome:
    held = record(AdoptionState.DONE, kept=kept)
    cluster = SimpleNamespace(name="prod", file="cluster.yaml", authority=SimpleNamespace(also_trust={}))
    look: Any = SimpleNamespace(
        record=held,
        stored=SimpleNamespace(record=held),
        cluster=cluster,
        seen=ClusterSeen(),
        sides=Sides({}, {}, ROOT.facts),
        imported={},
        now=NOW,
    )
    return AdoptionOutcome(look, None, Gate(), over=True)


@pytest.mark.parametrize("kept", ["", "in the safe of the platform team"])
def test_where_old_keys_are_kept_is_said_for_good(kept: str) -> None:
    text = " ".join(" ".join(standing.lines(outcome(kept), "admin.conf")).split())
    assert ("they are kept: in the safe of the platform team." in text) is bool(kept)
    assert standing.document(outcome(kept))["kept"] == (kept or None)
