"""Which CAs a cluster uses: behind its leaves, in its bundles, and at the doors of its components."""

from __future__ import annotations

import functools
from pathlib import Path

from helpers.kube.access_matrix import METRICS_PORTS, Heard, ask, holders
from helpers.kube.components import API_PORT, ETCD_PEER_PORT, ETCD_PORT, KUBELET_PORT
from helpers.kube.kube_cluster import Kubernetes
from helpers.vault.servers import wait_for
from vaultpki.certificates import bundle, pair_files, rows
from vaultpki.model import NodeRole
from vaultpki.pki import x509

SECONDS = 60.0


def leaves(kubernetes: Kubernetes, domain: str) -> dict[str, str]:
    """The issuing CA (SHA-256) that stands behind each leaf of this CA, by node or operator, and row."""
    found = {}
    for row in rows(kubernetes.cluster.model):
        for node, folder in holders(kubernetes, row) if row.ca == domain else ():
            ca = x509.read_certificates((folder / pair_files(row.stem)[0]).read_bytes())[1]
            found[f"{node.name if node else 'operator'}'s {row.name}"] = ca.fingerprint
    return found


def trusted(kubernetes: Kubernetes, domain: str) -> dict[str, set[str]]:
    """The SHA-256 of the CAs in the bundle of each node that has one."""
    bundles = {name: node.pki / bundle(domain) for name, node in kubernetes.nodes.items()}
    return {
        name: {ca.fingerprint for ca in x509.read_certificates(file.read_bytes())}
        for name, file in bundles.items()
        if file.exists()
    }


def at_etcd(kubernetes: Kubernetes, pem: Path) -> dict[str, Heard]:
    """What the last member's own pair is told at every port of every member."""
    range_ = {"key": "AA==", "range_end": "AA==", "count_only": True}
    # A member takes a pair with an address from there alone.
    ask_there = functools.partial(ask, kubernetes.members[-1].machine, (pem, pem))
    found = {}
    for member in kubernetes.members:
        found[f"{member.name}:{ETCD_PORT}"] = ask_there((member.address, ETCD_PORT), "POST", "/v3/kv/range", range_)
        found[f"{member.name}:{ETCD_PEER_PORT}"] = ask_there((member.address, ETCD_PEER_PORT), "GET", "/members")
    return found


def at_kubernetes(kubernetes: Kubernetes, pem: Path) -> dict[str, Heard]:
    """What an admin's pair is told by everyone who trusts the clients of the kubernetes CA."""
    ports = [
        (node, port, "/metrics")
        for node in kubernetes.having(NodeRole.CONTROL_PLANE)
        for port in METRICS_PORTS.values()
    ]
    ports += [(node, API_PORT, "/api/v1/nodes") for node in kubernetes.having(NodeRole.CONTROL_PLANE)]
    ports += [(node, KUBELET_PORT, "/pods") for node in kubernetes.having(NodeRole.WORKER)]
    return {
        f"{node.name}:{port}": ask(kubernetes.outside, (pem, pem), (node.address, port), "GET", path)
        for node, port, path in ports
    }


def all_let_in(kubernetes: Kubernetes, pem: Path) -> dict[str, Heard]:
    """The same once everyone has let it in: whom a kubelet lets in it asks on a connection that it may make anew."""
    found: dict[str, Heard] = {}

    def let_in() -> bool:
        found.update(at_kubernetes(kubernetes, pem))
        return all(heard.status == 200 for heard in found.values())

    wait_for(let_in, SECONDS, lambda: str({at: (heard.status, heard.alert) for at, heard in found.items()}))
    return found


def await_refusal(kubernetes: Kubernetes, pem: Path, seconds: float) -> None:
    """Until everyone who trusts the clients of the kubernetes CA answers 401 to this pair."""
    # kube-apiserver only ever adds to what it publishes for the two that ask it for their client CAs.
    kubernetes.kubectl(
        kubernetes.admin, "delete", "configmap", "-n", "kube-system", "extension-apiserver-authentication"
    )

    def let_in() -> dict[str, Heard]:
        return {at: heard for at, heard in at_kubernetes(kubernetes, pem).items() if heard.status != 401}

    wait_for(lambda: not let_in(), seconds, lambda: str(let_in()), pause=1)
