"""The commands that tests fork end as processes of their own do."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.vault import forked_command
from helpers.vault.applied_cluster import environment

SPEC = """\
cluster: prod
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
"""


def forked(
    *arguments: str, timeout: float = 60, umask: int = 0o022, strace: Sequence[str] = (), **variables: str
) -> tuple[int, str, str]:
    ran = forked_command.run(arguments, env=environment(variables), umask=umask, timeout=timeout, strace=strace)
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("schema",),
        ("plan", "--no-such-option"),
        ("plan", "-f", "nowhere.yaml"),
        ("agent", "-c", "nowhere.yaml", "--once"),
    ],
    ids=" ".join,
)
def test_streams_and_exit_code(arguments: tuple[str, ...]) -> None:
    own = subprocess.run(
        [sys.executable, "-m", "vaultpki", *arguments], env=environment(), capture_output=True, text=True, check=False
    )
    assert forked(*arguments) == (own.returncode, own.stdout, own.stderr)


def test_environment_folder_and_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert forked("init", umask=0o077)[0] == 0
    assert (tmp_path / "cluster.yaml").stat().st_mode & 0o777 == 0o600
    (tmp_path / "cluster.yaml").write_text(SPEC)
    code, _, said = forked("plan", "-f", "cluster.yaml", VAULT_ADDR="http://vault.example.com:8200", VAULT_TOKEN="t")
    assert code == 1 and "vault.example.com" in said
    # And the next one has nothing of it.
    assert "vault.example.com" not in forked("plan", "-f", "cluster.yaml", VAULT_TOKEN="t")[2]


def test_one_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(SPEC)
    # It takes connections, and nobody ever answers.
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(subprocess.TimeoutExpired):
            forked("plan", "-f", str(tmp_path / "cluster.yaml"), timeout=0.2, VAULT_ADDR=address, VAULT_TOKEN="t")
    assert forked("--version")[0] == 0


def test_two_at_once(tmp_path: Path) -> None:
    refusal = b'{"errors":["permission denied"]}'
    (tmp_path / "cluster.yaml").write_text(SPEC)
    command = ("plan", "-f", str(tmp_path / "cluster.yaml"))
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        server.settimeout(60)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        waiting = pool.submit(forked, *command, VAULT_ADDR=address, VAULT_TOKEN="t")
        with server.accept()[0] as guest:
            assert forked("--version")[0] == 0 and not waiting.done()
            guest.sendall(b"HTTP/1.1 403 x\r\nContent-Length: %d\r\n\r\n%s" % (len(refusal), refusal))
        server.close()
        assert waiting.result()[0] == 1


def test_strace_follows_it_from_its_first_step(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code, said, _ = forked("--version", strace=("-o", str(log), "-s", "200", "-e", "trace=openat,write"))
    calls = log.read_text()
    assert calls.index("vaultpki/__pycache__/__main__") < calls.index("write(1<")
    assert code == 0 and said.strip() in calls
    fault = ("-o", "/dev/null", "-e", "inject=write:signal=SIGKILL:when=1")
    assert forked("--version", strace=fault)[:2] == (-9, "")
    with pytest.raises(AssertionError, match="invalid system call"):
        forked("--version", strace=("-e", "trace=nothing-so"))
    # The processes to come are not held up by it.
    assert forked("--version")[0] == 0
