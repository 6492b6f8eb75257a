"""Servers that kube-apiserver calls as it would a kubelet, an aggregated API and etcd, and that note by which pair."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import trustme

from helpers.kube.certificates_in_use import Use, only_node
from helpers.kube.components import ETCD_PORT
from helpers.kube.kube_cluster import Kubernetes
from helpers.kube.machines import Ran, accepting
from helpers.vault.servers import wait_for
from vaultpki.certificates import bundle

NODE = "witness"
GROUP = "rotation.invalid"
PATHS = {
    "kube-apiserver-kubelet": f"/api/v1/nodes/{NODE}/proxy/",
    "front-proxy-client": f"/apis/{GROUP}/v1",
}
"""What to ask kube-apiserver for so that it shows a row's pair."""
ETCD = "kube-apiserver-etcd"

_BODY = json.dumps({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/v1", "resources": []})
_ANSWER = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n"
_ANSWER += f"Connection: close\r\n\r\n{_BODY}"


@dataclass(frozen=True, slots=True)
class Server:
    """One that is called with a row's pair: its own pair in one file, whose clients it lets in, and what it says."""

    row: str
    pair: Path
    trusted: Path
    answer: str = _ANSWER

    def context(self) -> ssl.SSLContext:
        """For one connection, since the files are renewed."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.trusted))
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_cert_chain(self.pair)
        # gRPC calls nobody who does not say that he speaks HTTP/2; the others have no say.
        context.set_alpn_protocols([] if self.answer else ["h2"])
        return context


def spec(kubernetes: Kubernetes) -> str:
    """A node for cluster.yaml: the witness as a worker, with the address it listens at."""
    return f"- {{name: {NODE}, roles: [worker], addresses: [{kubernetes.outside.address}]}}\n"


@contextlib.contextmanager
def called(kubernetes: Kubernetes, pki: Path, folder: Path, seen: list[Use]) -> Iterator[None]:
    """A kubelet (whose files are in `pki`) and an aggregated API outside, which note in `seen` how they are called."""
    node = only_node(kubernetes)
    ca, service = trustme.CA(), "witness"
    pair = folder / "aggregated.pem"
    pair.write_bytes(ca.issue_cert(f"{service}.default.svc").private_key_and_cert_chain_pem.bytes())
    kubelet = Server("kube-apiserver-kubelet", pki / "kubelet.pem", node.pki / bundle("kubernetes"))
    aggregated = Server("front-proxy-client", pair, node.pki / bundle("front-proxy"))
    with (
        _noting(kubelet, kubernetes.outside.listen(), seen) as kubelet_port,
        _noting(aggregated, kubernetes.outside.listen(), seen) as aggregated_port,
    ):
        _register_node(kubernetes, kubelet_port)
        register_api(kubernetes, GROUP, service, aggregated_port, ca.cert_pem.bytes())
        for path in PATHS.values():
            _await_answer(kubernetes, path)
        yield


def _await_answer(kubernetes: Kubernetes, path: str) -> None:
    def ask() -> Ran:
        return kubernetes.kubectl(kubernetes.admin, "get", "--raw", path, expect=None)

    wait_for(lambda: ask().returncode == 0, 30, lambda: f"nobody answers at {path}: {ask().stderr}", pause=0.3)


@contextlib.contextmanager
def instead_of_etcd(kubernetes: Kubernetes, seen: list[Use]) -> Iterator[None]:
    """Cuts kube-apiserver's connections to etcd; meanwhile whoever calls etcd gets one that has nothing to say."""
    node = only_node(kubernetes)
    etcd = Server(ETCD, node.pki / "etcdserver.pem", node.pki / bundle("etcd"), answer="")
    with node.machine.network():
        listening = socket.create_server(("", 0))
    with _noting(etcd, listening, seen) as port:
        to_etcd = ("-p", "tcp", "-d", node.address, "--dport", str(ETCD_PORT))
        rule = ("OUTPUT", *to_etcd, "-j", "DNAT", "--to-destination", f"{node.address}:{port}")
        node.machine.run("iptables", "-w", "-t", "nat", "-I", *rule)
        try:
            node.machine.run("ss", "--kill", "--tcp", "dst", node.address, "dport", "=", str(ETCD_PORT))
            yield
        finally:
            node.machine.run("iptables", "-w", "-t", "nat", "-D", *rule)
            # Those that were led astray.
            node.machine.run("ss", "--kill", "--tcp", "sport", "=", str(port))


def connections_to_etcd(kubernetes: Kubernetes) -> set[str]:
    """The clients' ends of all that are established."""
    node = only_node(kubernetes)
    filters = ("state", "established", "dst", node.address, "dport", "=", str(ETCD_PORT))
    said = node.machine.run("ss", "--no-header", "--tcp", "--numeric", *filters).stdout
    return {line.split()[2] for line in said.splitlines()}


def _noting(server: Server, listening: socket.socket, seen: list[Use]) -> AbstractContextManager[int]:
    """Takes each connection for one request, so that each request brings the pair that is in use then."""

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(10)
            with server.context().wrap_socket(connection, server_side=True) as session:
                leaf = session.getpeercert(binary_form=True) or b""
                seen.append(Use(server.row, hashlib.sha256(leaf).hexdigest(), time.time()))
                session.recv(65536)
                session.sendall(server.answer.encode())

    return accepting(listening, serve)


def _register_node(kubernetes: Kubernetes, port: int) -> None:
    """With a taint, since no pod could run there."""
    taint = {"key": "witness", "effect": "NoSchedule"}
    kubernetes.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "spec": {"taints": [taint]}})
    status = {
        "addresses": [{"type": "InternalIP", "address": kubernetes.outside.address}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    patch = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    kubernetes.kubectl(kubernetes.admin, "patch", "node", NODE, *patch)


def register_api(kubernetes: Kubernetes, group: str, service: str, port: int, ca: bytes) -> None:
    """Make kube-apiserver ask a server outside for this group, under a service's name, by these CAs (PEM)."""
    kubernetes.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": service},
            "spec": {"ports": [{"port": 443, "targetPort": port, "protocol": "TCP"}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [kubernetes.outside.address]}],
            "ports": [{"port": port, "protocol": "TCP", "name": ""}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"v1.{group}"},
            "spec": {
                "group": group,
                "version": "v1",
                "service": {"name": service, "namespace": "default"},
                "caBundle": encoded(ca),
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
            },
        },
    )


def encoded(ca: bytes) -> str:
    """CAs as a `caBundle`."""
    return base64.b64encode(ca).decode()
