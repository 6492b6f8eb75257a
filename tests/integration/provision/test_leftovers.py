"""Secret ids whose answers were lost: apply ends exactly those, and what anybody may need stays."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.node.resident_agent import proxy
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.agent import run
from vaultpki.cli.apply import apply_command
from vaultpki.config.agent import load_agent
from vaultpki.errors import VaultpkiError
from vaultpki.node import credential, secret_id
from vaultpki.procedures import ON_NODES
from vaultpki.provision import leftovers

DAY = 86400
LOST = 3


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(enrolled_nodes.SPEC)


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a day: whatever is older than the report is old enough."""
    monkeypatch.setattr(leftovers, "SETTLED", timedelta(0))


def passed(node: NodeFolder) -> None:
    outcome = run.run(load_agent(node.config), run.PassOptions(ON_NODES, settle=False, share=0.0))
    assert not outcome.failures, outcome


def lose(cluster: AppliedCluster, node_folder: NodeFolder, times: int) -> None:
    """Have the answers to requests for a new secret id lost on their way."""

    def losing(method: str, path: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if method != "GET" and path.endswith(f"/role/{node_folder.name}/secret-id"):
            raise ConnectionAbortedError
        return status, body

    with proxy(cluster.server, losing) as between:
        node_folder.configure(cluster.server.address, between.address)
        config = load_agent(node_folder.config)
        node = credential.login(config)
        for _ in range(times):
            with pytest.raises(VaultpkiError):
                credential.roll(config, node, time.time(), force=True)
        node_folder.configure(between.address, cluster.server.address)


def applied(cluster: AppliedCluster, *options: str) -> str:
    """What `vaultpki apply` says, with the applier's token and in this process."""
    with enrolled_nodes.variables(cluster.environment()):
        ran = CliRunner().invoke(apply_command, ["-f", str(cluster.file), "--yes", *options])
    assert ran.exit_code == 0, ran.output
    return ran.output


@dataclass(frozen=True, slots=True)
class Losing:
    """A node that has joined, and has lost answers and reported it. `join_file` is a used one."""

    cluster: AppliedCluster
    node: NodeFolder
    kind: str
    join_file: Path
    own: frozenset[str]
    lost: frozenset[str]

    @property
    def live(self) -> set[str]:
        return set(enrolled_nodes.accessors(self.cluster, self.node.name, self.kind))

    @property
    def files(self) -> secret_id.SecretIdFiles:
        return secret_id.SecretIdFiles(str(self.node.state))

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = self.cluster.read(self.cluster.report_path(self.node.name))["data"]
        return found


def lost_answers(cluster: AppliedCluster, folder: Path, name: str, pool: str | None = None) -> Losing:
    """A node of which secret ids live that nobody has, and that says so."""
    node, kind = NodeFolder(name, folder / name), "pooled" if pool else "listed"
    join_file = Enroller(cluster, cluster.token()).join_file(name, folder / f"{name}.json", pool=pool)
    enrolled_nodes.join(node, join_file)
    own = frozenset(enrolled_nodes.accessors(cluster, name, kind))
    files = secret_id.SecretIdFiles(str(node.state))
    assert len(own) == 1 and set(files.in_use()) == own
    # More than a third of the credential's life is over.
    files.note_minted(str(files.current()), time.time() - 25 * DAY, 60 * DAY)
    lose(cluster, node, LOST)
    lost = frozenset(enrolled_nodes.accessors(cluster, name, kind)) - own
    # A report has whole seconds.
    time.sleep(1.1)
    passed(node)
    made = Losing(cluster, node, kind, join_file, own, lost)
    told = made.report()
    assert (frozenset(told["credentials_in_use"]), told["lost_credentials"], len(lost)) == (own, LOST, LOST)
    return made


def test_apply_ends_exactly_those(cluster: AppliedCluster, tmp_path: Path) -> None:
    node = lost_answers(cluster, tmp_path, "worker-1")
    name, path = node.node.name, cluster.report_path("worker-1")
    # The report of an agent of before.
    former = {field: value for field, value in node.report().items() if field != "credentials_in_use"}
    assert cluster.server.api("POST", path, {"data": former}).status == 200
    assert "Done: 0 changes, 0 writes" in applied(cluster) and node.live == node.own | node.lost

    passed(node.node)
    # Somebody enrols the node anew, on another machine.
    role = f"auth/{cluster.prefix}/listed/role/{name}"
    token = enrolled_nodes.wrapped(cluster, f"{role}/secret-id", token=cluster.token(), ttl="600s")
    opened = enrolled_nodes.edited(node.join_file, tmp_path / "open.json", wrap_token=token)
    (join_id,) = node.live - node.own - node.lost
    said = applied(cluster)
    gone = [f"- secret-id {cluster.prefix}/listed/{name}/{each}" for each in sorted(node.lost)]
    assert sorted(line.partition(":")[0] for line in said.splitlines() if "secret-id" in line) == gone
    assert f"Done: {LOST} changes, {LOST} writes" in said
    assert node.live == node.own | {join_id}
    again = json.loads(applied(cluster, "--json"))
    assert (again["changes"], again["requests"]["writes"]) == ([], 0)

    # The node goes on, and its credential is renewed as ever.
    config = load_agent(node.node.config)
    assert credential.roll(config, credential.login(config), time.time(), force=True)
    (fresh,) = node.live - node.own - {join_id}
    assert node.files.in_use() == (fresh, *node.own)
    passed(node.node)
    assert node.report()["credentials_in_use"] == [fresh, *node.own]
    assert not credential.roll(config, credential.login(config), time.time() + 400)
    assert node.live == {fresh, join_id} and node.files.in_use() == (fresh,)
    enrolled_nodes.join(NodeFolder(name, tmp_path / "other"), opened)


def test_whoever_enrols_has_no_credential_of_a_pooled_node_ended(cluster: AppliedCluster, tmp_path: Path) -> None:
    """The enroller can become any node of a pool, and write in its report that the true one's is a lost answer."""
    node = lost_answers(cluster, tmp_path, f"w-{os.urandom(4).hex()}", "autoscaled")
    told = {**node.report(), "credentials_in_use": sorted(node.lost)[:1]}
    assert cluster.server.api("POST", cluster.report_path(node.node.name), {"data": told}).status == 200
    assert "Done: 0 changes, 0 writes" in applied(cluster) and node.live == node.own | node.lost
