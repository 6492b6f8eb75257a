"""The page "Rotate a CA": its session runs as it stands, beside agents that do their part. It takes some minutes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from helpers import page_runner
from helpers.node import node_components
from helpers.vault import servers
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, environment
from helpers.vault.servers import Server, wait_for

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]

SPEC = """\
api_server: {names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: cp-2, roles: [control-plane, etcd], addresses: [10.0.0.12]}
- {name: cp-3, roles: [control-plane, etcd], addresses: [10.0.0.13]}
"""

# Nodes replace their certificates over an hour, for which no test waits.
SOONER = (
    "vaultpki() { if [ $2 = rotate ]; then command vaultpki $* --spread 10s; else command vaultpki $*; fi "
    "| sed 's/within 10s/within 1h/'; return ${PIPESTATUS[0]}; }"
)


def reported(server: Server, path: str) -> bool:
    return server.api("GET", path).status == 200


@pytest.fixture(scope="module")
def cluster(
    server_kind: str, tmp_path_factory: pytest.TempPathFactory, vault_binary: Path | None
) -> Iterator[AppliedCluster]:
    """The cluster of the page, with an agent on each node."""
    folder = tmp_path_factory.mktemp("ca-page")
    with ExitStack() as stack:
        server = stack.enter_context(servers.running(server_kind, tmp_path_factory.mktemp("server"), vault_binary))
        cluster = AppliedCluster(server, folder, "prod")
        cluster.write(SPEC)
        cluster.apply()
        for node in cluster.model.nodes:
            node_folder = cluster.equip(node.name, further="poll: 10s\n")
            node_components.add_hooks(node_folder)
            log = stack.enter_context((folder / f"{node.name}.log").open("wb"))
            agent = subprocess.Popen(
                [sys.executable, "-m", "vaultpki", "agent", "-c", str(node_folder.config)],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            stack.callback(agent.wait, 30)
            stack.callback(agent.terminate)
        for node in cluster.model.nodes:
            path = cluster.report_path(node.name)
            wait_for(partial(reported, server, path), 60, partial("{} is not there".format, path))
            node_folder = NodeFolder(node.name, cluster.folder / "nodes" / node.name)
            stack.enter_context(node_components.standing(node_folder, node.roles))
        # The next pass reports what has started.
        time.sleep(11)
        yield cluster


def test_the_session_of_the_page(cluster: AppliedCluster) -> None:
    variables = page_runner.equip(cluster.folder, cluster.server) | cluster.environment()
    ran = page_runner.run("ca-rotation", cluster.server, cluster.folder, variables, {}, before=SOONER, timeout=900)
    page_runner.refuse_other_output(ran, cluster.folder)
