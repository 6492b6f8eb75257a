"""kubeadm's own settings of a cluster that was taken over: ours are merged in, and what a person wrote stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vaultpki.config.cluster import load_cluster
from vaultpki.errors import SpecError
from vaultpki.kubeadm import adopted
from vaultpki.kubeadm.configuration import KubeadmFolders
from vaultpki.model import Cluster

PLACES = KubeadmFolders("/etc/kubernetes/pki", "/var/lib/kubelet/pki", "/etc/kubernetes/kubeadm")
SETTINGS = """\
apiServer:
  certSANs:
  - lb.example.com
  extraArgs:
  - name: audit-log-maxage
    value: "30"
apiVersion: kubeadm.k8s.io/v1beta4
caCertificateValidityPeriod: 87600h0m0s
certificatesDir: /etc/kubernetes/pki
clusterName: kubernetes
controllerManager:
  extraArgs:
  - name: cluster-signing-cert-file
    value: /etc/kubernetes/pki/ca.crt
  - name: bind-address
    value: 10.0.0.11
dns: {}
etcd:
  local:
    dataDir: /var/lib/etcd
kind: ClusterConfiguration
kubernetesVersion: v1.36.3
networking:
  dnsDomain: cluster.local
  serviceSubnet: 10.96.0.0/12
proxy: {}
scheduler: {}
"""
KUBELET = """\
apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous:
    enabled: false
  x509:
    clientCAFile: /etc/kubernetes/pki/ca.crt
cpuManagerReconcilePeriod: 0s
kind: KubeletConfiguration
maxPods: 250
rotateCertificates: true
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    file = tmp_path / "cluster.yaml"
    file.write_text(
        "cluster: prod\nvault: {addresses: ['https://vault.example.com:8200']}\nlayout: kubeadm\n"
        "api_server: {endpoint: 'https://api.example.com:6443', names: [api.example.com]}\n"
        "nodes:\n- {name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}\n"
    )
    return load_cluster(file)


def test_ours_are_merged_and_a_persons_stay(cluster: Cluster) -> None:
    made = adopted.settings(SETTINGS, cluster, PLACES)
    was, now = yaml.safe_load(SETTINGS), yaml.safe_load(made)
    server = {each["name"]: each["value"] for each in now["apiServer"]["extraArgs"]}
    assert server == {
        "audit-log-maxage": "30",
        "kubelet-certificate-authority": "/etc/kubernetes/pki/kubelet-ca.crt",
    }
    assert set(now["apiServer"]["certSANs"]) >= {"lb.example.com", "api.example.com"}
    manager = {each["name"]: each["value"] for each in now["controllerManager"]["extraArgs"]}
    # Whoever named a file of the old CA there would have a signer without a key.
    assert manager == {"bind-address": "10.0.0.11", "root-ca-file": "/etc/kubernetes/pki/ca-chain.crt"}
    assert [each["name"] for each in now["scheduler"]["extraVolumes"]] == ["scheduler-pki"]
    for part in ("etcd", "networking", "kubernetesVersion", "certificatesDir", "caCertificateValidityPeriod", "dns"):
        assert now[part] == was[part]
    # Once right, it is not written again.
    assert adopted.settings(made, cluster, PLACES) == made


def test_an_etcd_that_others_run_stays_as_it_is(cluster: Cluster) -> None:
    file = Path(cluster.file)
    file.write_text(file.read_text().replace("[control-plane, etcd, worker]", "[control-plane, worker]"))
    external = {"external": {"endpoints": ["https://10.0.0.21:2379"], "caFile": "/etc/kubernetes/pki/others/ca.crt"}}
    was = {**yaml.safe_load(SETTINGS), "etcd": external}
    now = yaml.safe_load(adopted.settings(yaml.safe_dump(was), load_cluster(file), PLACES))
    assert now["etcd"] == external
    assert [each["name"] for each in now["scheduler"]["extraVolumes"]] == ["scheduler-pki"]


def test_arguments_as_older_versions_write_them(cluster: Cluster) -> None:
    older = {"kind": "ClusterConfiguration", "apiServer": {"extraArgs": {"audit-log-maxage": "30"}}}
    now = yaml.safe_load(adopted.settings(yaml.safe_dump(older), cluster, PLACES))
    assert now["apiServer"]["extraArgs"] == {
        "audit-log-maxage": "30",
        "kubelet-certificate-authority": "/etc/kubernetes/pki/kubelet-ca.crt",
    }


def test_kubelets_that_join_ask_no_signer(cluster: Cluster) -> None:
    made = adopted.defaults(KUBELET, PLACES)
    now = yaml.safe_load(made)
    assert now["rotateCertificates"] is False and now["maxPods"] == 250
    assert now["authentication"]["anonymous"] == {"enabled": False}
    assert now["tlsCertFile"].startswith("/var/lib/kubelet/pki/")
    assert adopted.defaults(made, PLACES) == made


def test_kubelets_that_join_with_a_token_ask_the_signer(cluster: Cluster) -> None:
    before = adopted.defaults(KUBELET, PLACES)
    made = adopted.defaults(before, PLACES, tokens=True)
    now = yaml.safe_load(made)
    assert now["rotateCertificates"] is now["serverTLSBootstrap"] is True and now["maxPods"] == 250
    # They have no agent, and so no such pair.
    assert "tlsCertFile" not in now and "tlsPrivateKeyFile" not in now
    assert now["authentication"]["x509"] == {"clientCAFile": "/etc/kubernetes/pki/ca.crt"}
    assert adopted.defaults(made, PLACES, tokens=True) == made


def test_what_is_no_yaml_is_refused(cluster: Cluster) -> None:
    with pytest.raises(SpecError):
        adopted.settings("a: [", cluster, PLACES)
