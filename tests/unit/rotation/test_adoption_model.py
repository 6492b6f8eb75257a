"""The code keeps the rules of the model of an adoption (tests/models); both have one table of states."""

from __future__ import annotations

from importlib import import_module

import pytest

from models import adoption_tables as model
from models.adoption import Settings, onward, signs
from models.code import ADOPTION_KEPT_BY
from vaultpki.records.adoption import AdoptionState
from vaultpki.rotation import adoption_states as code
from vaultpki.takeover.arrangement import arrangement


def test_the_model_with_all_its_rules_goes_as_the_code_does() -> None:
    letters = {word: letter for letter, word in model.STATES.items()}
    assert onward(Settings("mw")) == model.FORWARD
    for states, known in (
        (code.SIGNER_ON, model.SIGNER),
        (code.SIGNER_ON, {letter for letter in model.STATES if signs(letter, Settings("mw"))}),
        ({state for state in AdoptionState if arrangement(state).ours} - {AdoptionState.DONE}, model.ASIDE),
    ):
        assert {letters[state.value] for state in states} == known
    assert "".join(letters[state.value] for state in code.LAST_STEP) in model.LAST


def test_what_follows_for_a_machine_from_whose_certificates_are_in_use() -> None:
    assert set("PUSB") == model.SIGNER and set("SCRT") == model.ASIDE
    assert {state.value for state in AdoptionState if arrangement(state).verify} == {"retired", "done"}


@pytest.mark.parametrize("rule", sorted(ADOPTION_KEPT_BY))
def test_the_code_that_keeps_a_rule_is_there(rule: str) -> None:
    module, _, name = ADOPTION_KEPT_BY[rule].partition(":")
    found = import_module(f"vaultpki.{module}")
    for each in name.split("."):
        found = getattr(found, each)


def test_every_rule_says_what_keeps_it() -> None:
    assert set(ADOPTION_KEPT_BY) == set(model.RULES)
