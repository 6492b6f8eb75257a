"""A cluster of another shape than the page's: external etcd, two IP families, RSA keys, another certificatesDir."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from functools import partial

import pytest

from helpers import pages
from helpers.kube import held_on_disks, kubeadm_cluster, kubeadm_use
from helpers.kube.components import API_PORT, ETCD_PEER_PORT, ETCD_PORT, Programs
from helpers.kube.kubeadm_cluster import KubeadmCluster
from helpers.kube.kubeadm_nodes import CONTROL_PLANE
from helpers.vault import servers
from helpers.vault.servers import wait_for

pytestmark = pytest.mark.conformance

PKI = "/etc/kubernetes/certificates"
SPEC = """\
cluster: shaped
layout: kubeadm
vault: {{addresses: ["{address}"], ca_file: vault-ca.crt}}
api_server:
  endpoint: https://api.example.com:6443
  names: [api.example.com]
  service_cidr: [10.96.0.0/16, "fd00:1::/112"]
nodes:
- {{name: cp-1, roles: [control-plane, worker], addresses: [198.51.100.11, "fd00::11"]}}
- {{name: etcd-1, roles: [etcd], addresses: [198.51.100.21, "fd00::21"]}}
- {{name: worker-1, roles: [worker], addresses: [198.51.100.31, "fd00::31"]}}
defaults: {{key: rsa-2048}}
ca: {{key: rsa-3072}}
certificates: {{kube-apiserver: {{extra_names: [api.internal]}}}}
"""


@pytest.fixture(scope="module")
def cluster(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeadmCluster]:
    folder = tmp_path_factory.mktemp("shaped")
    with (
        servers.running("bao", folder / "server", None) as server,
        kubeadm_cluster.machines(
            server, programs, folder / "kube", SPEC.format(address=server.address), comers={}
        ) as made,
    ):
        run = made.run
        run("vaultpki apply --yes")
        run(f"kubeadm init phase certs sa --cert-dir {PKI}", "cp-1")
        for name in made.nodes:
            run(f"vaultpki enroll {name} -o {name}.json && scp -p {name}.json root@{name}:")
            run(f"vaultpki join {name}.json --dir {PKI}", name)
        start_etcd(made)
        run("vaultpki issue super-admin --dir operator")
        run("vaultpki issue admin --dir operator")
        run("scp -p operator/admin.conf operator/super-admin.conf root@cp-1:/etc/kubernetes/")
        for name, mode, kubeadm in (("cp-1", "--init", "init"), ("worker-1", "--join", "join")):
            run(f"vaultpki kubeadm config {name} {mode} --dir {PKI} -o {name}")
            kubeadm_cluster.adapt(made.folder / name, programs.version)
            run(f"scp -rp {name} root@{name}:/etc/kubernetes/kubeadm")
            run(f"kubeadm {kubeadm} --config /etc/kubernetes/kubeadm/kubeadm.yaml", name)
        run("kubectl --kubeconfig operator/super-admin.conf apply -f operator/manifests")
        yield made


def start_etcd(cluster: KubeadmCluster) -> None:
    """The member that kubeadm does not run, with the flags of the page."""
    machine = cluster.nodes["etcd-1"].machine
    clients, peers = (f"https://{machine.address}:{port}" for port in (ETCD_PORT, ETCD_PEER_PORT))
    (flags,) = (block.text for block in pages.blocks(pages.text("kubeadm")) if block.text.startswith("etcd\n  --"))
    words = ["--name=etcd-1", "--data-dir=/var/lib/etcd", f"--initial-cluster=etcd-1={peers}"]
    words += flags.replace(pages.DIRECTORY, PKI).split()[1:]
    words += [f"--{kind}-client-urls={clients}" for kind in ("listen", "advertise")]
    words += [f"--{kind}-peer-urls={peers}" for kind in ("listen", "initial-advertise")]
    etcd = machine.start("etcd", cluster.programs.path("etcd"), *words)
    wait_for(lambda: machine.answers(ETCD_PORT), 30, etcd.last_words)


def test_nodes_are_ready_at_addresses_of_both_families(cluster: KubeadmCluster) -> None:
    kubectl = "kubectl --kubeconfig operator/admin.conf"
    registered = partial(cluster.run, f"{kubectl} get nodes -o name")
    # A worker's kubelet registers some moments after its join.
    wait_for(lambda: {"node/cp-1", "node/worker-1"} <= {*registered().split()}, 300, registered, 1)
    for name in ("cp-1", "worker-1"):
        cluster.run(f"{kubectl} wait --for=condition=Ready --timeout=60s node/{name}")
        node = cluster.kubernetes.get("node", name)
        found = [each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP"]
        assert found == {"cp-1": ["198.51.100.11", "fd00::11"], "worker-1": ["198.51.100.31", "fd00::31"]}[name]


def test_the_api_server_is_reached_by_its_names_and_both_families(cluster: KubeadmCluster) -> None:
    context = ssl.create_default_context(cafile=str(cluster.operator / "kubernetes-ca-chain.crt"))
    for address, name in (("fd00::11", "fd00::11"), ("198.51.100.11", "api.internal"), ("198.51.100.11", "10.96.0.1")):
        with cluster.nodes["cp-1"].machine.network():
            opened = socket.create_connection((address, API_PORT), 10)
        with opened, context.wrap_socket(opened, server_hostname=name) as session:
            assert session.getpeercert()


def test_verify_live_finds_nothing_wrong(cluster: KubeadmCluster) -> None:
    """Where etcd is not a static pod, and its flags are not shown."""

    def there() -> tuple[int, set[str]]:
        """What the controller manager and the kubelet have made, which takes its time in a new cluster."""
        copies = cluster.kubernetes.get("configmaps", "-A", "--field-selector=metadata.name=kube-root-ca.crt")["items"]
        pods = cluster.kubernetes.get("pods", "-n", "kube-system")["items"]
        return len(copies), {pod["metadata"]["name"] for pod in pods} & static

    static = {f"{name}-cp-1" for name in CONTROL_PLANE}
    wait_for(lambda: there() == (4, static), 60, lambda: f"copies of the CA, and static pods: {there()}")
    checks = [check for check in kubeadm_use.verify_live(cluster)["checks"] if check["kind"] == "live"]
    wrong = [check for check in checks if check["ok"] is False]
    assert not wrong, "\n".join(map(str, wrong))
    served = {check["from"].partition(" ")[0] for check in checks if check["name"] == "served certificate"}
    listeners = {f"{on.name}/{row.name}" for on, row in kubeadm_use.held(cluster) if row.name in kubeadm_use.SERVERS}
    assert served == listeners | {"endpoint/kube-apiserver"}
    left = {check["from"] for check in checks if check["name"] == "flags" and check["ok"] is None}
    assert left == {"etcd-1/etcd"}


def test_logs_go_on_after_all_pairs_were_renewed(cluster: KubeadmCluster) -> None:
    kubernetes = cluster.kubernetes

    def logs() -> bool:
        """Whether both nodes show what kube-proxy says there."""
        proxies = kubernetes.get("pods", "-n", "kube-system", "-l", "k8s-app=kube-proxy")["items"]
        names = (each["metadata"]["name"] for each in proxies)
        asked = [kubernetes.kubectl(kubernetes.admin, "logs", "-n", "kube-system", n, expect=None) for n in names]
        return len(proxies) == 2 and all("Caches are synced" in each.stdout for each in asked)

    wait_for(logs, 120, lambda: "no logs of kube-proxy")
    for node in cluster.nodes.values():
        node.vaultpki("renew", "--all")
        shown = json.loads(node.vaultpki("status", "--json").stdout)
        assert shown["ok"], shown
        assert held_on_disks.ca_keys(node) == []
    wait_for(logs, 30, lambda: "no logs of kube-proxy after the renewal")
    assert kubernetes.kubectl(kubernetes.admin, "get", "--raw", "/readyz/etcd").stdout == "ok"
