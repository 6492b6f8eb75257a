"""What the clusters of these tests stand on: a failed start speaks for itself, and nothing outlives its test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.kube.components import Programs
from helpers.kube.machines import lan
from helpers.vault.servers import wait_for

pytestmark = pytest.mark.conformance

ADDRESSES = {"a": "198.51.100.11", "b": "198.51.100.12"}


def living(pid: int) -> bool:
    """Whether a process runs: one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_failed_start_shows_the_components_own_last_words(programs: Programs, tmp_path: Path) -> None:
    with lan(tmp_path, ADDRESSES) as network:
        machine = network.machines["a"]
        urls = [f"--{kind}-client-urls=https://127.0.0.1:2379" for kind in ("listen", "advertise")]
        pair = ("--cert-file=/no/such.crt", "--key-file=/no/such.key")
        etcd = machine.start("etcd", programs.path("etcd"), f"--data-dir={tmp_path}/data", *urls, *pair)
        wait_for(lambda: not etcd.alive(), 20, lambda: "etcd runs without its certificate")
        with pytest.raises(AssertionError, match=r"etcd ended:\n(.*\n)*.*/no/such\.crt"):
            etcd.check()


def test_machines_reach_each_other_and_not_the_host(tmp_path: Path) -> None:
    with lan(tmp_path, ADDRESSES) as network, network.machines["a"].listen() as listening:
        port = listening.getsockname()[1]
        assert network.machines["b"].answers(port, ADDRESSES["a"])
        assert network.outside.answers(port, ADDRESSES["a"])
        assert (
            subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout.count(
                ADDRESSES["a"]
            )
            == 0
        )


_RUN = """\
import sys, time
from pathlib import Path
from helpers.kube.machines import lan
with lan(Path(sys.argv[1]), {"a": "198.51.100.11"}) as network:
    sleeper = network.machines["a"].start("sleep", "sleep", "1000")
    print(sleeper.pid, network.machines["a"].holder.pid, network.outside.holder.pid, flush=True)
    time.sleep(1000)
"""


def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    path = os.pathsep.join(str(Path(__file__).parents[up]) for up in (1, 2))
    command = [sys.executable, "-c", _RUN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as run:
        assert run.stdout is not None
        pids = [int(word) for word in run.stdout.readline().split()]
        assert len(pids) == 3 and all(map(living, pids))
        run.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(map(living, pids)), 10, lambda: f"of {pids} some live on")
