"""The inventory of a cluster as kubeadm leaves it, without a server: its objects read by the product's own rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers.kube.kubeadm_objects import BINDINGS, NOW, PUBLIC, SYSTEM, KubeadmObjects, Signed
from vaultpki.adopt import assembly, machine
from vaultpki.adopt.catalogue import Obstacle
from vaultpki.adopt.draft import ClusterDraft, draft
from vaultpki.adopt.found import ClusterInventory, ListenerSeen
from vaultpki.adopt.obstacles import obstacles
from vaultpki.kube import cluster as kube_cluster
from vaultpki.kube import details, objects
from vaultpki.kube.cluster import LiveCluster
from vaultpki.kube.flags import COMPONENTS
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.kube.whole import WholeCluster
from vaultpki.live.trust import certificates
from vaultpki.pki.facts import Facts

Values = dict[str, Any]


def facts(of: Signed) -> Facts:
    (found,) = certificates(of.pem)
    return found


def whole(values: Mapping[str, Any], unread: Mapping[str, str] | None = None) -> WholeCluster:
    """What `kube.whole.read` makes of these answers; a path that is left out has no objects."""

    def listed(path: str) -> list[Any]:
        found: list[Any] = values.get(path, {}).get("items", [])
        return found

    def single(path: str) -> Any:
        return values.get(path)

    leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
    admission = "/apis/admissionregistration.k8s.io/v1"
    webhooks = listed(f"{admission}/validatingwebhookconfigurations")
    copies = [
        *kube_cluster.root_copies(listed("/api/v1/configmaps")),
        *kube_cluster.cluster_info(single(f"{PUBLIC}/configmaps/cluster-info")),
        *kube_cluster.authentication(single(f"{SYSTEM}/configmaps/extension-apiserver-authentication")),
        *kube_cluster.webhooks(webhooks, "ValidatingWebhookConfiguration"),
        *kube_cluster.api_services(listed("/apis/apiregistration.k8s.io/v1/apiservices")),
    ]
    kubelets = {
        path.split("/")[4]: value["kubeletconfig"] for path, value in values.items() if path.endswith("/configz")
    }
    return WholeCluster(
        live=LiveCluster(copies=tuple(copies), kubelets=kubelets),
        nodes=tuple(details.node_objects(listed("/api/v1/nodes"))),
        static=tuple(details.static_pods(listed(f"{SYSTEM}/pods"), COMPONENTS)),
        settings=details.kubeadm_settings(single(f"{SYSTEM}/configmaps/kubeadm-config")),
        defaults=details.kubelet_defaults(single(f"{SYSTEM}/configmaps/kubelet-config")),
        requests=tuple(details.signing_requests(listed("/apis/certificates.k8s.io/v1/certificatesigningrequests"))),
        tokens=tuple(details.bootstrap_tokens(listed(f"{SYSTEM}/secrets"))),
        keys_token=details.token_of_keys(single(f"{SYSTEM}/secrets/kubeadm-certs")),
        bound=frozenset(details.bound_users(listed(BINDINGS))),
        leaders={
            name: details.lease_holder(single(f"{leases}/{name}"))
            for name in ("kube-controller-manager", "kube-scheduler")
        },
        endpoints=details.endpoint_addresses(
            single("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
        ),
        readers=tuple(details.hard_readers(listed("/api/v1/pods"), ["/etc/kubernetes"], COMPONENTS)),
        pods=tuple(objects.pods(listed("/api/v1/pods"))),
        unread=dict(unread or {}),
    )


def served(cluster: KubeadmObjects, *, without: Iterable[str] = ()) -> tuple[ListenerSeen, ...]:
    """What the cluster's listeners present, but for those of these rows."""
    ports = {"kube-apiserver": 6443, "etcd-server": 2379, "etcd-peer": 2380, "kubelet": 10250}
    found = []
    for (name, row), leaf in cluster.leaves.items():
        if row in ports and row not in without:
            outside = name in cluster.shape.external
            address = name if outside else cluster.shape.addresses(name)[0]
            found.append(ListenerSeen("" if outside else name, row, address, ports[row], facts(leaf)))
    return tuple(found)


def taken(
    cluster: KubeadmObjects,
    *,
    change: Callable[[Values], None] = lambda _: None,
    unread: Mapping[str, str] | None = None,
    disks: Mapping[str, Path] | None = None,
    listeners: Sequence[ListenerSeen] | None = None,
    resolved: Mapping[str, tuple[str, ...]] | None = None,
) -> ClusterInventory:
    """The inventory of a cluster after a change to what its API server answers.

    `disks` are empty folders by node, in which the machines' disks are laid down and read. Without `listeners` each
    presents its own certificate.
    """
    values = cluster.values()
    change(values)
    machines = [machine.read(str(cluster.disk(root, name))) for name, root in (disks or {}).items()]
    access = KubeAccess("admin.conf", "https://198.51.100.11:6443", cluster.ca.pem, token="x")
    seen = served(cluster) if listeners is None else listeners
    return assembly.assemble(
        access, whole(values, unread), machines, seen, NOW, lambda host: (resolved or {}).get(host, ())
    )


def judged(found: ClusterInventory, name: str | None = None) -> tuple[ClusterDraft, tuple[Obstacle, ...]]:
    """The draft for an inventory, and what is in the way."""
    made = draft(found, Path("cluster.yaml"), name)
    return made, obstacles(found, made)


def named(every: Iterable[Obstacle]) -> dict[str, list[str]]:
    """The texts of obstacles by kind."""
    texts: dict[str, list[str]] = {}
    for each in every:
        texts.setdefault(each.kind.name, []).append(each.text)
    return texts
