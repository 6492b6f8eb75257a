"""SIGTERM ends process 1 of a container at every moment: the kernel drops one that finds no handler there."""

from __future__ import annotations

import ast
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from helpers import pages
from helpers.vault.applied_cluster import environment
from helpers.vault.servers import wait_for
from vaultpki.host.systemd import recipe

# Seconds after the image's own start, of which the last ones are after the agent's.
SOME = (0, 0.005, 0.02, 0.1, 0.4, 1.2)
MANY = [0.004 * step for step in range(75)] + [0.3 + 0.05 * step for step in range(20)]
MOMENTS = [
    *(pytest.param(delay, id=f"{delay * 1000:.0f}ms") for delay in SOME),
    *(pytest.param(d, marks=pytest.mark.exhaustive, id=f"{d * 1000:.0f}ms-") for d in MANY if d not in SOME),
]
ENDED = {0, 128 + signal.SIGTERM}


def entry() -> list[str]:
    """The image's own first words, with the checkout's vaultpki."""
    (line,) = (line for line in recipe("Containerfile").splitlines() if line.startswith("ENTRYPOINT "))
    *words, program = ast.literal_eval(line.partition(" ")[2])
    assert program == "vaultpki"
    return [*words, sys.executable, "-m", "vaultpki"]


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def config(tmp_path: Path, silent: int) -> Path:
    """An agent.yaml whose Vault never answers."""
    file = tmp_path / "agent.yaml"
    text = pages.file("agent", "agent.yaml").replace("https://vault.example.com:8200", f"https://127.0.0.1:{silent}")
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("metrics:"))
    for path in ("/etc/kubernetes/pki", "/var/lib/vaultpki"):
        text = text.replace(path, f"{tmp_path}{path}")
    text = text.replace('{owner: "kube:kube", mode: "0640"}', '{mode: "0640"}').replace(
        f", ca_file: {tmp_path}/var/lib/vaultpki/vault-ca.pem", ""
    )
    file.write_text(text.replace("owner: root:root\n", ""))
    state = tmp_path / "var/lib/vaultpki"
    state.mkdir(parents=True, mode=0o700)
    secret = state / "secret-id"
    secret.touch(mode=0o600)
    secret.write_text("11111111-2222-3333-4444-555555555555")
    return file


@contextlib.contextmanager
def first_process(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command as process 1 of a process namespace: what waits for it, and its id outside."""
    own = ["--user", "--map-root-user"] if os.geteuid() else []
    outer = ["unshare", *own, "--pid", "--fork", "--kill-child", "--mount-proc", *command]
    with subprocess.Popen(outer, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as waiting:
        try:
            children = Path(f"/proc/{waiting.pid}/task/{waiting.pid}/children")
            wait_for(lambda: children.read_text() != "", 20, lambda: "nothing was started", pause=0.001)
            yield waiting, int(children.read_text())
        finally:
            waiting.kill()


def holds_sigterm(pid: int, *sets: str) -> bool:
    """Whether the image's program has SIGTERM in one of these sets; unshare(1) itself blocks it while it forks."""
    said = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return said["Name"] != "unshare" and any(int(said[each], 16) & 1 << (signal.SIGTERM - 1) for each in sets)


@pytest.mark.parametrize("delay", MOMENTS)
def test_sigterm_ends_the_agent_whenever_it_comes(delay: float, config: Path) -> None:
    with first_process([*entry(), "agent", "-c", str(config)]) as (waiting, pid):
        # On a busy machine it may have its handler before anybody looks.
        wait_for(lambda: holds_sigterm(pid, "SigBlk", "SigCgt"), 20, lambda: "it does not block SIGTERM", pause=0.0005)
        time.sleep(delay)
        os.kill(pid, signal.SIGTERM)
        assert waiting.wait(20) in ENDED


def test_the_image_starts_vaultpki_with_sigterm_blocked() -> None:
    command = [*entry()[:-3], "grep", "SigBlk", "/proc/self/status"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert int(ran.stdout.split()[1], 16) & 1 << (signal.SIGTERM - 1)


def test_sigterm_ends_one_pass_that_waits_for_vault(config: Path) -> None:
    with first_process([*entry(), "agent", "-c", str(config), "--once"]) as (waiting, pid):
        wait_for(lambda: connected(pid), 20, lambda: "it does not ask Vault")
        assert not holds_sigterm(pid, "SigBlk")
        os.kill(pid, signal.SIGTERM)
        assert waiting.wait(20) == 128 + signal.SIGTERM


def connected(pid: int) -> bool:
    """Whether the process has a connection of its own."""
    # A file may be closed between the listing and the look.
    with contextlib.suppress(FileNotFoundError):
        links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
        return any(link.startswith("socket:") for link in links)
    return False


def test_a_hook_does_not_inherit_what_the_image_blocks(tmp_path: Path) -> None:
    """Also where vaultpki is not process 1, as behind an init of the container runtime."""
    command = [*entry()[:-3], sys.executable, "-c"]
    program = (
        "from vaultpki.host import first_process; first_process.prepare(); import subprocess; "
        "print(subprocess.run(['grep', 'SigBlk', '/proc/self/status'], capture_output=True, text=True).stdout)"
    )
    ran = subprocess.run([*command, program], env=environment(), capture_output=True, text=True, check=True, timeout=30)
    assert int(ran.stdout.split()[1], 16) & 1 << (signal.SIGTERM - 1) == 0
