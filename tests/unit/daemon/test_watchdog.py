"""systemd hears of the agent while a long wait goes on, and no more of one whose pass hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from helpers.example_agent import agent_config
from helpers.kube.taken_over_machine import TakenOverMachine
from vaultpki.agent import run
from vaultpki.agent.context import Outcome, PassOptions
from vaultpki.daemon import loop
from vaultpki.errors import StateConflict
from vaultpki.host.boot_time import Moment
from vaultpki.node import assignment
from vaultpki.node.procedures import PassMade
from vaultpki.procedures import adoption
from vaultpki.records.adoption import AdoptionState
from vaultpki.takeover import processes

LONGEST = 0.5
PASS = 2.0


@pytest.mark.parametrize("shows_life", [True, False])
def test_a_pass_that_waits_is_no_pass_that_hangs(tmp_path: Path, shows_life: bool) -> None:
    for name in ("pki", "state"):
        (tmp_path / name).mkdir(mode=0o700)
    heard: list[float] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(30)
        pid = os.fork()
        if pid == 0:
            # Its signal handlers, locks and threads end with it.
            with contextlib.suppress(BaseException):
                _stay(tmp_path, shows_life=shows_life)
            os._exit(0)
        began = None
        while (message := receiver.recv(4096)) != b"STOPPING=1":
            if message == b"BEGINS":
                began = time.monotonic()
            elif message == b"WATCHDOG=1" and began is not None:
                heard.append(time.monotonic())
        os.waitpid(pid, 0)
    assert began is not None
    late = [each for each in heard if each - began > 3 * LONGEST]
    assert bool(late) == shows_life


def _stay(path: Path, *, shows_life: bool) -> None:
    """A resident agent whose first pass takes PASS seconds, and which ends after that."""

    def passes(config: object, options: PassOptions, **more: object) -> Outcome:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"BEGINS", str(path / "notify"))
        end = time.monotonic() + PASS
        while time.monotonic() < end:
            if shows_life:
                options.alive()
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        raise StateConflict("it has ended")

    vars(run)["run"] = passes
    vars(loop)["_LONGEST_PASS"] = LONGEST
    os.environ |= {"NOTIFY_SOCKET": str(path / "notify"), "WATCHDOG_USEC": "100000"}
    config = agent_config(directory=str(path / "pki"), state=str(path / "state"))
    loop.stay(config, (), load=lambda: config, log=lambda event: None)


def test_a_wait_for_a_component_shows_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = TakenOverMachine(tmp_path)
    machine.agent_pass(AdoptionState.PREPARED)
    told = iter(["not yet"] * 3)

    class Components(processes.RunningComponents):
        def started(self, component: str) -> tuple[Moment, ...]:
            return machine.processes.started(component)

        def problem(self, component: str) -> str:
            return next(told, "")

    monkeypatch.setattr(processes, "RunningComponents", Components)
    wanted = machine.assignment(machine.record(AdoptionState.PREPARED))
    monkeypatch.setattr(assignment, "copy", lambda config, records: wanted)
    signs = list[float]()
    done = adoption.follow(
        machine.config, time.time(), PassMade(), allow_http=False, alive=lambda: signs.append(time.monotonic())
    )
    assert not done.failures
    assert "kube-controller-manager is healthy" in [each.text for each in done.events]
    assert len(signs) >= 3
