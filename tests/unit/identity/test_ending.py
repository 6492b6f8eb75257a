"""How long a command waits for logins that were under way when it ended a credential."""

from __future__ import annotations

import pytest

from vaultpki.errors import StateConflict
from vaultpki.identity import ending


class Clock:
    """A clock that goes on while somebody sleeps, or while the server stores something."""

    def __init__(self, *stores: float) -> None:
        self.now, self.stores, self.slept = 0.0, list(stores), list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def store(self) -> None:
        self.now += self.stores.pop(0) if len(self.stores) > 1 else self.stores[0]


@pytest.mark.parametrize(
    ("stores", "waits"), [((0.01,), 1), ((0.9,), 1), ((30.0, 0.01), 2), ((1.0, 12.0, 1.5, 0.2), 4)]
)
def test_the_wait_begins_anew_after_a_server_that_was_slow(
    monkeypatch: pytest.MonkeyPatch, stores: tuple[float, ...], waits: int
) -> None:
    clock, said = Clock(*stores), list[str]()
    monkeypatch.setattr(ending, "time", clock)
    ending.await_logins(clock.store, say=said.append)
    assert said == [
        "waiting 10 seconds until logins that are under way have ended; at most 2 minutes if the server is slow"
    ]
    assert clock.slept == [ending.LOGIN_IN_FLIGHT] * waits


def test_a_server_that_stays_slow_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(2.0)
    monkeypatch.setattr(ending, "time", clock)
    with pytest.raises(StateConflict, match="Run the command again when the server is faster"):
        ending.await_logins(clock.store)
    assert clock.now < 200
    ending.await_logins(lambda: pytest.fail("nobody waits"), 0)
