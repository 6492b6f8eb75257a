"""`adopt inventory` on a cluster that the real kubeadm made with CAs of its own, compared with what is there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.kube import kubeadm_cluster
from helpers.kube.components import Programs
from helpers.kube.kubeadm_cluster import KubeadmCluster
from helpers.kube.kubeadm_nodes import CONTROL_PLANE
from helpers.vault import servers
from helpers.vault.servers import wait_for
from vaultpki.certificates import resolve, row_named
from vaultpki.config.cluster import load_cluster
from vaultpki.live.trust import readable_certificates

pytestmark = pytest.mark.conformance

CONF = "/etc/kubernetes/admin.conf"
# For the machines alone: no command of vaultpki makes this cluster.
SPEC = """\
cluster: given
layout: kubeadm
vault: {{addresses: ["{address}"], ca_file: vault-ca.crt}}
nodes:
- {{name: cp-1, roles: [control-plane, etcd, worker], addresses: [198.51.100.11]}}
"""
# `vaultpki kubeadm config` writes this form, and `adapt` adds what these machines need.
CONFIGURATION = """\
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
nodeRegistration: {name: cp-1, kubeletExtraArgs: [{name: node-ip, value: 198.51.100.11}]}
localAPIEndpoint: {advertiseAddress: 198.51.100.11, bindPort: 6443}
skipPhases: [addon/coredns, show-join-command]
patches: {directory: /etc/kubernetes/kubeadm/patches}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
controlPlaneEndpoint: api.example.com:6443
apiServer: {certSANs: [api.internal, 203.0.113.7], extraArgs: []}
etcd: {local: {dataDir: /var/lib/etcd, serverCertSANs: [etcd.internal]}}
"""


@pytest.fixture(scope="module")
def cluster(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeadmCluster]:
    folder = tmp_path_factory.mktemp("given")
    with (
        servers.running("bao", folder / "server", None) as server,
        kubeadm_cluster.machines(
            server, programs, folder / "kube", SPEC.format(address=server.address), comers={}
        ) as made,
    ):
        written = made.folder / "cp-1"
        (written / "patches").mkdir(parents=True)
        (written / "kubeadm.yaml").write_text(CONFIGURATION)
        kubeadm_cluster.adapt(written, programs.version)
        made.run("scp -rp cp-1 root@cp-1:/etc/kubernetes/kubeadm")
        made.run("kubeadm init --config /etc/kubernetes/kubeadm/kubeadm.yaml", "cp-1")
        yield made


def kubectl(cluster: KubeadmCluster, *words: str) -> Any:
    return json.loads(cluster.run(f"kubectl --kubeconfig {CONF} {' '.join(words)} -o json", "cp-1"))


def inventory(cluster: KubeadmCluster, *words: str) -> dict[str, Any]:
    printed = cluster.run(f"vaultpki adopt inventory --kubeconfig {CONF} --json {' '.join(words)} 2>/dev/null", "cp-1")
    found: dict[str, Any] = json.loads(printed)
    return found


def resource_versions(cluster: KubeadmCluster) -> dict[str, str]:
    """Which version each object has that somebody could write; kubelets and leaders write theirs all the time."""
    kinds = "configmaps,secrets,serviceaccounts,csr,clusterroles,clusterrolebindings"
    return {
        f"{each['kind']}/{each['metadata'].get('namespace')}/{each['metadata']['name']}": each["metadata"][
            "resourceVersion"
        ]
        for each in kubectl(cluster, "get", kinds, "-A")["items"]
    }


def at_rest(cluster: KubeadmCluster) -> dict[str, str]:
    """The versions of objects once they stay the same for ten seconds: a new cluster makes some for a while."""
    seen = [resource_versions(cluster)]

    def again() -> bool:
        time.sleep(10)
        seen.append(resource_versions(cluster))
        return seen[-1] == seen[-2]

    wait_for(again, 300, lambda: str(seen[-1].keys() ^ seen[-2].keys()))
    return seen[-1]


def test_what_it_says_is_what_is_there_and_nothing_is_written(cluster: KubeadmCluster) -> None:
    components = {*CONTROL_PLANE, "etcd"}

    def shown() -> set[str]:
        pods = kubectl(cluster, "get", "pods", "-n", "kube-system")["items"]
        return {pod["metadata"]["labels"].get("component", "") for pod in pods}

    wait_for(lambda: components <= shown(), 120, lambda: str(shown()))
    before = at_rest(cluster)
    found = inventory(cluster, "--cluster", "given", "-o", "cluster.yaml")
    assert resource_versions(cluster) == before
    assert found["unread"] == {}, found["unread"]
    assert found["draft"]["problem"] is None and found["ok"], found["obstacles"]
    assert {(pod["node"], pod["component"]) for pod in found["static_pods"]} == {("cp-1", name) for name in components}
    assert all(not pod["flags_beside_kubeadm"] for pod in found["static_pods"] if pod["component"] == "kube-scheduler")
    assert {ca["ca"] for ca in found["cas"]} == {"kubernetes", "front-proxy", "etcd"}
    node = cluster.nodes["cp-1"]
    for ca in found["cas"]:
        file = {"kubernetes": "ca", "front-proxy": "front-proxy-ca", "etcd": "etcd/ca"}[ca["ca"]]
        (facts,) = readable_certificates(node.seen(f"/etc/kubernetes/pki/{file}.crt").read_text())
        assert ca["sha256"] == facts.fingerprint
    ids = {
        each["metadata"]["name"].removeprefix("bootstrap-token-")
        for each in kubectl(cluster, "get", "secrets", "-n", "kube-system")["items"]
        if each["type"] == "bootstrap.kubernetes.io/token"
    }
    assert {each["id"] for each in found["tokens"]} == ids
    spaces = {each["metadata"]["name"] for each in kubectl(cluster, "get", "namespaces")["items"]}
    copies = {each["place"] for each in found["places"] if each["place"].startswith("kube-root-ca.crt in ")}
    assert copies == {f"kube-root-ca.crt in {space}" for space in spaces}
    names = {each["name"] for each in found["obstacles"]}
    assert {"one-control-plane", "embedded-kubeconfig", "signer-of-the-bundle"} <= names
    served = {each["certificate"] for each in found["certificates"] if each["served"] and each["ca"]}
    assert {"kube-apiserver", "etcd-server", "etcd-peer"} <= served


def test_the_draft_has_every_name_of_today(cluster: KubeadmCluster) -> None:
    node = cluster.nodes["cp-1"]
    path = Path(node.home) / "cluster.yaml"
    spec = load_cluster(path)
    (listed,) = spec.nodes
    for row, file in {"kube-apiserver": "apiserver", "etcd-server": "etcd/server", "etcd-peer": "etcd/peer"}.items():
        facts = next(iter(readable_certificates(node.seen(f"/etc/kubernetes/pki/{file}.crt").read_text())))
        subject = resolve(row_named(spec, row), spec, listed).subject
        assert {*subject.dns, *subject.ips} >= {*facts.subject.dns, *facts.subject.ips}, row
        assert (row_named(spec, row).key or spec.key) is facts.key
    assert yaml.safe_load(path.read_text())["api_server"]["endpoint"] == "https://api.example.com:6443"
