"""Says which listeners a running cluster has, and which of them can be tried from here; pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from vaultpki.certificates import rows
from vaultpki.identity.access import holder_of
from vaultpki.kube.cluster import LiveNode, PodFlags
from vaultpki.kube.flags import flags_of, own_listener, sni_names
from vaultpki.layout import advertised, listener_cas, listener_port
from vaultpki.live.checks import found, not_checked
from vaultpki.model import Certificate, Cluster, Node, NodeRole, Pool, Row
from vaultpki.values import hosts
from vaultpki.verify.forbidden_signing import certificates_of
from vaultpki.verify.on_disk import Check

API: Final = "kube-apiserver"
KUBELET: Final = "kubelet"
FRONT_PROXY: Final = "front-proxy"

# kubernetes pkg/cluster/ports/ports.go.
_OWN_MACHINE: Final = {"kube-controller-manager": 10257, "kube-scheduler": 10259}
_HTTPS: Final = 443
_LOOPBACK: Final = "127.0.0.1"

# What only a client that is let in gets; nothing in it is secret.
_PATHS: Final = {API: "/api/v1/nodes?limit=1", KUBELET: "/healthz", "etcd-server": "/version", "etcd-peer": "/members"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place where a component listens: `label` for people, and `path` is what a client asks for there.

    `name` is that of the server row, or of a component with a certificate beside the table. `candidates` are the nodes
    that may answer, with what each must present; none for such a component. `cas` are the CAs whose clients it accepts,
    the first one that of its users. `server_name` is the name by which a certificate of its own is asked for (SNI).
    """

    label: str
    name: str
    address: str
    port: int
    candidates: tuple[tuple[str, Certificate], ...]
    cas: tuple[str, ...]
    path: str
    server_name: str = ""


def listeners(
    cluster: Cluster,
    live: Sequence[LiveNode],
    server: str,
    local: Callable[[str], bool],
    pods: Sequence[PodFlags] = (),
) -> tuple[tuple[Endpoint, ...], tuple[Check, ...]]:
    """Return every listener that can be tried from here, and the others as not checked.

    `server` is the URL in the kubeconfig. `local` says whether an address is this machine's. `pods` are static pods,
    whose flags say where they listen, and for which names they have certificates of their own.
    """
    given = {(pod.node, pod.component): pod.arguments for pod in pods}
    found_here = [*_of_listed(cluster, live), *_of_pools(cluster, live), *_own_machine(cluster, local, given)]
    made = [each for each in found_here if isinstance(each, Endpoint)]
    made += [named for each in made for named in _by_name(each, given)]
    made += _endpoints(cluster, server, {(each.address, each.port) for each in made})
    return tuple(made), tuple(each for each in found_here if isinstance(each, Check))


def _of_listed(cluster: Cluster, live: Sequence[LiveNode]) -> Iterator[Endpoint | Check]:
    by_name = {row.name: row for row in rows(cluster)}
    known = {node.name: node for node in live}
    for node, want in _servers(cluster):
        shown = known.get(node.name)
        port = listener_port(cluster, want.name)
        if want.name == KUBELET and shown is not None:
            port = shown.port
        addresses = advertised(cluster, node) or node.addresses[:1]
        if not addresses and want.name == KUBELET and shown is not None:
            addresses = shown.addresses[:1]
        if port is None or not addresses:
            why = "cluster.yaml does not say where this server listens"
            yield not_checked("listener", f"{node.name}/{want.name}", want.name, why)
            continue
        for address in addresses:
            yield _listener(cluster, by_name[want.name], node.name, address, port, ((node.name, want),))


def _servers(cluster: Cluster) -> Iterator[tuple[Node, Certificate]]:
    for node in cluster.nodes:
        yield from ((node, want) for want in certificates_of(cluster, node.name, node) if want.usage.server)


def _of_pools(cluster: Cluster, live: Sequence[LiveNode]) -> Iterator[Endpoint | Check]:
    """Yield the kubelets of pooled nodes, whose addresses only the Node objects have."""
    row = next(row for row in rows(cluster) if row.name == KUBELET)
    for known in live:
        pool = holder_of(cluster, known.name)
        wanted = certificates_of(cluster, known.name, pool) if isinstance(pool, Pool) else ()
        for want in wanted:
            if want.name == KUBELET and not known.addresses:
                why = "its Node object has no address at which it can be reached"
                yield not_checked("listener", f"{known.name}/{KUBELET}", KUBELET, why)
            for address in known.addresses[:1] if want.name == KUBELET else ():
                yield _listener(cluster, row, known.name, address, known.port, ((known.name, want),))


def _own_machine(
    cluster: Cluster, local: Callable[[str], bool], given: Mapping[tuple[str, str], tuple[str, ...]]
) -> Iterator[Endpoint | Check]:
    """Yield the listeners of the controller managers and schedulers: kubeadm has them on the loopback address."""
    for node in cluster.nodes:
        for name, usual in _OWN_MACHINE.items() if NodeRole.CONTROL_PLANE in node.roles else ():
            arguments = given.get((node.name, name))
            address, port = own_listener(flags_of(arguments), usual) if arguments is not None else (_LOOPBACK, usual)
            address = address or next(iter(node.addresses), _LOOPBACK)
            label = f"{node.name}/{name} {hosts.in_url(address)}:{port}"
            if not port:
                yield not_checked("listener", label, name, "its --secure-port is 0, so it listens nowhere")
            elif not hosts.is_loopback(address) or any(map(local, node.addresses)):
                yield Endpoint(label, name, address, port, (), ("kubernetes", FRONT_PROXY), "/metrics")
            else:
                why = "it listens on its own machine only; run this command there"
                yield not_checked("listener", label, name, why)


def _by_name(listener: Endpoint, given: Mapping[tuple[str, str], tuple[str, ...]]) -> Iterator[Endpoint]:
    """Yield a listener once more for each name for which its flags give it a certificate of its own."""
    node = listener.label.partition("/")[0]
    for name in sni_names(given.get((node, listener.name), ())):
        yield replace(listener, label=f"{listener.label} as {name}", candidates=(), server_name=name)


def _endpoints(cluster: Cluster, server: str, there: set[tuple[str, int]]) -> Iterator[Endpoint]:
    """Yield the endpoint of the API server, and the one of the kubeconfig, if they are not a node's own."""
    row = next(row for row in rows(cluster) if row.name == API)
    wanted = tuple((node.name, want) for node, want in _servers(cluster) if want.name == API)
    for url in dict.fromkeys(filter(None, (cluster.api_server.endpoint, server))):
        parts = urlsplit(url)
        at = (parts.hostname or "", parts.port or _HTTPS)
        if at not in there and wanted:
            there.add(at)
            yield _listener(cluster, row, "endpoint", *at, wanted)


def _listener(
    cluster: Cluster, row: Row, node: str, address: str, port: int, candidates: tuple[tuple[str, Certificate], ...]
) -> Endpoint:
    label = f"{node}/{row.name} {hosts.in_url(address)}:{port}"
    return Endpoint(label, row.name, address, port, candidates, listener_cas(row, rows(cluster)), _PATHS[row.name])


def node_checks(cluster: Cluster, live: Sequence[LiveNode]) -> Iterator[Check]:
    """Check that Node objects and cluster.yaml agree on names and addresses: certificates are made for those."""
    listed = {node.name: node for node in cluster.nodes}
    for one in live:
        node = listed.get(one.name)
        problem = ""
        if holder_of(cluster, one.name) is None:
            problem = f"is not a node of {cluster.file}, and no pool takes its name"
        elif node is not None and (others := [each for each in one.addresses if each not in node.addresses]):
            problem = f"is called at {', '.join(others)}, which its certificate does not name"
        yield found("node", "API server", one.name, refusal=problem)
    there = {one.name for one in live}
    for node in cluster.nodes:
        if NodeRole.WORKER in node.roles and node.name not in there:
            yield not_checked("node", "API server", node.name, "has no Node object; its kubelet has not registered")


def dns_name(address: str) -> str:
    """Return the server name to send to an address: none for an IP address (RFC 6066, section 3)."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return address
    return ""
