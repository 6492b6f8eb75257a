"""Many renewals in one process leave it as large as a third of them did."""

from __future__ import annotations

import subprocess
import sys
from statistics import fmean

import pytest

from helpers.node import forced_passes
from helpers.vault.applied_cluster import environment
from helpers.vault.cluster_factory import ClusterFactory

# A process' memory is the same whatever the server.
pytestmark = pytest.mark.on_node

SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
certificates:
  backup: {kind: client, common_name: backup, ca: etcd, roles: [etcd]}
"""


@pytest.mark.parametrize(
    "passes", [pytest.param(150, marks=pytest.mark.conformance), pytest.param(300, marks=pytest.mark.exhaustive)]
)
def test_memory_is_flat(clusters: ClusterFactory, passes: int) -> None:
    """Ten renewals a pass."""
    cluster = clusters.applied(SPEC)
    node = cluster.equip("cp-1")
    driven = subprocess.run(
        [sys.executable, forced_passes.__file__, str(node.config), str(passes)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert driven.returncode == 0, driven.stderr
    sizes = [int(line) for line in driven.stdout.splitlines()]
    assert len(sizes) == passes
    middle, last = fmean(sizes[passes // 3 : 2 * passes // 3]), fmean(sizes[2 * passes // 3 :])
    # Of one code 0.8 and 3.1 percent were seen, on a machine at rest and on one with thirty processes at a time.
    assert last <= (1.03 if passes > 150 else 1.05) * middle, (sizes[0], middle, last, sizes[::20])
    print(f"{sizes[0]} KiB after the first pass, {middle:.0f} in the middle third, {last:.0f} in the last")
