"""What `vaultpki doctor` finds on a node and before a join, and that it changes nothing and uses nothing up."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.vault.applied_cluster import ALONE, AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory

# How doctor shows what other commands are told; those are on both servers.
pytestmark = pytest.mark.on_node

Found = dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(enrolled_nodes.SPEC)


@pytest.fixture(scope="module")
def joined(cluster: AppliedCluster, tmp_path_factory: pytest.TempPathFactory) -> NodeFolder:
    """A node with all its files; a test that changes it works on a copy."""
    folder = tmp_path_factory.mktemp("joined")
    node = NodeFolder("w-2", folder / "node")
    enrolled_nodes.join(
        node, Enroller(cluster, cluster.token()).join_file("w-2", folder / "join.json", pool="autoscaled")
    )
    return node


@pytest.fixture
def node(joined: NodeFolder, tmp_path: Path) -> NodeFolder:
    return joined.copied(tmp_path / "node")


def examined(*arguments: str | Path, expect: int) -> Found:
    """Verdict and detail by check; of several with one name, the first that failed."""
    ran = vaultpki("doctor", *arguments, "--json", behind=ALONE, expect=expect)
    found: Found = {}
    told: dict[str, Any] = json.loads(ran.stdout)
    assert told["ok"] is (expect == 0)
    for each in told["checks"]:
        if found.get(each["check"], ("ok", ""))[0] != "failed":
            found[each["check"]] = each["verdict"], each["detail"]
    return found


def failed(found: Found) -> dict[str, str]:
    return {check: detail for check, (verdict, detail) in found.items() if verdict == "failed"}


def test_a_machine_that_is_fit_to_join(cluster: AppliedCluster, file: Path, tmp_path: Path) -> None:
    node = NodeFolder("w-1", tmp_path / "fresh")
    for _ in range(2):
        found = examined("-c", node.config, "--join", file, "--dir", node.pki, expect=0)
    assert found["join file"][1].startswith("good until 20") and found["cluster"] == ("ok", "")
    assert not node.folder.exists()
    # The file is as good as before.
    enrolled_nodes.join(node, file)
    again = examined("-c", node.config, "--join", file, "--dir", node.pki, expect=0)
    assert again["join file"] == ("ok", "this node has used it already")


def test_a_node_that_is_well(node: NodeFolder, cluster: AppliedCluster) -> None:
    before, since = node.snapshot(memory=False), cluster.server.audit_position()
    found = examined("-c", node.config, expect=0)
    assert found["login"] == ("ok", "") and found["files"] == ("ok", "") and found["cluster"] == ("ok", "")
    # That a folder takes new files is tried, which changes its own time.
    after = node.snapshot(memory=False)
    assert {name: (about[0], *about[2:]) for name, about in after.items()} == {
        name: (about[0], *about[2:]) for name, about in before.items()
    }
    assert not [path for _, path in cluster.server.requests(since) if "sign" in path]


def test_a_join_file_that_was_used_elsewhere(cluster: AppliedCluster, file: Path, tmp_path: Path) -> None:
    enrolled_nodes.join(NodeFolder("w-1", tmp_path / "thief"), file)
    node = NodeFolder("w-1", tmp_path / "node")
    found = failed(examined("-c", node.config, "--join", file, "--dir", node.pki, expect=3))
    assert found.keys() == {"join file"} and "somebody may have intercepted it" in found["join file"]


def test_a_join_file_that_others_may_read(file: Path, tmp_path: Path) -> None:
    file.chmod(0o644)
    found = failed(examined("-c", tmp_path / "agent.yaml", "--join", file, expect=3))
    assert "others may read or write it" in found["join file"]


def test_addresses_one_by_one(node: NodeFolder, cluster: AppliedCluster) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = f"https://127.0.0.1:{taken.getsockname()[1]}"
        node.configure(
            f"'{cluster.server.address}'" if "'" in node.config.read_text() else cluster.server.address, away
        )
        node.configure(away, f"{away}, {cluster.server.address}") if "[" in node.config.read_text() else None
        found = examined("-c", node.config, expect=3)
    assert failed(found).keys() == {f"Vault at {away}"}
    assert found["login"] == ("ok", "")


@contextmanager
def changed(path: Path, content: bytes) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def test_a_ca_that_did_not_sign_vaults_certificate(node: NodeFolder) -> None:
    chain = (node.pki / "kubernetes-ca-chain.crt").read_bytes()
    with changed(node.state / "vault-ca.pem", chain):
        found = examined("-c", node.config, expect=3)
    (problem,) = failed(found).values()
    assert "did not sign it" in problem
    assert found["cluster"][0] == found["login"][0] == "unchecked"


def test_another_root(node: NodeFolder) -> None:
    text = node.config.read_text()
    (pin,) = [line.split()[1] for line in text.splitlines() if line.startswith("root_sha256:")]
    node.configure(pin, "a" * 64)
    found = failed(examined("-c", node.config, expect=3))
    assert "not the pinned" in found["cluster"] and f"directory {node.pki}" in found


def test_a_credential_that_vault_does_not_take(node: NodeFolder) -> None:
    before = (node.state / "secret-id").read_bytes()
    with changed(node.state / "secret-id", b"11111111-2222-3333-4444-555555555555"):
        found = failed(examined("-c", node.config, expect=3))
        assert found.keys() == {"login"} and "join with a new join file" in found["login"]
    assert (node.state / "secret-id").read_bytes() == before
    (node.state / "secret-id").unlink()
    assert failed(examined("-c", node.config, expect=3)).keys() == {"state folder", "login"}


def test_foreign_and_missing_files(node: NodeFolder) -> None:
    (node.pki / "kubelet.crt").unlink()
    (node.pki / "kubelet.crt").write_text("somebody else's")
    (node.pki / "kubelet-client.key").unlink()
    ran = vaultpki("doctor", "-c", node.config, expect=3)
    told = [line.removeprefix("FAILED       files: ") for line in ran.stdout.splitlines() if "FAILED" in line]
    assert "kubelet-client.key: missing" in told and any("kubelet.crt" in line for line in told), ran


def test_hooks_that_cannot_run(node: NodeFolder) -> None:
    node.config.write_text(
        node.config.read_text()
        + "hooks:\n  kubelet: [[/no/such/program, secret-word]]\n  etcd-ca: [{static_pod: nothing-here}]\n"
    )
    ran = vaultpki("doctor", "-c", node.config, expect=3)
    assert "FAILED       hook of kubelet: /no/such/program is not a program that can be run" in ran.stdout, ran
    assert "FAILED       hook of etcd-ca: /etc/kubernetes/manifests/nothing-here.yaml is missing" in ran.stdout, ran
    assert "secret-word" not in ran.stdout + ran.stderr


def beside(folder: Path, component: str, flags: str) -> tuple[str, ...]:
    """What to put before a command so that this component runs beside it, where no other test sees it."""
    program = folder / component
    program.symlink_to("/bin/bash")
    script = folder / f"beside-{component}"
    # What it waits by is ended first: a shell that is killed would leave its `sleep` behind, with our output open.
    start = f'{program} -c "sleep 60; true" {flags} &'
    script.write_text(f'#!/bin/bash\n{start}\nsleep 0.2\n"$@"\ncode=$?\npkill -P $!\nwait\nexit $code\n')
    script.chmod(0o755)
    return ("unshare", "--net", str(script))


def test_flags_of_a_component_that_runs_here(node: NodeFolder, tmp_path: Path) -> None:
    """In a network namespace of its own, so that no other test sees this etcd."""
    flags = f"--trusted-ca-file={node.pki}/etcd-ca-chain.crt --client-cert-auth --peer-client-cert-auth"
    ran = vaultpki("doctor", "-c", node.config, behind=beside(tmp_path, "etcd", flags), expect=3)
    found = [line for line in ran.stdout.splitlines() if "flags of etcd" in line]
    assert any("lets in the clients of every CA of the cluster" in line for line in found), ran
    assert "flags of etcd" not in vaultpki("doctor", "-c", node.config, behind=ALONE).stdout


def test_the_file_of_authorizers_is_read(node: NodeFolder, tmp_path: Path) -> None:
    """kube-apiserver takes it in place of the mode."""
    file = tmp_path / "authorizers.yaml"
    behind = beside(tmp_path, "kube-apiserver", f"--authorization-config={file}")

    def examine() -> str:
        return vaultpki("doctor", "-c", node.config, behind=behind, expect=3).stdout

    assert f"{file} of --authorization-config cannot be read here" in examine()
    file.write_text("authorizers: [{type: RBAC, name: rbac}]\n")
    assert "the file of --authorization-config has the types RBAC, so certificates give other rights" in examine()
    file.write_text("authorizers: [{type: Node, name: node}, {type: RBAC, name: rbac}]\n")
    told = examine()
    assert "FAILED       flags of kube-apiserver" in told, "its other flags are missing"
    assert "--authorization" not in told


def test_what_is_wrong_with_the_command_itself(tmp_path: Path) -> None:
    found = examined("-c", tmp_path / "agent.yaml", expect=3)
    assert failed(found).keys() == {"agent.yaml"}
    assert "--dir goes with --join" in vaultpki("doctor", "--dir", tmp_path, expect=2).stderr
