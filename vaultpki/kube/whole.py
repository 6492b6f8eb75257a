"""Reads all that a take-over must know of a cluster from its API server: GET requests only, each part for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from vaultpki.kube import details, objects
from vaultpki.kube.cluster import LiveCluster
from vaultpki.kube.details import (
    BootstrapToken,
    KubeadmSettings,
    NodeObject,
    PodReader,
    SigningRequest,
    StaticPod,
)
from vaultpki.kube.flags import COMPONENTS
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.kube.objects import PodStart
from vaultpki.kube.reader import SYSTEM, ClusterReader
from vaultpki.kube.running import with_copies

BINDINGS: Final = "clusterrolebindings"
"""The part that says which users ClusterRoleBindings name."""

_ELECTED: Final = ("kube-controller-manager", "kube-scheduler")
_SLICE: Final = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
_LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
_TOKENS: Final = "fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken"


@dataclass(frozen=True, slots=True)
class WholeCluster:
    """What the API server shows of a cluster. `live` has the copies of CAs and the kubelets' configurations.

    `static` are also those of nodes that are no control plane. `settings` are kubeadm's, None without them; `defaults`
    is the configuration of kubelets that join. `keys_token` is the id of the token with which the Secret
    `kubeadm-certs` ends, None without that Secret. `bound` are the users whom a ClusterRoleBinding names. `leaders` are
    host names by component. `endpoints` are the addresses of the API servers. `readers` are pods that a new CA does not
    reach, and `pods` those that were given the root. `unread` says by the name of a part why it could not be read.
    """

    live: LiveCluster
    nodes: tuple[NodeObject, ...] = ()
    static: tuple[StaticPod, ...] = ()
    settings: KubeadmSettings | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    requests: tuple[SigningRequest, ...] = ()
    tokens: tuple[BootstrapToken, ...] = ()
    keys_token: str | None = None
    bound: frozenset[str] = frozenset()
    leaders: Mapping[str, str] = field(default_factory=dict)
    endpoints: tuple[str, ...] = ()
    readers: tuple[PodReader, ...] = ()
    pods: tuple[PodStart, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)


def read(access: KubeAccess, deadline: float) -> WholeCluster:
    """Return what the API server shows; nothing more is asked for after `deadline` (monotonic seconds).

    Raises Unavailable or Untrusted if it cannot be talked to at all, and VaultpkiError if it does not accept the user.
    """
    reader = ClusterReader(access, deadline)
    nodes = reader.part("nodes", lambda: tuple(details.node_objects(reader.list("nodes")))) or ()
    static = reader.part(
        "static pods", lambda: tuple(details.static_pods(reader.list("pods", under=SYSTEM), COMPONENTS))
    )
    settings = reader.part("kubeadm-config", lambda: details.kubeadm_settings(_config(reader, "kubeadm-config")))
    defaults = reader.part("kubelet-config", lambda: details.kubelet_defaults(_config(reader, "kubelet-config")))
    planes = {node.name for node in nodes if node.control_plane}
    folders = _directories([pod for pod in static or () if pod.node in planes], settings)
    readers, pods = reader.part("pods", lambda: _pods(reader, folders)) or ((), ())
    requests = reader.part(
        "certificatesigningrequests",
        lambda: tuple(
            details.signing_requests(reader.list("certificatesigningrequests", under="/apis/certificates.k8s.io/v1"))
        ),
    )
    tokens = reader.part(
        "bootstrap tokens", lambda: tuple(details.bootstrap_tokens(reader.list("secrets", _TOKENS, under=SYSTEM)))
    )
    keys_token = reader.part(
        "kubeadm-certs",
        # Its content is the keys of the CAs.
        lambda: details.token_of_keys(reader.object(f"{SYSTEM}/secrets/kubeadm-certs", metadata_only=True)),
    )
    bound = reader.part(
        BINDINGS,
        lambda: frozenset(details.bound_users(reader.list(BINDINGS, under="/apis/rbac.authorization.k8s.io/v1"))),
    )
    leaders = {
        name: holder
        for name in _ELECTED
        if (holder := reader.part(f"lease of {name}", lambda name=name: _holder(reader, name)))  # type: ignore[misc]
    }
    endpoints = reader.part("API servers", lambda: details.endpoint_addresses(reader.object(_SLICE)))
    live = with_copies(reader)
    kubelets = reader.kubelets(tuple(node.name for node in nodes))
    return WholeCluster(
        live=LiveCluster(
            namespaces=live.namespaces,
            copies=live.copies,
            kubelets=kubelets,
            allowed_names=live.allowed_names,
            unread=dict(reader.unread),
        ),
        nodes=nodes,
        static=static or (),
        settings=settings,
        defaults=defaults or {},
        requests=requests or (),
        tokens=tokens or (),
        keys_token=keys_token,
        bound=bound or frozenset(),
        leaders=leaders,
        endpoints=endpoints or (),
        readers=readers,
        pods=pods,
        unread=dict(reader.unread),
    )


def directory(static: Sequence[StaticPod], settings: KubeadmSettings | None) -> str:
    """Return the folder of the certificates by the flags of kube-apiserver, else by kubeadm; "" if neither says it."""
    for pod in static:
        if pod.component == "kube-apiserver" and (file := pod.flags.get("client-ca-file")):
            return file.rpartition("/")[0]
    return settings.directory if settings is not None else ""


def _directories(static: Sequence[StaticPod], settings: KubeadmSettings | None) -> tuple[str, ...]:
    found = directory(static, settings)
    return tuple(dict.fromkeys(("/etc/kubernetes", "/var/lib/kubelet/pki", *([found] if found else []))))


def _config(reader: ClusterReader, name: str) -> Any:
    return reader.object(f"{SYSTEM}/configmaps/{name}")


def _holder(reader: ClusterReader, name: str) -> str:
    return details.lease_holder(reader.object(f"{_LEASES}/{name}"))


def _pods(reader: ClusterReader, directories: tuple[str, ...]) -> tuple[tuple[PodReader, ...], tuple[PodStart, ...]]:
    """Return the pods that a new CA does not reach, and those that were given the root."""
    readers: list[PodReader] = []
    pods: list[PodStart] = []
    # One at a time: all objects of a large cluster need a lot of memory.
    for item in reader.list("pods"):
        readers += details.hard_readers((item,), directories, COMPONENTS)
        pods += objects.pods((item,))
    return tuple(readers), tuple(pods)
