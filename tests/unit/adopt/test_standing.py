"""What `adopt status` says, for people and for programs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from unit.adopt.test_gates import NOW, machine, record, report
from unit.adopt.test_look import ROOT
from vaultpki.adopt import drive, standing
from vaultpki.adopt.drive import AdoptionOutcome
from vaultpki.adopt.look import Sides
from vaultpki.records.adoption import AdoptionRecord, AdoptionState
from vaultpki.rotation.adoption_evidence import ClusterSeen
from vaultpki.rotation.gates import Gate


def outcome(kept: str) -> AdoptionOutcome:
    return AdoptionOutcome(look_at(record(AdoptionState.DONE, kept=kept), ClusterSeen()), None, Gate(), over=True)


def look_at(held: AdoptionRecord, seen: ClusterSeen) -> Any:
    cluster = SimpleNamespace(name="prod", file="cluster.yaml", authority=SimpleNamespace(also_trust={}))
    return SimpleNamespace(
        record=held,
        stored=SimpleNamespace(record=held),
        cluster=cluster,
        seen=seen,
        sides=Sides({}, {}, ROOT.facts),
        imported={},
        now=NOW,
    )


@pytest.mark.parametrize("kept", ["", "in the safe of the platform team"])
def test_where_old_keys_are_kept_is_said_for_good(kept: str) -> None:
    text = " ".join(" ".join(standing.lines(outcome(kept), "admin.conf")).split())
    assert ("they are kept: in the safe of the platform team." in text) is bool(kept)
    assert standing.document(outcome(kept))["kept"] == (kept or None)


@pytest.mark.parametrize("before", [None, AdoptionState.PREPARED, AdoptionState.PUBLISHED, AdoptionState.RETURNING])
def test_in_prepared_an_abort_gives_turns_to_machines_that_come_back(before: AdoptionState | None) -> None:
    """`adopt continue` waits for nobody there, and leads onward again."""
    prepared = AdoptionState.PREPARED
    planes = [
        machine("cp-1", prepared),
        machine("cp-2", prepared, report=report(prepared, reached=before, owed=("exchange it",))),
    ]
    found = drive.standing(look_at(record(prepared), ClusterSeen(machines=tuple(planes))))
    text = " ".join(" ".join(standing.lines(found, "admin.conf")).split())
    words = (
        "Next: `vaultpki adopt abort -f cluster.yaml --kubeconfig admin.conf` gives cp-2 the turn to end the way back"
    )
    assert (words in text) is (before not in (None, prepared))
    assert "`vaultpki adopt continue -f cluster.yaml --kubeconfig admin.conf`" in text
