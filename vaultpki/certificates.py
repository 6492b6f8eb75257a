"""Contains THE table: one row for every certificate of a cluster. The rest of the project is derived from it.

A row is resolved for a holder into a new `Certificate`; rows themselves never change. Names and addresses may be
placeholders: `{node}` is the holder's name, `{domain}` the cluster's DNS domain. An entry `SERVICE_IPS`,
`NODE_ADDRESSES`, `API_NAMES` or `API_ADDRESSES` is replaced by all values of that list.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from functools import cache
from typing import Final

from vaultpki.model import NODE, NUMBER, Certificate, Cluster, Node, NodeRole, Pool, Row, Subject, Usage
from vaultpki.places import ETCD, KUBECONFIGS, KUBELET, PKI, SCHEDULER, KubeadmPlace, KubeconfigFile, Layout

ROOT: Final = "root"
ISSUING_CAS: Final = ("kubernetes", "kubelet", "etcd", "front-proxy")
"""The issuing CAs of every cluster. Their leaves are for TLS, and each has bundles."""

SERVICE_ACCOUNT: Final = "service-account"
"""The issuing CA of the keys with which tokens are signed, and its only row. It is in no bundle."""

SERVICE_ACCOUNT_FILES: Final = "sa"
"""The name of `sa.key`, with which kube-apiserver signs tokens, and of `sa.pub`, whose keys it accepts.

They are kubeadm's names in both layouts (kubernetes cmd/kubeadm/app/constants/constants.go).
"""

CSR_SIGNER: Final = "signer"
"""The row of the signer of certificate requests, which only a cluster with a signer has."""

SERVICE_IPS: Final = "{service_ips}"
NODE_ADDRESSES: Final = "{node_addresses}"
API_NAMES: Final = "{api_names}"
API_ADDRESSES: Final = "{api_addresses}"

_MINUTE = 60
_HOUR = 60 * _MINUTE

CLIENT_LOOK: Final = 5 * _MINUTE
"""Seconds between two looks of a client of kube-apiserver at the files of its kubeconfig, counted from its own start.

So does kube-apiserver with its kubelet pair (client-go, transport/cert_rotation.go, CertCallbackRefreshDuration).
"""

_CONTROL_PLANE = frozenset({NodeRole.CONTROL_PLANE})
_ETCD = frozenset({NodeRole.ETCD})
_WORKER = frozenset({NodeRole.WORKER})

TABLE: Final[tuple[Row, ...]] = (
    Row(
        name="admin",
        purpose="Lets a person administer the cluster with kubectl, with rights that RBAC can take back.",
        usage=Usage.CLIENT,
        source="admin",
        target="kube-apiserver",
        common_name="kubernetes-admin",
        # kubeadm >= 1.29: not system:masters, which no RBAC rule can take back (kubernetes PR 121305).
        organization=("kubeadm:cluster-admins",),
        ca="kubernetes",
        stem="admin",
        kubeadm=KubeadmPlace(KUBECONFIGS, "admin"),
        kubeconfig="admin.conf",
        reload=CLIENT_LOOK,
        manifest="cluster-admins.yaml",
        document=True,
    ),
    Row(
        name="kube-scheduler",
        purpose="Lets kube-scheduler log in to kube-apiserver and assign pods to nodes.",
        usage=Usage.CLIENT,
        source="kube-scheduler",
        target="kube-apiserver",
        common_name="system:kube-scheduler",
        ca="kubernetes",
        stem="kube-scheduler",
        kubeadm=KubeadmPlace(SCHEDULER, "scheduler", KubeconfigFile.FIXED),
        kubeconfig="scheduler.conf",
        node_roles=_CONTROL_PLANE,
        reload=CLIENT_LOOK,
        document=True,
    ),
    Row(
        name="kube-controller-manager",
        purpose="Lets kube-controller-manager log in to kube-apiserver and run the controllers.",
        usage=Usage.CLIENT,
        source="kube-controller-manager",
        target="kube-apiserver",
        common_name="system:kube-controller-manager",
        ca="kubernetes",
        stem="controller-manager",
        kubeadm=KubeadmPlace(PKI, "controller-manager", KubeconfigFile.FIXED),
        kubeconfig="controller-manager.conf",
        node_roles=_CONTROL_PLANE,
        reload=CLIENT_LOOK,
        document=True,
    ),
    Row(
        name="kube-proxy",
        purpose="Lets kube-proxy log in to kube-apiserver and watch services and endpoints.",
        usage=Usage.CLIENT,
        source="kube-proxy",
        target="kube-apiserver",
        common_name="system:kube-proxy",
        ca="kubernetes",
        stem="kube-proxy",
        # kubeadm runs kube-proxy as a DaemonSet, which logs in with a ServiceAccount.
        kubeadm=None,
        kubeconfig="kube-proxy.conf",
        node_roles=_WORKER,
        reload=CLIENT_LOOK,
        document=True,
    ),
    Row(
        name="kube-apiserver-etcd",
        purpose="Lets kube-apiserver log in to etcd, where it stores every object of the cluster.",
        usage=Usage.CLIENT,
        source="kube-apiserver",
        target="etcd",
        common_name="kube-apiserver-etcd-client",
        ca="etcd",
        stem="kube-apiserver-etcd",
        kubeadm=KubeadmPlace(PKI, "apiserver-etcd-client"),
        node_roles=_CONTROL_PLANE,
        document=True,
    ),
    Row(
        name="kube-apiserver-kubelet",
        purpose="Lets kube-apiserver log in to kubelets for logs, exec, port-forward and metrics.",
        usage=Usage.CLIENT,
        source="kube-apiserver",
        target="kubelet",
        common_name="kube-apiserver-kubelet-client",
        # No group: the newest kubeadm binds the user to system:kubelet-api-admin instead (kubernetes PR 138957).
        ca="kubernetes",
        stem="kube-apiserver-kubelet",
        kubeadm=KubeadmPlace(PKI, "apiserver-kubelet-client"),
        node_roles=_CONTROL_PLANE,
        reload=CLIENT_LOOK,
        manifest="kubelet-api-admin.yaml",
        document=True,
    ),
    Row(
        name="kubelet-client",
        purpose="Lets a kubelet log in to kube-apiserver as its own node, and as no other.",
        usage=Usage.CLIENT,
        source="kubelet",
        target="kube-apiserver",
        common_name="system:node:{node}",
        organization=("system:nodes",),
        ca="kubernetes",
        stem="kubelet-client",
        kubeadm=KubeadmPlace(KUBELET, "kubelet-client", KubeconfigFile.PLAIN),
        kubeconfig="kubelet.conf",
        node_roles=_WORKER,
        reload=CLIENT_LOOK,
        document=True,
    ),
    Row(
        name="kube-apiserver",
        purpose="Proves to clients of the Kubernetes API that they reach kube-apiserver.",
        usage=Usage.SERVER,
        source="kube-apiserver",
        common_name="kube-apiserver",
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
        kubeadm=KubeadmPlace(PKI, "apiserver"),
        node_roles=_CONTROL_PLANE,
        document=True,
    ),
    Row(
        name="etcd-server",
        purpose="Proves to clients of etcd that they reach a member of the etcd cluster.",
        # Both: etcd's gRPC gateway connects to its own server with the server pair.
        usage=Usage.BOTH,
        source="etcd",
        common_name="{node}",
        dns=("{node}", "localhost"),
        ips=(NODE_ADDRESSES, "127.0.0.1", "::1"),
        ca="etcd",
        stem="etcdserver",
        kubeadm=KubeadmPlace(ETCD, "server"),
        node_roles=_ETCD,
        document=True,
    ),
    Row(
        name="kubelet",
        purpose="Proves to kube-apiserver and metrics scrapers that they reach the kubelet of this node.",
        usage=Usage.SERVER,
        source="kubelet",
        # KEP-4872: an API server may require that the serving certificate names the node that it connects to.
        common_name="system:node:{node}",
        organization=("system:nodes",),
        dns=("{node}",),
        ips=(NODE_ADDRESSES,),
        ca="kubelet",
        stem="kubelet",
        kubeadm=KubeadmPlace(KUBELET, "kubelet"),
        node_roles=_WORKER,
        document=True,
    ),
    Row(
        name="etcd-peer",
        purpose="Lets the members of the etcd cluster authenticate each other, in both directions.",
        usage=Usage.BOTH,
        source="etcd",
        target="etcd",
        common_name="{node}",
        dns=("{node}", "localhost"),
        ips=(NODE_ADDRESSES, "127.0.0.1", "::1"),
        ca="etcd",
        stem="etcd-peer",
        kubeadm=KubeadmPlace(ETCD, "peer"),
        node_roles=_ETCD,
    ),
    Row(
        name="etcd-healthcheck-client",
        purpose="Lets health probes and etcdctl on an etcd node log in to the local member.",
        usage=Usage.CLIENT,
        source="etcd",
        target="etcd",
        common_name="kube-etcd-healthcheck-client",
        ca="etcd",
        stem="etcd-healthcheck-client",
        kubeadm=KubeadmPlace(ETCD, "healthcheck-client"),
        node_roles=_ETCD,
    ),
    Row(
        name="front-proxy-client",
        purpose="Lets kube-apiserver forward requests to aggregated API servers in the name of a user.",
        usage=Usage.CLIENT,
        source="kube-apiserver",
        target="aggregated API servers",
        common_name="front-proxy-client",
        ca="front-proxy",
        stem="front-proxy-client",
        kubeadm=KubeadmPlace(PKI, "front-proxy-client"),
        node_roles=_CONTROL_PLANE,
    ),
    Row(
        name="super-admin",
        purpose="Gives full access without RBAC in an emergency; short-lived and never on a node.",
        usage=Usage.CLIENT,
        source="super-admin",
        target="kube-apiserver",
        common_name="kubernetes-super-admin",
        organization=("system:masters",),
        ca="kubernetes",
        stem="super-admin",
        kubeadm=KubeadmPlace(KUBECONFIGS, "super-admin"),
        kubeconfig="super-admin.conf",
        reload=CLIENT_LOOK,
        ttl=8 * _HOUR,
    ),
    Row(
        name=CSR_SIGNER,
        purpose="Lets the signer read certificate requests from kube-apiserver and write what Vault signs.",
        usage=Usage.CLIENT,
        source="vaultpki-signer",
        target="kube-apiserver",
        common_name="vaultpki:signer",
        ca="kubernetes",
        stem=CSR_SIGNER,
        kubeadm=KubeadmPlace(PKI, CSR_SIGNER),
        kubeconfig="signer.conf",
        node_roles=_CONTROL_PLANE,
        reload=CLIENT_LOOK,
        manifest="signer.yaml",
    ),
    Row(
        name=SERVICE_ACCOUNT,
        purpose="Says whose the key is with which kube-apiserver signs tokens of ServiceAccounts; TLS peers reject it.",
        usage=Usage.SIGNING,
        source="kube-apiserver",
        common_name="sa:{node}:{number}",
        ca=SERVICE_ACCOUNT,
        stem=SERVICE_ACCOUNT_FILES,
        kubeadm=KubeadmPlace(PKI, SERVICE_ACCOUNT_FILES),
        node_roles=_CONTROL_PLANE,
    ),
)

# The largest difference between the clocks of two machines that we allow for; leaves are backdated by the same time.
SKEW: Final = 5 * _MINUTE

# Seconds between not_before and the signing. Vault refuses a leaf that begins before its signer, so each level begins
# earlier than the one below.
ROOT_BACKDATE: Final = 15 * _MINUTE
ISSUING_BACKDATE: Final = 10 * _MINUTE
LEAF_BACKDATE: Final = 5 * _MINUTE

# The agent renews after at most two thirds of the life, so the consumer has a third of it to notice the new pair.
_LEFT_OVER = 3


def shortest_ttl(row: Row) -> int:
    """Return the shortest TTL in seconds at which the consumer notices every renewal before the old pair expires."""
    return _LEFT_OVER * (row.reload + SKEW)


MOST_ISSUERS: Final = 8
"""The largest number of issuers on the mount of a CA: more than a rotation needs, few enough to read them all."""


def ca_subject(cluster: str, ca: str, number: int = 1) -> str:
    """Return the common name of a CA's certificate; `number` is that of its key, later ones append it: ` 2`, ` 3`."""
    return f"{cluster} {ca} CA" if number == 1 else f"{cluster} {ca} CA {number}"


def bundle(ca: str) -> str:
    """Return the file with a CA's issuing certificates only, with which a server checks its clients."""
    return f"{ca}-ca.crt"


def chain_bundle(ca: str) -> str:
    """Return the file with a CA's issuing certificates and the root, which OpenSSL clients and pods need."""
    return f"{ca}-ca-chain.crt"


def pair_files(stem: str) -> tuple[str, str, str]:
    """Return the three files of a pair: certificate with its issuing CA, key, and both in one."""
    return f"{stem}.crt", f"{stem}.key", f"{stem}.pem"


BUNDLES: Final = "bundles"
"""The file set in the store with every bundle and kubeconfig."""


def file_set(stem: str) -> str:
    """Return the name of the file set of a pair in the store."""
    return stem.replace(".", "_")


def issuing_cas(cluster: Cluster) -> tuple[str, ...]:
    """Return the issuing CAs of this cluster, also one that is in no bundle."""
    return (*ISSUING_CAS, SERVICE_ACCOUNT) if cluster.service_account_keys else ISSUING_CAS


def all_cas(cluster: Cluster) -> tuple[str, ...]:
    """Return the CAs of this cluster, the root first."""
    return (ROOT, *issuing_cas(cluster))


def rows(cluster: Cluster) -> tuple[Row, ...]:
    """Return the table of this cluster for TLS: rows with overrides and the layout applied, then the user's own."""
    table = laid_out(cluster.layout, signer=cluster.signer is not None)
    return tuple(_overridden(row, cluster) for row in table + cluster.rows)


def signing_rows(cluster: Cluster) -> tuple[Row, ...]:
    """Return the rows whose keys sign tokens: none, or that of service-account keys."""
    if not cluster.service_account_keys:
        return ()
    return tuple(_overridden(row, cluster) for row in TABLE if not row.usage.tls)


def key_nodes(cluster: Cluster) -> tuple[str, ...]:
    """Return the names of the nodes with a service-account key of their own; none in a cluster without such keys."""
    roles = {role for row in signing_rows(cluster) for role in row.node_roles}
    return tuple(node.name for node in cluster.nodes if node.roles & roles)


def all_rows(cluster: Cluster) -> tuple[Row, ...]:
    """Return every row of this cluster, those for TLS first."""
    return rows(cluster) + signing_rows(cluster)


@cache
def laid_out(layout: Layout, *, signer: bool = False) -> tuple[Row, ...]:
    """Return the rows for TLS with the file names of a layout, without the rows that it does not have.

    The row of the signer is among them only with `signer`: it is of no component of Kubernetes.
    """
    of_tls = tuple(row for row in TABLE if row.usage.tls and (signer or row.name != CSR_SIGNER))
    if layout is Layout.DOCUMENT:
        return of_tls
    return tuple(replace(row, stem=row.kubeadm.stem) for row in of_tls if row.kubeadm is not None)


def in_layout(certificate: Certificate, layout: Layout) -> Certificate:
    """Return the certificate in the folders of a layout; a cluster's own certificates lie in PKI."""
    place = {row.name: row.kubeadm for row in laid_out(layout)}.get(certificate.name)
    if layout is Layout.DOCUMENT or place is None:
        return certificate
    return replace(certificate, folder=place.folder, kubeconfig_file=place.kubeconfig)


def row_named(cluster: Cluster, name: str) -> Row:
    """Return the cluster's row with this name; raise KeyError if there is none."""
    return {row.name: row for row in rows(cluster)}[name]


def node_rows(cluster: Cluster, node: Node | Pool | None) -> tuple[Row, ...]:
    """Return the rows of a node or pool with these roles, in the order of the table; of any node for None."""
    return tuple(row for row in rows(cluster) if row.node_roles & (node.roles if node else frozenset(NodeRole)))


def stored(row: Row, cluster: Cluster) -> bool:
    """Return whether Vault keeps the certificates of a row; `row` must come from `rows(cluster)`.

    It keeps every operator's: the gates of a rotation know them from the mount alone.
    """
    return row.operator or not (cluster.no_store if row.no_store is None else row.no_store)


def pool_role(row: Row, pool: Pool) -> str:
    """Return the PKI role of the row for a pool's nodes: a role of the pool's own if the row has addresses."""
    return f"{row.name}-{pool.name}" if row.addressed else row.name


def resolve(row: Row, cluster: Cluster, holder: Node | Pool | None, number: int = 1) -> Certificate:
    """Return the row resolved for `holder`; for a pool the node's name stays `{node}`, and there are no addresses.

    `holder` is None for an operator's row. `row` must come from `all_rows(cluster)`. `number` is that of a
    service-account key.
    """
    values = {
        SERVICE_IPS: service_addresses(cluster),
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

    made = Certificate(
        name=row.name,
        usage=row.usage,
        subject=Subject(
            common_name=row.common_name.replace(NODE, node).replace(NUMBER, str(number)),
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
    # An operator's folder is the same in every layout.
    return made if holder is None else in_layout(made, cluster.layout)


def with_number(certificate: Certificate, number: int) -> Certificate:
    """Return the certificate of the node's service-account key with this number, made from that of another number.

    Each number has a pair of files of its own, which no component reads.
    """
    head = certificate.subject.common_name.rpartition(":")[0]
    return replace(certificate, subject=Subject(f"{head}:{number}"), stem=f"{SERVICE_ACCOUNT_FILES}-{number}")


def sign_parameters(certificate: Certificate, csr: str) -> dict[str, str]:
    """Return the parameters of the `sign` request for a certificate; the holder's policy allows no others.

    `csr` is the request in PEM. Names are one text, joined by commas, because a policy cannot contain lists.
    """
    subject = certificate.subject
    # "true" as text: both servers drop a boolean from a policy's list of values, and an empty list allows everything.
    parameters = {"csr": csr, "common_name": subject.common_name, "exclude_cn_from_sans": "true", "format": "pem"}
    if subject.dns:
        parameters["alt_names"] = ",".join(subject.dns)
    if subject.ips:
        parameters["ip_sans"] = ",".join(subject.ips)
    return parameters


def service_addresses(cluster: Cluster) -> tuple[str, ...]:
    """Return the addresses of the `kubernetes` service: the first of each range (pkg/controlplane/services.go)."""
    return tuple(map(_first_host, cluster.api_server.service_cidr))


@cache
def _first_host(cidr: str) -> str:
    return str(ipaddress.ip_network(cidr).network_address + 1)


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
        no_store=override.no_store if override.no_store is not None else row.no_store,
    )
