"""Nothing that a hook started outlives it when it is killed: by its time-out, with the agent, or by a Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.node import escaping_hook, hooks_driver
from helpers.vault.servers import wait_for
from vaultpki.host import command, first_process
from vaultpki.host.command import CommandRunner

ROOT = Path(__file__).parents[3]
KINDS = ["own-session", "daemon", "runner", "storm"]
TIMED_OUT = "timed out after 2 s and was killed; correct it, or raise hook_timeout in agent.yaml"


def running(token: str) -> list[str]:
    """The processes with this argument that are alive."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if not process.name.isdigit() or token.encode() not in (process / "cmdline").read_bytes().split(b"\0"):
                continue
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [process.name] if state not in "ZX" else []
    return found


@pytest.fixture
def token(tmp_path: Path) -> Iterator[str]:
    """An argument of no other process. What a failed test leaves is killed."""
    made = f"token-{tmp_path.name}-{time.monotonic_ns()}"
    yield made
    for pid in running(made):
        os.kill(int(pid), signal.SIGKILL)


def escaping(kind: str, token: str, folder: Path) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", escaping_hook.__file__, kind, token, str(folder))


def is_ready(folder: Path) -> Callable[[], bool]:
    return (folder / "ready").exists


def beats(folder: Path) -> bool:
    """Whether a process that nobody can find still runs."""
    beat = folder / "beat"
    before = beat.stat().st_mtime_ns if beat.exists() else 0
    time.sleep(0.3)
    return beat.exists() and beat.stat().st_mtime_ns != before


@pytest.mark.parametrize("kind", KINDS)
def test_the_time_out_ends_all_that_a_hook_started(kind: str, token: str, tmp_path: Path) -> None:
    said = CommandRunner().run(escaping(kind, token, tmp_path), {}, 2)
    assert (said, running(token), beats(tmp_path)) == (TIMED_OUT, [], False)
    # Else the test has shown nothing.
    assert is_ready(tmp_path)()


@pytest.mark.parametrize("kind", ["daemon", "storm"])
def test_stop_ends_all_that_a_hook_started(kind: str, token: str, tmp_path: Path) -> None:
    runner = CommandRunner()
    thread = threading.Thread(target=runner.run, args=(escaping(kind, token, tmp_path), {}, 60))
    thread.start()
    wait_for(is_ready(tmp_path), 30, lambda: "the hook has not begun")
    runner.stop()
    thread.join(30)
    assert running(token) == [] and not beats(tmp_path) and not thread.is_alive()
    assert runner.run(("true",), {}, 60) == "was not run"


def test_a_ctrl_c_ends_all_that_a_hook_started(token: str, tmp_path: Path) -> None:
    def interrupt() -> None:
        wait_for(is_ready(tmp_path), 30, lambda: "the hook has not begun")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        CommandRunner().run(escaping("storm", token, tmp_path), {}, 60)
    thread.join()
    assert running(token) == [] and not beats(tmp_path)


def test_no_hook_outlives_an_agent_that_is_killed(token: str, tmp_path: Path) -> None:
    jobs = json.dumps([["kubelet", "1", [escaping("storm", token, tmp_path)]]])
    driver = [sys.executable, hooks_driver.__file__, "run", jobs]
    with subprocess.Popen(driver, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL) as agent:
        wait_for(is_ready(tmp_path), 30, lambda: "the hook has not begun")
        agent.kill()
    wait_for(lambda: running(token) == [], 30, lambda: f"these outlive the agent: {running(token)}")
    wait_for(lambda: not beats(tmp_path), 30, lambda: "a process that goes on in new ones outlives the agent")


def test_what_ignores_sigterm_has_no_longer_than_its_time(token: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    CommandRunner().run(escaping("own-session", token, tmp_path), {}, 0.5)
    assert time.monotonic() - begun >= 0.5 + command.KILL_GRACE


def test_a_hook_that_ends_by_sigterm_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "KILL_GRACE", 600.0)
    said = CommandRunner().run(("sh", "-c", "setsid sleep 1000 & sleep 1000"), {}, 0.5)
    assert said.startswith("timed out after 0.5 s")


@pytest.mark.parametrize("code", [0, 3])
def test_what_a_hook_that_ended_by_itself_leaves_running_goes_on(code: int, token: str) -> None:
    started = f'setsid sh -c "while :; do sleep 0.1; done" {token} & exit {code}'
    said = CommandRunner().run(("sh", "-c", started), {}, 60)
    assert said == ("failed with exit code 3; its output is in the agent's log" if code else "")
    wait_for(lambda: len(running(token)) == 1, 30, lambda: "what the hook started is gone")


def test_a_hook_whose_watcher_is_killed_has_failed(tmp_path: Path) -> None:
    # As by the kernel for want of memory.
    script = tmp_path / "kills"
    script.write_text("#!/bin/sh\nkill -KILL $PPID\nsleep 1000\n")
    script.chmod(0o755)
    assert CommandRunner().run((str(script),), {}, 60) == (
        "was interrupted, because the process that watches it was killed by SIGKILL; look at the log of the machine"
    )


AS_FIRST = """
import os, time
from vaultpki.host.command import CommandRunner
assert os.getpid() == 1
runner = CommandRunner()
for _ in range(3):
    assert runner.run(("sh", "-c", "setsid sleep 0.1 & (sleep 0.1 &)"), {}, 60) == ""
time.sleep(1)
assert runner.run(("true",), {}, 60) == ""
left = [pid for pid in os.listdir("/proc") if pid.isdigit() and pid != "1"]
assert left == [], left
print("nothing is left")
"""


def test_process_1_of_a_container_reaps_what_hooks_left() -> None:
    own = ["--user", "--map-root-user"] if os.geteuid() else []
    outer = ["unshare", *own, "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", AS_FIRST]
    ran = subprocess.run(outer, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=60)
    assert ran.stdout == "nothing is left\n", ran.stderr


def test_nothing_is_reaped_by_another_process_than_the_first() -> None:
    with subprocess.Popen(["true"], start_new_session=True) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        first_process.reap_adopted()
        assert process.wait(30) == 0
