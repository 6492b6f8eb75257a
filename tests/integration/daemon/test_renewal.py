"""The agent that stays: it renews in time by itself, and a signal ends it at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.node.resident_agent import AT_ONCE
from helpers.vault.applied_cluster import environment
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import wait_for
from vaultpki.certificates import pair_files
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts

pytestmark = pytest.mark.on_node

# The shortest TTL there is: renewal is due after half of it at the earliest.
SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
certificates:
  kubelet: {ttl: 30s, allow_short_ttl: true}
"""


def test_it_renews_in_time_and_ends_at_once(clusters: ClusterFactory, tmp_path: Path) -> None:
    cluster = clusters.applied(SPEC)
    node = cluster.equip("worker-1")

    def leaf(stem: str) -> Facts:
        crt, key, pem = ((node.pki / name).read_bytes() for name in pair_files(stem))
        found = x509.read_certificates(crt)[0]
        assert x509.matches(key, found) and pem == key + crt
        return found

    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "vaultpki", "agent", "-c", str(node.config)],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_for(lambda: "issued kubelet\n" in log.read_text(), 20, log.read_text)
        first, other = leaf("kubelet"), leaf("kubelet-client")
        wait_for(lambda: "renewed kubelet\n" in log.read_text(), 40, log.read_text, pause=0.1)
        now, second = datetime.now(UTC), leaf("kubelet")
        life = (first.not_after - first.not_before).total_seconds() - 300
        left = (first.not_after - now).total_seconds()
        # The pause for watchers comes before the report.
        assert 0 < left < life / 2 and second.serial != first.serial, (left, life)
        assert second.not_after > first.not_after
        assert leaf("kubelet-client") == other
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        process.wait(15)
        assert time.monotonic() - began < AT_ONCE
    finally:
        process.kill()
        process.wait()
    said = log.read_text()
    assert said.count("issued kubelet-client\n") == 1 and "Traceback" not in said, said
    # Whatever the signal cut short, the next run begins from what lies on the disk.
    assert node.run().stderr == ""
    leaf("kubelet")
