"""Real Kubernetes clusters on files that the product made: what a conformance test gets to work with."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import pages
from helpers.kube import components, containerd, forwarded_port, own_keys
from helpers.kube.audit_log import AuditLog
from helpers.kube.components import API_PORT, ETCD_PORT, Programs, ServiceAccountKeys
from helpers.kube.machines import Lan, Machine, Process, Ran, lan
from helpers.node import enrolled_nodes
from helpers.vault import applied_cluster
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.servers import Server, wait_for
from vaultpki.certificates import ISSUING_CAS
from vaultpki.model import NodeRole, Usage

READY_SECONDS = 60.0
"""Within how many seconds a cluster stands, for each process of tests that shares the machine."""

ONE = """\
nodes:
- {name: node-1, roles: [control-plane, etcd, worker], addresses: [198.51.100.11]}
"""
# A row of the user's own for every CA and every use, where no worker has it.
_OWN = """\
  own-{ca}-{use}: {{kind: {use}, common_name: own-{ca}-{use}, ca: {ca}, roles: [control-plane], names: {names}}}
"""
ROBBED = """\
nodes:
- {name: cp-1, roles: [control-plane], addresses: [198.51.100.11]}
- {name: etcd-1, roles: [etcd], addresses: [198.51.100.21]}
- {name: etcd-2, roles: [etcd], addresses: [198.51.100.22]}
- {name: etcd-3, roles: [etcd], addresses: [198.51.100.23]}
- {name: worker-1, roles: [worker], addresses: [198.51.100.31]}
- {name: worker-2, roles: [worker], addresses: [198.51.100.32]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
certificates:
""" + "".join(
    _OWN.format(ca=ca, use=use.value, names="['{node}']" if use.server else "[]")
    for ca in ISSUING_CAS
    for use in Usage
    if use.tls
)

# Two that do all but run pods, of which either may be the API server's name, and workers that come by themselves.
GROWING = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [198.51.100.11]}
- {name: cp-2, roles: [control-plane, etcd], addresses: [198.51.100.12]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
"""
# Two control planes with etcd, a third member, and a worker beside those that come by themselves. `extension` is what a
# server of the user's own shows that kube-apiserver calls for an aggregated API and a webhook.
TURNING = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [198.51.100.11]}
- {name: cp-2, roles: [control-plane, etcd], addresses: [198.51.100.12]}
- {name: etcd-3, roles: [etcd], addresses: [198.51.100.13]}
- {name: worker-1, roles: [worker], addresses: [198.51.100.31]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
certificates:
  extension: {kind: server, ca: kubernetes, common_name: extension, names: [extension.default.svc], roles: [etcd]}
"""
COMERS = {"w-1": ("autoscaled", "198.51.100.41")}
"""Nodes of pools: the pool's name, and the address that the machine has and no certificate tells."""


@dataclass(frozen=True, slots=True)
class KubeNode:
    """One node: where its agent's files lie (`node`, on the host), and the machine its components run on."""

    name: str
    roles: frozenset[NodeRole]
    node: NodeFolder
    machine: Machine

    @property
    def pki(self) -> Path:
        return self.node.pki

    @property
    def address(self) -> str:
        return self.machine.address


@dataclass(slots=True)
class Kubernetes:
    """A running cluster, and all that a test may do to it.

    Components run on the nodes' machines; agents have their files on the host, and the network of their node, where
    they find its components on loopback; kubectl and strangers sit outside, on a machine of the same network. Each
    machine finds the Vault server, which is on the host, on its own loopback.
    """

    cluster: AppliedCluster
    programs: Programs
    folder: Path
    lan: Lan
    nodes: dict[str, KubeNode]
    operator: Path
    agents: dict[str, Process] = field(default_factory=dict)

    def having(self, role: NodeRole) -> list[KubeNode]:
        return [node for node in self.nodes.values() if role in node.roles]

    @property
    def control_plane(self) -> KubeNode:
        return self.having(NodeRole.CONTROL_PLANE)[0]

    @property
    def members(self) -> list[KubeNode]:
        """etcd's members."""
        return self.having(NodeRole.ETCD)

    @property
    def worker(self) -> KubeNode:
        return self.having(NodeRole.WORKER)[0]

    @property
    def admin(self) -> Path:
        return self.operator / "admin.conf"

    @property
    def super_admin(self) -> Path:
        return self.operator / "super-admin.conf"

    @property
    def outside(self) -> Machine:
        return self.lan.outside

    @property
    def api(self) -> tuple[str, int]:
        return self.control_plane.address, API_PORT

    @property
    def apis(self) -> list[tuple[str, int]]:
        """Every API server."""
        return [(node.address, API_PORT) for node in self.having(NodeRole.CONTROL_PLANE)]

    @property
    def etcd_endpoints(self) -> str:
        return ",".join(f"https://{node.address}:{ETCD_PORT}" for node in self.members)

    def name_api_server(self, node: KubeNode) -> None:
        """Has every machine find the API server's name, and every node, by their addresses; it is this node's then."""
        found = {each.name: each.address for each in self.nodes.values()}
        self.lan.tell(found | dict.fromkeys(self.cluster.model.api_server.names, node.address))

    def kubectl(self, conf: Path, *arguments: str | Path, expect: int | None = 0, stdin: str = "") -> Ran:
        """kubectl from outside, with one kubeconfig, to its end."""
        return self.outside.run(*self.kubectl_command(conf, *arguments), expect=expect, stdin=stdin)

    def kubectl_command(self, conf: Path, *arguments: str | Path) -> list[str | Path]:
        """The same as words, for `outside.start`."""
        return [self.programs.path("kubectl"), f"--kubeconfig={conf}", *arguments]

    def get(self, *arguments: str, conf: Path | None = None) -> dict[str, Any]:
        """`kubectl get` as data, as the admin."""
        found: dict[str, Any] = json.loads(self.kubectl(conf or self.admin, "get", *arguments, "-o", "json").stdout)
        return found

    def apply(self, *documents: dict[str, Any], conf: Path | None = None) -> None:
        """`kubectl apply` of these objects, as the admin."""
        whole = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        self.kubectl(conf or self.admin, "apply", "-f", "-", stdin=json.dumps(whole))

    def etcdctl(self, node: KubeNode, *arguments: str, flags: Sequence[str] = (), expect: int | None = 0) -> Ran:
        """etcdctl on a node, towards all members; `flags` instead of those of docs/components.md."""
        said = flags or pages.flags("etcdctl", node.pki)
        endpoints = f"--endpoints={self.etcd_endpoints}"
        return node.machine.run(self.programs.path("etcdctl"), endpoints, *said, *arguments, expect=expect)

    def component(self, name: str, node: str | None = None) -> Process:
        """A component's process: of this node, or of the only node that has one."""
        found = [
            each.machine.processes[name]
            for each in self.nodes.values()
            if name in each.machine.processes and node in (None, each.name)
        ]
        assert len(found) == 1, f"{len(found)} nodes run {name}; name one of {list(self.nodes)}"
        return found[0]

    def restart(self, name: str, node: str | None = None) -> None:
        """Ends a component and starts it again; does not wait for what it then does."""
        self.component(name, node).restart()

    def running(self) -> dict[tuple[str, str], int]:
        """The process id of every component, by node and name; fails with the last words of one that ended."""
        found = {}
        for node in self.nodes.values():
            for name, process in node.machine.processes.items():
                process.check()
                found[node.name, name] = process.pid
        return found

    def agent(self, node: str, *arguments: str | Path, expect: int = 0) -> Ran:
        """`vaultpki agent -c AGENT.YAML ...` on a node, to its end; without arguments one pass."""
        return self.vaultpki(node, "agent", *(arguments or ("--once",)), expect=expect)

    def vaultpki(self, node: str, command: str, *arguments: str | Path, expect: int = 0) -> Ran:
        """A command of the product's with the node's agent.yaml, on its network, to its end."""
        on = self.nodes[node]
        words = (command, "-c", on.node.config, *arguments)
        return applied_cluster.vaultpki(*words, expect=expect, behind=on.machine.behind)

    def resident(self, node: str, *arguments: str | Path) -> Process:
        """The node's agent as a process that stays; start and stop it as you like, the cluster's end ends it."""
        node_folder = self.nodes[node].node
        product = (sys.executable, "-m", "vaultpki")
        command = [
            *self.nodes[node].machine.behind,
            *product,
            "agent",
            "-c",
            str(node_folder.config),
            *map(str, arguments),
        ]
        log = node_folder.folder / "agent.log"
        process = self.agents[node] = Process(f"{node}'s agent", command, log, applied_cluster.environment())
        process.start()
        return process

    def end_agents(self) -> None:
        for process in self.agents.values():
            process.kill()

    def audit_position(self) -> int:
        """Where the first kube-apiserver's audit log ends now: what `audit` counts from."""
        return AuditLog(self.control_plane.machine.folder).skip()

    def audit(self, since: int = 0) -> list[dict[str, Any]]:
        """Its audit events since a position, oldest first, at the level Metadata."""
        return AuditLog(self.control_plane.machine.folder, since).events()

    def ready(self, conf: Path | None = None, at: KubeNode | None = None) -> bool:
        """Whether the API server is ready; `at` names the node where there are several."""
        server = [f"--server=https://{at.address}:{API_PORT}"] if at else []
        return self.kubectl(conf or self.super_admin, *server, "get", "--raw", "/readyz", expect=None).stdout == "ok"

    def await_node(self, name: str, seconds: float = READY_SECONDS) -> None:
        """Waits until the kubelet has registered its node, and calls it ready."""
        path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"

        def ready() -> bool:
            self.running()
            return self.kubectl(self.super_admin, "get", "node", name, "-o", path, expect=None).stdout == "True"

        kubelet = self.component("kubelet", name)
        wait_for(ready, seconds, lambda: f"{name} is not ready:\n{kubelet.last_words()}", pause=0.3)

    def run_pod(
        self, name: str, command: str = "echo hello; sleep 100000", seconds: float = READY_SECONDS, node: str = ""
    ) -> None:
        """A pod of busybox on its node's network, waited for until it runs; `command` is for its shell."""
        container = {
            "name": "only",
            "image": containerd.IMAGE,
            "imagePullPolicy": "Never",
            "command": ["/bin/sh", "-c", command],
        }
        spec = {"hostNetwork": True, "terminationGracePeriodSeconds": 0, "containers": [container]}
        spec |= {"nodeName": node} if node else {}
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})

        def phase() -> str:
            return self.kubectl(self.admin, "get", "pod", name, "-o", "jsonpath={.status.phase}").stdout

        def why() -> str:
            return self.kubectl(self.admin, "describe", "pod", name, expect=None).stdout

        wait_for(lambda: phase() == "Running", seconds, lambda: f"pod {name} does not run:\n{why()}", pause=0.3)


@contextlib.contextmanager
def cluster(
    server: Server,
    programs: Programs,
    folder: Path,
    spec: str = ONE,
    name: str | None = None,
    comers: Mapping[str, tuple[str, str]] = types.MappingProxyType({}),
    apply: Callable[[AppliedCluster], object] = AppliedCluster.apply,
    later: Mapping[str, str] = types.MappingProxyType({}),
    given: Callable[[KubeNode], ServiceAccountKeys] | None = None,
) -> Iterator[Kubernetes]:
    """A Kubernetes as `spec` (the rest of cluster.yaml) says, ready for work; all of it ends on the way out.

    The manifests are applied. Logs lie in `folder`, in a folder for each node. `comers` are nodes of the spec's pools
    (see `COMERS`); where there are some, every machine finds all nodes by name, and the API server. `apply` has the
    server made what cluster.yaml says, where that takes more than one command. `later` has names and addresses of
    machines of which no node is made yet. `given` makes the service-account keys that a node has before cluster.yaml
    asks for any; without it all have one pair, which is on no node.
    """
    applied = AppliedCluster(server, folder / "cluster", name or f"k{secrets.token_hex(4)}")
    applied.write(spec)
    apply(applied)
    enroller = enrolled_nodes.Enroller(applied, applied.token())
    roles = {node.name: node.roles for node in applied.model.nodes}
    addresses = {node.name: node.addresses[0] for node in applied.model.nodes}
    pools = {pool.name: pool for pool in applied.model.pools}
    for comer, (pool, address) in comers.items():
        roles[comer], addresses[comer] = pools[pool].roles, address
    node_folders = {name: NodeFolder(name, folder / "agents" / name) for name in roles}
    for node_folder in node_folders.values():
        node_folder.folder.mkdir(parents=True)
        pool_name = comers[node_folder.name][0] if node_folder.name in comers else None
        enrolled_nodes.join(
            node_folder, enroller.join_file(node_folder.name, node_folder.folder / "join.json", pool=pool_name)
        )
    operator = folder / "operator"
    for person in ("super-admin", "admin"):
        applied.issue(person, operator)
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(lan(folder / "machines", {**addresses, **later}))
        stack.enter_context(forwarded_port.everywhere(network, server))
        nodes = {name: KubeNode(name, roles[name], node_folders[name], network.machines[name]) for name in roles}
        running = Kubernetes(applied, programs, folder, network, nodes, operator)
        if comers:
            running.name_api_server(running.control_plane)
        cgroup = f"/vaultpki-{applied.name}"
        stack.callback(remove_cgroups, cgroup)
        stack.callback(running.end_agents)
        planes = running.having(NodeRole.CONTROL_PLANE)
        if given is None and not applied.model.service_account_keys:
            shared = service_account_keys(folder)
            keys = {node.name: shared for node in planes}
        else:
            keys = {node.name: given(node) for node in planes} if given else {}
        _start(running, keys, cgroup, by_name=bool(comers))
        yield running


def service_account_keys(folder: Path) -> ServiceAccountKeys:
    keys = ServiceAccountKeys(folder / "sa.key", folder / "sa.pub")
    curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    subprocess.run(["openssl", "genpkey", *curve, "-out", keys.private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", keys.private, "-pubout", "-out", keys.public], check=True)
    return keys


def _start(kubernetes: Kubernetes, given: Mapping[str, ServiceAccountKeys], cgroup: str, *, by_name: bool) -> None:
    """`given` is the pair of each control plane, by its name; that of others is made by its agent."""
    programs = kubernetes.programs
    members = {node.name: node.address for node in kubernetes.members}
    for node in kubernetes.members:
        node.machine.start("etcd", *components.etcd(programs, node.machine, node.pki, members))
    started: list[KubeNode] = []
    for node in kubernetes.having(NodeRole.CONTROL_PLANE):
        keys = given.get(node.name) or own_keys.of(node)
        command = components.kube_apiserver(programs, node.machine, node.pki, members.values(), keys, by_name=by_name)
        begin = functools.partial(node.machine.start, "kube-apiserver", *command)
        if node.name in given:
            begin()
        else:
            own_keys.start(kubernetes, node, begin, started)
        started.append(node)
    for node in kubernetes.having(NodeRole.WORKER):
        containerd.start(node.machine)

    def ready() -> bool:
        kubernetes.running()
        return kubernetes.ready()

    apiserver = kubernetes.control_plane.machine.processes["kube-apiserver"]
    wait_for(ready, READY_SECONDS, lambda: f"kube-apiserver is not ready:\n{apiserver.last_words()}", pause=0.2)
    kubernetes.kubectl(kubernetes.super_admin, "apply", "-f", kubernetes.operator / "manifests")
    for node in kubernetes.having(NodeRole.CONTROL_PLANE):
        keys = given.get(node.name) or own_keys.of(node)
        command = components.kube_controller_manager(programs, node.machine, node.pki, keys)
        node.machine.start("kube-controller-manager", *command)
        node.machine.start("kube-scheduler", *components.kube_scheduler(programs, node.pki))
    for node in kubernetes.having(NodeRole.WORKER):
        node.machine.start("kubelet", *components.kubelet(programs, node.machine, node.pki, cgroup))
    for node in kubernetes.having(NodeRole.WORKER):
        kubernetes.await_node(node.name)
        # Begun before its node is known it ends as soon as that has an address, so that somebody starts it again.
        node.machine.start("kube-proxy", *components.kube_proxy(programs, node.machine, node.pki))
    manager = kubernetes.component("kube-controller-manager", kubernetes.control_plane.name)
    # The controller manager makes it; without it no pod may be made.
    wait_for(
        lambda: kubernetes.kubectl(kubernetes.admin, "get", "serviceaccount", "default", expect=None).returncode == 0,
        READY_SECONDS,
        lambda: f"no service account:\n{manager.last_words()}",
        pause=0.3,
    )


def remove_cgroups(cgroup: str, seconds: float = 10) -> None:
    """Control groups have no namespace that would take them along; they can go once their processes have."""
    deadline = time.monotonic() + seconds
    hierarchies = Path("/sys/fs/cgroup")
    for root in (*hierarchies.glob(cgroup[1:]), *hierarchies.glob(f"*/{cgroup[1:]}")):
        for folder, _, _ in os.walk(root, topdown=False):
            while Path(folder).exists():
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
                    break
                assert time.monotonic() < deadline, f"processes are left in {folder}"
                time.sleep(0.1)
