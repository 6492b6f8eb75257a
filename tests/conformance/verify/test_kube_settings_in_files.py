"""Authenticators and authorizers of kube-apiserver in files, instead of flags: who is let in by a certificate then.

A second kube-apiserver with other flags runs beside the first one, so that nobody notices.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from helpers.kube.access_matrix import ask
from helpers.kube.kube_cluster import READY_SECONDS, Kubernetes
from helpers.kube.machines import Process
from helpers.vault.servers import wait_for
from vaultpki.certificates import bundle, pair_files, row_named

pytestmark = pytest.mark.conformance

PORT = 16443
API = "apiserver.config.k8s.io/v1"
# Anonymous requests for health alone.
AUTHENTICATION = {
    "apiVersion": API,
    "kind": "AuthenticationConfiguration",
    "anonymous": {"enabled": True, "conditions": [{"path": "/livez"}]},
}
AUTHORIZATION = {
    "apiVersion": API,
    "kind": "AuthorizationConfiguration",
    "authorizers": [{"type": "Node", "name": "node"}, {"type": "RBAC", "name": "rbac"}],
}


@contextlib.contextmanager
def second_server(kubernetes: Kubernetes, without: Sequence[str], further: Sequence[str]) -> Iterator[Process]:
    """Another kube-apiserver of the same cluster without these flags of the first one, and with further ones."""
    machine, first = kubernetes.control_plane.machine, kubernetes.component("kube-apiserver")
    dropped = {"--secure-port", "--audit-log-path", "--audit-policy-file", *without}
    words = list(first.command)
    words = words[words.index(str(kubernetes.programs.path("kube-apiserver"))) :]
    # It is no endpoint of the service `kubernetes`.
    own = (f"--secure-port={PORT}", "--endpoint-reconciler-type=none")
    name = "second-kube-apiserver"
    process = machine.start(name, *(word for word in words if word.partition("=")[0] not in dropped), *own, *further)
    try:
        yield process
    finally:
        process.kill()
        del machine.processes[name]


def status(kubernetes: Kubernetes, path: str, row: str | None = None) -> int | None:
    """The status that the second server answers to somebody with the pair of this row, or without one."""
    pair = None
    if row is not None:
        crt, key, _ = pair_files(row_named(kubernetes.cluster.model, row).name)
        pair = (kubernetes.control_plane.pki / crt, kubernetes.control_plane.pki / key)
    return ask(kubernetes.outside, pair, (kubernetes.control_plane.address, PORT), "GET", path).status


def await_ready(kubernetes: Kubernetes, process: Process) -> None:
    def up() -> bool:
        process.check()
        with contextlib.suppress(OSError):
            return status(kubernetes, "/livez") == 200
        return False

    wait_for(up, READY_SECONDS, process.last_words, pause=0.3)


def kubectl(kubernetes: Kubernetes, conf: Path, *arguments: str) -> tuple[int, str]:
    """The exit code of kubectl towards the second server, and what it says."""
    server = f"--server=https://{kubernetes.control_plane.address}:{PORT}"
    ran = kubernetes.kubectl(conf, server, *arguments, expect=None)
    return ran.returncode, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def files(one_node: Kubernetes) -> Path:
    """The folder with both files, on the node."""
    folder = one_node.control_plane.machine.folder
    for name, content in (("authentication", AUTHENTICATION), ("authorization", AUTHORIZATION)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_files_change_nothing_for_certificates(one_node: Kubernetes, files: Path) -> None:
    further = [f"--{name}-config={files}/{name}.yaml" for name in ("authentication", "authorization")]
    with second_server(one_node, ("--authorization-mode",), further) as process:
        await_ready(one_node, process)
        # Who has no certificate is turned away where no condition names the path.
        assert [status(one_node, path) for path in ("/livez", "/readyz", "/api")] == [200, 401, 401]
        # Health, as agents ask for it, with the pair for kubelets.
        assert status(one_node, "/livez", "kube-apiserver-kubelet") == 200
        assert status(one_node, "/readyz", "kube-apiserver-kubelet") != 401
        code, said = kubectl(one_node, one_node.admin, "auth", "whoami", "-o", "json")
        assert code == 0 and json.loads(said)["status"]["userInfo"]["username"] == "kubernetes-admin", said
        # The Node authorizer: its own node, and nobody's secrets.
        kubelet, may = one_node.worker.pki / "kubelet.conf", ("auth", "can-i")
        assert kubectl(one_node, kubelet, *may, "get", f"node/{one_node.worker.name}")[1].startswith("yes\n")
        assert kubectl(one_node, kubelet, *may, "list", "secrets", "-A")[1].startswith("no")


def test_certificates_need_the_client_ca_beside_the_file(one_node: Kubernetes, files: Path) -> None:
    further = [f"--authentication-config={files}/authentication.yaml"]
    with second_server(one_node, ("--client-ca-file",), further) as process:
        await_ready(one_node, process)
        code, said = kubectl(one_node, one_node.admin, "auth", "whoami")
        assert code == 1 and ("Unauthorized" in said or "must be logged in" in said), said


def test_an_api_server_with_one_ca_for_both_starts_only_with_allowed_names(one_node: Kubernetes) -> None:
    """From Kubernetes 1.35: every client of that CA could else speak for anybody."""
    further = [f"--requestheader-client-ca-file={one_node.control_plane.pki / bundle('kubernetes')}"]
    dropped = ("--requestheader-allowed-names", "--requestheader-client-ca-file")
    with second_server(one_node, dropped, further) as process:
        if one_node.programs.minor < 35:
            await_ready(one_node, process)
            return
        wait_for(lambda: not process.alive(), READY_SECONDS, lambda: "it runs", pause=0.2)
        assert "contain overlapping certificates" in process.said(), process.last_words()
