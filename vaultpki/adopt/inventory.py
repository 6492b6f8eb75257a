"""Takes the inventory of a running cluster: its API server, machines' disks, and what its listeners present.

Only GET requests and TLS handshakes are made, each bounded in time and size. Nothing is written.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from vaultpki.adopt import assembly, etcd, machine
from vaultpki.adopt.found import ClusterInventory, ListenerSeen
from vaultpki.errors import ToolMissing
from vaultpki.host import presented
from vaultpki.kube import whole as whole_cluster
from vaultpki.kube.cluster import kubelet_address
from vaultpki.kube.details import StaticPod
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.kube.whole import WholeCluster
from vaultpki.layout import API_PORT, ETCD_PEER_PORT, ETCD_PORT
from vaultpki.live.listeners import dns_name

TOTAL: Final = 600.0
"""How many seconds the whole may take: what is not reached by then is not read."""

# For one listener that does not answer.
_SECONDS: Final = 5.0
_HTTPS: Final = 443


def take(access: KubeAccess, roots: Sequence[str], now: datetime) -> ClusterInventory:
    """Return the inventory of the cluster that `access` leads to, with the disks below `roots`.

    Raises Unavailable or Untrusted if the API server cannot be talked to, and VaultpkiError if it does not accept the
    kubeconfig's user.
    """
    deadline = time.monotonic() + TOTAL
    whole = whole_cluster.read(access, deadline)
    folder = whole_cluster.directory(assembly.static_pods(whole, ()), whole.settings)
    machines = tuple(machine.read(root, folder) for root in roots)
    listeners = _listeners(access, whole, assembly.static_pods(whole, machines), deadline)
    return assembly.assemble(access, whole, machines, listeners, now, _resolved)


def _listeners(
    access: KubeAccess, whole: WholeCluster, static: Sequence[StaticPod], deadline: float
) -> tuple[ListenerSeen, ...]:
    places = tuple(dict.fromkeys(_places(access, whole, static)))
    asked = {f"{number}": (address, port, dns_name(address)) for number, (*_, address, port) in enumerate(places)}
    try:
        seen = presented.ask_each(asked, _SECONDS, deadline)
    except ToolMissing as error:
        seen = dict.fromkeys(asked, str(error))
    found = []
    for number, place in enumerate(places):
        shown = seen[f"{number}"]
        if isinstance(shown, str):
            found.append(ListenerSeen(*place, None, shown))
        else:
            leaf = shown.chain[0] if shown.chain else None
            found.append(ListenerSeen(*place, leaf, "" if leaf else shown.unreadable or "it presents no certificate"))
    return tuple(found)


def _places(
    access: KubeAccess, whole: WholeCluster, static: Sequence[StaticPod]
) -> Iterator[tuple[str, str, str, int]]:
    """Yield node, row, address and port of every listener; the node is empty where a balancer may answer."""
    # A node writes its addresses itself, and may write one of this machine or its network.
    addresses = {
        node.name: tuple(filter(None, map(kubelet_address, node.of_type("InternalIP")))) for node in whole.nodes
    }
    at = set()
    for pod in static:
        if pod.component == "kube-apiserver":
            host = pod.flags.get("advertise-address") or next(iter(addresses.get(pod.node, ())), "")
            given = pod.flags.get("secure-port", "")
            if host:
                place = (pod.node, "kube-apiserver", host, int(given) if given.isdecimal() else API_PORT)
                at.add(place[2:])
                yield place
        elif pod.component == "etcd":
            yield from ((pod.node, *each) for each in etcd.ports(pod))
    for scheme, host, port in etcd.servers(static):
        if scheme == "https":
            yield "", "etcd-server", host, port
            if port == ETCD_PORT:
                yield "", "etcd-peer", host, ETCD_PEER_PORT
    for node in whole.nodes:
        for address in addresses[node.name][:1]:
            yield node.name, "kubelet", address, node.port
    url = urlsplit(access.server)
    if (url.hostname, url.port or _HTTPS) not in at:
        yield "", "kube-apiserver", url.hostname or "", url.port or _HTTPS


def _resolved(host: str) -> tuple[str, ...]:
    """Return the addresses of a host name, none if it is not known here."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(each[4][0]) for each in found))
