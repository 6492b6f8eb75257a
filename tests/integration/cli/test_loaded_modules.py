"""How many modules of the package two commands load: who changes such a command has to know these, and no others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from helpers.vault.applied_cluster import environment
from helpers.vault.cluster_factory import ClusterFactory

# `sys.modules` after the command, packages among them.
LOADED = """\
import sys
from vaultpki.cli import vaultpki
code = vaultpki.main(sys.argv[1:], standalone_mode=False)
print("loaded", *[name for name in sys.modules if name.partition(".")[0] == "vaultpki"])
sys.exit(code)
"""


def loaded(*words: str | Path, env: Mapping[str, str]) -> set[str]:
    ran = subprocess.run(
        [sys.executable, "-c", LOADED, *map(str, words)], env=env, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.splitlines()[-1].split()[1:])


def test_a_pass_and_an_apply_load_what_they_need(clusters: ClusterFactory, tmp_path: Path) -> None:
    cluster = clusters.applied()
    applied = loaded("apply", "-f", cluster.file, "--yes", env=environment(cluster.environment()))
    assert len(applied) <= 124, sorted(applied)
    node = cluster.equip("worker-1", folder=tmp_path / "worker-1")
    first = loaded("agent", "-c", node.config, "--once", env=environment())
    assert "vaultpki.pki.signed" in first
    assert len(first) <= 134, sorted(first)
    later = loaded("agent", "-c", node.config, "--once", env=environment())
    assert len(later) <= 133, sorted(later)
