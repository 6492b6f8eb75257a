"""A whole adoption, and the way back from each state, with a real server and a cluster that only answers and reports."""

from __future__ import annotations

from pathlib import Path

from helpers.kube.adopted_cluster import adopted
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.adopt.drive import Said

OUTSIDE = Said(confirmed=("outside",))


def test_start(clusters: ClusterFactory, tmp_path: Path) -> None:
    with adopted(clusters, tmp_path) as one:
        words = ("-f", one.cluster.file, "--kubeconfig", one.config)
        ran = vaultpki("adopt", "start", *words, env=one.cluster.environment("adopter"))
        print(ran.stdout, ran.stderr)
        ran = vaultpki("adopt", "status", *words, env=one.cluster.environment("adopter"))
        print(ran.stdout, ran.stderr)
        one.passes()
        ran = vaultpki("adopt", "status", *words, env=one.cluster.environment("adopter"))
        print(ran.stdout, ran.stderr)
        assert one.state == "prepared"
