"""What a move to another server is to the views of a cluster, which look at one of the servers.

What it waits for depends on both, so that `move status` alone says it.
"""

from __future__ import annotations

from vaultpki.findings.cluster import ProcedureView
from vaultpki.findings.finding import found
from vaultpki.provision.cluster_facts import ClusterFacts
from vaultpki.provision.rotation_records import move_sentence


def view(read: ClusterFacts) -> ProcedureView:
    """Return that the cluster moves; nothing if it does not."""
    if read.move is None or not read.move.active:
        return ProcedureView()
    said = move_sentence(read.cluster, read.move)
    return ProcedureView((found("move-waiting", said, file=read.cluster.file),), (f"{said}.",))
