"""What a person reads before a shorter life of tokens is stated."""

from __future__ import annotations

from vaultpki.kube.token_flags import TokensInUse
from vaultpki.procedures.key_text import life_lines

HOUR = 3600


def test_the_life_of_tokens_that_a_person_states() -> None:
    said = list(life_lines(24 * HOUR, 48 * HOUR, TokensInUse({}, stale={"cp-1": 3})))
    assert said[0] == "The longest life of tokens is 2d by the flags of the API servers, and you say 1d."
    assert "  cp-1  serviceaccount_stale_tokens_total 3 since its last start" in said
    assert not any("kube-controller-manager" in line for line in said)


def test_less_than_an_hour_names_the_controller_manager() -> None:
    assert any("kube-controller-manager" in line for line in life_lines(HOUR - 1, None, None))
    assert not any("kube-controller-manager" in line for line in life_lines(HOUR, None, None))
