"""A directory is one cluster's and one node's: whoever else is told to use it says whose it is and changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory

pytestmark = pytest.mark.on_node

SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}
"""


@pytest.fixture(scope="module")
def two_clusters(shared_clusters: ClusterFactory) -> tuple[AppliedCluster, AppliedCluster]:
    return shared_clusters.applied(SPEC), shared_clusters.applied(SPEC)


def equipped(cluster: AppliedCluster, node: str, folder: Path, pki: Path) -> NodeFolder:
    """A node whose certificates go to a directory that another one may use."""
    made = cluster.equip(node, folder=folder)
    made.configure(f"directory: {made.pki}", f"directory: {pki}")
    return made


def files(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def refused(ran: Ran, *words: str) -> None:
    assert ran.stderr.count("\n") == 1 and ran.stderr.startswith("vaultpki: "), ran.stderr
    assert all(word in ran.stderr for word in words), ran.stderr


@pytest.mark.parametrize("other", ["another cluster", "another node"])
def test_another_agent(other: str, two_clusters: tuple[AppliedCluster, AppliedCluster], tmp_path: Path) -> None:
    one, two = two_clusters
    pki = tmp_path / "pki"
    first = equipped(one, "worker-1", tmp_path / "first", pki)
    first.run()
    mark = json.loads((pki / ".vaultpki/owner.json").read_bytes())
    assert mark == {"version": 1, "cluster": one.name, "node": "worker-1", "root_sha256": one.root_sha256}
    cluster, node = (two, "worker-1") if other == "another cluster" else (one, "worker-2")
    second = equipped(cluster, node, tmp_path / "second", pki)
    before, position = files(pki), cluster.server.audit_position()
    owners = (f"node worker-1 of cluster {one.name}", f"node {node} of cluster {cluster.name}")
    for command in (["agent", "--once"], ["renew", "--all"]):
        ran = vaultpki(command[0], "-c", second.config, *command[1:], expect=1)
        refused(ran, str(pki), *owners, "choose another directory")
    assert cluster.server.requests(position) == [] and files(pki) == before
    first.run()
    # As the sentence says: once nothing uses the files any more.
    shutil.rmtree(pki / ".vaultpki")
    second.run()
    refused(first.run(expect=1), *owners)


def test_files_from_before_there_were_marks(
    two_clusters: tuple[AppliedCluster, AppliedCluster], tmp_path: Path
) -> None:
    one, two = two_clusters
    pki = tmp_path / "pki"
    first, second = (equipped(cluster, "worker-1", tmp_path / f"of-{cluster.name}", pki) for cluster in two_clusters)
    first.run()
    mark = pki / ".vaultpki/owner.json"
    mark.unlink()
    pin = two.root_sha256
    before, position = files(pki), two.server.audit_position()
    refused(second.run(expect=1), "another root", f"node worker-1 of cluster {two.name}", pin)
    assert two.server.requests(position) == [] and files(pki) == before
    first.run()
    assert json.loads(mark.read_bytes())["root_sha256"] == one.root_sha256
    # And where nothing is to be told apart any more, nobody's certificates are guessed at.
    mark.unlink()
    for path in pki.glob("*-ca-chain.crt"):
        path.resolve().unlink()
    refused(first.run(expect=1), "another root")


def test_operators(two_clusters: tuple[AppliedCluster, AppliedCluster], tmp_path: Path) -> None:
    one, two = two_clusters
    mine = tmp_path / "mine"
    one.issue("admin", mine)
    assert json.loads((mine / ".vaultpki/owner.json").read_bytes())["node"] is None
    before, position = files(mine), two.server.audit_position()
    refused(two.issue("admin", mine, expect=1), f"an operator of cluster {one.name}", f"operator of cluster {two.name}")
    assert two.server.writes(position) == [] and files(mine) == before
    one.issue("super-admin", mine)
    node = equipped(one, "worker-1", tmp_path / "node", mine)
    refused(node.run(expect=1), f"an operator of cluster {one.name}", f"node worker-1 of cluster {one.name}")
    node.configure(f"directory: {mine}", f"directory: {node.pki}")
    node.run()
    refused(one.issue("admin", node.pki, expect=1), f"node worker-1 of cluster {one.name}")


def test_a_mistake_in_agent_yaml_keeps_nobody_out(
    two_clusters: tuple[AppliedCluster, AppliedCluster], tmp_path: Path
) -> None:
    one, two = two_clusters
    node = equipped(one, "worker-1", tmp_path / "node", tmp_path / "pki")
    node.configure(one.root_sha256, two.root_sha256)
    refused(node.run(expect=1), two.root_sha256)
    node.configure(two.root_sha256, one.root_sha256)
    assert node.run().stderr == ""


def test_readers_do_not_mind_the_mark(two_clusters: tuple[AppliedCluster, AppliedCluster], tmp_path: Path) -> None:
    one, _ = two_clusters
    one.issue("admin", tmp_path / "operator")
    plain = json.loads(vaultpki("status", "--dir", tmp_path / "operator", "--json").stdout)
    mark = tmp_path / "operator/.vaultpki/owner.json"
    assert [each["name"] for each in plain["certificates"]] == ["admin"]
    mark.unlink()
    assert json.loads(vaultpki("status", "--dir", tmp_path / "operator", "--json").stdout) == plain
