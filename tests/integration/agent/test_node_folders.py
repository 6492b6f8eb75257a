"""`vaultpki status --dir` for a folder of nodes: one line for each, however broken it is."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers.node.passes import passed_well
from helpers.node.resident_agent import faketime_library
from helpers.terminals import on_terminal
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.agent import node_folders
from vaultpki.agent.status import Status, of_folder
from vaultpki.errors import StoreError
from vaultpki.findings.nodes import of_status, order
from vaultpki.procedures import ON_NODES

pytestmark = pytest.mark.on_node

NOBODY = 65534
SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}
"""


@pytest.fixture(scope="module")
def applied(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(SPEC)


@pytest.fixture
def cluster(applied: AppliedCluster, tmp_path: Path) -> AppliedCluster:
    """The same, with a folder of its own for cluster.yaml."""
    made = replace(applied, folder=tmp_path / "cluster")
    made.write(SPEC)
    return made


@pytest.fixture
def nodes(cluster: AppliedCluster) -> list[NodeFolder]:
    """Two nodes, in `nodes` below the folder of cluster.yaml as `demo --dir` leaves them."""
    nodes = [cluster.equip(name) for name in ("worker-1", "worker-2")]
    passed_well(*nodes)
    return nodes


def status(directory: Path, *, expect: int) -> dict[str, Any]:
    ran = vaultpki("status", "--dir", directory, "--json", expect=expect)
    found: dict[str, Any] = json.loads(ran.stdout)
    assert found["ok"] is (expect == 0)
    assert (ran.stderr == "vaultpki: something here needs attention; see above\n") is (expect == 3), ran.stderr
    return found


def states(found: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    return {each["node"]: (each["state"], each["reasons"]) for each in found["nodes"]}


def well(seen: Status) -> bool:
    return not of_status(seen, datetime.now(UTC), name="").attention


def test_nodes_that_are_well(cluster: AppliedCluster, nodes: list[NodeFolder]) -> None:
    start = cluster.server.audit_position()
    found = status(cluster.folder, expect=0)
    assert states(found) == {"worker-1": ("ok", []), "worker-2": ("ok", [])}
    # Vault is not asked.
    assert cluster.server.requests(start) == []
    for each, node in zip(found["nodes"], nodes, strict=True):
        alone = json.loads(vaultpki("status", "-c", node.config, "--offline", "--json").stdout)
        summary = alone["summary"]
        assert abs(summary.pop("life_left") - each.pop("life_left")) < 0.01
        # One vocabulary: the row of a node says the same wherever it is shown.
        assert {**summary, "status": each["status"]} == each
        assert each["status"]["certificates"] == alone["certificates"]
        assert each["first_expiry"] == min(one["not_after"] for one in alone["certificates"])
        assert (each["roles"], each["pool"], each["credentials"]) == (["worker"], None, None)
    # The folder of nodes itself, and nodes beside other things.
    assert states(status(cluster.folder / "nodes", expect=0)) == states(found)
    lines = vaultpki("status", "--dir", cluster.folder / "nodes").stdout.splitlines()
    assert lines[0].split() == ["NODE", "POOL", "ROLES", "STATE", "EXPIRES", "LIFE", "CAS", "HOOKS"]
    generation = found["nodes"][0]["ca_generation"]
    assert lines[1].split() == ["worker-1", "listed", "worker", "ok", "in", "29d", "99%", generation[:8], "0"]
    assert lines[-1] == "2 nodes: 2 ok"


def test_a_broken_node_and_its_place(cluster: AppliedCluster, nodes: list[NodeFolder]) -> None:
    first, second = nodes
    (second.pki / "kubelet.key").unlink()
    found = status(cluster.folder, expect=3)
    assert list(states(found).items()) == [("worker-2", ("broken", ["missing"])), ("worker-1", ("ok", []))]
    lines = vaultpki("status", "--dir", cluster.folder, expect=3).stdout.splitlines()
    assert (
        lines[1].startswith("worker-2 ")
        and lines[2] == "    missing: kubelet: run `vaultpki renew kubelet` on worker-2"
    )
    when = datetime.now(UTC) + timedelta(days=25)
    rows = [
        of_status(node_folders.read(each, when, ON_NODES), when, name="")
        for each in node_folders.find_all(cluster.folder)
    ]
    _, left = sorted(rows, key=order)
    assert [each.name for each in left.worst_first] == ["silent", "overdue"] and 0.1 < (left.life_left or 0) < 0.2
    env = {"LD_PRELOAD": faketime_library(), "FAKETIME": "+31d"}
    ran = vaultpki("status", "--dir", cluster.folder, "--json", expect=3, env=env)
    assert {each["state"] for each in json.loads(ran.stdout)["nodes"]} == {"expired"}
    first.configure("version: 1", "version: 1\nowner: no-one-here:no-one-here")
    assert states(status(cluster.folder, expect=3))["worker-1"][0] == "broken"


def others(cluster: AppliedCluster, folder: Path, *, well: bool) -> None:
    """Every other command that takes such a folder finds the same."""
    of_folder = ("-f", cluster.file, "--dir", folder)
    said = vaultpki("verify", *of_folder, expect=0 if well else 3).stdout
    assert ("worker-2/kubelet" in said and "kubelet.key" in said and "is missing" in said) is not well
    for command, output in (("report", "report.html"), ("graph", "graph.svg")):
        shown = vaultpki(command, *of_folder, "-o", folder.parent / output, expect=0 if well else 3).stderr
        assert shown.startswith("" if well else "worker-2: missing: kubelet") and bool(shown) is not well, shown


def test_copies_are_judged_by_themselves(cluster: AppliedCluster, nodes: list[NodeFolder], tmp_path: Path) -> None:
    """The originals stay as they are: what is wrong with a copy is found, and what is wrong with them is not."""
    first, _ = nodes
    copies, collected = tmp_path / "copies", tmp_path / "collected"
    shutil.copytree(cluster.folder / "nodes", copies / "nodes", symlinks=True)
    # As rsync takes the folders of a node from its file system.
    for node in nodes:
        for place in (node.pki, node.state, node.config):
            target = collected / node.folder.name / str(place).lstrip("/")
            target = collected / node.folder.name / "etc/vaultpki/agent.yaml" if place == node.config else target
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(place, target, symlinks=True) if place.is_dir() else shutil.copy(place, target)
    for folder in (copies, collected):
        found = status(folder, expect=0)
        assert states(found) == {"worker-1": ("ok", []), "worker-2": ("ok", [])}
        paths = [one["path"] for each in found["nodes"] for one in each["status"]["certificates"]]
        assert len(paths) == 6 and all(path.startswith(f"{folder}/") for path in paths)
        if folder == copies:
            others(cluster, folder, well=True)
        for key in folder.rglob("worker-2/**/kubelet.key"):
            key.unlink()
        assert states(status(folder, expect=3))["worker-2"] == ("broken", ["missing"])
        others(cluster, folder, well=False)
    # One node's folder by itself.
    assert states(status(collected / "worker-1", expect=0)) == {"worker-1": ("ok", [])}
    for node in nodes:
        (node.pki / "kubelet.key").unlink()
    assert states(status(cluster.folder, expect=3)).keys() == {"worker-1", "worker-2"}
    assert states(status(copies, expect=3))["worker-1"] == ("ok", [])

    # Without the state, which has the wanted names, the certificates are judged by themselves, and that is said.
    shutil.rmtree(copies / "nodes/worker-1" / first.state.name)
    found = status(copies, expect=3)
    alone = next(each for each in found["nodes"] if each["node"] == "worker-1")
    assert alone["state"] == "ok" and [each["name"] for each in alone["findings"]] == ["files-alone"]
    assert "is not in" in vaultpki("status", "--dir", copies, expect=3).stdout
    # Without the certificates there is nothing to judge, though the originals are there.
    shutil.rmtree(copies / "nodes/worker-1" / first.pki.name)
    found = status(copies, expect=3)
    assert states(found)["worker-1"] == ("unknown", ["failed"])
    assert f"{first.pki} of agent.yaml is not in" in found["nodes"][1]["message"]


def test_a_node_without_state_and_one_without_a_valid_agent_yaml(
    cluster: AppliedCluster, nodes: list[NodeFolder]
) -> None:
    first, second = nodes
    shutil.rmtree(first.state)
    second.config.write_text("version: 1\nclutser: x\x1b[2J\n")
    found = status(cluster.folder, expect=3)
    assert states(found) == {"worker-1": ("failing", ["failed"]), "worker-2": ("unknown", ["failed"])}
    by_name = {each["node"]: each for each in found["nodes"]}
    assert by_name["worker-1"]["message"] == "nothing was ever issued here; run `vaultpki agent`"
    assert "agent.yaml:2" in by_name["worker-2"]["message"] and by_name["worker-2"]["message"].isprintable()
    shown = vaultpki("status", "--dir", cluster.folder, expect=3).stdout
    assert "\x1b" not in shown and "\n    " in shown
    # A link could lead to any file that this user may read.
    second.config.unlink()
    second.config.symlink_to(first.config)
    assert "symbolic link" in status(cluster.folder, expect=3)["nodes"][0]["message"]


def test_what_an_ordinary_user_may_not_read(cluster: AppliedCluster) -> None:
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        os.chmod(top, 0o755)
        nodes = [cluster.equip(node, folder=top / node) for node in ("worker-1", "worker-2")]
        passed_well(*nodes)
        (top / "notes.txt").touch()
        now = datetime.now(UTC)
        nodes[1].folder.chmod(0o700)
        # As root both can be read; and Python loads what it needs, which somebody else may not read either.
        assert all(well(node_folders.read(each, now, ON_NODES)) for each in node_folders.find_all(top))
        with somebody_else():
            first, second = node_folders.find_all(top)
            open_, closed = (node_folders.read(each, now, ON_NODES) for each in (first, second))
        # The state of the first is root's alone, so nothing is known but why.
        assert open_.faults == {"state": f"{nodes[0].state}/spec.json: permission denied; run as its owner or as root"}
        assert closed.faults == {"agent.yaml": f"{nodes[1].folder}: permission denied; run as its owner or as root"}
        assert not well(open_) and not well(closed)
        top.chmod(0o700)
        with somebody_else():
            assert node_folders.find_all(top) == ()
            with pytest.raises(StoreError, match="permission denied; run as its owner or as root"):
                of_folder(str(top), now)
        (top / "nodes").mkdir(mode=0o700)
        top.chmod(0o755)
        with somebody_else(), pytest.raises(StoreError, match="nodes: permission denied; run as its owner or as root"):
            node_folders.find_all(top)


@contextlib.contextmanager
def somebody_else() -> Iterator[None]:
    """Within the block this process is one of a user who may not look into what is root's alone."""
    assert os.geteuid() == 0, "only root can become another user: run this as root"
    try:
        os.seteuid(NOBODY)
        yield
    finally:
        os.seteuid(0)


def test_a_folder_of_files_is_none_of_nodes(cluster: AppliedCluster, nodes: list[NodeFolder], tmp_path: Path) -> None:
    found = status(nodes[0].pki, expect=0)
    assert "nodes" not in found and len(found["certificates"]) == 3 and found["summary"]["state"] == "ok"
    empty = tmp_path / "nodes-to-be"
    empty.mkdir()
    assert "nodes" not in status(empty, expect=3)
    (empty / "nodes").mkdir()
    # `nodes` without a node: that nothing was found is not that all is well.
    assert "nodes" not in status(empty, expect=3)


def test_watch(cluster: AppliedCluster, nodes: list[NodeFolder]) -> None:
    with on_terminal("status", "--dir", cluster.folder, "--watch", "--every", "1s", env={}, columns=80) as shown:
        shown.until("2 nodes: 2 ok")
        (nodes[0].pki / "kubelet.key").unlink()
        shown.until("missing: kubelet")
        assert shown.ended(signal.SIGTERM) == 0
    with on_terminal("status", "-c", nodes[1].config, "--offline", "--watch", env={}, columns=100) as shown:
        shown.until("agent: ok")
        assert "########" in shown.shown and shown.coloured
        assert shown.ended(signal.SIGINT) == 0
