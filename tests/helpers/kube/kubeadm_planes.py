"""Three control planes with etcd, made by the real kubeadm behind a load balancer, and what CA changes do to them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from helpers import pages
from helpers.kube import kubeadm_cluster, kubeadm_use
from helpers.kube.balancer import Balancer
from helpers.kube.ca_operator import Operator, complains
from helpers.kube.client_load import Load
from helpers.kube.components import API_PORT, ETCD_PORT, Programs
from helpers.kube.etcd_watch import EtcdWatch
from helpers.kube.kubeadm_cluster import IGNORED, KubeadmCluster
from helpers.kube.kubeadm_nodes import KubeadmNode
from helpers.kube.machines import OUTSIDE
from helpers.kube.pod_logs import FOLDER, PodLogs
from helpers.vault.servers import Server, wait_for

POD, POD_NODE = "load", "cp-2"
AGENT = "/etc/vaultpki/agent.yaml"
CONFIGURATION = "/etc/kubernetes/kubeadm/kubeadm.yaml"
READY_SECONDS = 120.0

GRACE_SECONDS = 15
# The balancer's address is one of the API server's own.
_SPEC = f"""\
api_server: {{endpoint: "https://api.example.com:6443", names: [api.example.com], addresses: [{OUTSIDE}]}}
nodes:
- {{name: cp-1, roles: [control-plane, etcd, worker], addresses: [198.51.100.11]}}
- {{name: cp-2, roles: [control-plane, etcd, worker], addresses: [198.51.100.12]}}
- {{name: cp-3, roles: [control-plane, etcd, worker], addresses: [198.51.100.13]}}
"""


@dataclass(slots=True)
class Seen:
    """What clients, members of etcd and components went through while something was done to the cluster."""

    cluster: KubeadmCluster
    load: Load
    watch: EtcdWatch
    audit: kubeadm_use.Audit
    pods: PodLogs
    kubelets: Mapping[str, int]
    balancer: Balancer
    begin: float = field(default_factory=time.time)
    seconds: float = 0.0

    @property
    def of_tls(self) -> list[str]:
        """Requests that failed because one end did not take the other for who it is."""
        return [f"{each.client}: {each.text}" for each in self.load.failures if each.of_tls]

    @property
    def unauthorized(self) -> list[str]:
        """Requests that an API server answered with 401."""
        self.audit.read()
        return self.audit.unauthorized

    def complaints(self) -> list[str]:
        """What static pods, and kubelets, write of TLS."""
        lines = list(self.pods.lines)
        for name, position in self.kubelets.items():
            said = self.cluster.nodes[name].machine.processes["kubelet"].said()[position:]
            lines += [(f"{name}'s kubelet", line) for line in said.splitlines()]
        return [f"{who}: {line}" for who, line in lines if complains(line)]

    def told(self) -> str:
        """The figures, for whoever compares two runs."""
        load, watch, complaints = self.load, self.watch, len(self.complaints())
        return (
            f"{self.seconds:.0f} s, {load.worked.total() + len(load.failures)} requests, {len(load.failures)} failed, "
            f"{len(self.of_tls)} of TLS, {len(self.unauthorized)} times 401, {complaints} complaints; etcd: "
            f"{watch.looks} looks, at most {watch.longest_pause:.1f} s apart, {watch.most_down} down at once at most, "
            f"{watch.seconds(1):.0f} s with one or more down, {watch.seconds(2):.0f} s with two or more; the balancer: "
            f"{_since(self.balancer.none_ready, self.begin)} times no server was ready, "
            f"{_since(self.balancer.none_took, self.begin)} times none took a connection"
        )


def _since(times: Sequence[float], begin: float) -> int:
    return sum(each >= begin for each in times)


@dataclass(slots=True)
class Planes(Operator):
    """The cluster, its balancer, and its operator."""

    cluster: KubeadmCluster
    balancer: Balancer

    @property
    def nodes(self) -> Mapping[str, KubeadmNode]:
        return self.cluster.nodes

    @contextlib.contextmanager
    def under_load(self, pace: float = 1.0) -> Iterator[Seen]:
        """Clients at the balancer, and all who look on, until the end of the block."""
        cluster = self.cluster
        load = Load(cluster.kubernetes, [POD], servers=lambda: [self.balancer.at], pace=pace)
        watch = EtcdWatch({name: node.machine for name, node in self.nodes.items()})
        pods = PodLogs({name: node.seen(FOLDER) for name, node in self.nodes.items()})
        kubelets = {name: len(node.machine.processes["kubelet"].said()) for name, node in self.nodes.items()}
        seen = Seen(cluster, load, watch, kubeadm_use.Audit(cluster), pods, kubelets, self.balancer)
        with watch.running(), pods.running(), load.running():
            yield seen
        seen.seconds = time.time() - seen.begin

    def agent_said(self, name: str) -> str:
        """What the resident agent of a node wrote."""
        return self.nodes[name].machine.processes["agent"].said()

    def kubelet(self, name: str, do: str) -> None:
        """Stops or starts the kubelet of a node, as `systemctl` would."""
        self.nodes[name].run("systemctl", do, "kubelet")

    def etcdctl(self, node: str, *arguments: str, expect: int | None = 0) -> str:
        """etcdctl in the pod of a member, as docs/kubeadm.md has it; both streams."""
        pki = "/etc/kubernetes/pki/etcd"
        pair = f"--cert {pki}/healthcheck-client.crt --key {pki}/healthcheck-client.key"
        flags = f"--endpoints https://127.0.0.1:2379 --cacert {pki}/ca.crt {pair}"
        words = f"exec -n kube-system etcd-{node} -- etcdctl {flags} {' '.join(arguments)}"
        return self.cluster.run(f"kubectl --kubeconfig operator/admin.conf {words}", expect=expect)

    def await_ready(self) -> None:
        """Waits until every API server and every member says that it is ready, and every node is."""

        def missing() -> list[str]:
            found = sorted(self.nodes.keys() - self.balancer.ready)
            ready = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
            kubernetes = self.cluster.kubernetes
            said = kubernetes.kubectl(kubernetes.admin, "get", "nodes", "-o", ready, expect=None).stdout.split()
            return found or [] if said == ["True"] * len(self.nodes) else [*found, f"nodes: {said}"]

        wait_for(lambda: not missing(), READY_SECONDS, lambda: f"not ready: {missing()}", pause=1)


@contextlib.contextmanager
def standing(server: Server, programs: Programs, folder: Path, poll: str = "10s") -> Iterator[Planes]:
    """The cluster with its agents, a pod for the load, and a balancer that its name leads to."""
    head = f"cluster: planes\nlayout: kubeadm\nvault: {{addresses: ['{server.address}'], ca_file: vault-ca.crt}}\n"
    with kubeadm_cluster.machines(server, programs, folder, head + _SPEC, comers={}) as made:
        kubernetes = made.kubernetes
        addresses = {name: node.address for name, node in made.nodes.items()}
        kubernetes.lan.tell(addresses | {"api.example.com": OUTSIDE})
        balancer = Balancer(kubernetes.outside, addresses, API_PORT)
        planes = Planes(kubernetes, made, balancer)
        with balancer.running():
            _make(made, poll)
            kubernetes.run_pod(POD, node=POD_NODE, seconds=READY_SECONDS)
            planes.await_ready()
            yield planes


def _make(made: KubeadmCluster, poll: str) -> None:
    """docs/kubeadm.md for three control planes that share one service-account key."""
    run = made.run
    run("vaultpki apply --yes")
    made.one_key()
    for name, node in made.nodes.items():
        run(f"vaultpki enroll {name} -o {name}.json && scp -p {name}.json root@{name}:")
        run(f"vaultpki join {name}.json --hooks static-pods", name)
        configure(node, "poll: 5m", f"poll: {poll}")
    for person in ("super-admin", "admin"):
        run(f"vaultpki issue {person} --dir operator")
    run("scp -p operator/super-admin.conf root@cp-1:/etc/kubernetes/")
    for name in made.nodes:
        run(f"vaultpki kubeadm config {name} {'--init' if name == 'cp-1' else '--join'} -o {name}")
        kubeadm_cluster.adapt(made.folder / name, made.programs.version)
        balanced(made.folder / name, [node.address for node in made.nodes.values()])
        if name == "cp-1":
            run(f"scp -rp {name} root@{name}:/etc/kubernetes/kubeadm")
            run(f"scp -p operator/admin.conf root@{name}:/etc/kubernetes/")
            run(f"kubeadm init --config {CONFIGURATION}", name)
            run("rm /etc/kubernetes/super-admin.conf", name)
            run("kubectl --kubeconfig operator/super-admin.conf apply -f operator/manifests")
        else:
            join(made, name)
    for name, node in made.nodes.items():
        run("rm /etc/kubernetes/admin.conf", name)
        node.resident()


def configure(node: KubeadmNode, old: str, new: str) -> None:
    """Changes a line of a node's agent.yaml, as a person would."""
    file = node.seen(AGENT)
    text = file.read_text()
    assert f"\n{old}\n" in text, text
    file.write_text(text.replace(f"\n{old}\n", f"\n{new}\n"))


def join(made: KubeadmCluster, name: str) -> None:
    """The page's join of a further control-plane node."""
    made.one_key(name)
    made.run(f"scp -rp {name} root@{name}:/etc/kubernetes/kubeadm")
    made.run(f"scp -p operator/admin.conf root@{name}:/etc/kubernetes/")
    made.run(f"kubeadm join --config {CONFIGURATION}", name)


def reset(made: KubeadmCluster, name: str) -> str:
    """`kubeadm reset` of a node; what it says."""
    return made.run(f"kubeadm reset -f --ignore-preflight-errors={IGNORED}", name)


def balanced(folder: Path, members: Sequence[str]) -> None:
    """Adds to a written configuration what the cluster's balancer needs, and spares the test some minutes."""
    # kube-apiserver ends only when the kubelet kills it, as long as a client keeps its connection: after 30 s.
    grace = {"spec": {"terminationGracePeriodSeconds": GRACE_SECONDS}}
    (folder / "patches" / "kube-apiserver0+merge.yaml").write_text(yaml.safe_dump(grace))
    file = folder / "kubeadm.yaml"
    documents = list(yaml.safe_load_all(file.read_text()))
    for document in documents:
        if document["kind"] == "ClusterConfiguration":
            document["apiServer"]["extraArgs"] += _settings(members)
    file.write_text(yaml.safe_dump_all(documents, sort_keys=False))


def _settings(members: Sequence[str]) -> list[dict[str, str]]:
    """What docs/kubeadm.md tells people to add who have a balancer, for these members of etcd."""
    (block,) = [
        block
        for block in pages.blocks(pages.part(kubeadm_cluster.PAGE, "What a balancer in front needs"))
        if block.language == "yaml"
    ]
    found: list[dict[str, str]] = yaml.safe_load(block.text)["apiServer"]["extraArgs"]
    servers = ",".join(f"https://{address}:{ETCD_PORT}" for address in members)
    assert {each["name"] for each in found} == {"shutdown-delay-duration", "etcd-servers"}, found
    return [each | ({"value": servers} if each["name"] == "etcd-servers" else {}) for each in found]
