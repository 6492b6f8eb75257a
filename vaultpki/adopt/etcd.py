"""Says who the members of etcd are: static pods of kubeadm, and what else kube-apiserver calls; pure.

Flags of etcd are those of its own configuration; kubeadm writes them in cmd/kubeadm/app/phases/etcd/local.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlsplit

from vaultpki.adopt.found import EtcdMember
from vaultpki.kube.details import NodeObject, StaticPod
from vaultpki.layout import ETCD_PEER_PORT, ETCD_PORT
from vaultpki.pki.facts import Facts
from vaultpki.records.adoption import ClusterShape
from vaultpki.values import hosts, names

_CLIENTS = "advertise-client-urls"
_PEERS = "initial-advertise-peer-urls"


def urls(text: str) -> tuple[tuple[str, str, int | None], ...]:
    """Return scheme, host and port of each URL in a list with commas; what is no URL is left out."""
    found = []
    for url in text.split(","):
        try:
            parts = urlsplit(url.strip())
            if parts.hostname:
                found.append((parts.scheme, parts.hostname, parts.port))
        except ValueError:
            continue
    return tuple(found)


def stacked(static: Sequence[StaticPod]) -> Iterator[EtcdMember]:
    """Yield the members that kubeadm runs beside kube-apiserver."""
    for pod in static:
        if pod.component == "etcd":
            called = [*urls(pod.flags.get(_CLIENTS, "")), *urls(pod.flags.get(_PEERS, ""))]
            where = tuple(dict.fromkeys(host for _, host, _ in called))
            addresses = tuple(host for host in where if hosts.is_address(host))
            plain = any(scheme == "http" for scheme, _, _ in called)
            yield EtcdMember(pod.flags.get("name") or pod.node, pod.node, True, where, addresses, not plain)


def servers(static: Sequence[StaticPod]) -> tuple[tuple[str, str, int], ...]:
    """Return scheme, host and port of the servers that kube-apiservers call and that are no static pods of kubeadm."""
    own = {host for member in stacked(static) for host in member.hosts}
    found = [
        (scheme, host, port or ETCD_PORT)
        for pod in static
        if pod.component == "kube-apiserver"
        for scheme, host, port in urls(pod.flags.get("etcd-servers", ""))
    ]
    return tuple(
        dict.fromkeys(each for each in found if each[1] not in own | {"localhost"} and not hosts.is_loopback(each[1]))
    )


def external(
    static: Sequence[StaticPod],
    nodes: Sequence[NodeObject],
    leaf_of: Callable[[str], Facts | None],
    resolved: Callable[[str], tuple[str, ...]],
) -> Iterator[EtcdMember]:
    """Yield the members that kubeadm does not run, each with the name of its machine.

    `leaf_of` returns what a host presents if a CA of the cluster has signed it, and `resolved` the addresses of a host
    name. A machine without a Node object is called as its certificate, else as its host name, else by a number.
    """
    taken = {node.name for node in nodes}
    for number, (scheme, host, _) in enumerate(servers(static), 1):
        leaf = leaf_of(host)
        addresses = (host,) if hosts.is_address(host) else resolved(host)
        called = [leaf.subject.common_name, *leaf.subject.dns] if leaf is not None else []
        # A node writes its addresses itself: only etcd's own certificate says that it is the same machine.
        node = next((one.name for one in nodes if one.name in called and set(addresses) & one.called), "")
        called += [] if hosts.is_address(host) else [host]
        fitting = (each for each in called if names.fits(each, hosts.node_name) and each != "localhost")
        name = node or next((each for each in fitting if each not in taken), f"etcd-{number}")
        taken.add(name)
        yield EtcdMember(name, name, False, (host,), addresses, scheme != "http")


def shape(static: Sequence[StaticPod], members: Sequence[EtcdMember]) -> ClusterShape:
    """Return whose restarts take the API of the whole cluster away."""
    if len(members) == 2 and all(each.stacked for each in members):
        return ClusterShape.TWO_MEMBERS
    planes = [pod for pod in static if pod.component == "kube-apiserver"]
    return ClusterShape.ONE_PLANE if len(planes) == 1 else ClusterShape.OTHER


def ports(pod: StaticPod) -> Iterator[tuple[str, str, int]]:
    """Yield the row, the host and the port at which a member of kubeadm is called."""
    for row, flag, port in (("etcd-server", _CLIENTS, ETCD_PORT), ("etcd-peer", _PEERS, ETCD_PEER_PORT)):
        for scheme, host, own in urls(pod.flags.get(flag, ""))[:1]:
            if scheme == "https":
                yield row, host, own or port
