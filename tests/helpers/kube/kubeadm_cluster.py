"""A cluster that the real kubeadm makes: by the commands of docs/kubeadm.md, run one after the other."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from helpers import page_runner, pages
from helpers.kube import containerd, forwarded_port, kubeadm_nodes
from helpers.kube.components import Programs
from helpers.kube.kube_cluster import KubeNode, Kubernetes, remove_cgroups
from helpers.kube.kubeadm_nodes import KubeadmNode
from helpers.page_runner import Ran
from helpers.pages import Command
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.servers import Server, wait_for
from vaultpki.config.cluster import load_cluster
from vaultpki.model import NodeRole

PAGE = "kubeadm"
LATER = "A control-plane node that joins later"
UPGRADE = "Upgrade Kubernetes"
"""The parts of the page that follow later: once the cluster grows, and once there is a newer version."""
ONE_KEY = "One sa.key for all nodes"
"""The part for a cluster without service-account keys of its own."""
COMERS: Mapping[str, str] = types.MappingProxyType({"w-1": "198.51.100.41"})
"""The pooled node: its name is the page's, and no certificate tells its address."""

BUSYBOX = containerd.IMAGE

# Of kubeadm's checks of the host, the only one that fails here: control groups are of version 1.
IGNORED = "SystemVerification"
# Without an image of CoreDNS there is none to upgrade.
IGNORED_IN_UPGRADE = (IGNORED, "CoreDNSUnsupportedPlugins", "CoreDNSMigration")

# What this machine is not: it has control groups of version 1, no say over limits, and a disk that may be full.
_KUBELET: dict[str, Any] = {
    "failCgroupV1": False,
    "failSwapOn": False,
    "cgroupDriver": "cgroupfs",
    "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [],
    "localStorageCapacityIsolation": False,
    "evictionHard": {"memory.available": "1Mi"},
    "imageGCHighThresholdPercent": 100,
    "resolvConf": "",
}
_KUBE_PROXY: dict[str, Any] = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    # The host's own connection tracking is not a test's to change.
    "conntrack": {"maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s"},
}
# kubeadm gives an API server a minute, from the start of the kubelet on, and an upgrade of etcd five of them.
_TIMEOUTS = (
    "controlPlaneComponentHealthCheck",
    "kubeletHealthCheck",
    "kubernetesAPICall",
    "etcdAPICall",
    "upgradeManifests",
)
_PART = "# in cluster.yaml\n"
_AUDIT = "/var/log/kubernetes"
_AUDIT_POLICY = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n"

# A copy to a node, and between two: what scp does by the network, which the operator's machine here does not have.
_SCP = """\
#!/usr/bin/env python3
import shutil, sys
from pathlib import Path
roots = {roots!r}
words = [word for word in sys.argv[1:] if not word.startswith("-")]
def place(word):
    name, colon, path = word.partition(":")
    return Path(roots[name.removeprefix("root@")][0 if path.startswith("/") else 1] + path) if colon else Path(word)
*sources, target = map(place, words)
for source in (found for each in sources for found in sorted(each.parent.glob(each.name)) or [each]):
    to = target / source.name if target.is_dir() else target
    shutil.copytree(source, to) if source.is_dir() else shutil.copy2(source, to)
"""
# From outside the nodes, where people are; the folder is that of the caller.
_KUBECTL = """\
#!/bin/sh
exec nsenter --target {outside} --net --mount --wdns="$PWD" -- {kubectl} "$@"
"""


@dataclass(slots=True)
class KubeadmCluster:
    """The cluster, the operator's folder, and what each command of the page printed.

    `spare` are machines that are no nodes yet.
    """

    cluster: AppliedCluster
    programs: Programs
    folder: Path
    nodes: dict[str, KubeadmNode]
    kubernetes: Kubernetes
    environment: Mapping[str, str]
    ran: list[Ran] = field(default_factory=list)
    spare: dict[str, KubeadmNode] = field(default_factory=dict)

    @property
    def operator(self) -> Path:
        return self.kubernetes.operator

    def run(self, text: str, node: str | None = None, expect: int | None = 0) -> str:
        """A command as the page has it, on a node or on the operator's machine; returns both streams."""
        if node is not None:
            ran = self.nodes[node].run("sh", "-c", f"cd {self.nodes[node].home} && {{ {text}\n}} 2>&1", expect=expect)
            return ran.stdout
        done = subprocess.run(
            ["bash", "-c", f"{{ {text}\n}} 2>&1"],
            cwd=self.folder,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert expect is None or done.returncode == expect, f"{text}: exit {done.returncode}\n{done.stdout}"
        return done.stdout

    def make(self, after: Callable[[Command], None]) -> None:
        """Make the cluster, by the page; `after` is called after each command."""
        self._follow(pages.text(PAGE).partition(f"\n## {LATER}\n")[0], after=after)

    def grow(self) -> None:
        """Have the further control-plane node of the page join, with the programs that the others have now."""
        archives = kubeadm_nodes.images(self.programs, self.folder)
        for node in self.spare.values():
            containerd.load(node.machine, kubeadm_nodes.needed(node, archives))
            node.install(self.programs, "kubeadm", "kubelet", "kubectl")
        self.nodes |= self.spare
        made = {name: _kube_node(node) for name, node in self.spare.items()}
        self.kubernetes.nodes = {**self.kubernetes.nodes, **made}
        self.spare = {}
        self._follow(pages.part(PAGE, LATER))

    def one_key(self, name: str | None = None) -> None:
        """Make the one service-account key of all nodes, or copy it to this node, as the page has it."""
        for block in pages.blocks(pages.part(PAGE, ONE_KEY)):
            for command in block.commands():
                if (command.node is None) == (name is not None):
                    self.run(command.text.replace("root@cp-2:", f"root@{name}:"), command.node)

    def upgrade(self, programs: Programs, before: Callable[[Command], None]) -> None:
        """Upgrade the cluster to these programs, by the page; `before` is called before each command."""
        archives = kubeadm_nodes.images(programs, self.folder)
        for node in self.nodes.values():
            containerd.load(node.machine, kubeadm_nodes.needed(node, archives))
            node.install(programs, "kubeadm")
        self.programs = programs

        def replaced(command: Command) -> None:
            if command.node is not None and command.text == "systemctl restart kubelet":
                self.nodes[command.node].install(programs, "kubelet", "kubectl")
            before(command)

        self._follow(pages.part(PAGE, UPGRADE), before=replaced)

    def _follow(
        self,
        source: str,
        before: Callable[[Command], None] = lambda _: None,
        after: Callable[[Command], None] = lambda _: None,
    ) -> None:
        version = self.programs.version
        for block in pages.blocks(source):
            if block.file is not None:
                (self.folder / block.file).write_text(
                    block.text.replace(page_runner.ADDRESSES[0], self.cluster.server.address)
                )
            if block.language == "yaml" and block.text.startswith(_PART):
                _change(self.folder / "cluster.yaml", block.text)
            for command in block.commands():
                if " wait " in command.text and "node --all" in command.text:
                    self._await_nodes(command.text.partition(" wait ")[0])
                before(command)
                text = re.sub(r"(--kubernetes-version) v\S+", rf"\1 {version}", command.text)
                self.ran.append(Ran(command, self.run(text, command.node)))
                if written := re.search(r"vaultpki kubeadm config .*-o (\S+)", text):
                    adapt(self.folder / written[1], version)
                after(command)

    def _await_nodes(self, kubectl: str) -> None:
        """Until each node that has joined is registered: a worker's kubelet does that some moments after its join."""
        joined = {
            f"node/{each.command.node}"
            for each in self.ran
            if re.search("kubeadm (init|join) --config", each.command.text)
        }
        wait_for(lambda: joined <= {*self.run(f"{kubectl} get nodes -o name").split()}, 300, lambda: str(joined), 1)


def _change(file: Path, part: str) -> None:
    """Put a part of a cluster.yaml in place of what the file has under the same keys."""
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | yaml.safe_load(part), sort_keys=False))


def _kube_node(node: KubeadmNode) -> KubeNode:
    return KubeNode(node.name, node.roles, NodeFolder(node.name, node.home), node.machine)


def patch_kubelet(patches: Path, node: str) -> None:
    """Add to the folder of a node's patches what a kubelet needs on this machine."""
    own = {**_KUBELET, "cgroupRoot": f"/vaultpki-kubeadm-{os.getpid()}-{node}"}
    (patches / "kubeletconfiguration1+merge.yaml").write_text(yaml.safe_dump(own))


def adapt(folder: Path, version: str) -> None:
    """Add to a written configuration what this machine needs, as people add what theirs do, and the version."""
    patch_kubelet(folder / "patches", folder.name)
    file = folder / "kubeadm.yaml"
    documents = list(yaml.safe_load_all(file.read_text()))
    for document in documents:
        if document["kind"] != "ClusterConfiguration":
            document["timeouts"] = dict.fromkeys(_TIMEOUTS, "15m")
        if document["kind"] in ("InitConfiguration", "JoinConfiguration"):
            document["nodeRegistration"].setdefault("ignorePreflightErrors", []).append(IGNORED)
        if document["kind"] == "ClusterConfiguration":
            # No image of CoreDNS can be pulled, and nobody here asks for names.
            document["dns"] = {"disabled": True}
            document["kubernetesVersion"] = version
            if "local" in document["etcd"]:
                # Nothing has to outlive this machine, whose disk may let others wait for seconds.
                document["etcd"]["local"]["extraArgs"] = [{"name": "unsafe-no-fsync", "value": "true"}]
            server = document["apiServer"]
            for name, value in (("policy-file", f"{_AUDIT}/policy.yaml"), ("log-path", f"{_AUDIT}/audit.log")):
                server["extraArgs"].append({"name": f"audit-{name}", "value": value})
            server["extraVolumes"] = [{"name": "audit", "hostPath": _AUDIT, "mountPath": _AUDIT}]
            documents.append(_KUBE_PROXY)
            break
        if document["kind"] == "UpgradeConfiguration":
            for command in ("apply", "node"):
                document[command]["ignorePreflightErrors"] = list(IGNORED_IN_UPGRADE)
    file.write_text(yaml.safe_dump_all(documents, sort_keys=False))


@contextlib.contextmanager
def machines(
    server: Server, programs: Programs, folder: Path, spec: str | None = None, comers: Mapping[str, str] = COMERS
) -> Iterator[KubeadmCluster]:
    """The machines of the page, or of another `spec`, and an operator's folder beside Vault; no command has been run.

    The page has one machine more than its cluster at first. `comers` are the addresses of pooled nodes by name. A
    node's first address is of IPv4; it may have one of IPv6 too.
    """
    operator = folder / "operator-home"
    operator.mkdir(parents=True)
    (operator / "vault-ca.crt").write_bytes(server.ca_file.read_bytes())
    (operator / "cluster.yaml").write_text(spec or pages.file(PAGE, "cluster.yaml"))
    model = load_cluster(operator / "cluster.yaml")
    at_first = {node.name for node in model.nodes} | comers.keys()
    if spec is None:
        (part,) = (each.text for each in pages.blocks(pages.part(PAGE, LATER)) if each.text.startswith(_PART))
        later = operator / "later.yaml"
        later.write_text((operator / "cluster.yaml").read_text())
        _change(later, part)
        model = load_cluster(later)
        later.unlink()
    cluster = AppliedCluster(server, operator, model.name)
    environment = page_runner.equip(operator, server) | cluster.environment()
    roles = {node.name: node.roles for node in model.nodes} | dict.fromkeys(comers, frozenset({NodeRole.WORKER}))
    addresses = {node.name: node.addresses[0] for node in model.nodes} | dict(comers)
    with (
        contextlib.ExitStack() as stack,
        kubeadm_nodes.nodes(programs, folder / "nodes", roles, addresses, roles.keys() - at_first) as (network, nodes),
    ):
        for listed in model.nodes:
            for address in listed.addresses[1:]:
                network.machines[listed.name].run("ip", "addr", "add", f"{address}/64", "dev", "eth0", "nodad")
        for name in nodes:
            stack.callback(remove_cgroups, f"/vaultpki-kubeadm-{os.getpid()}-{name}")
        stack.enter_context(forwarded_port.everywhere(network, server))
        network.tell(addresses | {"api.example.com": addresses["cp-1"]})
        spare = {name: node for name, node in nodes.items() if name not in at_first}
        begun = {name: node for name, node in nodes.items() if name in at_first}
        kube_nodes = {name: _kube_node(node) for name, node in begun.items()}
        kubernetes = Kubernetes(cluster, programs, folder, network, kube_nodes, operator / "operator")
        made = KubeadmCluster(cluster, programs, operator, begun, kubernetes, environment, spare=spare)
        for node in nodes.values():
            node.seen(_AUDIT).mkdir()
            node.seen(f"{_AUDIT}/policy.yaml").write_text(_AUDIT_POLICY)
            (node.machine.folder / "audit.log").symlink_to(node.seen(f"{_AUDIT}/audit.log"))
        roots = {name: (str(node.seen("/")), f"{node.home}/") for name, node in nodes.items()}
        kubectl = _KUBECTL.format(
            outside=network.outside.holder.pid, kubectl=shlex.quote(str(programs.path("kubectl")))
        )
        for name, text in {"scp": _SCP.format(roots=roots), "kubectl": kubectl}.items():
            (operator / "bin" / name).write_text(text)
            (operator / "bin" / name).chmod(0o755)
        yield made
