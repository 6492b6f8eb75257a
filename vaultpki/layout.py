"""Contains where the bundles and folders of a node are in each layout; the table has the places of the pairs."""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from vaultpki.certificates import ISSUING_CAS, bundle, chain_bundle, laid_out
from vaultpki.model import Certificate, Cluster, Node, NodeRole, Row
from vaultpki.places import ETCD, KUBECONFIGS, KUBELET, PKI, SCHEDULER, KubeconfigFile, Layout


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """One file with the certificates of the issuing CA `ca`, and with `chain` also the root.

    Nodes with one of `roles` have it, and nodes with a certificate of the CA; empty `roles` mean every node.
    """

    ca: str
    folder: str
    file: str
    chain: bool = False
    roles: frozenset[NodeRole] = frozenset()


DIRECTORY: Final = "/etc/kubernetes/pki"
"""The default of `directory`, which is kubeadm's certificatesDir too."""

_KUBERNETES: Final = "/etc/kubernetes"
_KUBELETS: Final = "/var/lib/kubelet/pki"

_ON_ETCD = frozenset({NodeRole.CONTROL_PLANE, NodeRole.ETCD})
_ON_CONTROL_PLANE = frozenset({NodeRole.CONTROL_PLANE})

# The first bundle of a CA is the one for readers without one in their own folder.
TRUST_BUNDLES: Final[Mapping[Layout, tuple[TrustBundle, ...]]] = {
    Layout.DOCUMENT: tuple(
        TrustBundle(ca, PKI, file, chain)
        for ca in ISSUING_CAS
        for file, chain in ((bundle(ca), False), (chain_bundle(ca), True))
    ),
    Layout.KUBEADM: (
        TrustBundle("kubernetes", PKI, "ca.crt"),
        TrustBundle("kubernetes", PKI, "ca-chain.crt", chain=True),
        TrustBundle("kubelet", PKI, "kubelet-ca.crt"),
        TrustBundle("kubelet", PKI, "kubelet-ca-chain.crt", chain=True),
        TrustBundle("front-proxy", PKI, "front-proxy-ca.crt"),
        TrustBundle("front-proxy", PKI, "front-proxy-ca-chain.crt", chain=True),
        # The static pod of etcd mounts this folder alone; kube-apiserver reads its --etcd-cafile there.
        TrustBundle("etcd", ETCD, "ca.crt", roles=_ON_ETCD),
        TrustBundle("etcd", ETCD, "ca-chain.crt", chain=True, roles=_ON_ETCD),
        # Mounted alone, so that the scheduler's pod gets no key but its own.
        TrustBundle("kubernetes", SCHEDULER, "ca.crt", roles=_ON_CONTROL_PLANE),
    ),
}

PLAIN_KUBECONFIGS: Final = tuple(
    row.kubeconfig
    for row in laid_out(Layout.KUBEADM)
    if row.kubeconfig and row.kubeadm is not None and row.kubeadm.kubeconfig is not KubeconfigFile.LINKED
)
"""The kubeconfigs of a node that are plain files in kubeadm's layout."""


class OldCaFiles(NamedTuple):
    """The folder of a CA of kubeadm's own, and the names of its certificate and its key there."""

    folder: str
    crt: str
    key: str


OLD_CA_FILES: Final = {
    "kubernetes": OldCaFiles(PKI, "ca.crt", "ca.key"),
    "front-proxy": OldCaFiles(PKI, "front-proxy-ca.crt", "front-proxy-ca.key"),
    "etcd": OldCaFiles(ETCD, "ca.crt", "ca.key"),
}
"""The files of kubeadm's own CAs, by domain (kubernetes cmd/kubeadm/app/constants/constants.go)."""

CA_KEYS: Final = tuple((each.folder, each.key) for each in OLD_CA_FILES.values())
"""The keys of kubeadm's own CAs, by folder."""


def trust_bundles(
    layout: Layout, roles: Collection[NodeRole], certificates: Collection[Certificate | Row]
) -> tuple[TrustBundle, ...]:
    """Return the bundles of a node with these roles and certificates, or rows."""
    cas = {certificate.ca for certificate in certificates}
    return tuple(
        each
        for each in TRUST_BUNDLES[layout]
        if not each.roles or each.roles.intersection(roles) or (each.ca in cas and each.folder == ETCD)
    )


def bundle_of(layout: Layout, ca: str, folder: str = "", *, chain: bool = False) -> TrustBundle:
    """Return the bundle of a CA for a reader in `folder`: the one there, or the CA's first one."""
    known = [each for each in TRUST_BUNDLES[layout] if each.ca == ca and each.chain is chain]
    return next((each for each in known if each.folder == folder), known[0])


def node_folders(directory: str, kubeconfigs: str | None = None, kubelet: str | None = None) -> dict[str, str]:
    """Return the paths of the folders beside `directory` in the layout kubeadm; None means the default.

    Kubeconfigs lie above a `directory` that is called pki, as kubeadm has it.
    """
    above, name = posixpath.split(directory)
    return {
        KUBELET: kubelet or _KUBELETS,
        KUBECONFIGS: kubeconfigs or (above if name == "pki" and above != "/" else _KUBERNETES),
    }


API_PORT: Final = 6443
"""The port of kube-apiserver, as kubeadm has it (cmd/kubeadm/app/apis/kubeadm/v1beta4/defaults.go)."""


ETCD_PORT: Final = 2379
ETCD_PEER_PORT: Final = 2380
"""The ports of etcd for clients, and for its other members (IANA; kubeadm has the same)."""

KUBELET_PORT: Final = 10250
"""The port of the kubelet's API (k8s.io/kubernetes pkg/cluster/ports/ports.go)."""


def advertised(cluster: Cluster, node: Node) -> tuple[str, ...]:
    """Return the addresses of a node in Kubernetes: its first one of each IP family that services have.

    The first service range comes first, because kube-apiserver must advertise an address of its family.
    """
    by_family = {ipaddress.ip_address(address).version: address for address in reversed(node.addresses)}
    families = (ipaddress.ip_network(cidr).version for cidr in cluster.api_server.service_cidr)
    return tuple(by_family[family] for family in families if family in by_family)


def api_port(cluster: Cluster) -> int:
    """Return the port of kube-apiserver on its nodes: the endpoint's if that is one of these nodes, else 6443."""
    host, _, port = (cluster.api_server.endpoint or "").partition("://")[2].rpartition(":")
    planes = [node for node in cluster.nodes if NodeRole.CONTROL_PLANE in node.roles]
    return int(port) if any(host.strip("[]") in (node.name, *node.addresses) for node in planes) else API_PORT


def client_cas(server: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the CAs whose clients this server row accepts: those of the client rows that have it as their target.

    A user's own rows do not widen what the server of a built-in row trusts.
    """
    clients = [row for row in rows if row.usage.client and row.target == server.source]
    clients = [row for row in clients if row.built_in] or clients
    return tuple(dict.fromkeys(row.ca for row in clients))


def listener_cas(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the CAs whose clients a server accepts, front proxies included; the CA of its users is first."""
    return (*client_cas(row, rows), *(("front-proxy",) if row.name == "kube-apiserver" else ()))


def listener_port(cluster: Cluster, name: str) -> int | None:
    """Return the port of the server row `name` on a listed node; None if cluster.yaml does not say it."""
    fixed = {"etcd-server": ETCD_PORT, "etcd-peer": ETCD_PEER_PORT, "kubelet": KUBELET_PORT}
    return api_port(cluster) if name == "kube-apiserver" else fixed.get(name)


def own_server(cluster: Cluster, node: Node) -> str | None:
    """Return the URL of a node's own kube-apiserver in kubeadm's layout; None if it has none.

    kubeadm has scheduler, controller manager and kubelet of a control-plane node use no other one: during an upgrade
    they must not be newer than the kube-apiserver that they talk to (kubernetes.io, version skew policy).
    """
    if cluster.layout is Layout.DOCUMENT or NodeRole.CONTROL_PLANE not in node.roles:
        return None
    address = advertised(cluster, node)[0]
    return f"https://[{address}]:{api_port(cluster)}" if ":" in address else f"https://{address}:{api_port(cluster)}"


def shown(folder: str, file: str) -> str:
    """Return the name of a file in messages: with its folder unless that is PKI."""
    return file if folder == PKI else f"{folder}/{file}"
