"""Says who reads the bundle of which CA, and when each notices a new one: facts about components, beside the table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from vaultpki.certificates import CLIENT_LOOK, ISSUING_CAS, SERVICE_ACCOUNT, SERVICE_ACCOUNT_FILES, bundle, laid_out
from vaultpki.kubernetes_versions import CA_OF_SERVERS, NAMES_OF_KUBELET
from vaultpki.model import NodeRole
from vaultpki.places import Layout

CA_OF_BUNDLE: Final[Mapping[str, str]] = {bundle(ca).removesuffix(".crt"): ca for ca in ISSUING_CAS}
"""The keys of the bundles, with the CA of each."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A component that reads the bundle of `ca`: by which setting, and on nodes of which role.

    `follows` is the first minor version of Kubernetes 1 that notices a new bundle by itself: 0 for every version in
    use, None for none. `reload` is how many seconds that takes at most. `chain` says whether it reads the bundle that
    has the root too, and so must start again after the root alone has changed.
    """

    ca: str
    component: str
    role: NodeRole
    setting: str
    follows: int | None
    reload: int = 0
    chain: bool = False

    def at_start(self, minor: int | None) -> bool:
        """Return whether it reads the bundle only when it starts, in this minor version; None if that is unknown.

        Of an unknown version only what no version notices by itself counts.
        """
        return self.follows is None or (minor is not None and minor < self.follows)

    def perhaps_at_start(self, minor: int | None) -> bool:
        """Return whether nobody knows if it reads the bundle only when it starts: its version decides, and is unknown.

        A reader that every version in use follows is none of them.
        """
        return bool(self.follows) and minor is None


KUBECONFIG_SERVERS: Final = "kubeconfigs"
"""The key of hooks for another `server:` in the kubeconfigs of a node's components.

client-go reads it when a component starts, in every version (tools/clientcmd; ran with kubelet, kube-proxy,
kube-scheduler and kube-controller-manager of 1.37). Of the files that are named beside it the table says more.
"""

_UNKNOWN: Final[Mapping[str, int]] = MappingProxyType({})
_CONTROL_PLANE, _ETCD, _WORKER = NodeRole.CONTROL_PLANE, NodeRole.ETCD, NodeRole.WORKER
_KUBECONFIG, _CLIENT_CA = "certificate-authority in its kubeconfig", "authentication.x509.clientCAFile"

# Kubernetes: dynamiccertificates.DynamicFileCAContent of apiserver watches its file since 1.23. kube-controller-manager
# reads --root-ca-file, which every pod gets, when it starts (cmd/kube-controller-manager/app/certificates.go, readCA).
# etcd makes its CA pools when it starts, and so does its client in kube-apiserver (etcd client/pkg/transport). What
# changed in between is in kubernetes_versions.
READERS: Final[tuple[Reader, ...]] = (
    Reader("kubernetes", "kube-apiserver", _CONTROL_PLANE, "--client-ca-file", 0),
    Reader("kubernetes", "kubelet", _WORKER, _CLIENT_CA, 0),
    Reader("kubernetes", "kubelet", _WORKER, f"{_CLIENT_CA}, as named in handshakes", NAMES_OF_KUBELET),
    Reader("kubernetes", "kube-controller-manager", _CONTROL_PLANE, "--root-ca-file", None, chain=True),
    Reader("kubernetes", "kube-controller-manager", _CONTROL_PLANE, _KUBECONFIG, CA_OF_SERVERS, CLIENT_LOOK),
    Reader("kubernetes", "kube-scheduler", _CONTROL_PLANE, _KUBECONFIG, CA_OF_SERVERS, CLIENT_LOOK),
    Reader("kubernetes", "kubelet", _WORKER, _KUBECONFIG, CA_OF_SERVERS, CLIENT_LOOK),
    Reader("kubernetes", "kube-proxy", _WORKER, _KUBECONFIG, CA_OF_SERVERS, CLIENT_LOOK),
    Reader("kubelet", "kube-apiserver", _CONTROL_PLANE, "--kubelet-certificate-authority", CA_OF_SERVERS, CLIENT_LOOK),
    Reader("etcd", "etcd", _ETCD, "--trusted-ca-file and --peer-trusted-ca-file", None),
    Reader("etcd", "kube-apiserver", _CONTROL_PLANE, "--etcd-cafile", None),
    Reader("front-proxy", "kube-apiserver", _CONTROL_PLANE, "--requestheader-client-ca-file", 0),
)


def server_readers(roles: Collection[NodeRole], layout: Layout = Layout.DOCUMENT) -> tuple[str, ...]:
    """Return the components on a node of these roles that read the server in a kubeconfig only when they start."""
    held = (row for row in laid_out(layout) if row.kubeconfig and row.node_roles & {*roles})
    return tuple(dict.fromkeys(row.source for row in held))


def reads_roots(key: str) -> bool:
    """Return whether a component that the hooks of `key` restart reads the bundle with the roots."""
    return any(each.chain for each in READERS if each.ca == CA_OF_BUNDLE.get(key))


def start_only(
    ca: str,
    roles: Collection[NodeRole],
    layout: Layout = Layout.DOCUMENT,
    versions: Mapping[str, int] = _UNKNOWN,
) -> tuple[Reader, ...]:
    """Return what reads the bundle of `ca` only when it starts, on a node of these roles, each component once.

    `versions` are the minor versions of Kubernetes 1 that components of the node report.
    """
    found: dict[str, Reader] = {}
    for each in readers_of(ca, roles, layout):
        if each.at_start(versions.get(each.component)):
            # Of a component that reads it by two settings, the one that asks for more.
            before = found.get(each.component)
            found[each.component] = each if before is None or each.chain else before
    return tuple(found.values())


def versioned(roles: Collection[NodeRole], layout: Layout = Layout.DOCUMENT) -> tuple[str, ...]:
    """Return the components of a node of these roles whose version decides how they read a bundle."""
    everything = (each for ca in ISSUING_CAS for each in readers_of(ca, roles, layout))
    return tuple(dict.fromkeys(each.component for each in everything if each.follows))


def once_start_only(readers: Iterable[Reader], versions: Mapping[str, int] = _UNKNOWN) -> tuple[int, list[str]]:
    """Return the components that read a bundle only when they started, before this minor version of Kubernetes 1.

    Those of a known version in `versions` are left out. The version is 0 where there is none.
    """
    once = [each for each in readers if each.perhaps_at_start(versions.get(each.component))]
    return max((each.follows or 0 for each in once), default=0), list(dict.fromkeys(each.component for each in once))


def readers_of(ca: str | None, roles: Collection[NodeRole], layout: Layout = Layout.DOCUMENT) -> list[Reader]:
    """Return what reads the bundle of `ca` on a node of these roles; none for None."""
    components = {row.source for row in laid_out(layout)}
    here = [each for each in READERS if each.ca == ca and each.role in roles]
    return [each for each in here if each.component in components]


def not_started_again(component: str, ca: str, minor: int | None = None) -> str:
    """Return what is wrong with a component that holds another bundle than the one on the disk.

    `minor` is its version of Kubernetes 1, which is named where it is the reason.
    """
    if ca == KUBECONFIG_SERVERS:
        return f"{component} was not started again since the server in its kubeconfig changed: restart it on this node"
    if ca == SERVICE_ACCOUNT:
        return f"{component} was not started again since {SERVICE_ACCOUNT_FILES}.key or .pub changed"
    always = any(each.follows is None for each in READERS if (each.ca, each.component) == (ca, component))
    of = "" if always or minor is None else f" of Kubernetes 1.{minor}"
    return f"{component}{of} was not started again since the bundle of the CA of {ca} changed"


def not_admitted(running: bool) -> str:
    """Return what is wrong where the record does not admit the key of a node, whose kube-apiserver runs or does not."""
    if running:
        return (
            "kube-apiserver runs, and the record of service-account keys does not admit its key yet: other API servers "
            "may refuse its tokens"
        )
    return (
        "kube-apiserver must not be started yet: the record of service-account keys does not admit its key, so other "
        "API servers would refuse its tokens"
    )


def not_healthy(component: str, problem: str) -> str:
    """Return what is wrong with a component that runs and does not answer as it should."""
    return f"{component} is not healthy: {problem}"
