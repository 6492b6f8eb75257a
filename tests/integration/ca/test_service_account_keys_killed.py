"""Commands for service-account keys cut off after any of their writes: the next one goes on, and no token is refused.

These are all of their ends: a command keeps nothing on its own machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest

from helpers.faults.cutting_proxy import proxied
from helpers.faults.drawn import Drawn
from helpers.node.agents_with_keys import AgentsWithKeys
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.errors import Sealed, StateConflict, Unavailable
from vaultpki.provision.cluster_facts import KeyStepDone
from vaultpki.records.service_account import KeyState
from vaultpki.vault import Settings, Vault

ONWARD = (KeyState.PUBLISHED, KeyState.SWITCHED, KeyState.RETIRED, KeyState.DONE)
# How far forward, and whether back from there.
WAYS = {"forward": (ONWARD, False), "back": (ONWARD[:2], True)}


@dataclass(slots=True)
class Interrupted(AgentsWithKeys):
    """An operator each of whose commands goes through the proxy, and is run again if it was cut off."""

    through: Vault | None = None

    def begin(self, **how: object) -> KeyStepDone:
        return self._again(lambda: super(Interrupted, self).begin(**how))

    def advance(self, *, back: bool = False, **words: object) -> KeyStepDone:
        return self._again(lambda: super(Interrupted, self).advance(back=back, **words))

    def _again(self, act: Callable[[], KeyStepDone]) -> KeyStepDone:
        own = self.vault
        self.vault = self.through or own
        try:
            return act()
        except (Sealed, Unavailable):
            self.vault = own
            try:
                return act()
            except StateConflict:
                # The record was at rest already: the second abort has made the policies match it.
                assert not self.record.active
                return self.status()
        finally:
            self.vault = own
            # Neither what was cut off nor what came after it may have left a process that refuses a token.
            self.check()

    def comes_to(self, state: KeyState, *, back: bool = False) -> None:
        """Commands, passes and time, until the record has this state."""
        for _ in range(14):
            if self.record.state is state:
                return
            self.passes()
            self.later(20 * 60)
            self.advance(back=back)
        raise AssertionError(self.status())


@pytest.mark.parametrize(
    ("way", "cuts"),
    [
        pytest.param("both", (), id="sample", marks=pytest.mark.sample),
        *(pytest.param(way, range(1, 100), id=way, marks=pytest.mark.exhaustive) for way in WAYS),
    ],
)
@pytest.mark.timeout(3000)
def test_cut_after_a_write(clusters: ClusterFactory, drawn: Drawn, way: str, cuts: Iterable[int]) -> None:
    with (
        proxied(clusters.server) as proxy,
        Interrupted.standing(clusters, "cp-1", "cp-2") as made,
    ):
        made.through = Vault(Settings((proxy.address,), ca_pem=proxy.ca_pem, token=made.cluster.token()))
        number = 1
        for name, cut in [(way, cut) for cut in cuts] or [(each, 1 + drawn.below(10)) for each in WAYS]:
            states, back = WAYS[name]
            proxy.arm(cut, reopens=False)
            made.begin()
            for state in states:
                made.comes_to(state)
            if back:
                made.comes_to(KeyState.STEADY, back=True)
            made.passes()
            number = made.record.highest["cp-1"] if not back else number
            assert made.record.numbers("cp-1") == (number,), (name, cut)
            for plane in made.planes.values():
                assert plane.union() == [f"sa:cp-1:{number}", f"sa:cp-2:{number}"], (name, cut)
            made.settled()
            if not proxy.closed:
                # All of its writes had their turn.
                assert cut > 10
                break
