"""How a command asks the agent that stays, and what it waits for; here the agent is a signal handler of the test."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.example_agent import agent_config
from vaultpki.daemon import resident
from vaultpki.daemon.resident import Pull, Pulled, ResidentNote
from vaultpki.errors import AgentNotReached, StoreError
from vaultpki.host.hooks import Owed
from vaultpki.host.log import Event
from vaultpki.model import AgentConfig
from vaultpki.node import state
from vaultpki.node.state import AgentState

KUBELET = frozenset({"kubelet"})
NONE = frozenset[str]()


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    (tmp_path / "state").mkdir(mode=0o700)
    return agent_config(state=str(tmp_path / "state"), file=str(tmp_path / "agent.yaml"))


@pytest.fixture
def agent(config: AgentConfig) -> Iterator[Callable[[Callable[[ResidentNote], None]], None]]:
    """What makes this process the agent that stays, which does this at SIGHUP."""
    note, before = ResidentNote(), signal.getsignal(signal.SIGHUP)
    state.save(config.state, AgentState())

    def does(work: Callable[[ResidentNote], None]) -> None:
        note.hold(config)
        signal.signal(signal.SIGHUP, lambda *_: work(note))

    yield does
    signal.signal(signal.SIGHUP, before)


def pulled(hooks: frozenset[str] = NONE) -> Pulled:
    return Pulled(time.monotonic(), (Event("turn", "waits", fields={"hook": "etcd-ca"}),), {"kubelet": "no"}, hooks)


def test_what_the_pass_did_is_read_as_it_was_noted(config: AgentConfig, agent: Callable[..., None]) -> None:
    made: list[Pulled] = []

    def work(note: ResidentNote) -> None:
        made.append(pulled(KUBELET))
        note.passed(config, made[0], KUBELET)

    agent(work)
    assert resident.pull(config).pulled == made[0]


def test_it_waits_for_the_hooks_that_go_on_after_the_pass(config: AgentConfig, agent: Callable[..., None]) -> None:
    """Also where they have ended before anybody has read that they went on."""
    for pause in (0.3, 0.0):

        def work(note: ResidentNote, pause: float = pause) -> None:
            def end() -> None:
                state.save(config.state, AgentState(owed={"kubelet": Owed(0.0, 1, error="failed")}))
                # A hook of another change has begun, for which nobody waits.
                note.passed(config, None, frozenset({"etcd-ca"}))

            note.passed(config, pulled(KUBELET), KUBELET)
            threading.Timer(pause, end).start() if pause else end()

        state.save(config.state, AgentState(owed={"kubelet": Owed(0.0)}))
        agent(work)
        done = resident.pull(config, hooks=True)
        assert (done.owed[0].fields["hook"], done.done, done.left) == ("kubelet", NONE, NONE)


def test_it_says_what_takes_long_and_gives_up(
    config: AgentConfig, agent: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "_SLOW", 0.1)
    said: list[str] = []
    agent(lambda note: None)
    with pytest.raises(StoreError, match="its pass has not ended after 0 s") as raised:
        resident.pull(config, longest=0.4, slow=said.append)
    assert not isinstance(raised.value, AgentNotReached)
    agent(lambda note: note.passed(config, pulled(KUBELET), KUBELET))
    with pytest.raises(StoreError, match="the hooks of kubelet have not ended after 0 s"):
        resident.pull(config, hooks=True, longest=0.4, slow=said.append)
    makes, runs = said
    assert "makes the pass" in makes and "runs the hooks of kubelet" in runs


def test_an_agent_that_ends_meanwhile_is_not_reached(config: AgentConfig) -> None:
    ResidentNote().hold(config)
    file = Path(config.state, resident.RESIDENT_FILE)
    # It ends at SIGHUP, as one does that is stopped at that moment.
    with subprocess.Popen(["sleep", "60"]) as process:
        note = {**json.loads(file.read_text()), "pid": process.pid, "started": resident._started(process.pid)}
        file.write_text(json.dumps(note))
        with pytest.raises(AgentNotReached, match="ended before it was done"):
            resident.pull(config)
    with pytest.raises(AgentNotReached, match="no resident agent"):
        resident.pull(config)


def test_an_agent_by_another_file_or_a_note_of_others_is_not_asked(
    config: AgentConfig, agent: Callable[..., None]
) -> None:
    def fails(note: ResidentNote) -> None:
        raise AssertionError

    agent(fails)
    with pytest.raises(AgentNotReached):
        resident.pull(replace(config, file=f"{config.file}.new"))
    Path(config.state, resident.RESIDENT_FILE).chmod(0o644)
    with pytest.raises(AgentNotReached, match="others may read it"):
        resident.pull(config)


def test_an_agent_of_an_earlier_release_is_asked(config: AgentConfig, agent: Callable[..., None]) -> None:
    """Its note has no agent.yaml, no fields of events and no hooks."""

    def work(note: ResidentNote) -> None:
        note.passed(config, pulled(), NONE)
        file = Path(config.state, resident.RESIDENT_FILE)
        value = json.loads(file.read_text())
        del value["file"], value["hooks"], value["pulled"]["hooks"], value["pulled"]["events"][0]["fields"]
        file.write_text(json.dumps(value))

    agent(work)
    done = resident.pull(config, hooks=True)
    assert [each.text for each in done.pulled.events] == ["waits"] and done.pulled.hooks == NONE


@pytest.mark.parametrize(
    ("before", "after", "by_hand", "left"),
    [
        (None, None, (), NONE),
        # It has run now, and failed.
        (Owed(1.0, 1), Owed(1.0, 2), (), NONE),
        (None, Owed(1.0, 1), (), NONE),
        # It waits for the node's turn.
        (Owed(1.0), Owed(1.0), (), NONE),
        # It waits for the end of its pause, or for a person.
        (Owed(1.0, 2), Owed(1.0, 2), (), KUBELET),
        (None, Owed(1.0), ("kubelet",), KUBELET),
    ],
)
def test_which_hooks_are_left_to_a_person(
    before: Owed | None, after: Owed | None, by_hand: tuple[str, ...], left: frozenset[str]
) -> None:
    then, now = ({"kubelet": each} if each else {} for each in (before, after))
    done = Pull(1, Pulled(0.0), AgentState(owed=then), AgentState(owed=now, by_hand=by_hand))
    assert done.left == left
