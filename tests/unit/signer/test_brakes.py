"""How many certificates the signer lets through: for each node, each requester, and people together."""

from __future__ import annotations

import pytest

from vaultpki.signer.brakes import ALL_PEOPLE, EACH_NODE, EACH_REQUESTER, EACH_SECOND, HOUR, Brakes, Key

NODE: Key = ("node", "w-1")
TOKEN: Key = ("requester", "system:bootstrap:abcdef")


@pytest.mark.parametrize(
    ("key", "most"),
    [(NODE, EACH_NODE), (TOKEN, EACH_REQUESTER), (("people", ""), ALL_PEOPLE)],
    ids=str,
)
def test_so_many_pass_in_an_hour_and_the_next_one_waits_for_its_end(key: Key, most: int) -> None:
    brakes = Brakes()
    assert [brakes.wait([key], float(number)) for number in range(most)] == [0.0] * most
    now = float(most)
    assert brakes.wait([key], now) == HOUR - now
    assert brakes.left([key], HOUR - 0.5) == 0.5
    # The first one was an hour ago, the second not yet.
    assert brakes.wait([key], HOUR) == 0.0
    assert brakes.wait([key], HOUR) == 1.0


def test_a_request_that_one_brake_holds_is_counted_by_no_other() -> None:
    brakes = Brakes()
    for number in range(EACH_NODE):
        brakes.wait([NODE, TOKEN], float(number))
    for _ in range(EACH_REQUESTER):
        assert brakes.wait([NODE, TOKEN], 20.0) > 0
    assert brakes.wait([("node", "w-2"), TOKEN], 20.0) == 0.0


def test_what_vault_has_not_signed_is_not_counted() -> None:
    brakes = Brakes()
    for number in range(EACH_NODE):
        assert brakes.wait([NODE], float(number)) == 0.0
        brakes.give_back([NODE], float(number))
    assert brakes.left([NODE], 20.0) == 0.0


def test_the_pace_is_even_and_gives_nothing_for_a_pause() -> None:
    brakes = Brakes()
    waits = [brakes.pace(100.0) for _ in range(3)]
    assert waits == pytest.approx([0.0, 1 / EACH_SECOND, 2 / EACH_SECOND])
    assert [brakes.pace(200.0), brakes.pace(200.0)] == pytest.approx([0.0, 1 / EACH_SECOND])


def test_names_of_strangers_do_not_stay_for_ever() -> None:
    brakes = Brakes()
    for number in range(1000):
        brakes.wait([("node", f"w-{number}")], 0.0)
    for number in range(1000):
        brakes.left([("node", f"w-{number}")], HOUR)
    assert not brakes._passed
