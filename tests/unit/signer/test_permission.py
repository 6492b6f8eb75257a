"""The signer is silent while a command changes CAs, and from the start of an adoption until it is done."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from vaultpki.places import Layout
from vaultpki.records.adoption import AdoptionRecord, AdoptionState
from vaultpki.records.changes import Changes
from vaultpki.records.published import ClusterRecord
from vaultpki.signer.permission import Permission, may_sign

NOW = datetime(2026, 12, 1, tzinfo=UTC)
TAKEN_OVER = ClusterRecord("prod", "https://a:6443", "ab" * 32, (), Layout.KUBEADM, {"kubernetes": ("pem",)})
PLAIN = ClusterRecord("prod", "https://a:6443", "ab" * 32, (), Layout.KUBEADM)
SETTLED, CHANGING = Changes(settled=True), Changes(settled=False)


def adopted(state: AdoptionState) -> AdoptionRecord:
    return AdoptionRecord(state, 1, 1, NOW, {"kubernetes": ("ab" * 32,)})


@pytest.mark.parametrize("state", [None, *AdoptionState])
@pytest.mark.parametrize("notice", [SETTLED, CHANGING, None])
def test_it_signs_without_an_adoption_and_once_that_is_done(
    state: AdoptionState | None, notice: Changes | None
) -> None:
    said = may_sign(TAKEN_OVER, adopted(state) if state else None, notice)
    assert said.signs is (notice is not CHANGING and state in (None, AdoptionState.DONE))
    assert bool(said.why) is not said.signs


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (AdoptionState.PUBLISHED, "controller managers sign with the old CA"),
        (AdoptionState.SWITCHED, "controller managers sign with the old CA"),
        (AdoptionState.CLOSED, "joins wait until it is done"),
        (AdoptionState.RETIRED, "joins wait until it is done"),
    ],
)
def test_it_says_why(state: AdoptionState, words: str) -> None:
    assert words in may_sign(TAKEN_OVER, adopted(state), SETTLED).why


def test_a_record_of_an_adoption_counts_only_where_there_is_a_ca_to_take_over() -> None:
    """Whoever may lead adoptions could silence the signer of every cluster else."""
    assert may_sign(PLAIN, adopted(AdoptionState.PUBLISHED), SETTLED) == Permission(signs=True)
