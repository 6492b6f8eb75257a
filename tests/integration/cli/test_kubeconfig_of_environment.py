"""A kubeconfig that only `KUBECONFIG` names counts where its API server has a certificate of this cluster's CA."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from helpers.kube import answering_api
from helpers.kube.answering_api import Api, items
from helpers.vault.applied_cluster import NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.operator_tokens import Who
from helpers.vault.plan_commands import AuditedCluster

SPEC = """\
api_server: {names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
"""
VALUES: dict[str, Any] = {
    "/api/v1/namespaces": items(),
    "/api/v1/configmaps": items(),
    "/api/v1/pods": items(),
    "/api/v1/namespaces/kube-system/configmaps": items(),
}
OTHER = trustme.CA()


class Shell:
    """A person's shell at an applied cluster, with `KUBECONFIG` set."""

    def __init__(self, cluster: AuditedCluster, node: NodeFolder) -> None:
        self.cluster, self.node = cluster, node
        self.config = cluster.folder / "some.conf"

    @contextmanager
    def serving(self, configure: Callable[[ssl.SSLContext], None]) -> Iterator[Api]:
        with answering_api.serving(VALUES, configure) as api:
            answering_api.access(api, self.cluster.folder, OTHER.cert_pem.bytes())
            written = json.loads((self.cluster.folder / "admin.conf").read_text())
            written["clusters"][0]["cluster"]["tls-server-name"] = "kubernetes"
            self.config.write_text(json.dumps(written))
            yield api

    def run(self, *words: str | Path, kubeconfig: str | Path | None = None, who: Who = "viewer") -> str:
        env = {**self.cluster.environment(who), "KUBECONFIG": str(kubeconfig or self.config)}
        return vaultpki(*words, "-f", self.cluster.file, env=env, expect={0, 3}).stderr

    def said(self) -> list[str]:
        """What each command says that looks at the running cluster if it can."""
        page = self.cluster.folder / "report.html"
        return [self.run("ca", "status"), self.run("report", "--from-vault", "-o", page)]


@pytest.fixture
def shell(clusters: ClusterFactory) -> Shell:
    cluster = clusters.applied(SPEC)
    node = cluster.equip("cp-1")
    node.run()
    return Shell(cluster, node)


def test_the_api_server_of_this_cluster_is_asked(shell: Shell) -> None:
    pair = shell.node.pki / "kube-apiserver.crt", shell.node.pki / "kube-apiserver.key"
    with shell.serving(lambda tls: tls.load_cert_chain(*pair)) as api:
        for said in shell.said():
            assert f"asking https://127.0.0.1:{api.server_address[1]} too, of KUBECONFIG" in said
            assert "is not used" not in said
        assert "/api/v1/namespaces?limit=500" in api.asked


def test_a_step_looks_at_the_api_server_of_this_cluster_too(shell: Shell) -> None:
    pair = shell.node.pki / "kube-apiserver.crt", shell.node.pki / "kube-apiserver.key"
    with shell.serving(lambda tls: tls.load_cert_chain(*pair)) as api:
        shell.run("ca", "rotate", "etcd", who="applier")
        said = shell.run("ca", "continue", who="applier")
        assert f"asking https://127.0.0.1:{api.server_address[1]} too, of KUBECONFIG" in said
        assert api.asked


def test_another_api_server_is_sent_nothing(shell: Shell) -> None:
    with shell.serving(OTHER.issue_cert("kubernetes").configure_cert) as api:
        for said in shell.said():
            assert said.count("KUBECONFIG is not used: ") == 1
            assert f"has no certificate of a CA of {shell.cluster.name}; pass --kubeconfig FILE" in said
        assert api.asked == {} and api.methods == set()
        # A file that a person names counts as it is.
        assert "KUBECONFIG" not in shell.run("ca", "status", "--kubeconfig", shell.config, kubeconfig="gone.conf")
        assert api.asked
    for kubeconfig, why in (("gone.conf", "gone.conf"), ("one:two", "names several files"), (shell.config, "reached")):
        said = shell.run("ca", "status", kubeconfig=kubeconfig)
        assert said.count("KUBECONFIG is not used: ") == 1 and why in said
