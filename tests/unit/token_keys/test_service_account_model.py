"""The tables of the model of service-account keys (tests/models) are those of the code: neither changes alone."""

from __future__ import annotations

import pytest

from models import service_account_tables as model
from vaultpki.token_keys import states as code
from vaultpki.token_keys.states import KeyAge, KeyState

STATES = {letter: KeyState(word) for letter, word in model.STATES.items()}
AGES = {model.OLD: KeyAge.OLD, model.NEW: KeyAge.NEW, model.BOTH: KeyAge.BOTH}
EVERY = {(a, b) for table in (code.KEYS_ONWARD, code.KEYS_HOMEWARD) for a, b in table.items()}


def step(letters: str) -> tuple[KeyState, KeyState]:
    return STATES[letters[0]], STATES[letters[1]]


def test_states_and_what_comes_next() -> None:
    assert set(STATES.values()) == set(KeyState)
    assert {STATES[a]: STATES[b] for a, b in model.FORWARD.items()} == code.KEYS_ONWARD
    assert {STATES[a]: STATES[b] for a, b in model.BACK.items()} == code.KEYS_HOMEWARD
    # Done has no next state, steady no way back, and from every other one there is a way to both.
    assert set(KeyState) - set(code.KEYS_ONWARD) == {KeyState.DONE}
    assert set(KeyState) - set(code.KEYS_HOMEWARD) == {KeyState.DONE, KeyState.STEADY}


@pytest.mark.parametrize("letter", model.STATES)
def test_which_keys_are_accepted_and_sign(letter: str) -> None:
    state = STATES[letter]
    assert code.ACCEPTED[state] is AGES[model.ACCEPT[letter]] is AGES[model.MAKES[letter]]
    assert code.SIGNED_WITH[state] is AGES[model.SIGN[letter]]
    assert code.SIGNED_WITH[state] in code.ACCEPTED[state]
    assert (state in code.OLD_KEYS_DELETED) is (letter in model.DELETED)


def test_what_steps_wait_for() -> None:
    assert {step(each) for each in model.FREE} == code.FREE_KEY_STEPS
    assert {step(each): AGES[age] for each, age in model.ACCEPT_STEPS.items()} == code.STEPS_BY_UNION
    assert {step(each): AGES[age] for each, age in model.SIGN_STEPS.items()} == code.STEPS_BY_SIGNING
    # The longest life of tokens passes before the same steps.
    assert {step(each) for each in model.LIFE_STEPS} == code.STEPS_BY_SIGNING.keys()
    assert {step(each) for each in model.HOME} == code.STEPS_HOME == {s for s in EVERY if s[1] is KeyState.STEADY}
    # Each step is free, or waits for something.
    assert code.FREE_KEY_STEPS | code.STEPS_BY_UNION.keys() | code.STEPS_BY_SIGNING.keys() == EVERY
    assert not code.FREE_KEY_STEPS & (code.STEPS_BY_UNION.keys() | code.STEPS_BY_SIGNING.keys())


def test_no_step_refuses_tokens_within_their_life() -> None:
    """Who drops keys in use has waited until nobody signs with them, who signs with others until all accept them."""
    for a, b in EVERY:
        # In published nobody has signed with a new key yet.
        if code.ACCEPTED[a] & ~code.ACCEPTED[b] and a is not KeyState.PUBLISHED:
            assert code.STEPS_BY_SIGNING[a, b] is code.ACCEPTED[b]
        if code.SIGNED_WITH[a] is not code.SIGNED_WITH[b] and (a, b) not in code.FREE_KEY_STEPS:
            assert code.SIGNED_WITH[b] in code.STEPS_BY_UNION[a, b]
        if code.SIGNED_WITH[a] is not code.SIGNED_WITH[b] and (a, b) in code.FREE_KEY_STEPS:
            assert code.ACCEPTED[a] is code.ACCEPTED[b] is KeyAge.BOTH
