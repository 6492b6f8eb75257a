"""What becomes of answers that are lost: few secret ids and certificates pile up, and nobody waits for long."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from helpers.node import enrolled_nodes
from helpers.node.resident_agent import proxy, short_and_long
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.agent import run
from vaultpki.agent.context import Outcome
from vaultpki.config.agent import load_agent
from vaultpki.node import credential, secret_id
from vaultpki.procedures import ON_NODES

# What a node remembers of answers that did not come.
pytestmark = pytest.mark.on_node

PASSES = 8
"""Made one after another, as by a person or a unit that is restarted."""


class Losing:
    """A Vault whose answers to some writes are lost on the way; `path` ends the paths of those, "" is none."""

    def __init__(self) -> None:
        self.path = ""

    def __call__(self, method: str, path: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if method != "GET" and self.path and self.path in path:
            raise ConnectionAbortedError
        return status, body


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(short_and_long("30d"))


def passed(node: NodeFolder, *force: str) -> Outcome:
    options = run.PassOptions(ON_NODES, settle=False, share=0.0, force=frozenset(force))
    return run.run(load_agent(node.config), options)


def test_lost_secret_ids_do_not_pile_up(cluster: AppliedCluster, tmp_path: Path) -> None:
    """Nor does the node lose its own: it is replaced once the answers come again."""
    node = cluster.equip("worker-1", folder=tmp_path / "node")
    passed(node)
    live = enrolled_nodes.accessors(cluster, node.name, "listed")
    files = secret_id.SecretIdFiles(str(node.state))
    secret = str(files.current())
    files.note_minted(secret, time.time() - 25 * 86400, 60 * 86400)
    losing = Losing()
    with proxy(cluster.server, losing) as between:
        node.configure(cluster.server.address, between.address)
        losing.path = f"/role/{node.name}/secret-id"
        failures = [set(passed(node).failures) for _ in range(PASSES)]
        assert failures == [{"credential"}, *([set()] * (PASSES - 1))], failures
        assert len(enrolled_nodes.accessors(cluster, node.name, "listed")) == len(live) + 1
        assert files.current() == secret
        losing.path = ""
        config = load_agent(node.config)
        vault = credential.login(config)
        assert not credential.roll(config, vault, time.time() + 500)
        # The pause is over; or a person has repaired something and renews.
        assert credential.roll(config, vault, time.time() + 700)
        assert files.current() != secret and files.asked().pending == () and len(files.asked().lost) == 1


def test_lost_certificates_do_not_pile_up(cluster: AppliedCluster, tmp_path: Path) -> None:
    """A person who has repaired something renews by name, and waits for nothing."""
    node = cluster.equip("worker-2", folder=tmp_path / "node")
    losing = Losing()
    with proxy(cluster.server, losing) as between:
        node.configure(cluster.server.address, between.address)
        losing.path = "/sign/"
        for _ in range(PASSES):
            last = vaultpki("agent", "-c", node.config, "--once", expect=1)
        assert "`vaultpki renew NAME` asks now" in last.stderr, last.stderr
        assert between.count("/sign/kubelet-client") == 2
        losing.path = ""
        assert passed(node).renewed == ()
        assert passed(node, "kubelet").renewed == ("kubelet",)
        # An answer ends the pause of its own certificate only.
        assert set(passed(node, "kubelet-client", "kube-proxy").renewed) == {"kubelet-client", "kube-proxy"}
        assert not passed(node).failures
