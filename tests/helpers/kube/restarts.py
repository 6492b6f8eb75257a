"""Restarts of components by the agents' hooks: what a unit of systemd would do on a node, and when each was away."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from helpers import pages
from helpers.kube.access_matrix import METRICS_PORTS
from helpers.kube.client_load import Failure
from helpers.kube.components import API_PORT, ETCD_PORT, KUBELET_PORT
from helpers.kube.kube_cluster import KubeNode, Kubernetes
from helpers.vault.servers import wait_for
from vaultpki import readers
from vaultpki.certificates import bundle
from vaultpki.model import NodeRole
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS

# A machine that is busy with other tests takes a minute and more.
HEALTHY_SECONDS = 180.0
HOOK_SECONDS = 600
PROXY_PORT = 10256
API_SERVER = "kube-apiserver"
# For so long a load balancer has told new clients of the other one.
DRAIN_SECONDS = 2.0

# Argument 1 is the name of an abstract socket, the others are components; what is answered is empty where all is well.
_HOOK = (
    "import socket, sys\n"
    "call = socket.socket(socket.AF_UNIX)\n"
    "call.connect('\\0' + sys.argv[1])\n"
    "call.sendall(' '.join(sys.argv[2:]).encode())\n"
    "call.shutdown(socket.SHUT_WR)\n"
    "sys.exit(call.makefile().read() or 0)\n"
)


@dataclass(frozen=True, slots=True)
class Restart:
    """One component of one node was away, and healthy again at the end (Unix time)."""

    node: str
    component: str
    begin: float
    end: float


def unexplained(restarts: Iterable[Restart], failures: Iterable[Failure]) -> list[Failure]:
    """Those of the failures that neither a restart explains, which ends connections, nor a machine that is late."""
    away = [(restart.begin - 1, restart.end + 5) for restart in restarts]
    return [each for each in failures if not each.late and not any(begin < each.at < end for begin, end in away)]


def bearable(restarts: Collection[Restart], worked: int) -> int:
    """How many requests may fail in all: one in a hundred, or three for each restart, where a slow machine made few."""
    return max(worked // 100, 3 * len(restarts))


@dataclass(slots=True)
class Restarts:
    """What has been restarted, oldest first; `away` are API servers that nobody is sent to."""

    kubernetes: Kubernetes
    done: list[Restart] = field(default_factory=list)
    away: set[tuple[str, int]] = field(default_factory=set)
    ending: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def serving(self) -> list[tuple[str, int]]:
        """The API servers that a load balancer would send somebody to now."""
        return [api for api in self.kubernetes.apis if api not in self.away] or self.kubernetes.apis

    def of(self, node: KubeNode) -> dict[str, list[str]]:
        """The components that read a bundle only when they start, in the version that runs, by the key of its hooks."""
        minor = self.kubernetes.programs.minor
        found: dict[str, list[str]] = {}
        for reader in readers.READERS:
            components = found.setdefault(bundle(reader.ca).removesuffix(".crt"), [])
            if reader.at_start(minor) and reader.role in node.roles and reader.component not in components:
                components.append(reader.component)
        if self.kubernetes.cluster.model.service_account_keys and NodeRole.CONTROL_PLANE in node.roles:
            found[SERVICE_ACCOUNT_KEYS] = [API_SERVER]
        return {key: components for key, components in found.items() if components}

    def configure(self, node: KubeNode) -> None:
        """Writes into agent.yaml that a new bundle restarts what has read the old one."""
        words = [sys.executable, "-I", "-S", "-c", _HOOK, self._address(node)]
        told = {key: [[*words, *components]] for key, components in self.of(node).items()}
        if told:
            node.node.configure("hook_timeout: 1m\n", f"hook_timeout: {HOOK_SECONDS}s\nhooks: {json.dumps(told)}\n")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Does what hooks ask for until the end, of all nodes at once: nothing here makes one wait for another."""
        for node in self.kubernetes.nodes.values():
            self.serve(node)
        try:
            yield
        finally:
            self.ending.set()
            for thread in self.threads:
                thread.join(2 * HEALTHY_SECONDS)

    def serve(self, node: KubeNode) -> None:
        """The same of one node more, until the end."""
        # Where the agent is: abstract names are of a network.
        with node.machine.network():
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(f"\0{self._address(node)}")
        listening.listen()
        listening.settimeout(0.2)
        # One for each node, which lives on: with it ends what it has started.
        self.threads.append(threading.Thread(target=self._serve, args=(node, listening), daemon=True))
        self.threads[-1].start()

    def _address(self, node: KubeNode) -> str:
        return f"{self.kubernetes.cluster.name}-{node.name}"

    def _serve(self, node: KubeNode, listening: socket.socket) -> None:
        with listening:
            while not self.ending.is_set():
                with contextlib.suppress(TimeoutError):
                    call, _ = listening.accept()
                    with call, contextlib.suppress(OSError):
                        call.settimeout(10)
                        asked = call.makefile().read().split()
                        call.sendall(self._restart(node, asked).encode())

    def _restart(self, node: KubeNode, names: list[str]) -> str:
        for name in names:
            begin = time.time()
            if name == API_SERVER:
                self.away.add((node.address, API_PORT))
                time.sleep(DRAIN_SECONDS)
            try:
                node.machine.processes[name].restart()
                healthy = functools.partial(_HEALTHY[name], self.kubernetes, node)
                unhealthy = f"{name} of {node.name} is not healthy".format
                wait_for(healthy, HEALTHY_SECONDS, unhealthy, pause=0.3)
            except (AssertionError, OSError) as error:
                return str(error)
            self.away.discard((node.address, API_PORT))
            self.done.append(Restart(node.name, name, begin, time.time()))
        return ""


def _etcd(kubernetes: Kubernetes, node: KubeNode) -> bool:
    endpoint = f"--endpoints=https://{node.address}:{ETCD_PORT}"
    words: list[str | Path] = [
        kubernetes.programs.path("etcdctl"),
        endpoint,
        *pages.flags("etcdctl", node.pki),
        "endpoint",
        "health",
    ]
    return node.machine.run(*words, expect=None).returncode == 0


def _kube_apiserver(kubernetes: Kubernetes, node: KubeNode) -> bool:
    return kubernetes.ready(at=node)


def _answers(port: int, kubernetes: Kubernetes, node: KubeNode) -> bool:
    return node.machine.answers(port)


def _answers_inside(port: int, kubernetes: Kubernetes, node: KubeNode) -> bool:
    """The same of one that listens on loopback by itself, as kube-proxy does for its health."""
    return node.machine.answers(port) or node.machine.answers(port, "127.0.0.1")


_HEALTHY: Mapping[str, Callable[[Kubernetes, KubeNode], bool]] = {
    "etcd": _etcd,
    API_SERVER: _kube_apiserver,
    **{name: functools.partial(_answers, port) for name, port in METRICS_PORTS.items()},
    "kubelet": functools.partial(_answers, KUBELET_PORT),
    "kube-proxy": functools.partial(_answers_inside, PROXY_PORT),
}
