"""Files that others own, may write to or could read: whoever has one open for writing reaches no reader any more."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from helpers.node import enrolled_nodes
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.agent import run
from vaultpki.agent.context import Outcome
from vaultpki.certificates import pair_files
from vaultpki.config.agent import load_agent
from vaultpki.errors import Unsafe
from vaultpki.node import state
from vaultpki.procedures import ON_NODES

SPEC = """\
layout: kubeadm
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: cp-1, roles: [control-plane, worker], addresses: [10.0.0.11]}
"""
OTHER = 65534
EVIL = b"server: https://evil.example.com\n"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of other users"),
    pytest.mark.on_node,
]


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(SPEC)


@pytest.fixture
def node(cluster: AppliedCluster, tmp_path: Path) -> NodeFolder:
    folders = f"layout: kubeadm\nfolders: {{kubeconfigs: {tmp_path}/etc, kubelet: {tmp_path}/kubelet}}\n"
    made = cluster.equip("cp-1", folder=tmp_path / "cp-1", further=folders)
    assert not passed(made).failures
    return made


def conf(node: NodeFolder, name: str) -> Path:
    return node.folder.parent / "etc" / name


def passed(node: NodeFolder) -> Outcome:
    """A pass in this process, which asks Vault and does not wait for watchers."""
    return run.run(load_agent(node.config), run.PassOptions(ON_NODES, settle=False, share=0.0))


def said(outcome: Outcome, name: str) -> list[str]:
    return [event.text for event in outcome.events if event.name == name]


def replaced_by_another_user(path: Path) -> int:
    """The same bytes in a file of another user's, who has it open for writing."""
    data, real = path.read_bytes(), path.resolve()
    real.unlink()
    real.write_bytes(data)
    os.chown(real, OTHER, OTHER)
    return os.open(real, os.O_WRONLY)


def holds_what_was_written(fd: int, path: Path) -> bool:
    """Whether what is written through an old handle reaches those who open the file by its path."""
    os.pwrite(fd, EVIL, 0)
    os.close(fd)
    return EVIL in path.read_bytes()


def test_a_writer_of_before_reaches_no_file(node: NodeFolder) -> None:
    """Kubeconfigs, bundles and certificates, of another user or of a mode that lets others write; each is said once."""
    kubeconfig, bundle = conf(node, "kubelet.conf"), node.pki / "ca.crt"
    fixed, leaf = conf(node, "scheduler.conf"), node.pki / "apiserver.crt"
    handles = {path: replaced_by_another_user(path) for path in (kubeconfig, leaf)}
    for path in (bundle, fixed):
        path.chmod(0o666)
        handles[path] = os.open(path, os.O_WRONLY)
    outcome = passed(node)
    assert not outcome.failures and outcome.renewed == (), outcome
    for path in handles:
        assert any(path.name in text for text in said(outcome, "rewritten")), outcome.events
    assert "restart the static pod kube-scheduler" in "".join(said(outcome, "kubeconfig"))
    for path, fd in handles.items():
        assert not holds_what_was_written(fd, path), path
        about = path.stat()
        assert about.st_uid == 0 and not stat.S_IMODE(about.st_mode) & 0o022, path
    again = passed(node)
    assert said(again, "rewritten") == said(again, "kubeconfig") == [] and not again.failures


def test_a_folder_that_others_could_write_to(node: NodeFolder) -> None:
    """Once it is mended, with all that lies there: nothing tells any more who has which file open."""
    kubeconfig, bundle = conf(node, "kubelet.conf"), node.pki / "ca.crt"
    for path in (kubeconfig, bundle):
        fd = os.open(path.resolve(), os.O_WRONLY)
        path.parent.chmod(0o777)
        if path == bundle:
            with pytest.raises(Unsafe, match="others may write to the folder"):
                passed(node)
        else:
            assert "others may write to the folder" in str(passed(node).failures["kubelet.conf"])
        assert state.load(str(node.state)).unsafe == (str(path.parent),)
        path.parent.chmod(0o755)
        outcome = passed(node)
        assert not outcome.failures and outcome.renewed == (), outcome
        assert any(str(path.parent) in text for text in said(outcome, "rewritten")), outcome.events
        assert not holds_what_was_written(fd, path)
        assert state.load(str(node.state)).unsafe == () and said(passed(node), "rewritten") == []


def test_a_hidden_folder_that_others_could_write_to(node: NodeFolder) -> None:
    bundle = node.pki / "ca.crt"
    (node.pki / ".vaultpki").chmod(0o777)
    fd = os.open(bundle, os.O_WRONLY)
    assert said(passed(node), "rewritten")
    assert not holds_what_was_written(fd, bundle)
    assert said(passed(node), "rewritten") == []


def test_a_key_that_others_could_read_is_made_anew(node: NodeFolder, cluster: AppliedCluster) -> None:
    """Its mode is mended although Vault is away, and the new key comes as soon as it is back."""
    crt, key, _ = (node.pki / name for name in pair_files("apiserver"))
    before = {path.name: path.read_bytes() for path in node.pki.glob("*.key")}
    key.chmod(0o644)
    node.configure(cluster.server.address, "https://127.0.0.1:9")
    away = passed(node)
    assert away.renewed == () and stat.S_IMODE(key.stat().st_mode) == 0o600
    assert said(away, "exposed") == ["others could read the key of kube-apiserver; it gets a new key and certificate"]
    shown = vaultpki("status", "-c", node.config, "--offline", expect=3).stdout
    assert re.search(r"kube-apiserver .*key-exposed", shown), shown
    node.configure("https://127.0.0.1:9", cluster.server.address)
    back = passed(node)
    assert back.renewed == ("kube-apiserver",) and said(back, "exposed") == []
    after = {path.name: path.read_bytes() for path in node.pki.glob("*.key")}
    assert {name for name, data in after.items() if data != before[name]} == {key.name} and crt.exists()
    assert passed(node).renewed == ()


def test_a_secret_id_that_others_could_read_is_rolled_at_once(cluster: AppliedCluster, node: NodeFolder) -> None:
    path = node.state / "secret-id"
    passed(node)
    before, known = path.read_text(), set(enrolled_nodes.accessors(cluster, node.name, "listed"))
    path.chmod(0o666)
    fd = os.open(path, os.O_WRONLY)
    outcome = passed(node)
    assert not outcome.failures, outcome.failures
    assert said(outcome, "credential") == [
        f"others could read {path}; it is replaced now",
        "replaced this node's own credential",
    ]
    assert path.read_text() != before and not holds_what_was_written(fd, path)
    after = set(enrolled_nodes.accessors(cluster, node.name, "listed"))
    # The one that others know is destroyed.
    assert len(after - known) == len(known - after) == 1
    assert said(passed(node), "credential") == []
