"""Says who reads the bundle of which CA, and when each notices a new one: facts about components, beside the table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from vaultpki.certificates import CLIENT_LOOK, ISSUING_CAS, bundle, laid_out
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


_CONTROL_PLANE, _ETCD, _WORKER = NodeRole.CONTROL_PLANE, NodeRole.ETCD, NodeRole.WORKER
_KUBECONFIG = "certificate-authority in its kubeconfig"

# Kubernetes: dynamiccertificates.DynamicFileCAContent of apiserver watches its file since 1.23. client-go reads its CA
# file again since 1.36, every five minutes (transport/ca_rotation.go, gate ClientsAllowCARotation).
# kube-controller-manager reads --root-ca-file, which every pod gets, when it starts
# (cmd/kube-controller-manager/app/certificates.go, readCA). etcd makes its CA pools when it starts, and so does its
# client in kube-apiserver (etcd client/pkg/transport).
READERS: Final[tuple[Reader, ...]] = (
    Reader("kubernetes", "kube-apiserver", _CONTROL_PLANE, "--client-ca-file", 0),
    Reader("kubernetes", "kubelet", _WORKER, "authentication.x509.clientCAFile", 0),
    Reader("kubernetes", "kube-controller-manager", _CONTROL_PLANE, "--root-ca-file", None, chain=True),
    Reader("kubernetes", "kube-controller-manager", _CONTROL_PLANE, _KUBECONFIG, 36, CLIENT_LOOK),
    Reader("kubernetes", "kube-scheduler", _CONTROL_PLANE, _KUBECONFIG, 36, CLIENT_LOOK),
    Reader("kubernetes", "kubelet", _WORKER, _KUBECONFIG, 36, CLIENT_LOOK),
    Reader("kubernetes", "kube-proxy", _WORKER, _KUBECONFIG, 36, CLIENT_LOOK),
    Reader("kubelet", "kube-apiserver", _CONTROL_PLANE, "--kubelet-certificate-authority", 36, CLIENT_LOOK),
    Reader("etcd", "etcd", _ETCD, "--trusted-ca-file and --peer-trusted-ca-file", None),
    Reader("etcd", "kube-apiserver", _CONTROL_PLANE, "--etcd-cafile", None),
    Reader("front-proxy", "kube-apiserver", _CONTROL_PLANE, "--requestheader-client-ca-file", 0),
)


def reads_roots(key: str) -> bool:
    """Return whether a component that the hooks of `key` restart reads the bundle with the roots."""
    return any(each.chain for each in READERS if each.ca == CA_OF_BUNDLE.get(key))


def start_only(ca: str, roles: Collection[NodeRole], layout: Layout = Layout.DOCUMENT) -> tuple[Reader, ...]:
    """Return what reads the bundle of `ca` only when it starts, on a node of these roles."""
    return tuple(each for each in readers_of(ca, roles, layout) if each.follows is None)


def once_start_only(readers: Iterable[Reader]) -> tuple[int, list[str]]:
    """Return the components that read a bundle only when they started, before this minor version of Kubernetes 1.

    The version is 0 where there is none.
    """
    once = [each for each in readers if each.follows]
    return max((each.follows or 0 for each in once), default=0), list(dict.fromkeys(each.component for each in once))


def readers_of(ca: str | None, roles: Collection[NodeRole], layout: Layout = Layout.DOCUMENT) -> list[Reader]:
    """Return what reads the bundle of `ca` on a node of these roles; none for None."""
    components = {row.source for row in laid_out(layout)}
    here = [each for each in READERS if each.ca == ca and each.role in roles]
    return [each for each in here if each.component in components]


def not_started_again(component: str, ca: str) -> str:
    """Return what is wrong with a component that holds another bundle than the one on the disk."""
    return f"{component} was not started again since the bundle of the CA of {ca} changed"


def not_healthy(component: str, problem: str) -> str:
    """Return what is wrong with a component that runs and does not answer as it should."""
    return f"{component} is not healthy: {problem}"
