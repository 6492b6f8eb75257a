"""Reads from a cluster's objects what a take-over must know of nodes, static pods, requests and tokens; pure.

Whoever answers may write anything. What is not of the form that Kubernetes writes is left out, and nothing is longer
than a bound. Of a token only its id and its end are kept.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from vaultpki.kube.cluster import MIRROR, containers_of, kubelet_port
from vaultpki.kube.flags import flags_of
from vaultpki.kube.objects import entries, mapping, metadata, text
from vaultpki.kube.pod_files import host_volumes, mounts
from vaultpki.places import is_below
from vaultpki.redact import hide, moment, printable
from vaultpki.values import yaml_tree

_MOST: Final = 1000
_LONGEST_PEM: Final = 64 * 1024
_LONGEST_YAML: Final = 256 * 1024

CONTROL_PLANE_LABEL: Final = "node-role.kubernetes.io/control-plane"
"""The label that kubeadm gives its control-plane nodes (cmd/kubeadm/app/constants/constants.go)."""

# cluster-bootstrap/token/api/types.go.
_TOKEN_TYPE: Final = "bootstrap.kubernetes.io/token"  # noqa: S105 - the type of a Secret
_TOKEN_NAME: Final = re.compile(r"bootstrap-token-([a-z0-9]{6})")
_FRACTION: Final = re.compile(r"\.[0-9]{1,9}(?=Z\Z)")


@dataclass(frozen=True, slots=True)
class NodeObject:
    """A Node object: `addresses` are pairs of type and address, in its order; `version` is its kubelet's.

    `ready` is the status of its condition Ready: True, False, or Unknown where its kubelet is silent; "" without one.
    """

    name: str
    addresses: tuple[tuple[str, str], ...]
    version: str
    ready: str
    control_plane: bool
    port: int

    @property
    def called(self) -> frozenset[str]:
        """All its addresses and host names."""
        return frozenset(address for _, address in self.addresses)

    def of_type(self, *types: str) -> tuple[str, ...]:
        """Return its addresses of these types."""
        return tuple(address for kind, address in self.addresses if kind in types)


@dataclass(frozen=True, slots=True)
class PodVolume:
    """A volume from the host in a static pod: its path there, the path in the container, and its type.

    `single` is whether it is one file, which the pod reads until its own end however often the file is replaced.
    """

    path: str
    mount: str
    kind: str
    single: bool


@dataclass(frozen=True, slots=True)
class StaticPod:
    """A static pod of a component: its node, the arguments, the volumes from the host, the image, and its start."""

    node: str
    component: str
    arguments: tuple[str, ...]
    volumes: tuple[PodVolume, ...] = ()
    image: str = ""
    started: datetime | None = None

    @property
    def flags(self) -> dict[str, str]:
        """Its flags by name."""
        return flags_of(self.arguments)


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """A CertificateSigningRequest: who asked which signer when, how it ended, and the PEM that was issued.

    `state` is pending, approved (and not yet issued), issued, denied or failed. `message` is that of the condition
    Failed.
    """

    name: str
    signer: str
    user: str
    made: datetime | None
    state: str
    pem: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class BootstrapToken:
    """A bootstrap token: its id, which is no secret, and its end; None if it has none."""

    id: str
    expires: datetime | None


@dataclass(frozen=True, slots=True)
class KubeadmSettings:
    """What kubeadm keeps of its configuration in the ConfigMap `kubeadm-config`; empty where it does not say.

    `names` are those that a person asked for, by the row of the certificate.
    """

    api: str = ""
    version: str = ""
    cluster: str = ""
    endpoint: str = ""
    directory: str = ""
    key: str = ""
    service_cidr: str = ""
    dns_domain: str = ""
    external_etcd: tuple[str, ...] = ()
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PodReader:
    """A running pod that reads a CA in a way that a new one does not reach before the pod starts again.

    `what` says in a few words what it reads. Of one that mounts a file or folder of its node `path` is that, `node` its
    node, and `static` whether the kubelet runs it from a manifest; `path` is empty for others.
    """

    namespace: str
    name: str
    owner: str
    what: str
    path: str = ""
    node: str = ""
    static: bool = False


def node_objects(items: Iterable[object]) -> Iterator[NodeObject]:
    """Yield what is in a list of Node objects."""
    for item in items:
        name, status = text(metadata(item).get("name")), mapping(mapping(item).get("status"))
        if not name:
            continue
        conditions = [mapping(one) for one in entries(status.get("conditions"))[:_MOST]]
        yield NodeObject(
            name=name,
            addresses=tuple(
                (text(one.get("type")), text(one.get("address")))
                for one in map(mapping, entries(status.get("addresses"))[:_MOST])
                if text(one.get("address"))
            ),
            version=text(mapping(status.get("nodeInfo")).get("kubeletVersion")),
            ready=next((text(one.get("status")) for one in conditions if one.get("type") == "Ready"), ""),
            control_plane=CONTROL_PLANE_LABEL in mapping(metadata(item).get("labels")),
            port=kubelet_port(status),
        )


def static_pods(items: Iterable[object], components: Iterable[str]) -> Iterator[StaticPod]:
    """Yield the static pods in a list of Pod objects that run one of these components, with volumes from the host."""
    for item in items:
        if MIRROR in mapping(metadata(item).get("annotations")):
            yield from components_of(item, components)


def components_of(pod: object, components: Iterable[str]) -> Iterator[StaticPod]:
    """Yield the components in a pod, as in the manifest of a static pod; the node is the one that the pod names."""
    spec, status = mapping(mapping(pod).get("spec")), mapping(mapping(pod).get("status"))
    paths = host_volumes(spec)
    for container, name, arguments in containers_of(spec, components):
        yield StaticPod(
            node=text(spec.get("nodeName")),
            component=name,
            arguments=tuple(printable(hide(word)) for word in arguments),
            volumes=tuple(_volumes(container, paths)),
            image=text(container.get("image")),
            started=_started(status, text(container.get("name"))),
        )


def _volumes(container: Mapping[str, Any], paths: Mapping[str, tuple[str, str]]) -> Iterator[PodVolume]:
    for name, below, place in mounts(container):
        if found := paths.get(name):
            path, kind = found
            # A path of the type File is mounted alone; so is whatever a subPath names.
            single = kind in ("File", "FileOrCreate") or bool(below)
            yield PodVolume(text(f"{path}/{below}" if below else path), text(place), text(kind), single)


def _started(status: Mapping[str, Any], container: str) -> datetime | None:
    for one in map(mapping, entries(status.get("containerStatuses"))[:_MOST]):
        if one.get("name") == container:
            return moment(mapping(mapping(one.get("state")).get("running")).get("startedAt"))
    return None


def signing_requests(items: Iterable[object]) -> Iterator[SigningRequest]:
    """Yield what is in a list of CertificateSigningRequest objects."""
    for item in items:
        spec, status = mapping(mapping(item).get("spec")), mapping(mapping(item).get("status"))
        conditions = [mapping(one) for one in entries(status.get("conditions"))[:_MOST]]
        kinds = {one.get("type") for one in conditions}
        pem = _decoded(status.get("certificate"))
        state = "pending"
        for kind, word in (("Approved", "approved"), ("Denied", "denied"), ("Failed", "failed")):
            state = word if kind in kinds else state
        yield SigningRequest(
            name=text(metadata(item).get("name")),
            signer=text(spec.get("signerName")),
            user=text(spec.get("username")),
            made=moment(metadata(item).get("creationTimestamp")),
            state="issued" if pem else state,
            pem=pem,
            message=next((text(one.get("message")) for one in conditions if one.get("type") == "Failed"), ""),
        )


def micro_moment(value: object) -> datetime | None:
    """Return the time of a MicroTime (kubernetes apimachinery, meta/v1), as Leases have; None for anything else."""
    return moment(_FRACTION.sub("", value)) if isinstance(value, str) else None


def bootstrap_tokens(items: Iterable[object]) -> Iterator[BootstrapToken]:
    """Yield the bootstrap tokens in a list of Secret objects, without their secrets."""
    for item in items:
        found = _TOKEN_NAME.fullmatch(text(metadata(item).get("name")))
        if found and mapping(item).get("type") == _TOKEN_TYPE:
            ends = _decoded(mapping(mapping(item).get("data")).get("expiration"))
            yield BootstrapToken(found[1], moment(ends))


def token_starts(items: Iterable[object]) -> Iterator[tuple[str, datetime]]:
    """Yield the id of each bootstrap token, and when it was made, in a list of Secret objects or of their metadata."""
    for item in items:
        found = _TOKEN_NAME.fullmatch(text(metadata(item).get("name")))
        made = moment(metadata(item).get("creationTimestamp"))
        if found and made is not None:
            yield found[1], made


def bound_users(items: Iterable[object]) -> Iterator[str]:
    """Yield the users to whom a list of ClusterRoleBinding objects gives something."""
    for item in items:
        for one in map(mapping, entries(mapping(item).get("subjects"))[:_MOST]):
            if one.get("kind") == "User" and (name := text(one.get("name"))):
                yield name


def kubeadm_settings(item: object) -> KubeadmSettings | None:
    """Return what the ConfigMap `kubeadm-config` says; None if it has no ClusterConfiguration."""
    whole = mapping(mapping(item).get("data")).get("ClusterConfiguration")
    document = _yaml(whole)
    if document.get("kind") != "ClusterConfiguration":
        return None
    networking, etcd = mapping(document.get("networking")), mapping(document.get("etcd"))
    local = mapping(etcd.get("local"))
    asked = {
        "kube-apiserver": mapping(document.get("apiServer")).get("certSANs"),
        "etcd-server": local.get("serverCertSANs"),
        "etcd-peer": local.get("peerCertSANs"),
    }
    return KubeadmSettings(
        api=text(document.get("apiVersion")),
        version=text(document.get("kubernetesVersion")),
        cluster=text(document.get("clusterName")),
        endpoint=text(document.get("controlPlaneEndpoint")),
        directory=text(document.get("certificatesDir")),
        key=text(document.get("encryptionAlgorithm")),
        service_cidr=text(networking.get("serviceSubnet")),
        dns_domain=text(networking.get("dnsDomain")),
        external_etcd=_texts(mapping(etcd.get("external")).get("endpoints")),
        names={row: found for row, sans in asked.items() if (found := _texts(sans))},
    )


def kubelet_defaults(item: object) -> dict[str, Any]:
    """Return the KubeletConfiguration that kubeadm gives joining nodes, by the ConfigMap `kubelet-config`."""
    whole = mapping(mapping(item).get("data")).get("kubelet")
    return _yaml(whole)


def token_of_keys(item: object) -> str | None:
    """Return the id of the token with which the Secret `kubeadm-certs` ends, "" if of none; None without the Secret.

    `item` is its metadata: kubeadm makes a token its owner (cmd/kubeadm/app/phases/copycerts/copycerts.go).
    """
    if not mapping(item):
        return None
    owners = [text(mapping(one).get("name")) for one in entries(metadata(item).get("ownerReferences"))[:_MOST]]
    return next((found[1] for owner in owners if (found := _TOKEN_NAME.fullmatch(owner))), "")


def lease_holder(item: object) -> str:
    """Return the host name in a Lease of a component's leader; "" without one.

    client-go's elections use the host name, an underscore and a UUID.
    """
    return text(mapping(mapping(item).get("spec")).get("holderIdentity")).rpartition("_")[0]


def endpoint_addresses(item: object) -> tuple[str, ...]:
    """Return the addresses in an EndpointSlice, such as those of the API servers."""
    each = map(mapping, entries(mapping(item).get("endpoints"))[:_MOST])
    return tuple(dict.fromkeys(address for one in each for address in _texts(one.get("addresses"))))


def hard_readers(
    items: Iterable[object], directories: Iterable[str], components: Iterable[str] = ()
) -> Iterator[PodReader]:
    """Yield the running pods that read a CA in a way that a new one does not reach: a single file, or host folders.

    `directories` are folders on hosts with the cluster's certificates. Left out are static pods of these `components`,
    and pods that have ended. A ConfigMap or Secret that is mounted by `subPath` stays as it was when the pod began
    (Kubernetes' page on ConfigMaps, "Mounted ConfigMaps are updated automatically").
    """
    below = tuple(directories)
    for item in items:
        about, spec = metadata(item), mapping(mapping(item).get("spec"))
        ended = mapping(mapping(item).get("status")).get("phase") in ("Succeeded", "Failed")
        static = MIRROR in mapping(about.get("annotations"))
        if ended or (static and any(containers_of(spec, components))):
            continue
        paths, copies = host_volumes(spec), set(_ca_volumes(spec))
        for what, path in dict.fromkeys(_hard_mounts(spec, paths, copies, below)):
            owners = entries(about.get("ownerReferences"))
            owner = mapping(owners[0]) if owners else {}
            shown = f"{text(owner.get('kind'))} {text(owner.get('name'))}" if owner else ""
            who = text(about.get("namespace")), text(about.get("name")), shown
            yield PodReader(*who, what, path, text(spec.get("nodeName")), static)


def _ca_volumes(spec: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of volumes with the ConfigMap `kube-root-ca.crt`."""
    for volume in map(mapping, entries(spec.get("volumes"))[:_MOST]):
        sources = [volume, *map(mapping, entries(mapping(volume.get("projected")).get("sources"))[:_MOST])]
        if any(mapping(one.get("configMap")).get("name") == "kube-root-ca.crt" for one in sources):
            yield str(volume.get("name"))


def _hard_mounts(
    spec: Mapping[str, Any], paths: Mapping[str, tuple[str, str]], copies: set[str], below: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    """Yield what is read in a few words, and the path of the node that is mounted, "" for none."""
    containers = [*entries(spec.get("containers")), *entries(spec.get("initContainers"))]
    for container in map(mapping, containers[:_MOST]):
        for name, part, _ in mounts(container):
            if name in copies and part:
                yield "one file of kube-root-ca.crt, by subPath", ""
            path, _ = paths.get(name, ("", ""))
            if any(is_below(path, one) for one in below):
                whole = text(f"{path}{f'/{part}' if part else ''}")
                yield f"{whole} of its node", whole
        for one in map(mapping, entries(container.get("env"))[:_MOST]):
            source = mapping(mapping(one.get("valueFrom")).get("configMapKeyRef"))
            if source.get("name") == "kube-root-ca.crt":
                yield "kube-root-ca.crt in a variable of its environment", ""


def _decoded(value: object) -> str:
    if not isinstance(value, str):
        return ""
    try:
        return base64.b64decode(value[: 2 * _LONGEST_PEM], validate=True).decode("ascii", "replace")
    except (binascii.Error, ValueError):
        return ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(filter(None, map(text, entries(value)[:_MOST])))


def _yaml(source: object) -> dict[str, Any]:
    """Return a YAML mapping that kubeadm writes, all scalars as text; empty for anything else."""
    return yaml_tree.plain_mapping(source[:_LONGEST_YAML], "kubeadm-config") if isinstance(source, str) else {}
