"""Takes the inventory of a running cluster: its API server, machines' disks, and what its listeners present.

Only GET requests and TLS handshakes are made, each bounded in time and size. Nothing is written.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from vaultpki.adopt import etcd, machine
from vaultpki.adopt.found import ClusterInventory, InUse, ListenerSeen, Machine
from vaultpki.errors import ToolMissing
from vaultpki.host import presented
from vaultpki.kube import whole as whole_cluster
from vaultpki.kube.cluster import Copied
from vaultpki.kube.details import StaticPod
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.kube.whole import WholeCluster
from vaultpki.layout import API_PORT, DIRECTORY, ETCD_PEER_PORT, ETCD_PORT
from vaultpki.live.listeners import dns_name
from vaultpki.live.trust import readable_certificates
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts

TOTAL: Final = 600.0
"""How many seconds the whole may take: what is not reached by then is not read."""

# For one listener that does not answer.
_SECONDS: Final = 5.0
_HTTPS: Final = 443
_COPIES: Final = {Copied.CLIENTS: "kubernetes", Copied.FRONT_PROXY: "front-proxy"}


def take(access: KubeAccess, roots: Sequence[str], now: datetime) -> ClusterInventory:
    """Return the inventory of the cluster that `access` leads to, with the disks below `roots`.

    Raises Unavailable or Untrusted if the API server cannot be talked to, and VaultpkiError if it does not accept the
    kubeconfig's user.
    """
    deadline = time.monotonic() + TOTAL
    whole = whole_cluster.read(access, deadline)
    folder = whole_cluster.directory(whole.static, whole.settings)
    machines, foreign = _machines(roots, folder, whole, access)
    static = _static(whole, machines)
    cas = _cas(whole, machines, access)
    listeners = _listeners(access, whole, static, deadline)
    certificates = tuple(_in_use(listeners, machines, cas))
    signed = {_host(each): each.facts for each in certificates if each.row == "etcd-server" and each.served and each.ca}
    members = (*etcd.stacked(static), *etcd.external(static, whole.nodes, signed.get, _resolved))
    nodes = {host: member.node for member in members if not member.stacked for host in member.hosts}

    def named(each: InUse) -> InUse:
        of_etcd = not each.node and each.row.startswith("etcd-")
        return replace(each, node=nodes.get(_host(each), "")) if of_etcd else each

    return ClusterInventory(
        server=access.server,
        now=now,
        whole=whole,
        static=static,
        machines=machines,
        foreign=foreign,
        listeners=listeners,
        cas=cas,
        members=members,
        certificates=tuple(map(named, certificates)),
        directory=folder or next((each.directory for each in machines), DIRECTORY),
    )


def _machines(
    roots: Iterable[str], folder: str, whole: WholeCluster, access: KubeAccess
) -> tuple[tuple[Machine, ...], tuple[Machine, ...]]:
    """Return the machines of the cluster, and those whose CA is another cluster's."""
    known = {facts.fingerprint for facts in _by_copies(whole).get("kubernetes", ())}
    known |= {facts.fingerprint for facts in readable_certificates(access.ca_pem)}
    own: list[Machine] = []
    foreign: list[Machine] = []
    for root in roots:
        found = machine.read(root, folder)
        held = {facts.fingerprint for facts in found.cas.get("kubernetes", ())}
        # A worker has the file too; where it cannot be read, nothing speaks against the machine.
        (own if not held or held & known else foreign).append(found)
    return tuple(own), tuple(foreign)


def _static(whole: WholeCluster, machines: Sequence[Machine]) -> tuple[StaticPod, ...]:
    shown = {(pod.node, pod.component) for pod in whole.static}
    return whole.static + tuple(
        replace(pod, node=each.node)
        for each in machines
        for pod in each.static
        if (each.node, pod.component) not in shown and "static pods" in whole.unread
    )


def _by_copies(whole: WholeCluster) -> dict[str, tuple[Facts, ...]]:
    found: dict[str, tuple[Facts, ...]] = {}
    for copy in whole.live.copies:
        if copy.copied in _COPIES:
            cas = tuple(facts for facts in readable_certificates(copy.pem) if facts.is_ca)
            if cas:
                found[_COPIES[copy.copied]] = cas
    return found


def _cas(whole: WholeCluster, machines: Sequence[Machine], access: KubeAccess) -> dict[str, tuple[Facts, ...]]:
    """Return the cluster's CAs by domain: by what kube-apiserver publishes of its own files, and by disks."""
    found = _by_copies(whole)
    for each in machines:
        for ca, held in each.cas.items():
            more = tuple(facts for facts in held if facts.is_ca)
            found[ca] = tuple(dict.fromkeys((*found.get(ca, ()), *more)))
    if "kubernetes" not in found:
        # The person's own file; what stands in front of the API server may have a certificate of another CA.
        found["kubernetes"] = tuple(facts for facts in readable_certificates(access.ca_pem) if facts.is_ca)
    return {ca: found[ca] for ca in ("kubernetes", "front-proxy", "etcd") if found.get(ca)}


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
    addresses = {node.name: node.of_type("InternalIP") for node in whole.nodes}
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


def _in_use(
    listeners: Iterable[ListenerSeen], machines: Iterable[Machine], cas: Mapping[str, Sequence[Facts]]
) -> Iterator[InUse]:
    for each in listeners:
        if each.leaf is not None:
            yield InUse(each.node, each.row, True, each.place, each.leaf, _signer(each.leaf, cas))
    for one in machines:
        for row, path, facts in one.leaves:
            yield InUse(one.node, row, False, path, facts, _signer(facts, cas))


def _signer(leaf: Facts, cas: Mapping[str, Sequence[Facts]]) -> str:
    """Return the domain whose CA has signed it, "" if none has."""
    return next((ca for ca, held in cas.items() if x509.issuer_of(leaf, held) is not None), "")


def _host(served: InUse) -> str:
    return served.place.rpartition(":")[0].strip("[]") if served.served else ""


def _resolved(host: str) -> tuple[str, ...]:
    """Return the addresses of a host name, none if it is not known here."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(each[4][0]) for each in found))
