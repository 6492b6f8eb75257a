"""Commands that read or make much show a bar on a terminal, and spoil no line; elsewhere there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.node.handmade_files import made
from helpers.terminals import on_terminal
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import SPEC, vaultpki

pytestmark = pytest.mark.on_node

# From here on a list is read with a bar; tests/unit/vault has what it is, and what is counted.
SOONER = {"vaultpki.vault.client:_MANY": 2}


def test_commands_that_read_a_fleet(clusters: ClusterFactory, tmp_path: Path) -> None:
    cluster = clusters.applied(SPEC)
    viewer, applier = cluster.environment("viewer"), cluster.environment("applier")
    vaultpki("ca", "rotate", "etcd", "-f", cluster.file, env=applier, expect={0, 3})
    # The fleet never joined: `nodes` and the page say so, and it keeps no gate closed.
    for *words, ended in (
        ("plan", 0),
        ("nodes", 3),
        ("report", "--from-vault", "-o", tmp_path / "report.html", 3),
        ("ca", "status", 0),
        ("ca", "continue", None),
    ):
        env = viewer if ended is not None else applier
        with on_terminal(*words, "-f", cluster.file, env=env, columns=100, replaced=SOONER) as shown:
            assert shown.ended() in ((0, 3) if ended is None else (ended,)), shown.shown
        assert "Reading" in shown.shown and "100%" in shown.shown
        if words == ["nodes"]:
            # The table begins on a line of its own, below the bar.
            assert any(line.startswith("NODE") for line in shown.left)
    assert "Reading" not in vaultpki("nodes", "-f", cluster.file, env=viewer, expect={3}).stderr


def test_verify(tmp_path: Path) -> None:
    files = made(tmp_path)
    words = ("verify", "-f", files.file, "--dir", files.folder)
    with on_terminal(*words, env={}, columns=100) as shown:
        assert shown.ended() == 0
    assert "Checking files" in shown.shown and "100%" in shown.shown
    assert shown.left[-2].endswith("all as they should be.")
    ran = vaultpki(*words)
    assert ran.stderr == "" and "Checking" not in ran.stdout


# It starts a server; its commands and what it makes are in demo/test_demo.py.
@pytest.mark.conformance
def test_demo(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with on_terminal("demo", "--dir", folder, env={}, columns=100) as shown:
        assert shown.ended() == 0
    assert "Making the demo" in shown.shown and "100%" in shown.shown
    assert "Client certificates for clients" in shown.left and max(map(len, shown.left)) <= 100
    # What it leaves can be looked at as one.
    assert vaultpki("status", "--dir", folder).stdout.splitlines()[-1] == "3 nodes: 3 ok"
