"""THE table: every certificate a cluster needs, one row each; all else in the project is derived from it.

A row is resolved for a holder into a new `Certificate`; rows themselves never change. Names and addresses may be
placeholders: `{node}` is the holder's name, `{domain}` the cluster's DNS domain, and a whole entry of `SERVICE_IPS`,
`NODE_ADDRESSES`, `API_NAMES` or `API_ADDRESSES` stands for all values of that list.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from functools import cache
from typing import Final

from vaultpki.model import NODE, Certificate, Cluster, Node, NodeRole, Pool, Row, Subject, Usage

ROOT: Final = "root"
ISSUING_CAS: Final = ("kubernetes", "kubelet", "etcd", "front-proxy")

SERVICE_IPS: Final = "{service_ips}"
NODE_ADDRESSES: Final = "{node_addresses}"
API_NAMES: Final = "{api_names}"
API_ADDRESSES: Final = "{api_addresses}"

_MINUTE = 60
_HOUR = 60 * _MINUTE

# A client of kube-apiserver looks at its kubeconfig's pair every five minutes, counted from its own start; so does
# kube-apiserver at its kubelet pair (client-go, transport/cert_rotation.go, CertCallbackRefreshDuration).
_CLIENT_LOOK = 5 * _MINUTE

_CONTROL_PLANE = frozenset({NodeRole.CONTROL_PLANE})
_ETCD = frozenset({NodeRole.ETCD})
_WORKER = frozenset({NodeRole.WORKER})

TABLE: Final[tuple[Row, ...]] = (
    Row(
        name="admin",
        usage=Usage.CLIENT,
        source="admin",
        target="kube-apiserver",
        common_name="kubernetes-admin",
        # kubeadm >= 1.29: not system:masters, which no RBAC rule can take back (kubernetes PR 121305).
        organization=("kubeadm:cluster-admins",),
        dns=(),
        ips=(),
        ca="kubernetes",
        stem="admin",
        kubeconfig="admin.conf",
        reload=_CLIENT_LOOK,
        manifest="cluster-admins.yaml",
        document=True,
    ),
    Row(
        name="kube-scheduler",
        usage=Usage.CLIENT,
        source="kube-scheduler",
        target="kube-apiserver",
        common_name="system:kube-scheduler",
        organization=(),
        dns=(),
        ips=(),
        ca="kubernetes",
        stem="kube-scheduler",
        kubeconfig="scheduler.conf",
        node_roles=_CONTROL_PLANE,
        reload=_CLIENT_LOOK,
        document=True,
    ),
    Row(
        name="kube-controller-manager",
        usage=Usage.CLIENT,
        source="kube-controller-manager",
        target="kube-apiserver",
        common_name="system:kube-controller-manager",
        organization=(),
        dns=(),
        ips=(),
        ca="kubernetes",
        stem="controller-manager",
        kubeconfig="controller-manager.conf",
        node_roles=_CONTROL_PLANE,
        reload=_CLIENT_LOOK,
        document=True,
    ),
    Row(
        name="kube-proxy",
        usage=Usage.CLIENT,
        source="kube-proxy",
        target="kube-apiserver",
        common_name="system:kube-proxy",
        organization=(),
        dns=(),
        ips=(),
        ca="kubernetes",
        stem="kube-proxy",
        kubeconfig="kube-proxy.conf",
        node_roles=_WORKER,
        reload=_CLIENT_LOOK,
        document=True,
    ),
    Row(
        name="kube-apiserver-etcd",
        usage=Usage.CLIENT,
        source="kube-apiserver",
        target="etcd",
        common_name="kube-apiserver-etcd-client",
        organization=(),
        dns=(),
        ips=(),
        ca="etcd",
        stem="kube-apiserver-etcd",
        node_roles=_CONTROL_PLANE,
        document=True,
    ),
    Row(
        name="kube-apiserver-kubelet",
        usage=Usage.CLIENT,
        source="kube-apiserver",
        target="kubelet",
        common_name="kube-apiserver-kubelet-client",
        # No group: the newest kubeadm binds the user to system:kubelet-api-admin instead (kubernetes PR 138957).
        organization=(),
        dns=(),
        ips=(),
        ca="kubernetes",
        stem="kube-apiserver-kubelet",
        node_roles=_CONTROL_PLANE,
        reload=_CLIENT_LOOK,
        manifest="kubelet-api-admin.yaml",
        document=True,
    ),
    Row(
        name="kubelet-client",
        usage=Usage.CLIENT,
        source="kubelet",
        target="kube-apiserver",
        common_name="system:node:{node}",
        organization=("system:nodes",),
        dns=(),
        ips=(),
        ca="kubernetes",
        stem="kubelet-client",
        kubeconfig="kubelet.conf",
        node_roles=_WORKER,
        reload=_CLIENT_LOOK,
        document=True,
    ),
    Row(
        name="kube-apiserver",
        usage=Usage.SERVER,
        source="kube-apiserver",
        target="-",
        common_name="kube-apiserver",
        organization=(),
        dns=(
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.{domain}",
            "{node}",
            API_NAMES,
        ),
        ips=(SERVICE_IPS, NODE_ADDRESSES, API_ADDRESSES, "127.0.0.1"),
        ca="kubernetes",
        stem="kube-apiserver",
        node_roles=_CONTROL_PLANE,
        document=True,
    ),
    Row(
        name="etcd-server",
        # Both: etcd's gRPC gateway dials its own server with the server pair.
        usage=Usage.BOTH,
        source="etcd",
        target="-",
        common_name="{node}",
        organization=(),
        dns=("{node}", "localhost"),
        ips=(NODE_ADDRESSES, "127.0.0.1", "::1"),
        ca="etcd",
        stem="etcdserver",
        node_roles=_ETCD,
        document=True,
    ),
    Row(
        name="kubelet",
        usage=Usage.SERVER,
        source="kubelet",
        target="-",
        # KEP-4872: an API server may demand that the serving certificate names the node it believes to reach.
        common_name="system:node:{node}",
        organization=("system:nodes",),
        dns=("{node}",),
        ips=(NODE_ADDRESSES,),
        ca="kubelet",
        stem="kubelet",
        node_roles=_WORKER,
        document=True,
    ),
    Row(
        name="etcd-peer",
        usage=Usage.BOTH,
        source="etcd",
        target="etcd",
        common_name="{node}",
        organization=(),
        dns=("{node}", "localhost"),
        ips=(NODE_ADDRESSES, "127.0.0.1", "::1"),
        ca="etcd",
        stem="etcd-peer",
        node_roles=_ETCD,
    ),
    Row(
        name="etcd-healthcheck-client",
        usage=Usage.CLIENT,
        source="etcd",
        target="etcd",
        common_name="kube-etcd-healthcheck-client",
        organization=(),
        dns=(),
        ips=(),
        ca="etcd",
        stem="etcd-healthcheck-client",
        node_roles=_ETCD,
    ),
    Row(
        name="front-proxy-client",
        usage=Usage.CLIENT,
        source="kube-apiserver",
        target="aggregated API servers",
        common_name="front-proxy-client",
        organization=(),
        dns=(),
        ips=(),
        ca="front-proxy",
        stem="front-proxy-client",
        node_roles=_CONTROL_PLANE,
    ),
    Row(
        name="super-admin",
        usage=Usage.CLIENT,
        source="super-admin",
        target="kube-apiserver",
        common_name="kubernetes-super-admin",
        organization=("system:masters",),
        dns=(),
        ips=(),
        ca="kubernetes",
        stem="super-admin",
        kubeconfig="super-admin.conf",
        reload=_CLIENT_LOOK,
        ttl=8 * _HOUR,
    ),
)

# Clocks of two machines differ by up to this much in the field; leaves are backdated by the same five minutes.
SKEW: Final = 5 * _MINUTE

# How far not_before lies before the signing, in seconds. Vault refuses a leaf that begins before its signer does, so
# each level reaches further back than the one below.
ROOT_BACKDATE: Final = 15 * _MINUTE
ISSUING_BACKDATE: Final = 10 * _MINUTE
LEAF_BACKDATE: Final = 5 * _MINUTE

# The agent renews at the latest after two thirds of the life, so a third is left for the consumer to notice.
_LEFT_OVER = 3


def shortest_ttl(row: Row) -> int:
    """The shortest TTL in seconds at which the row's consumer can follow every renewal without a failed request."""
    return _LEFT_OVER * (row.reload + SKEW)


MOST_ISSUERS: Final = 8
"""How many issuers a CA's mount may show: more than a rotation needs, and too few to keep anybody busy."""


def ca_subject(cluster: str, ca: str) -> str:
    """The common name of a CA's certificate; a later key of the CA has a number behind it, from ` 2` on."""
    return f"{cluster} {ca} CA"


def bundle(ca: str) -> str:
    """The file of a CA's issuing certificates only: what a server checks its clients against."""
    return f"{ca}-ca.crt"


def chain_bundle(ca: str) -> str:
    """The file of a CA's issuing certificates and the root: what OpenSSL clients and pods need."""
    return f"{ca}-ca-chain.crt"


def pair_files(stem: str) -> tuple[str, str, str]:
    """The three files of a pair: certificate with its issuing CA, key, and both in one."""
    return f"{stem}.crt", f"{stem}.key", f"{stem}.pem"


BUNDLES: Final = "bundles"
"""The set in the store that holds every bundle and kubeconfig."""


def unit(stem: str) -> str:
    """The name of the set in the store that a pair's files are."""
    return stem.replace(".", "_")


def rows(cluster: Cluster) -> tuple[Row, ...]:
    """The table as this cluster has it: overrides applied as new rows, the user's own rows behind."""
    return tuple(_overridden(row, cluster) for row in TABLE + cluster.rows)


def row_named(cluster: Cluster, name: str) -> Row:
    """The cluster's row of that name; KeyError where there is none."""
    return {row.name: row for row in rows(cluster)}[name]


def node_rows(cluster: Cluster, node: Node | Pool) -> tuple[Row, ...]:
    """The rows a node of these roles holds, in the order of the table."""
    return tuple(row for row in rows(cluster) if row.node_roles & node.roles)


def pool_role(row: Row, pool: Pool) -> str:
    """The PKI role by which the pool's nodes get the row: one of their own where the row carries addresses."""
    return f"{row.name}-{pool.name}" if row.addressed else row.name


def resolve(row: Row, cluster: Cluster, holder: Node | Pool | None) -> Certificate:
    """The row as `holder` gets it; for a pool the node's name stays `{node}`, and no address is named.

    An operator's row has no holder. `row` must come from `rows(cluster)`.
    """
    values = {
        SERVICE_IPS: tuple(str(_first_host(cidr)) for cidr in cluster.api_server.service_cidr),
        NODE_ADDRESSES: holder.addresses if isinstance(holder, Node) else (),
        API_NAMES: cluster.api_server.names,
        API_ADDRESSES: cluster.api_server.addresses,
    }
    node = holder.name if isinstance(holder, Node) else NODE

    def fill(entries: tuple[str, ...]) -> tuple[str, ...]:
        filled: list[str] = []
        for entry in entries:
            for value in values.get(entry, (entry,)):
                text = value.replace(NODE, node).replace("{domain}", cluster.api_server.dns_domain)
                if text not in filled:
                    filled.append(text)
        return tuple(filled)

    return Certificate(
        name=row.name,
        usage=row.usage,
        subject=Subject(
            common_name=row.common_name.replace(NODE, node),
            organization=row.organization,
            dns=fill(row.dns),
            ips=() if isinstance(holder, Pool) else fill(row.ips),
        ),
        ca=row.ca,
        mount=cluster.mount(row.ca),
        role=pool_role(row, holder) if isinstance(holder, Pool) else row.name,
        ttl=row.ttl if row.ttl is not None else cluster.ttl,
        key=row.key or cluster.key,
        stem=row.stem,
        kubeconfig=row.kubeconfig,
        reload=row.reload,
    )


def sign_parameters(certificate: Certificate, csr: str) -> dict[str, str]:
    """What is asked of the certificate's role at `sign`: these are all the parameters a holder's policy lets pass.

    `csr` is the request in PEM. A list of names is one text, joined by commas, which is what a policy can hold.
    """
    subject = certificate.subject
    # "true" as text: both servers drop a boolean from a policy's list of values, and an empty list lets all pass.
    parameters = {"csr": csr, "common_name": subject.common_name, "exclude_cn_from_sans": "true", "format": "pem"}
    if subject.dns:
        parameters["alt_names"] = ",".join(subject.dns)
    if subject.ips:
        parameters["ip_sans"] = ",".join(subject.ips)
    return parameters


@cache
def _first_host(cidr: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    # kube-apiserver gives the `kubernetes` service the range's first address (kubernetes pkg/controlplane/services.go).
    return ipaddress.ip_network(cidr).network_address + 1


def _overridden(row: Row, cluster: Cluster) -> Row:
    override = cluster.overrides.get(row.name)
    if override is None:
        return row
    return replace(
        row,
        ttl=override.ttl if override.ttl is not None else row.ttl,
        key=override.key or row.key,
        dns=row.dns + override.extra_names,
        ips=row.ips + override.extra_addresses,
        stem=override.stem or row.stem,
    )
