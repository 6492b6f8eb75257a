"""A record takes nothing away: what it does not name any more stays on the node until it expires, or root prunes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.node.passes import pair, passed, passed_well, report, said, shown, whole
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.agent import run
from vaultpki.config.agent import load_agent
from vaultpki.disk.folders import Folders
from vaultpki.errors import StoreError
from vaultpki.procedures import ON_NODES

SPEC = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
"""
KEPT = "kube-apiserver-kubelet"


@pytest.fixture(scope="module")
def shared(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(SPEC)


@pytest.fixture
def cluster(shared: AppliedCluster) -> Iterator[AppliedCluster]:
    yield shared
    shared.apply()


@pytest.fixture
def node(cluster: AppliedCluster, tmp_path: Path) -> NodeFolder:
    node = cluster.equip("cp-1", folder=tmp_path / "node")
    passed_well(node)
    return node


def record(cluster: AppliedCluster) -> dict[str, Any]:
    found: dict[str, Any] = cluster.read(f"{cluster.prefix}/config/data/nodes/cp-1")["data"]
    return found


def rows(cluster: AppliedCluster) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in record(cluster)["certificates"]}


def write(cluster: AppliedCluster, certificates: dict[str, dict[str, Any]], **further: object) -> None:
    data = record(cluster) | {"certificates": list(certificates.values())} | further
    assert cluster.server.api("POST", f"{cluster.prefix}/config/data/nodes/cp-1", {"data": data}).status == 200


def files(node: NodeFolder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in node.pki.iterdir() if not file.is_dir()}


def left_with_one(cluster: AppliedCluster) -> None:
    """What somebody can do who may write the record: one certificate is left in it."""
    write(cluster, {KEPT: rows(cluster)[KEPT]})


def test_a_record_that_names_one_certificate_deletes_no_key(cluster: AppliedCluster, node: NodeFolder) -> None:
    before = files(node)
    left_with_one(cluster)
    outcome = passed(node)
    after = files(node)
    assert not outcome.failures
    assert {name: data for name, data in after.items() if name in before} == before
    gone = len(record(cluster)["certificates"])
    assert gone == 1 and len(said(outcome, "surplus")) == len([n for n in before if n.endswith(".key")]) - 1
    assert not said(outcome, "removed") and not said(passed(node), "surplus")
    # A resident agent that is told to ask now, and a person's pass, remove nothing either.
    assert not said(passed(node, share=0.0), "removed") and files(node) == after

    # Nothing is renewed, and every view says so.
    state = shown("status", "-c", node.config, "--offline", expect=3)
    assert {one["name"] for one in state["certificates"] if one["state"] == "surplus"} >= {
        "kube-scheduler",
        "etcd-peer",
    }
    assert state["summary"]["state"] == "surplus"
    viewer = cluster.environment("viewer")
    (row,) = shown("nodes", "-f", cluster.file, expect=3, env=viewer)["nodes"]
    assert row["state"] == "surplus" and "surplus: " in row["message"]
    assert "vaultpki agent --once --prune" in json.dumps(row)

    # The next apply brings the record back, and the pairs are the node's own again as they are.
    cluster.apply()
    outcome = passed(node)
    assert outcome.renewed == () and files(node) == before
    assert shown("status", "-c", node.config, "--offline")["summary"]["state"] == "ok"


def test_only_root_on_the_node_prunes_and_only_what_vault_confirms(cluster: AppliedCluster, node: NodeFolder) -> None:
    left_with_one(cluster)
    passed(node)
    before, text = files(node), node.config.read_text()
    node.configure(cluster.server.address, "https://127.0.0.1:1")
    ran = vaultpki("agent", "-c", node.config, "--once", "--prune", expect=1)
    assert "nothing was removed, since Vault did not say what this node holds" in ran.stderr and files(node) == before
    node.config.write_text(text)
    ran = vaultpki("agent", "-c", node.config, "--once", "--prune")
    assert "removed etcd-peer, which this node no longer holds" in ran.stdout
    assert [name for name in files(node) if name.endswith((".key", ".conf"))] == [f"{KEPT}.key"]
    assert not report(cluster, node).surplus
    assert vaultpki("agent", "-c", node.config, "--prune", expect=2).stderr
    assert vaultpki("agent", "-c", node.config, "--once", "--if-due", "--prune", expect=2).stderr


def unremovable(folders: Folders, folder: str, name: str) -> bool:
    raise StoreError(f"{folders.paths[folder]}/{name}: Input/output error")


def test_what_has_expired_goes(cluster: AppliedCluster, node: NodeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    write(cluster, {name: row for name, row in rows(cluster).items() if name != "kube-scheduler"})
    assert said(passed(node), "surplus") and whole(node, "kube-scheduler")
    ends = report(cluster, node).surplus["kube-scheduler.crt"].not_after
    assert ends is not None
    options = run.PassOptions(ON_NODES, settle=False, share=0.0)
    with monkeypatch.context() as patch:
        # As long as this machine's clock is not Vault's, nobody knows that it has expired.
        patch.setattr("vaultpki.agent.said.SKEW", -1)
        outcome = run.run(load_agent(node.config), options, clock=ends.timestamp() + 60)
        assert "clock" in outcome.failures and whole(node, "kube-scheduler")
    with monkeypatch.context() as patch:
        patch.setattr("vaultpki.disk.folders.Folders.remove", unremovable)
        failed = run.run(load_agent(node.config), options, clock=ends.timestamp() + 60)
        assert "old files" in failed.failures and whole(node, "kube-scheduler")
        assert (node.pki / "scheduler.conf").exists()
    gone = run.run(load_agent(node.config), options, clock=ends.timestamp() + 60)
    assert said(gone, "removed") == ["removed kube-scheduler, which this node no longer holds"]
    assert not {"kube-scheduler.key", "scheduler.conf"} & set(files(node))


def test_no_other_certificate_takes_the_path(cluster: AppliedCluster, node: NodeFolder) -> None:
    scheduler, conf = pair(node, "kube-scheduler"), (node.pki / "scheduler.conf").read_bytes()
    held = rows(cluster)
    del held["kube-scheduler"]
    taker = held["kube-controller-manager"] | {"file": "kube-scheduler"}
    write(cluster, held | {"kube-controller-manager": taker})
    for _ in range(2):
        outcome = passed(node)
        waits = str(outcome.failures["kube-controller-manager"])
        assert waits.startswith(
            "kube-scheduler.crt: kube-controller-manager waits for this place, where kube-scheduler "
        )
        assert "vaultpki agent --once --prune" in waits
        assert pair(node, "kube-scheduler") == scheduler and (node.pki / "scheduler.conf").read_bytes() == conf
        assert whole(node, "controller-manager")
    done = run.run(load_agent(node.config), run.PassOptions(ON_NODES, settle=False, share=0.0, prune=True))
    assert not done.failures and done.renewed == ("kube-controller-manager",)
    assert pair(node, "kube-scheduler") != scheduler and not (node.pki / "controller-manager.key").exists()


def test_a_certificate_that_moves_leaves_its_old_pair(cluster: AppliedCluster, node: NodeFolder) -> None:
    old, held = pair(node, "kube-scheduler"), rows(cluster)
    write(cluster, held | {"kube-scheduler": held["kube-scheduler"] | {"file": "moved"}})
    passed_well(node)
    assert pair(node, "kube-scheduler") == old and whole(node, "moved")
    assert f"{node.pki}/moved.crt" in (node.pki / "scheduler.conf").read_text()
    assert set(report(cluster, node).surplus) == {"kube-scheduler.crt"}


def test_revoke_finds_what_a_node_has_left(cluster: AppliedCluster, node: NodeFolder) -> None:
    left_with_one(cluster)
    passed(node)
    ran = shown("revoke", "cp-1", "-f", cluster.file, "--yes", expect={0, 3}, env=cluster.environment())
    assert {one["name"] for one in ran["revoked"]} >= {
        "kube-scheduler",
        "kube-controller-manager",
        "kube-apiserver-etcd",
    }
