"""3,000 renewals in one process leave it as large as a third of them did."""

from __future__ import annotations

import subprocess
import sys
from statistics import fmean

import pytest

from helpers.vault.applied_cluster import environment
from helpers.vault.cluster_factory import ClusterFactory

PASSES = 300
SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
certificates:
  backup: {kind: client, common_name: backup, ca: etcd, roles: [etcd]}
"""

# What the agent that stays does, but without the waits: nothing is due so soon, so it is forced.
DRIVER = """\
import os, sys
from pathlib import Path
from vaultpki.agent import run
from vaultpki.config.agent import load_agent
from vaultpki.host import hook_runner
from vaultpki.node import state

config, passes = load_agent(Path(sys.argv[1])), int(sys.argv[2])
runner = hook_runner.Runner()
for number in range(passes):
    outcome = run.run(config, run.PassOptions(settle=False, force=frozenset("*")), runner=runner)
    assert not outcome.failures and len(outcome.renewed) == 10, outcome
    # By force it comes sooner than any renewal may, and the brakes' list of such would be all that grows.
    os.unlink(f"{config.state}/{state.STATE_FILE}")
    print(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])
"""


@pytest.mark.conformance
def test_memory_is_flat(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(SPEC)
    node = cluster.equip("cp-1")
    driven = subprocess.run(
        [sys.executable, "-c", DRIVER, str(node.config), str(PASSES)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert driven.returncode == 0, driven.stderr
    sizes = [int(line) for line in driven.stdout.splitlines()]
    assert len(sizes) == PASSES
    middle, last = fmean(sizes[PASSES // 3 : 2 * PASSES // 3]), fmean(sizes[2 * PASSES // 3 :])
    assert last <= 1.03 * middle, (sizes[0], middle, last, sizes[::20])
    print(f"{sizes[0]} KiB after the first pass, {middle:.0f} in the middle third, {last:.0f} in the last")
