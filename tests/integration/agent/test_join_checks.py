"""What would make a join fail on the machine is found before the join file is used, and nothing is left behind."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.faults.small_disks import private_disk
from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.node.passes import command_here
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, environment, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.host import processes

# The machine is looked at before the server is asked.
pytestmark = pytest.mark.on_node


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(enrolled_nodes.SPEC)


def link(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/nowhere")


def a_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file")


def open_to_others(path: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o777)


# What is spoilt below the node's folder, and what is said of that place.
SPOILT: tuple[tuple[Callable[[Path], None], str], ...] = (
    (open_to_others, "pki"),
    (a_file, "pki"),
    (link, "pki"),
    (link, "state"),
    (a_file, "pki/.vaultpki"),
    (a_file, ""),
)


def tree(path: Path) -> dict[str, tuple[int, int]]:
    """Inode and mode of all that is there."""
    found = [path, *path.rglob("*")] if path.exists() else []
    return {str(each): (each.lstat().st_ino, each.lstat().st_mode) for each in found}


def refused(cluster: AppliedCluster, node: NodeFolder, file: Path, said: str) -> None:
    before = tree(node.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "running", dict)
        words = ("doctor", "-c", node.config, file, "--dir", node.pki, "--json")
        examined = command_here(*words, expect=3)
    failed = [each["detail"] for each in json.loads(examined.stdout)["checks"] if each["verdict"] == "failed"]
    assert any(detail.startswith(said) for detail in failed), examined
    assert tree(node.folder) == before
    since = cluster.server.audit_position()
    ran = enrolled_nodes.join(node, file, expect=1)
    assert ran.stdout == "" and ran.stderr.startswith(f"vaultpki: {said}") and ran.stderr.count("\n") == 1, ran
    assert cluster.server.requests(since) == []
    assert tree(node.folder) == before


def test_nothing_is_used_up_and_nothing_is_left(
    cluster: AppliedCluster, node: NodeFolder, file: Path, tmp_path: Path
) -> None:
    for number, (spoil, name) in enumerate(SPOILT):
        spoilt = NodeFolder("w-1", tmp_path / f"spoilt-{number}")
        place = spoilt.folder / name
        spoil(place)
        refused(cluster, spoilt, file, f"{place}: ")
    # The directory of another node of the same cluster.
    other = NodeFolder("w-2", tmp_path / "w-2")
    enrolled_nodes.vacate(cluster, "w-2")
    theirs = Enroller(cluster, cluster.token()).join_file("w-2", tmp_path / "w-2.json", pool="autoscaled")
    enrolled_nodes.join(other, theirs)
    node.folder.mkdir()
    other.pki.rename(node.pki)
    said = f"{node.pki}: this directory belongs to node w-2 of cluster {cluster.name}, and not to node w-1"
    refused(cluster, node, file, said)
    # The same join file serves once that is mended.
    enrolled_nodes.join(NodeFolder("w-1", tmp_path / "elsewhere"), file)


def test_folders_lie_apart(cluster: AppliedCluster, node: NodeFolder, file: Path) -> None:
    for directory, said in (
        (node.folder, f"the agent's own folder {node.state} would lie in {node.folder}, which static pods mount"),
        (node.state / "pki", f"{node.state}/pki would lie in the agent's own folder {node.state}, which nobody else"),
        (node.folder / "x/../state", f"{node.folder}/x/../state"),
    ):
        ran = vaultpki("join", "-c", node.config, file, "--dir", directory, expect=1)
        assert said in ran.stderr and not node.folder.exists(), ran
    enrolled_nodes.join(node, file)


def test_an_owner_that_this_machine_lacks(
    cluster: AppliedCluster, node: NodeFolder, file: Path, tmp_path: Path
) -> None:
    enrolled_nodes.join(node, file)
    text = node.config.read_text()
    enrolled_nodes.vacate(cluster, "w-1")
    fresh = Enroller(cluster, cluster.token()).join_file("w-1", tmp_path / "fresh.json", pool="autoscaled")
    for further in ("owner: nobody-here:root\n", "certificates: {kubelet: {owner: 'root:nobody-here'}}\n"):
        node.config.write_text(text + further)
        before = node.snapshot()
        ran = enrolled_nodes.join(node, fresh, expect=1)
        assert "this machine has no such user or group; create it or change agent.yaml" in ran.stderr, ran
        assert {name: about[2:] for name, about in node.snapshot().items()} == {
            name: about[2:] for name, about in before.items()
        }
    node.config.write_text(text)
    enrolled_nodes.join(node, fresh)


def test_a_user_who_may_not_look(cluster: AppliedCluster, node: NodeFolder, file: Path) -> None:
    """One sentence, and no fault of ours, where agent.yaml lies in a folder that this user may not enter."""
    enrolled_nodes.join(node, file)
    before = node.snapshot()
    node.folder.chmod(0)
    try:
        behind = () if os.geteuid() else ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
        ran = vaultpki(*enrolled_nodes.joining(node, file), expect=1, behind=behind)
    finally:
        node.folder.chmod(0o755)
    assert ran.stderr == f"vaultpki: {node.config}: permission denied; run as its owner or as root\n"
    assert node.snapshot() == before


@pytest.mark.parametrize("where", ["state", "pki", "agent.yaml"])
def test_no_room_and_no_writing(cluster: AppliedCluster, tmp_path: Path, where: str) -> None:
    """A disk that is full, and one that is read-only, under each of the three places."""
    enrolled_nodes.vacate(cluster, "w-1")
    file = Enroller(cluster, cluster.token()).join_file("w-1", tmp_path / "join.json", pool="autoscaled")
    disk_folder = tmp_path / "disk"
    places = {name: tmp_path / "node" / name for name in ("state", "pki", "agent.yaml")} | {where: disk_folder / where}
    node_config = places["agent.yaml"]
    if where == "state":
        # The state folder lies beside agent.yaml, which stands on the same small disk then.
        node_config = disk_folder / "agent.yaml"
    arguments = ["join", "-c", str(node_config), str(file), "--dir", str(places["pki"])]
    with private_disk(disk_folder, "size=2m,mode=0755") as disk:
        command = [sys.executable, "-m", "vaultpki", *arguments]
        since = cluster.server.audit_position()
        disk.fill(leaving=4)
        full = disk.run(command, environment())
        assert full.returncode == 1 and "the disk is full; free some space and run again" in full.stderr, full
        disk.empty()
        disk.remount("ro")
        closed = disk.run(command, environment())
        assert closed.returncode == 1 and "read-only" in closed.stderr, closed
        assert cluster.server.requests(since) == []
        assert list(disk.seen(disk_folder).iterdir()) == [] and not (tmp_path / "node").exists()
        disk.remount("rw")
        done = disk.run(command, environment())
        assert done.returncode == 0, done
