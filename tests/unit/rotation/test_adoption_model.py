"""The tables of the model of an adoption (tests/models) are those of the code: neither changes alone."""

from __future__ import annotations

from importlib import import_module

import pytest

from models import adoption_tables as model
from models.adoption import Settings, onward, signs
from models.code import ADOPTION_KEPT_BY
from vaultpki.rotation import adoption_states as code
from vaultpki.rotation.adoption_states import AdoptionState, Side

STATES = {letter: AdoptionState(word) for letter, word in model.STATES.items()}
SIDES = {model.OLD: Side.OLD, model.NEW: Side.NEW, model.BOTH: Side.BOTH}
SHORT = {"SR"}
"""The step of etcd's world, which has no CSR signer and so no closed."""


def step(letters: str) -> tuple[AdoptionState, AdoptionState]:
    return STATES[letters[0]], STATES[letters[1]]


def test_states_and_what_comes_next() -> None:
    assert set(STATES.values()) == set(AdoptionState)
    assert {STATES[a]: STATES[b] for a, b in model.FORWARD.items()} == code.ONWARD
    assert {STATES[a]: STATES[b] for a, b in model.BACK.items()} == code.HOMEWARD
    assert onward(Settings("mw")) == model.FORWARD
    # Done has no next state, prepared no way back, and from every other one there is a way to both.
    assert set(AdoptionState) - set(code.ONWARD) == {AdoptionState.DONE}
    assert set(AdoptionState) - set(code.HOMEWARD) == {AdoptionState.DONE, AdoptionState.PREPARED}


@pytest.mark.parametrize("letter", model.STATES)
def test_whom_nodes_trust_and_whose_leaves_they_take(letter: str) -> None:
    state = STATES[letter]
    assert code.TRUSTED[state] is SIDES[model.TRUST[letter]]
    assert code.LEAVES_OF[state] is SIDES[model.LEAF[letter]]
    assert code.LEAVES_OF[state] in code.TRUSTED[state]
    assert (state in code.SIGNER_ON) is (letter in model.SIGNER) is signs(letter, Settings("mw"))
    assert (state in code.KEYS_ASIDE) is (letter in model.ASIDE)


def test_what_steps_wait_for() -> None:
    assert {step(each) for each in model.FREE} == code.FREE_STEPS
    for found, table in ((code.STEPS_BY_TRUST, model.TRUST_STEPS), (code.STEPS_BY_LEAVES, model.LEAF_STEPS)):
        assert found == {step(each): SIDES[side] for each, side in table.items() if each not in SHORT}
    assert step(next(each for each in model.LAST if each not in SHORT)) == code.LAST_STEP
    # Each step is free, or waits for something.
    every = {(a, b) for table in (code.ONWARD, code.HOMEWARD) for a, b in table.items()}
    assert every == code.FREE_STEPS | code.STEPS_BY_TRUST.keys() | code.STEPS_BY_LEAVES.keys()
    assert not code.FREE_STEPS & (code.STEPS_BY_TRUST.keys() | code.STEPS_BY_LEAVES.keys())


def test_no_step_takes_trust_away_from_leaves_in_use() -> None:
    """Who drops a CA has waited until nobody shows a leaf of it, and who takes leaves until everybody trusts them."""
    for a, b in {(a, b) for table in (code.ONWARD, code.HOMEWARD) for a, b in table.items()} - code.FREE_STEPS:
        if code.TRUSTED[a] & ~code.TRUSTED[b]:
            assert code.STEPS_BY_LEAVES[a, b] is code.TRUSTED[b]
        if code.LEAVES_OF[a] is not code.LEAVES_OF[b]:
            assert code.LEAVES_OF[b] in code.STEPS_BY_TRUST[a, b]


@pytest.mark.parametrize("rule", sorted(ADOPTION_KEPT_BY))
def test_the_code_that_keeps_a_rule_is_there(rule: str) -> None:
    module, _, name = ADOPTION_KEPT_BY[rule].partition(":")
    found = import_module(f"vaultpki.{module}")
    for each in name.split("."):
        found = getattr(found, each)


def test_every_rule_says_what_keeps_it() -> None:
    assert set(ADOPTION_KEPT_BY) == set(model.RULES)
