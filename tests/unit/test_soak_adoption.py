"""How the soak of adoptions goes from state to state, and that its control runs are of the model's rules."""

from __future__ import annotations

import itertools

import pytest

from models.adoption_tables import RULES
from soak.adoption import controls
from soak.adoption.cluster import BACKWARD, FORWARD, leads_back
from vaultpki.records.adoption import AdoptionState
from vaultpki.rotation.adoption_states import HOMEWARD, ONWARD

# From done there is no way.
STATES = (*FORWARD[:-1], *BACKWARD)


def test_it_knows_every_state() -> None:
    assert {*FORWARD, *BACKWARD} == {state.value for state in AdoptionState}


@pytest.mark.parametrize(("begin", "goal"), list(itertools.permutations(STATES, 2)))
def test_it_comes_from_each_state_to_each_other(begin: str, goal: str) -> None:
    state, seen = begin, [begin]
    while state != goal:
        table = HOMEWARD if leads_back(state, goal) else ONWARD
        state = table[AdoptionState(state)].value
        assert state not in seen, [*seen, state]
        seen.append(state)


def test_control_runs_are_of_rules_of_the_model() -> None:
    for text, _, _ in controls.CONTROLS.values():
        name, _, said = text.partition(": ")
        assert name in RULES and said, text
