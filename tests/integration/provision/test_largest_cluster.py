"""Many listed nodes, as many as Kubernetes holds, with the longest names, in bounded memory."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from helpers.vault.plan_commands import AuditedCluster, fails, vaultpki
from helpers.vault.servers import Server
from vaultpki.config.cluster_schema import MOST_NODES

# Minutes on two quiet cores for the largest; three times as long beside other tests.
pytestmark = pytest.mark.timeout(1800)

SECONDS: Final = 600.0

# A child's peak begins with that of the process it was forked from: a bare interpreter starts it, not pytest.
WEIGHED: Final = """
import os, sys
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], "w") as file:
    file.write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def listed(count: int, ttl: str = "30d") -> str:
    """A spec of `count` listed nodes, three of them of the control plane, the others' names as long as a CN allows."""
    nodes = [f"- {{name: cp-{n}, roles: [control-plane, etcd], addresses: [10.0.0.{n}]}}" for n in range(1, 4)]
    nodes += [
        f"- {{name: node-{n:04}.{'d' * 42}, roles: [worker], addresses: [10.1.{n // 250}.{n % 250}]}}"
        for n in range(count - 3)
    ]
    return "\n".join(("nodes:", *nodes, f"certificates: {{kubelet: {{ttl: {ttl}}}}}", ""))


@pytest.mark.parametrize(
    ("count", "most_mib"),
    [
        pytest.param(300, 96, id="large", marks=pytest.mark.conformance),
        pytest.param(1000, 192, id="thousand", marks=pytest.mark.exhaustive),
        pytest.param(MOST_NODES, 512, id="largest", marks=pytest.mark.exhaustive),
    ],
)
def test_a_large_cluster_from_the_first_apply_to_its_end(
    count: int, most_mib: int, own_server: Server, tmp_path: Path
) -> None:
    cluster = AuditedCluster(own_server, tmp_path, "largest")
    peak = tmp_path / "peak"
    weighed = (sys.executable, "-I", "-S", "-c", WEIGHED, str(peak))
    peaks: dict[str, float] = {}

    def run(what: str, command: str, *words: str) -> str:
        env = cluster.environment()
        ran = vaultpki(command, "-f", cluster.file, *words, env=env, timeout=SECONDS, behind=weighed)
        peaks[what] = int(peak.read_text()) / 1024
        return ran.stdout

    def changed(stdout: str) -> Counter[tuple[str, str]]:
        return Counter((change["action"], change["kind"]) for change in json.loads(stdout)["changes"])

    cluster.write(listed(MOST_NODES + 1))
    start = own_server.audit_position()
    fails(
        vaultpki("apply", "-f", cluster.file, "--yes", expect=1), "nodes: the list has 5001 items: write at most 5000"
    )
    assert own_server.requests(start) == []

    cluster.write(listed(count))
    made = changed(run("the first apply", "apply", "--yes", "--json"))
    assert made["create", "approle"] == count
    assert made["create", "policy"] == count + 4

    # Another record of each node but the control plane's, and one node fewer. That nothing else is to be done, before
    # and after, is what apply itself looks for: a plan for itself would take as long again.
    cluster.write(listed(count - 1, ttl="20d"))
    made = changed(run("an apply of a change", "apply", "--yes", "--json"))
    assert made["update", "config"] == count - 4
    assert made["delete", "approle"] == made["delete", "policy"] == made["delete", "config"] == 1

    run("destroy", "destroy", "--confirm", cluster.name)
    left = (*cluster.read("sys/mounts"), *cluster.read("sys/auth"), *cluster.read_names("sys/policies/acl"))
    assert [name for name in left if name.startswith(f"{cluster.prefix}/")] == []
    assert max(peaks.values()) < most_mib, peaks
    print("peak memory in MiB:", {what: round(most) for what, most in peaks.items()})
