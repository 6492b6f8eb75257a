"""The control runs: each switches one rule of the model off, and tokens must be refused then as the model says.

A rule is switched off in the process of the operator's command, by lines of Python that run there before it; the
product has no such option. Both are of one rotation, which is retired in the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from helpers.vault.servers import wait_for
from models.service_account_tables import RULES
from soak.keys.cluster import SoakedKeys
from soak.phases import Control
from soak.printed import brief, say
from vaultpki.records.service_account import KeyState

_LOOK: Final = 2.0
_FAILS_SECONDS: Final = 300.0
_NOT_LOADED: Final = "does not accept tokens of every key yet"

# Without the gate nobody has to restart before the step, so no turns are given.
WITHOUT_LOADED: Final = """\
from vaultpki.token_keys import course, gates
gates.KEY_GATE_CHECKS = tuple(each for each in gates.KEY_GATE_CHECKS if each.finds is not gates._started)
course.next_turn = lambda *words: ""
"""
WITHOUT_LIFE: Final = """\
from vaultpki.token_keys import gates
gates.SKEW = 0
gates._life = lambda step: 0
"""
MODEL: Final = {
    "started": "K1: node 2 refuses tokens signed with next 1",
    "life": "K1: node 1 refuses tokens signed with old 1, old 2",
}
"""What the model says without a rule."""


def not_loaded(run: SoakedKeys) -> None:
    """Published ends as soon as every disk has the union; whoever restarts first signs with a key that others lack."""
    with run.phase("control: switched before every API server has loaded the union", control=_control("started")):
        run.rotate()
        held, deadline = "", time.monotonic() + _FAILS_SECONDS
        while run.state is KeyState.PUBLISHED:
            waits = [f"{name}: {why}" for name, why in run.waiting().items() if _NOT_LOADED in why]
            held = waits[0] if waits else held
            run.without(WITHOUT_LOADED, "continue")
            assert time.monotonic() < deadline, run.said
            time.sleep(_LOOK)
        run.held = brief(f"the gate stays closed for {held}" if held else "")
        assert held, "the gate was not seen to be closed"
        run.lead(lambda record: record.waits_for_tokens)


def life_cut(run: SoakedKeys) -> None:
    """Retired begins as soon as every API server signs with its next key; tokens of before live on."""
    if run.state is not KeyState.SWITCHED:
        with run.phase("rotated: published and switched"):
            run.rotate()
            run.lead(lambda record: record.waits_for_tokens)
    with run.phase("control: retired before the old tokens have ended", control=_control("life")):
        run.renew()
        run.step()
        run.held = f"the step waits: {brief(run.said)}"
        assert run.state is KeyState.SWITCHED

        def retired() -> bool:
            run.without(WITHOUT_LIFE, "continue", "--kubeconfig", run.kubernetes.admin)
            return run.state is KeyState.RETIRED

        wait_for(retired, _FAILS_SECONDS, lambda: run.said, pause=_LOOK)
        say("retired, while tokens of the old keys live")
        # Until none accepts them; the next state would come a minute later.
        run.lead(lambda record: run.shown_everywhere())
        wait_for(lambda: bool(run.refusals), _FAILS_SECONDS, lambda: "no token was refused", pause=1)
    run.begin_again()


def _control(rule: str) -> Control:
    return Control(f"{rule}: {RULES[rule]}", MODEL[rule])


CONTROLS: Mapping[str, Callable[[SoakedKeys], None]] = {"control-loaded": not_loaded, "control-life": life_cut}
"""By name, in the order in which one goes on with the rotation of the other."""
