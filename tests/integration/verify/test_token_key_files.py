"""`vaultpki verify --dir` on the files of service-account keys: right ones pass, and each wrong one is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.handmade_keys import SPEC, HandmadeKeys
from vaultpki.agent import run
from vaultpki.config.agent import load_agent
from vaultpki.procedures import ON_NODES

pytestmark = pytest.mark.on_node

Nodes = dict[str, Path]


@pytest.fixture(scope="module")
def good(shared_clusters: ClusterFactory) -> AppliedCluster:
    """Two control-plane nodes with each other's certificates, and a worker."""
    cluster = shared_clusters.applied(SPEC)
    nodes = [cluster.equip(node.name) for node in cluster.model.nodes]
    passed(*nodes)
    HandmadeKeys.of(cluster, "cp-1", "cp-2")
    passed(*nodes)
    return cluster


def passed(*nodes: NodeFolder) -> None:
    for node in nodes:
        assert not run.run(load_agent(node.config), run.PassOptions(ON_NODES, settle=False, share=0.0)).failures


def failed(cluster: AppliedCluster, folder: Path, expect: int = 3) -> dict[str, str]:
    """What is wrong, by `from -> to`, of the checks about these keys."""
    ran = vaultpki("verify", "-f", cluster.file, "--dir", folder, "--json", expect=expect)
    checks = json.loads(ran.stdout)["checks"]
    own = [check for check in checks if check["name"] == "service-account"]
    assert len(own) == 8 or expect, own
    return {f"{check['from']} -> {check['to']}": check["detail"] for check in own if not check["ok"]}


def test_right_files_pass(good: AppliedCluster) -> None:
    assert failed(good, good.folder / "nodes", expect=0) == {}


def shared_key(nodes: Nodes) -> None:
    put(nodes["cp-2"], "sa.key", (nodes["cp-1"] / "sa.key").read_bytes())


def alone(nodes: Nodes) -> None:
    text = (nodes["cp-2"] / "sa.pub").read_text()
    put(nodes["cp-2"], "sa.pub", (text[text.rindex("-----BEGIN") :]).encode())


def planted(nodes: Nodes) -> None:
    served = (nodes["cp-1"] / "kube-apiserver.crt").read_bytes()
    put(nodes["cp-1"], "sa.pub", (nodes["cp-1"] / "sa.pub").read_bytes() + served)


def readable(nodes: Nodes) -> None:
    os.chmod(nodes["cp-1"] / "sa.key", 0o644)


def on_worker(nodes: Nodes) -> None:
    (nodes["worker-1"] / "sa.pub").write_bytes((nodes["cp-1"] / "sa.pub").read_bytes())


def missing(nodes: Nodes) -> None:
    (nodes["cp-1"] / "sa.key").unlink()


def put(folder: Path, name: str, data: bytes) -> None:
    path = Path(os.path.realpath(folder / name))
    path.write_bytes(data)


def handshakes(cluster: AppliedCluster, folder: Path, expect: int = 0) -> dict[str, str]:
    """The outcome of each handshake with the certificate of such a key."""
    ran = vaultpki("verify", "-f", cluster.file, "--dir", folder, "--json", expect=expect)
    checks = [each for each in json.loads(ran.stdout)["checks"] if each["kind"] == "handshake"]
    return {f"{each['from']} -> {each['to']}": each["got"] for each in checks if "service-account" in each["name"]}


def test_its_certificate_opens_nothing(good: AppliedCluster, tmp_path: Path) -> None:
    found = handshakes(good, good.folder / "nodes")
    assert set(found.values()) == {"refuse"}
    assert {"cp-1/sa-1.crt -> cp-1/kube-apiserver", "cp-2/sa-1.crt -> worker-1/kubelet"} <= found.keys()
    assert {f"a client of {ca}-ca.crt -> cp-1/sa-1.crt" for ca in ("kubernetes", "kubelet", "etcd", "front-proxy")} <= {
        *found
    }
    # A pair for TLS in its place is let in, so that the refusals above are of the certificate.
    shutil.copytree(good.folder / "nodes", tmp_path / "nodes", symlinks=True)
    folder = tmp_path / "nodes" / "cp-1" / "pki"
    for end in ("crt", "key"):
        put(folder, f"sa-1.{end}", (folder / f"kube-apiserver-kubelet.{end}").read_bytes())
    assert handshakes(good, tmp_path / "nodes", expect=3)["cp-1/sa-1.crt -> worker-1/kubelet"] == "accept"


@pytest.mark.parametrize(
    ("change", "where", "why"),
    [
        (shared_key, "cp-1 -> sa.key of this node alone", "cp-2 has the same private key"),
        (shared_key, "cp-2 -> sa.key", "it is the key of sa:cp-1:1"),
        (alone, "cp-1/sa.key -> cp-2/sa.pub", "its tokens are refused there"),
        (planted, "cp-1 -> sa.pub", "which does not count"),
        (readable, "cp-1 -> sa.key", "0644"),
        (on_worker, "worker-1 -> sa.pub", "only control-plane nodes have it"),
        (missing, "cp-1 -> sa.key", "missing"),
    ],
)
def test_wrong_files_are_named(
    change: Callable[[Nodes], None], where: str, why: str, good: AppliedCluster, tmp_path: Path
) -> None:
    shutil.copytree(good.folder / "nodes", tmp_path / "nodes", symlinks=True)
    change({name: tmp_path / "nodes" / name / "pki" for name in ("cp-1", "cp-2", "worker-1")})
    found = failed(good, tmp_path / "nodes")
    assert why in found[where], found
