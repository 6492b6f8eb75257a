"""The real kubeadm accepts what `vaultpki kubeadm config` writes, for clusters of other shapes than the page's."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.kube.components import Programs
from helpers.vault.applied_cluster import vaultpki

pytestmark = pytest.mark.conformance

NAMED = 'api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}\n'
STACKED = f"""\
{NAMED}nodes:
- {{name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}}
- {{name: cp-2, roles: [control-plane, etcd, worker], addresses: [10.0.0.12]}}
"""
POOL = 'pools:\n- {name: autoscaled, roles: [worker], node_names: "w-*"}\n'
EXTERNAL = f"""\
{NAMED}nodes:
- {{name: cp-1, roles: [control-plane, worker], addresses: [10.0.0.11]}}
- {{name: cp-2, roles: [control-plane, worker], addresses: [10.0.0.12]}}
- {{name: etcd-1, roles: [etcd], addresses: [10.0.0.21]}}
"""
IPV6 = """\
api_server: {endpoint: "https://[fd00::11]:6443", service_cidr: "fd00:1::/112"}
nodes:
- {name: cp-1, roles: [control-plane, etcd, worker], addresses: ["fd00::11"]}
- {name: cp-2, roles: [control-plane, etcd, worker], addresses: ["fd00::12"]}
"""
DUAL = """\
api_server:
  endpoint: https://api.example.com:6443
  names: [api.example.com]
  service_cidr: [10.96.0.0/12, "fd00:1::/112"]
nodes:
- {name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11, "fd00::11"]}
- {name: cp-2, roles: [control-plane, etcd, worker], addresses: [10.0.0.12, "fd00::12"]}
"""
RSA = "defaults: {key: rsa-2048}\nca: {key: rsa-3072}\ncertificates: {kube-apiserver: {extra_names: [api.internal]}}\n"

SHAPES = {
    "stacked": STACKED,
    "external": EXTERNAL,
    "pool": STACKED + POOL,
    "ipv6": IPV6,
    "dual": DUAL,
    "rsa": STACKED + RSA,
}


@dataclass(frozen=True, slots=True)
class Root:
    """A folder that kubeadm takes for the root of the machine, and where certificates are in it."""

    programs: Programs
    folder: Path
    pki: str

    def config(self, spec: str, node: str, *mode: str) -> str:
        """Write the configuration of a node; returns its path on the machine."""
        cluster = self.folder / "cluster.yaml"
        cluster.write_text(f"cluster: prod\nlayout: kubeadm\n{spec}")
        there = f"/etc/kubernetes/{node}{'-'.join(mode)}"
        version = self.programs.version
        words: list[str | Path] = ["kubeadm", "config", "-f", cluster, node, *mode, "--kubernetes-version", version]
        vaultpki(*words, "--dir", self.pki, "--at", there, "-o", f"{self.folder}{there}")
        return f"{there}/kubeadm.yaml"

    def kubeadm(self, *arguments: str) -> str:
        command = [str(self.programs.path("kubeadm")), *arguments, "--rootfs", str(self.folder)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert ran.returncode == 0, f"{arguments}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def manifests(self, *phase: str) -> dict[str, dict[str, Any]]:
        """The containers of the static pods that a phase of `kubeadm init` writes, by name."""
        self.kubeadm("init", "phase", *phase)
        found = {}
        for file in (self.folder / "etc/kubernetes/manifests").glob("*.yaml"):
            (container,) = yaml.safe_load(file.read_text())["spec"]["containers"]
            found[container["name"]] = container
        return found


@pytest.fixture(params=["/etc/kubernetes/pki", "/srv/certificates"])
def root(request: pytest.FixtureRequest, programs: Programs, tmp_path: Path) -> Root:
    for folder in ("etc/kubernetes", "tmp", "proc"):
        (tmp_path / folder).mkdir(parents=True)
    return Root(programs, tmp_path, request.param)


@pytest.mark.parametrize("shape", SHAPES)
def test_kubeadm_accepts_every_document(root: Root, shape: str) -> None:
    spec = SHAPES[shape]
    workers = [("w-1", "--join")] if "pools" in spec else []
    for node, mode in (("cp-1", "--init"), ("cp-2", "--join"), ("cp-2", "--upgrade"), *workers):
        said = root.kubeadm("config", "validate", "--config", root.config(spec, node, mode))
        assert said == "ok\n"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_static_pods_have_our_files(root: Root, shape: str) -> None:
    spec, pki = SHAPES[shape], root.pki
    config = root.config(spec, "cp-1", "--init")
    found = root.manifests("control-plane", "all", "--config", config)
    apiserver, manager, scheduler = (found[f"kube-{name}"] for name in ("apiserver", "controller-manager", "scheduler"))
    assert f"--kubelet-certificate-authority={pki}/kubelet-ca.crt" in apiserver["command"]
    assert f"--etcd-cafile={pki}/etcd/ca.crt" in apiserver["command"]
    assert f"--etcd-certfile={pki}/apiserver-etcd-client.crt" in apiserver["command"]
    assert f"--root-ca-file={pki}/ca-chain.crt" in manager["command"]
    mounted = {mount["mountPath"] for mount in scheduler["volumeMounts"]}
    assert mounted == {f"{pki}/scheduler", "/etc/kubernetes/scheduler.conf"}
    flags = dict(word.removeprefix("--").split("=", 1) for word in apiserver["command"][1:])
    expected = {"ipv6": "fd00:1::/112", "dual": "10.96.0.0/12,fd00:1::/112"}.get(shape, "10.96.0.0/12")
    assert flags["service-cluster-ip-range"] == expected
    assert flags["advertise-address"] == ("fd00::11" if shape == "ipv6" else "10.0.0.11")
    assert flags["kubelet-preferred-address-types"].startswith("Hostname" if shape == "pool" else "InternalIP")
    if shape == "external":
        assert flags["etcd-servers"] == "https://10.0.0.21:2379"
        return
    etcd = root.manifests("etcd", "local", "--config", config)["etcd"]
    assert f"--trusted-ca-file={pki}/etcd/ca.crt" in etcd["command"]
    assert {mount["mountPath"] for mount in etcd["volumeMounts"]} == {f"{pki}/etcd", "/var/lib/etcd"}
    local = "[::1]" if shape == "ipv6" else "127.0.0.1"
    assert flags["etcd-servers"] == f"https://{local}:2379"
