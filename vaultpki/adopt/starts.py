"""Says what reads a CA only when it starts, and which flags and volumes of static pods are not kubeadm's own; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vaultpki.adopt.draft import ClusterDraft
from vaultpki.adopt.found import ClusterInventory
from vaultpki.certificates import ISSUING_CAS
from vaultpki.kube.details import PodVolume
from vaultpki.kubernetes_versions import minors, tagged
from vaultpki.places import Layout
from vaultpki.readers import start_only

# What kubeadm writes itself (cmd/kubeadm/app/phases/controlplane/manifests.go and etcd/local.go, 1.31 to 1.37).
_FLAGS: Final = {
    "kube-apiserver": (
        "advertise-address allow-privileged authorization-mode client-ca-file enable-admission-plugins "
        "enable-bootstrap-token-auth etcd-cafile etcd-certfile etcd-keyfile etcd-servers kubelet-client-certificate "
        "kubelet-client-key kubelet-preferred-address-types proxy-client-cert-file proxy-client-key-file "
        "requestheader-allowed-names requestheader-client-ca-file requestheader-extra-headers-prefix "
        "requestheader-group-headers requestheader-username-headers secure-port service-account-issuer "
        "service-account-key-file service-account-signing-key-file service-cluster-ip-range tls-cert-file "
        "tls-private-key-file"
    ),
    "kube-controller-manager": (
        "allocate-node-cidrs authentication-kubeconfig authorization-kubeconfig bind-address client-ca-file "
        "cluster-cidr cluster-name cluster-signing-cert-file cluster-signing-key-file controllers kubeconfig "
        "leader-elect "
        "requestheader-client-ca-file root-ca-file service-account-private-key-file service-cluster-ip-range "
        "use-service-account-credentials"
    ),
    "kube-scheduler": "authentication-kubeconfig authorization-kubeconfig bind-address kubeconfig leader-elect",
    "etcd": (
        "advertise-client-urls cert-file client-cert-auth data-dir feature-gates experimental-initial-corrupt-check "
        "experimental-watch-progress-notify-interval initial-advertise-peer-urls initial-cluster initial-cluster-state "
        "key-file listen-client-urls listen-metrics-urls listen-peer-urls name peer-cert-file peer-client-cert-auth "
        "peer-key-file peer-trusted-ca-file snapshot-count trusted-ca-file watch-progress-notify-interval"
    ),
}
_BY_KUBEADM: Final = {component: frozenset(names.split()) for component, names in _FLAGS.items()}
# cmd/kubeadm/app/phases/controlplane/volumes.go.
_VOLUMES: Final = frozenset(
    {
        "/etc/ssl/certs",
        "/etc/pki",
        "/etc/pki/ca-trust",
        "/etc/pki/tls/certs",
        "/etc/ca-certificates",
        "/usr/share/ca-certificates",
        "/usr/local/share/ca-certificates",
        "/usr/libexec/kubernetes/kubelet-plugins/volume/exec",
        "/etc/kubernetes/controller-manager.conf",
        "/etc/kubernetes/scheduler.conf",
        "/var/lib/etcd",
    }
)


@dataclass(frozen=True, slots=True)
class StartReader:
    """A component that reads the bundle of `ca` only when it starts: by which setting, and on which nodes."""

    ca: str
    component: str
    setting: str
    nodes: tuple[str, ...]


def by_kubeadm(component: str, flag: str) -> bool:
    """Return whether kubeadm itself writes this flag of a component; a person may have changed its value."""
    return flag in _BY_KUBEADM.get(component, frozenset())


def volume_of_kubeadm(volume: PodVolume, directory: str) -> bool:
    """Return whether kubeadm itself mounts this path into a static pod; `directory` is that of the certificates."""
    return volume.path in _VOLUMES | {directory, f"{directory}/etcd"}


def only(found: ClusterInventory, draft: ClusterDraft) -> Iterator[StartReader]:
    """Yield what reads a CA only when it starts, by the version that runs on each node."""
    held: dict[tuple[str, str, str], list[str]] = {}
    kubelets = {node.name: {"kubelet": node.version} for node in found.whole.nodes}
    pods: dict[str, dict[str, str]] = {}
    for pod in found.static:
        pods.setdefault(pod.node, {})[pod.component] = tagged(pod.image)
    for node in draft.cluster.nodes if draft.cluster is not None else ():
        versions = minors(kubelets.get(node.name, {}) | pods.get(node.name, {}))
        for ca in ISSUING_CAS:
            for reader in start_only(ca, node.roles, Layout.KUBEADM, versions):
                held.setdefault((ca, reader.component, reader.setting), []).append(node.name)
    for (ca, component, setting), nodes in held.items():
        yield StartReader(ca, component, setting, tuple(nodes))
