"""Long work on a terminal shows a bar, and spoils no line; elsewhere there is none."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.terminals import OnTerminal, on_terminal
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import SPEC, AuditedCluster, environment, vaultpki

pytestmark = pytest.mark.on_node


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AuditedCluster:
    return clusters.written(SPEC)


def left_on_screen(shown: OnTerminal) -> list[str]:
    """The lines as a terminal has them in the end: what a bar was overwritten by."""
    lines = []
    for line in shown.shown.replace("\r\n", "\n").split("\n"):
        rest = line.rpartition("\x1b[2K")[2]
        lines.append(rest.rpartition("\r")[2])
    return lines


def plain(lines: list[str]) -> list[str]:
    import re

    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in lines]


def test_apply_and_destroy(cluster: AuditedCluster) -> None:
    env = cluster.environment()
    with on_terminal("apply", "-f", cluster.file, "--yes", env=env, columns=100) as shown:
        assert shown.ended() == 0
    assert "Applying" in shown.shown and "100%" in shown.shown
    on_screen = plain(left_on_screen(shown))
    removed = vaultpki("destroy", "-f", cluster.file, "--confirm", cluster.name, env=env)
    assert removed.stderr == ""
    # The same lines as in a file, with nothing of a bar in them.
    again = cluster.apply()
    assert again.stderr == ""
    wanted = [line for line in again.stdout.splitlines() if line.startswith("+ ")]
    assert len(wanted) > 20 and [line for line in on_screen if line.startswith("+ ")] == wanted
    cluster.settled()
    with on_terminal("destroy", "-f", cluster.file, "--confirm", cluster.name, env=env, columns=100) as shown:
        assert shown.ended() == 0
    assert "Removing" in shown.shown and "100%" in shown.shown
    wanted = [line for line in removed.stdout.splitlines() if line.startswith("- ")]
    assert sorted(line for line in plain(left_on_screen(shown)) if line.startswith("- ")) == sorted(wanted)


def test_apply_that_asks(cluster: AuditedCluster) -> None:
    with on_terminal("apply", "-f", cluster.file, env=cluster.environment(), columns=100) as shown:
        shown.until("[y/N]:")
        assert "Applying" not in shown.shown
        os.write(shown.leader, b"y\n")
        assert shown.ended() == 0
    assert "Applying" in shown.shown and "100%" in shown.shown and "Done: " in shown.shown
    cluster.settled()


def test_json_stays_whole_beside_a_bar(cluster: AuditedCluster) -> None:
    leader, follower = pty.openpty()
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "vaultpki", "apply", "-f", str(cluster.file), "--yes", "--json"],
            env=environment(cluster.environment()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=follower,
            check=True,
        )
        assert b"Applying" in os.read(leader, 65536)
    finally:
        os.close(follower)
        os.close(leader)
    assert json.loads(ran.stdout)["changes"]


def test_work_that_does_not_begin_has_no_bar(cluster: AuditedCluster) -> None:
    cluster.apply()
    env = cluster.environment()
    weak = cluster.server.api("POST", "auth/token/create", {"policies": ["default"], "ttl": "5m"}).body["auth"]
    with on_terminal("apply", "-f", cluster.file, "--yes", env={**env, "VAULT_TOKEN": weak["client_token"]}) as shown:
        assert shown.ended() == 1
    assert "Applying" not in shown.shown
    assert [line[:10] for line in shown.lines if line] == ["vaultpki: "]
    with on_terminal("apply", "-f", cluster.file, "--yes", env=env, columns=200) as shown:
        assert shown.ended() == 0
    assert "Applying" not in shown.shown and "Done: 0 changes" in shown.shown


def test_commands_that_read_a_fleet(clusters: ClusterFactory, tmp_path: Path) -> None:
    workers = [f"- {{name: w-{n}, roles: [worker], addresses: [10.0.1.{n}]}}" for n in range(1, 221)]
    cluster = clusters.applied(SPEC.partition("pools:")[0] + "\n".join(workers) + "\n")
    viewer, applier = cluster.environment("viewer"), cluster.environment("applier")
    vaultpki("ca", "rotate", "etcd", "-f", cluster.file, env=applier, expect={0, 3})
    # The fleet never joined: `nodes` and the page say so, and it keeps no gate closed.
    for *words, ended in (
        ("plan", 0),
        ("nodes", 3),
        ("report", "--from-vault", "-o", tmp_path / "report.html", 3),
        ("ca", "status", 0),
    ):
        with on_terminal(*words, "-f", cluster.file, env=viewer, columns=100) as shown:
            assert shown.ended() == ended, shown.shown
        assert "Reading" in shown.shown and "100%" in shown.shown
        if words == ["nodes"]:
            # The table begins on a line of its own, below the bar.
            assert any(line.startswith("NODE") for line in plain(left_on_screen(shown)))
    assert "Reading" not in vaultpki("nodes", "-f", cluster.file, env=viewer, expect={3}).stderr
    with on_terminal("ca", "continue", "-f", cluster.file, env=applier, columns=100) as shown:
        assert shown.ended() in (0, 3)
    assert "Reading" in shown.shown and "100%" in shown.shown


def test_demo_and_verify(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with on_terminal("demo", "--dir", folder, env={}, columns=100) as shown:
        assert shown.ended() == 0
    assert "Making the demo" in shown.shown and "100%" in shown.shown
    on_screen = plain(left_on_screen(shown))
    assert "Client certificates for clients" in on_screen and max(map(len, on_screen)) <= 100
    words = ("verify", "-f", folder / "cluster.yaml", "--dir", folder)
    with on_terminal(*words, env={}, columns=100) as shown:
        assert shown.ended() == 0
    assert "Checking files" in shown.shown and "100%" in shown.shown
    assert plain(left_on_screen(shown))[-2].endswith("all as they should be.")
    ran = vaultpki(*words)
    assert ran.stderr == "" and "Checking" not in ran.stdout
    # What it leaves can be looked at as one.
    assert vaultpki("status", "--dir", folder).stdout.splitlines()[-1] == "3 nodes: 3 ok"
