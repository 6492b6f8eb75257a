"""Which hooks wait for a person, who goes from node to node."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.example_agent import agent_config
from vaultpki.agent import hook_schedule
from vaultpki.agent.bundles import BundleDigest
from vaultpki.agent.context import Context, PassOptions
from vaultpki.disk.folders import Folders
from vaultpki.host.hook_runner import Runner
from vaultpki.issue.issuers import Issuers
from vaultpki.issue.rotations import Rotations
from vaultpki.model import Hook, NodeRole
from vaultpki.node.assignment import Assignment
from vaultpki.node.state import AgentState, StateFile
from vaultpki.places import PKI

KEY = "etcd-ca"
WANTED = Assignment(0.0, "", "", frozenset({NodeRole.ETCD}), (), (), Issuers({}, ()), {}, Rotations())
HOOKED = AgentState(hooked={KEY: "before"})
# Only the foreign CAs in it have changed.
HELD = {KEY: BundleDigest("now", "now", own="before")}


@pytest.mark.parametrize(("share", "resident"), [(0.8, True), (0.0, True), (1.0, False)])
def test_for_other_foreign_cas_no_agent_restarts_etcd_by_itself(tmp_path: Path, share: float, resident: bool) -> None:
    """All members would restart at once, also where a signal or a timer makes the agent look."""
    runner = Runner() if resident else None
    assert _waits(tmp_path, share, runner) == (KEY,)


def test_a_person_who_runs_the_agent_once_gives_etcd_its_turn(tmp_path: Path) -> None:
    assert _waits(tmp_path, 0.0, None) == ()


def _waits(folder: Path, share: float, runner: Runner | None) -> tuple[str, ...]:
    ran = folder / "ran"
    config = agent_config(hooks={KEY: (Hook("command", argv=("/usr/bin/touch", str(ran))),)})
    state = StateFile(str(folder / "state"))
    state.value = HOOKED
    with Folders.open({PKI: str(folder / "pki")}) as folders:
        context = Context(config, PassOptions((), share=share), folders, 1e9, state, runner)
        hook_schedule.run_hooks(context, {KEY: "now"}, WANTED, HELD)
    assert ran.exists() == (KEY not in state.value.owed)
    return state.value.by_hand
