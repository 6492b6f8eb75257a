"""Reads what an API server shows of a running cluster: nodes, copies of CAs, and flags of components; pure.

Whoever answers may write anything. What is not of the form that Kubernetes writes is left out, and nothing is longer
than a bound.
"""

from __future__ import annotations

import base64
import binascii
import enum
import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vaultpki.errors import SpecError
from vaultpki.kube import objects
from vaultpki.kube.objects import ROOT_COPY, SERVING_CA, entries, mapping, metadata, text
from vaultpki.layout import KUBELET_PORT
from vaultpki.values import yaml_tree

CLUSTER_INFO: Final = "cluster-info"
AUTHENTICATION: Final = "extension-apiserver-authentication"
"""ConfigMaps with CAs: kubeadm's for joining nodes, and kube-apiserver's for aggregated servers."""

_LONGEST: Final = 300
_MOST: Final = 1000
_LONGEST_PEM: Final = 256 * 1024
# kubernetes pkg/kubelet/types/pod_update.go
MIRROR: Final = "kubernetes.io/config.mirror"


class Copied(enum.Enum):
    """Who reads a copy of CAs, which decides what it must hold."""

    PODS = "pods"
    JOINING = "joining nodes"
    CLIENTS = "kubernetes"
    FRONT_PROXY = "front-proxy"
    KUBELETS = "kubelet"
    SERVER = "server"
    BUNDLE = "bundle"


@dataclass(frozen=True, slots=True)
class CaCopy:
    """One copy of CAs in the cluster: where it is, who reads it, and its text; empty if there is none.

    `insecure` is whether the reader does not check the server at all. `service` is whether that server is one in the
    cluster, which no public CA knows.
    """

    place: str
    copied: Copied
    pem: str
    insecure: bool = False
    service: bool = True


@dataclass(frozen=True, slots=True)
class LiveNode:
    """A Node object: its name, its addresses of type InternalIP, and the port of its kubelet."""

    name: str
    addresses: tuple[str, ...]
    port: int


@dataclass(frozen=True, slots=True)
class PodFlags:
    """A static pod: its node, the component in it, and the arguments of that."""

    node: str
    component: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LiveCluster:
    """What the API server shows. `unread` says by the name of a part why it could not be read.

    `kubelets` are the configurations that kubelets run with, by node. `allowed_names` are the front proxies that
    kube-apiserver admits, None if it does not say.
    """

    nodes: tuple[LiveNode, ...] = ()
    namespaces: tuple[str, ...] = ()
    copies: tuple[CaCopy, ...] = ()
    pods: tuple[PodFlags, ...] = ()
    kubelets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    allowed_names: tuple[str, ...] | None = None
    unread: Mapping[str, str] = field(default_factory=dict)


def nodes(items: Iterable[object]) -> Iterator[LiveNode]:
    """Yield the nodes in a list of Node objects."""
    for item in items:
        status = mapping(mapping(item).get("status"))
        addresses = [
            address
            for one in map(mapping, entries(status.get("addresses"))[:_MOST])
            if one.get("type") == "InternalIP" and (address := kubelet_address(one.get("address")))
        ]
        if name := _name(item):
            yield LiveNode(name, tuple(addresses), kubelet_port(status))


def kubelet_port(status: Mapping[str, Any]) -> int:
    """Return the port of a node's kubelet by the status of its Node object; the usual one where that names none."""
    port = mapping(mapping(status.get("daemonEndpoints")).get("kubeletEndpoint")).get("Port")
    return port if type(port) is int and 0 < port < 65536 else KUBELET_PORT


def root_copies(items: Iterable[object]) -> Iterator[CaCopy]:
    """Yield the copies of the root in a list of ConfigMap objects."""
    for item in items:
        if _name(item) == ROOT_COPY:
            space = text(metadata(item).get("namespace"))
            yield CaCopy(f"{ROOT_COPY} in {space}", Copied.PODS, _data(item, "ca.crt"))


def cluster_info(item: object) -> Iterator[CaCopy]:
    """Yield the CAs in the kubeconfig of the ConfigMap `cluster-info`, by which kubeadm lets nodes join."""
    place = f"{CLUSTER_INFO} in kube-public"
    found = list(_clusters(_data(item, "kubeconfig")))
    if not found:
        yield CaCopy(place, Copied.JOINING, "")
    for one in found[:_MOST]:
        insecure = one.get("insecure-skip-tls-verify", "").lower() == "true"
        yield CaCopy(place, Copied.JOINING, _decoded(one.get("certificate-authority-data")), insecure=insecure)


def _clusters(kubeconfig: str) -> Iterator[dict[str, str]]:
    """Yield the clusters of a kubeconfig, with their scalar values; none if it is not YAML that kubeadm writes."""
    try:
        # Not PyYAML's own loader: by merge keys a short text becomes a large one.
        whole = yaml_tree.parse(kubeconfig, CLUSTER_INFO, start="kubeadm writes it")
    except SpecError:
        return
    _, clusters = whole.items.get("clusters", (None, None))
    for entry in clusters.items if isinstance(clusters, yaml_tree.Sequence) else ():
        _, cluster = entry.items.get("cluster", (None, None)) if isinstance(entry, yaml_tree.Mapping) else (None, None)
        if isinstance(cluster, yaml_tree.Mapping):
            yield {key: value.value for key, (_, value) in cluster.items.items() if isinstance(value, yaml_tree.Scalar)}


def authentication(item: object) -> Iterator[CaCopy]:
    """Yield the client CAs in the ConfigMap `extension-apiserver-authentication`."""
    for key, copied in (
        ("client-ca-file", Copied.CLIENTS),
        ("requestheader-client-ca-file", Copied.FRONT_PROXY),
    ):
        yield CaCopy(f"{key} of {AUTHENTICATION} in kube-system", copied, _data(item, key))


def allowed_names(item: object) -> tuple[str, ...] | None:
    """Return the names of front proxies in the same ConfigMap; None if it has no list of them."""
    try:
        found = json.loads(_data(item, "requestheader-allowed-names"))
    except (ValueError, RecursionError):
        return None
    return tuple(map(text, found[:_MOST])) if isinstance(found, list) else None


def serving_ca(item: object) -> Iterator[CaCopy]:
    """Yield the CAs in the ConfigMap `kubelet-serving-ca`."""
    yield CaCopy(f"{SERVING_CA} in kube-system", Copied.KUBELETS, _data(item, "kubelet-ca.crt"))


def webhooks(items: Iterable[object], kind: str) -> Iterator[CaCopy]:
    """Yield the caBundle of each webhook in a list of webhook configurations; `kind` is their singular for people."""
    for item in items:
        for one in map(mapping, entries(mapping(item).get("webhooks"))[:_MOST]):
            place = f"{kind} {_name(item)}: webhook {text(one.get('name'))}"
            yield _server(place, mapping(one.get("clientConfig")))


def conversions(items: Iterable[object]) -> Iterator[CaCopy]:
    """Yield the caBundle of each conversion webhook in a list of CustomResourceDefinition objects."""
    for item in items:
        conversion = mapping(mapping(mapping(item).get("spec")).get("conversion"))
        client = mapping(mapping(conversion.get("webhook")).get("clientConfig"))
        if conversion.get("strategy") == "Webhook":
            yield _server(f"CustomResourceDefinition {_name(item)}: conversion webhook", client)


def api_services(items: Iterable[object]) -> Iterator[CaCopy]:
    """Yield the caBundle of each APIService that another server answers."""
    for item in items:
        spec = mapping(mapping(item).get("spec"))
        if isinstance(spec.get("service"), Mapping):
            skips = spec.get("insecureSkipTLSVerify") is True
            yield CaCopy(f"APIService {_name(item)}", Copied.SERVER, _decoded(spec.get("caBundle")), insecure=skips)


def trust_bundles(items: Iterable[object]) -> Iterator[CaCopy]:
    """Yield the CAs of each ClusterTrustBundle; only the controller manager's is known to be for the API server."""
    for found in objects.trust_bundles(items):
        copied = Copied.PODS if found.published else Copied.BUNDLE
        yield CaCopy(f"ClusterTrustBundle {found.name}", copied, found.pem)


def static_pods(items: Iterable[object], components: Iterable[str]) -> Iterator[PodFlags]:
    """Yield the static pods in a list of Pod objects that run one of these components."""
    for item in items:
        about, spec = metadata(item), mapping(mapping(item).get("spec"))
        if MIRROR in mapping(about.get("annotations")):
            for _, name, arguments in containers_of(spec, components):
                yield PodFlags(text(spec.get("nodeName")), name, arguments)


def containers_of(
    spec: Mapping[str, Any], components: Iterable[str]
) -> Iterator[tuple[Mapping[str, Any], str, tuple[str, ...]]]:
    """Yield each container of a pod's spec that runs one of these components, with its name and its arguments."""
    known = set(components)
    for container in map(mapping, entries(spec.get("containers"))[:_MOST]):
        # The kubelet runs `command`, and `args` after it (pod v1 API).
        words = [*entries(container.get("command"))[:_MOST], *entries(container.get("args"))[:_MOST]]
        texts = [word[:_LONGEST] for word in words if isinstance(word, str)]
        name = texts[0].rpartition("/")[2] if texts else ""
        if name in known:
            yield container, name, tuple(texts[1:])


def kubelet_configuration(value: object) -> Mapping[str, Any] | None:
    """Return the KubeletConfiguration in the answer to a kubelet's `/configz`; None if it is none."""
    found = mapping(value).get("kubeletconfig")
    return found if isinstance(found, Mapping) else None


def _server(place: str, client: Mapping[str, Any]) -> CaCopy:
    return CaCopy(
        place, Copied.SERVER, _decoded(client.get("caBundle")), service=isinstance(client.get("service"), Mapping)
    )


def kubelet_address(value: object) -> str:
    """Return an address at which a kubelet can be, "" for one of this machine, of a link or of no machine."""
    try:
        found = ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError:
        return ""
    odd = found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified or found.is_reserved
    return "" if odd else str(found)


def _name(item: object) -> str:
    return text(metadata(item).get("name"))


def _data(item: object, key: str) -> str:
    value = mapping(mapping(item).get("data")).get(key)
    return value[:_LONGEST_PEM] if isinstance(value, str) else ""


def _decoded(value: object) -> str:
    if not isinstance(value, str):
        return ""
    try:
        return base64.b64decode(value[: 2 * _LONGEST_PEM], validate=True).decode("ascii", "replace")
    except (binascii.Error, ValueError):
        # Not the same as none: it is not a certificate, and is said not to be one.
        return "?"
