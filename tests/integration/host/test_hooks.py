"""Hooks as real processes: what they are given, how they are ended, and what becomes of those that fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.node import hooks_driver
from vaultpki.host import command, hook_files, hooks
from vaultpki.host.hook_runner import Runner
from vaultpki.host.hooks import Job, Owed, Result
from vaultpki.model import Hook

DRIVER = Path(hooks_driver.__file__)
ROOT = Path(__file__).parents[3]


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Hook]:
    """Makes a hook out of lines of shell, with `$T` for the test's folder."""

    def make(name: str, lines: str, *arguments: str) -> Hook:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\nT={tmp_path}\n{lines}\n")
        path.chmod(0o755)
        return Hook("command", argv=(str(path), *arguments))

    return make


def job(key: str, *hooks: Hook, digest: str = "1", attempts: int = 0, timeout: float = 20.0) -> Job:
    return Job(key, digest, hooks, attempts, "/srv/pki", timeout)


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.005)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def alive(pids: list[str]) -> list[str]:
    """Those of the processes that still run; one that only waits to be reaped does not."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [pid] if state not in "ZX" else []
    return found


def drive(jobs: list[Any], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DRIVER), "run", json.dumps(jobs)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        **options,
    )


def test_a_hook_gets_nothing_of_the_agents(script: Callable[..., Hook], tmp_path: Path) -> None:
    look = script(
        "look",
        "env > $T/env; cat > $T/input; ls -l /proc/self/fd > $T/fds; cat /proc/self/status > $T/status\n"
        "cut -d' ' -f5,6,7 /proc/self/stat > $T/session; echo $$ >> $T/session; echo to out; echo to err >&2",
        "a b",
        "",
    )
    inherited = os.open(tmp_path / "secret", os.O_RDWR | os.O_CREAT)
    environment = {
        "PATH": "/nowhere",
        "PYTHONPATH": str(ROOT),
        "HOME": "/srv/home",
        "LANG": "C",
        "NOTIFY_SOCKET": "@notify",
        "WATCHDOG_USEC": "30000000",
        "LISTEN_FDS": "1",
        "LD_PRELOAD": "",
    }
    for prefix in ("VAULT", "BAO"):
        environment |= {f"{prefix}_TOKEN": "hvs.secret", f"{prefix}_ADDR": "https://v", f"{prefix}_CLIENT_KEY": "/k"}

    def ignore() -> None:
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN)

    done = drive(
        [["kubelet", "1", [look.argv]], ["etcd-ca", "2", [look.argv]]],
        env=environment,
        pass_fds=[inherited],
        preexec_fn=ignore,
        stdin=None,
    )
    os.close(inherited)
    found = dict(line.split("=", 1) for line in lines(tmp_path / "env"))
    assert {key: value for key, value in found.items() if key not in ("PWD", "SHLVL", "_", "OLDPWD")} == {
        "PATH": hook_files.PATH,
        "HOME": "/srv/home",
        "LANG": "C",
        "VAULTPKI_CHANGED": "etcd-ca kubelet",
        "VAULTPKI_DIRECTORY": "/srv/pki",
    }
    assert (tmp_path / "input").read_bytes() == b""
    assert "secret" not in (tmp_path / "fds").read_text() and "/dev/null" in (tmp_path / "fds").read_text()
    status = dict(line.split(":\t", 1) for line in lines(tmp_path / "status") if line.startswith("Sig"))
    # 32 and 33 are glibc's own, which its posix_spawn leaves ignored (sysdeps/unix/sysv/linux/spawni.c).
    assert {int(status[name], 16) & ~(3 << 31) for name in ("SigBlk", "SigIgn")} == {0}
    of_cut, shell = lines(tmp_path / "session")
    group, session, terminal = of_cut.split()
    assert (group, session, terminal) == (shell, shell, "0")
    assert done.stderr == "to out\nto err\n"
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(result["key"], result["ok"]) for result in results] == [("etcd-ca", True), ("kubelet", True)]


def test_each_command_of_a_batch_runs_once_and_bundles_come_first(script: Callable[..., Hook], tmp_path: Path) -> None:
    shared, own = script("shared", 'echo "shared $VAULTPKI_CHANGED" >> $T/ran'), script("own", "echo own >> $T/ran")
    other = script("other", 'echo "other $1" >> $T/ran', "x")
    results = Runner().run_all(
        [job("kubelet", own, shared), job("kube-proxy", shared, own, own), job("etcd-ca", other, shared)]
    )
    assert [(result.key, result.ok, result.error, result.attempts) for result in results] == [
        ("etcd-ca", True, "", 1),
        ("kubelet", True, "", 1),
        ("kube-proxy", True, "", 1),
    ]
    # The last one stands there twice in one list, which is what its user wanted.
    assert lines(tmp_path / "ran") == ["other x", "shared etcd-ca kubelet kube-proxy", "own", "own"]


def test_systemd_restarts_its_unit(
    script: Callable[..., Hook], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script("systemctl", 'for word; do echo "$word" >> $T/said; done; exit 5')
    monkeypatch.setattr(hook_files, "PATH", f"{tmp_path}:{hook_files.PATH}")
    [result] = Runner().run_all([job("kubelet", Hook("systemd", name="kubelet.service"))])
    assert lines(tmp_path / "said") == ["try-restart", "--", "kubelet.service"]
    assert result.error == (
        "hook 1 of kubelet (restart of kubelet.service) failed with exit code 5; its output is in the agent's log"
    )


def test_each_failure_is_one_sentence_that_names_the_hook(script: Callable[..., Hook], tmp_path: Path) -> None:
    secret = script("exits", "exit 7", "--password=hunter2")
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    (tmp_path / "bare").write_text("no program\n")
    (tmp_path / "bare").chmod(0o755)
    (tmp_path / "orphan").write_text("#!/nowhere/sh\n")
    (tmp_path / "orphan").chmod(0o755)
    cases = {
        "exit": (secret, f"({tmp_path}/exits) failed with exit code 7; its output is in the agent's log"),
        "kill": (script("killed", "kill -KILL $$"), f"({tmp_path}/killed) was killed by SIGKILL"),
        "term": (script("termed", "kill -TERM $$"), f"({tmp_path}/termed) was killed by SIGTERM"),
        "none": (
            Hook("command", argv=("no-such-thing",)),
            "(no-such-thing) was not found; install the program, or write its full path in agent.yaml",
        ),
        "mode": (
            Hook("command", argv=(str(plain),)),
            f"({plain}) is not executable; run `chmod +x` on it, or name another program in agent.yaml",
        ),
        "bare": (
            Hook("command", argv=(str(tmp_path / "bare"),)),
            f"({tmp_path}/bare) is not a program; a script must begin with a line such as #!/bin/sh",
        ),
        "orphan": (
            Hook("command", argv=(str(tmp_path / "orphan"),)),
            (
                f"({tmp_path}/orphan) was not run: agent.yaml: /nowhere/sh: there is no such file; correct the hook in "
                "agent.yaml, or the script"
            ),
        ),
        "long": (
            Hook("command", argv=("/bin/true", *["x" * 4096] * 600)),
            "(/bin/true) could not be started: Argument list too long",
        ),
        # It is asked first, and the others run all the same.
        "hangs": (
            script("hangs", "trap 'echo asked >> $T/asked' TERM; while :; do sleep 0.1; done"),
            f"({tmp_path}/hangs) timed out after 1 s and was killed; correct it, or raise hook_timeout in agent.yaml",
        ),
    }
    begun = time.monotonic()
    results = Runner().run_all(
        [job(key, hook, timeout=1.0 if key == "hangs" else 20.0) for key, (hook, _) in cases.items()]
    )
    assert time.monotonic() - begun >= 1.0 + command.KILL_GRACE and lines(tmp_path / "asked") == ["asked"]
    assert {result.key: result.error for result in results} == {
        key: f"hook 1 of {key} {said}" for key, (_, said) in cases.items()
    }
    assert all(not result.ok and result.error.isprintable() for result in results)
    assert "hunter2" not in repr(results)


def test_a_file_that_another_user_took_after_the_last_run_is_not_run(
    script: Callable[..., Hook], tmp_path: Path
) -> None:
    said = script("said", "echo said >> $T/ran").argv[0]
    place = "/etc/vaultpki/agent.yaml:17: hooks.kubelet[0]"
    runner, hook = Runner(), Hook("command", argv=("sh", said), place=place)
    [result] = runner.run_all([job("kubelet", hook)])
    assert result.ok
    os.chown(said, 1234, 1234)
    [result] = runner.run_all([job("kubelet", hook, digest="2")])
    assert result.error == (
        f"hook 1 of kubelet (sh) was not run: {place}: {said}: the file belongs to the user 1234, who could change its "
        f"content; run `chown root {said}`, or run as that user, or choose another place"
    )
    assert lines(tmp_path / "ran") == ["said"]


def test_a_hook_runs_in_the_root_folder(
    script: Callable[..., Hook], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Runner().run_all([job("kubelet", script("where", "pwd > $T/where"))])
    assert lines(tmp_path / "where") == ["/"]


def test_nobody_waits_for_a_hook(script: Callable[..., Hook], tmp_path: Path) -> None:
    told = threading.Event()
    runner = Runner(done=told.set)
    slow = script("slow", 'echo "$VAULTPKI_CHANGED $1" >> $T/ran; while [ ! -e $T/go ]; do sleep 0.01; done')
    # It runs until it is told to end, which nobody does before this returns.
    runner.submit([job("kubelet", slow)])
    until(lambda: lines(tmp_path / "ran") == ["kubelet "])
    # Nothing of a key whose hooks run waits behind them, and what waits is what was asked for last.
    runner.submit([job("kubelet", slow)])
    runner.submit([job("kubelet", slow, digest="2"), job("kube-proxy", slow)])
    runner.submit([job("kubelet", slow, digest="2"), job("etcd-ca", slow)])
    assert runner.results() == () and runner.busy == {"kubelet", "etcd-ca"}
    (tmp_path / "go").touch()
    until(lambda: not runner.busy)
    assert told.is_set()
    # Still not: its result was not taken yet, so whoever asks cannot know what the hooks have done.
    runner.submit([job("kubelet", slow, digest="2")])
    assert runner.busy == frozenset() and runner.under_way == {"kubelet", "etcd-ca"}
    assert runner.results() == (Result("kubelet", "1", True, "", 1), Result("etcd-ca", "1", True, "", 1))
    assert runner.results() == ()
    assert lines(tmp_path / "ran") == ["kubelet ", "etcd-ca "]
    runner.submit([job("kubelet", slow, digest="2")])
    until(lambda: not runner.busy)
    assert runner.results() == (Result("kubelet", "2", True, "", 1),)


def test_a_restart_that_is_not_wanted_any_more_is_not_made(script: Callable[..., Hook], tmp_path: Path) -> None:
    """While it waited behind other hooks the node's turn has ended, or a person has restarted the component."""
    runner = Runner()
    slow = script("slow", 'echo "$VAULTPKI_CHANGED" >> $T/ran; while [ ! -e $T/go ]; do sleep 0.01; done')
    runner.submit([job("kubelet", slow)])
    until(lambda: lines(tmp_path / "ran") == ["kubelet"])
    runner.submit([job("service-account-keys", slow)])
    assert runner.busy == {"kubelet", "service-account-keys"}
    runner.submit([])
    (tmp_path / "go").touch()
    until(lambda: not runner.busy)
    assert lines(tmp_path / "ran") == ["kubelet"]


def test_a_hook_that_fails_twice_then_works(script: Callable[..., Hook], tmp_path: Path) -> None:
    """What the agent does pass by pass, with a clock of its own: nothing but `done` and `owing` is kept."""
    config_hooks = {
        "etcd-ca": (
            script("first", "echo first >> $T/ran"),
            script("second", "echo second >> $T/ran; [ $(grep -c second $T/ran) -gt 2 ]"),
            script("third", "echo third >> $T/ran"),
        )
    }
    live, done = {"etcd-ca": "new"}, {"etcd-ca": "old"}
    owing: dict[str, Owed] = {}
    runner, now, errors = Runner(), 1000.0, []
    for _ in range(40):
        owing = hooks.pending(hooks.owed(live, done, config_hooks), owing, now)
        jobs = [
            Job(key, live[key], config_hooks[key], owing[key].attempts, "/srv/pki", 20.0)
            for key in hooks.ready(owing, now)
        ]
        for result in runner.run_all(jobs):
            if result.ok:
                done[result.key] = result.digest
            else:
                owing[result.key] = hooks.failed(owing[result.key], result.error, now, 1.0)
                errors.append((now, result.attempts, result.error))
        now += 1.0
    said = f"hook 2 of etcd-ca ({tmp_path}/second) failed with exit code 1; its output is in the agent's log"
    assert errors == [(1000.0, 1, said), (1005.0, 2, said)]
    assert done == live and hooks.pending(hooks.owed(live, done, config_hooks), owing, now) == {}
    # What worked for this change is not run again, and what comes behind waits.
    assert lines(tmp_path / "ran") == ["first", "second", "second", "second", "third"]


def test_a_newer_change_runs_all_hooks_again(script: Callable[..., Hook], tmp_path: Path) -> None:
    first, fails = script("first", "echo first >> $T/ran"), script("fails", "exit 1")
    runner = Runner()
    for digest in ("1", "1", "2"):
        runner.run_all([job("etcd-ca", first, fails, digest=digest)])
    assert lines(tmp_path / "ran") == ["first", "first"]


def test_a_hook_cut_off_is_owed_still(script: Callable[..., Hook], tmp_path: Path) -> None:
    stuck = script(
        "stuck", "trap '' TERM INT; sh -c 'trap \"\" TERM; echo $$ >> '$T'/pids; sleep 1000' & echo $$ >> $T/pids; wait"
    )
    runner = Runner()
    runner.submit([job("kubelet", stuck), job("kube-proxy", stuck, digest="2")])
    until(lambda: len(lines(tmp_path / "pids")) == 2)
    begun = time.monotonic()
    runner.stop()
    assert time.monotonic() - begun < command.KILL_GRACE
    until(lambda: alive(lines(tmp_path / "pids")) == [])
    assert runner.results() == ()
    late = job("etcd-ca", script("late", "touch $T/ran"))
    runner.submit([late])
    assert runner.run_all([late]) == ()
    time.sleep(0.1)
    assert not (tmp_path / "ran").exists()
    runner.stop()
    # Nothing was written down, so what lies on the disk and what hooks ran for still differ.
    assert hooks.owed({"kubelet": "1"}, {}, {"kubelet": (stuck,)}) == ("kubelet",)


def test_a_signals_handler_may_stop_the_runner(script: Callable[..., Hook], tmp_path: Path) -> None:
    runner = Runner()
    stuck = script("stuck", "trap '' TERM; while :; do sleep 1000; done")
    before = signal.signal(signal.SIGALRM, lambda number, frame: runner.stop())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        begun = time.monotonic()
        assert runner.run_all([job("kubelet", stuck)]) == ()
        assert time.monotonic() - begun < 20
    finally:
        signal.signal(signal.SIGALRM, before)


def children() -> set[str]:
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_many_hooks_leave_nothing_behind(script: Callable[..., Hook]) -> None:
    runner = Runner()
    runner.run_all([job("kubelet", Hook("command", argv=("/bin/true",)))])
    # Servers of other tests may be children of this process too.
    others = children()
    descriptors = len(os.listdir("/proc/self/fd"))
    for number in range(30):
        [result] = runner.run_all([job("kubelet", Hook("command", argv=("true",)), digest=str(number))])
        assert result.ok
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert children() <= others
