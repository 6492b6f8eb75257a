"""Puts together what was read of a cluster: which CAs it has, whose certificates are in use, who runs etcd; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from vaultpki.adopt import etcd
from vaultpki.adopt.found import ROWS, ClusterInventory, InUse, ListenerSeen, Machine
from vaultpki.kube import whole as whole_cluster
from vaultpki.kube.cluster import Copied
from vaultpki.kube.details import StaticPod
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.kube.whole import WholeCluster
from vaultpki.layout import DIRECTORY
from vaultpki.live.trust import readable_certificates
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts

_COPIES: Final = {Copied.CLIENTS: "kubernetes", Copied.FRONT_PROXY: "front-proxy"}
_DOMAINS: Final = ("kubernetes", "front-proxy", "etcd")


def assemble(
    access: KubeAccess,
    whole: WholeCluster,
    machines: Sequence[Machine],
    listeners: Sequence[ListenerSeen],
    now: datetime,
    resolved: Callable[[str], tuple[str, ...]],
) -> ClusterInventory:
    """Return the inventory of what was read. `resolved` returns the addresses of a host name of etcd.

    Machines whose CA is another cluster's are set apart, and nothing of them counts.
    """
    own, foreign = _apart(machines, whole, access)
    static = static_pods(whole, own)
    cas = _cas(whole, own, access)
    certificates = tuple(_in_use(listeners, own, cas))
    signed = {_host(each): each.facts for each in certificates if each.row == "etcd-server" and each.served and each.ca}
    members = (*etcd.stacked(static), *etcd.external(static, whole.nodes, signed.get, resolved))
    outside = {host: member.node for member in members if not member.stacked for host in member.hosts}
    return ClusterInventory(
        server=access.server,
        now=now,
        whole=whole,
        static=static,
        machines=own,
        foreign=foreign,
        listeners=tuple(
            replace(each, node=outside.get(each.address, "")) if _of_etcd(each) else each for each in listeners
        ),
        cas=cas,
        members=members,
        certificates=tuple(
            replace(each, node=outside.get(_host(each), "")) if _of_etcd(each) else each for each in certificates
        ),
        directory=whole_cluster.directory(static, whole.settings) or next((each.directory for each in own), DIRECTORY),
        server_name=access.server_name or "",
    )


def static_pods(whole: WholeCluster, machines: Sequence[Machine]) -> tuple[StaticPod, ...]:
    """Return the static pods that the API server shows; where the user may not see them, those of manifests.

    Any kubelet may show static pods of its own making (NodeRestriction), and none may give itself the label of a
    control plane. So only those of nodes with this label count.
    """
    if "static pods" in whole.unread:
        return tuple(replace(pod, node=each.node) for each in machines for pod in each.static)
    planes = {node.name for node in whole.nodes if node.control_plane}
    return tuple(pod for pod in whole.static if pod.node in planes or "nodes" in whole.unread)


def _of_etcd(each: ListenerSeen | InUse) -> bool:
    """Return whether it is of a member of etcd whose node is not known yet."""
    return not each.node and each.row.startswith("etcd-")


def _apart(
    machines: Iterable[Machine], whole: WholeCluster, access: KubeAccess
) -> tuple[tuple[Machine, ...], tuple[Machine, ...]]:
    """Return the machines of the cluster, and those whose CA is another cluster's."""
    known = {facts.fingerprint for facts in _by_copies(whole).get("kubernetes", ())}
    known |= {facts.fingerprint for facts in readable_certificates(access.ca_pem)}
    own: list[Machine] = []
    foreign: list[Machine] = []
    for each in machines:
        held = {facts.fingerprint for facts in each.cas.get("kubernetes", ())}
        # A worker has the file too; where it cannot be read, nothing speaks against the machine.
        (own if not held or held & known else foreign).append(each)
    return tuple(own), tuple(foreign)


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
    return {ca: found[ca] for ca in _DOMAINS if found.get(ca)}


def _in_use(
    listeners: Iterable[ListenerSeen], machines: Iterable[Machine], cas: Mapping[str, Sequence[Facts]]
) -> Iterator[InUse]:
    for each in listeners:
        if each.leaf is not None:
            yield InUse(each.node, each.row, True, each.place, each.leaf, _signer(each.leaf, cas))
    for one in machines:
        for row, path, facts in one.leaves:
            signer = _signer(facts, cas)
            # What other CAs have signed beside the table is their owners' affair.
            if signer or row in ROWS:
                yield InUse(one.node, row, False, path, facts, signer)


def _signer(leaf: Facts, cas: Mapping[str, Sequence[Facts]]) -> str:
    """Return the domain whose CA has signed it, "" if none has."""
    return next((ca for ca, held in cas.items() if x509.issuer_of(leaf, held) is not None), "")


def _host(each: InUse) -> str:
    return each.place.rpartition(":")[0].strip("[]") if each.served else ""
