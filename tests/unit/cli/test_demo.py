"""What the demo prints of the certificates that it finds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from vaultpki.cli.demo import one_line_each


def test_nodes_that_joined_in_different_minutes_share_a_line_with_the_first_end() -> None:
    first = datetime(2027, 1, 2, 14, 58, 59, tzinfo=UTC)
    later = first + timedelta(seconds=2)
    key, other = ("kube-proxy", "CN=system:kube-proxy"), ("kubelet", "CN=system:node:cp-2")
    found = [
        (key, later, Path("nodes/cp-2/pki/kube-proxy.crt")),
        (other, later, Path("nodes/cp-2/pki/kubelet.crt")),
        (key, first, Path("nodes/worker-1/pki/kube-proxy.crt")),
    ]
    assert one_line_each(found) == [
        (key, first, "nodes/{cp-2,worker-1}/pki/kube-proxy.crt"),
        (other, later, "nodes/cp-2/pki/kubelet.crt"),
    ]
