"""What the agent does on a machine that is taken over before it makes a pass: folders, and who restarts components."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from helpers.example_agent import agent_config
from vaultpki.errors import Unavailable
from vaultpki.issue.issuers import Issuers
from vaultpki.issue.rotations import Rotations
from vaultpki.model import AgentConfig, TakenOver
from vaultpki.node.assignment import Assignment
from vaultpki.procedures import adoption as taken_over
from vaultpki.records.adoption import AdoptionState
from vaultpki.takeover.journal import FOLDER, JOURNAL, JournalFile


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    kubernetes, kubelet = tmp_path / "kubernetes", tmp_path / "kubelet"
    for folder in (kubernetes, kubelet):
        folder.mkdir()
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    machine = TakenOver(True, f"{kubernetes}/pki", f"{kubelet}/pki", str(kubernetes))
    return agent_config(directory=machine.directory, state=str(state), taken_over=machine)


def test_hooks_restart_nothing_while_the_steps_give_the_turns(config: AgentConfig) -> None:
    """A journal that cannot be read may be in the middle of them."""
    assert not taken_over._led(config)
    for asked in AdoptionState:
        JournalFile(config.state).save(asked=asked)
        assert taken_over._led(config) is (asked is not AdoptionState.DONE)
    Path(config.state, FOLDER, JOURNAL).write_text("{}, or what is left of it")
    assert taken_over._led(config)


def test_nobody_else_may_enter_the_folders_that_lie_aside(config: AgentConfig) -> None:
    """The keys of new pairs lie there until the machine changes over to them."""
    machine = config.taken_over
    assert machine is not None
    with taken_over.entered(config, 1.0):
        pass
    for folder in (machine.aside, machine.kubelet_aside):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


def test_a_command_without_an_answer_says_by_what_it_goes() -> None:
    """Else a person takes a state of last week for that of today."""
    known = Assignment(1_780_000_000.0, "", "", frozenset(), (), (), Issuers({}, ()), {}, Rotations())
    told = taken_over.unread(known, Unavailable("nobody answers", sent=False))
    assert "(nobody answers)" in told and told.endswith("was told last, at 2026-05-28T20:26:40Z")
