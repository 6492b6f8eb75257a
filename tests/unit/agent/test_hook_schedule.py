"""Which hooks wait for a person, who goes from node to node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from helpers.example_agent import agent_config
from vaultpki.agent import hook_schedule
from vaultpki.agent.bundles import BundleDigest
from vaultpki.agent.context import Context, PassOptions
from vaultpki.disk.folders import Folders
from vaultpki.host.hook_runner import Runner
from vaultpki.host.hooks import Owed
from vaultpki.issue.issuers import Issuers
from vaultpki.issue.rotations import Rotations
from vaultpki.model import Hook, NodeRole
from vaultpki.node.assignment import Assignment
from vaultpki.node.state import AgentState, ReaderSeen, Since, StateFile
from vaultpki.places import PKI
from vaultpki.readers import KUBECONFIG_SERVERS

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


def test_a_resident_agent_restarts_nothing_for_a_server_that_does_not_answer(tmp_path: Path) -> None:
    """It tries again by itself, later each time; what has no kubeconfig before this pass runs not yet."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.crt")
    servers = {"https://127.0.0.1:1": str(tmp_path / "ca.crt")}
    live = hook_schedule.live((), {}, Since(0.0, ("4f" * 32,)))
    config = agent_config(hooks={KUBECONFIG_SERVERS: (Hook("command", argv=("/usr/bin/touch", f"{tmp_path}/ran")),)})
    state, runner = StateFile(str(tmp_path / "state")), Runner()
    with Folders.open({PKI: str(tmp_path / "pki")}) as folders:
        for before, attempts in (({}, 0), ({KUBECONFIG_SERVERS: "before"}, 1)):
            state.value = AgentState(hooked=before)
            context = Context(config, PassOptions(()), folders, 1e9, state, runner)
            hook_schedule.run_hooks(context, live, WANTED, servers=servers)
            owed = state.value.owed.get(KUBECONFIG_SERVERS)
            assert (owed.attempts if owed else 0) == attempts and not runner.busy and not (tmp_path / "ran").exists()
            assert bool(context.found.retry_at) is bool(attempts)
    assert owed is not None and owed.error.endswith("127.0.0.1:1 can be used: nothing answers at 127.0.0.1:1")


@pytest.mark.parametrize("held", [True, False])
def test_nothing_restarts_that_runs_with_the_server_of_now(tmp_path: Path, held: bool) -> None:
    """An endpoint that was wrong, and is as before again; or somebody has restarted all of them by hand."""
    names = [f"{KUBECONFIG_SERVERS}/{each}" for each in ("kubelet", "kube-proxy")]
    seen = {name: ReaderSeen(running=True, problem="" if held else "old") for name in names}
    live = hook_schedule.live((), {}, Since(0.0, ("4f" * 32,)))
    config = agent_config(hooks={KUBECONFIG_SERVERS: (Hook("command", argv=("/usr/bin/touch", f"{tmp_path}/ran")),)})
    state = StateFile(str(tmp_path / "state"))
    state.value = AgentState(readers=seen, owed={KUBECONFIG_SERVERS: Owed(0.0, 1)})
    wanted = replace(WANTED, roles=frozenset({NodeRole.WORKER}))
    with Folders.open({PKI: str(tmp_path / "pki")}) as folders:
        context = Context(config, PassOptions(()), folders, 1e9, state, None)
        hook_schedule.run_hooks(context, live, wanted)
    assert bool(state.value.owed) is not held and (state.value.hooked == live) is held


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
