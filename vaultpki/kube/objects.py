"""Reads what an API server lists of ConfigMaps and ClusterTrustBundles with CAs, and of the pods that were given one.

Pure.

What is not of the form that Kubernetes writes is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from vaultpki.redact import moment, printable

ROOT_COPY: Final = "kube-root-ca.crt"
"""The ConfigMap by which the controller manager gives its `--root-ca-file` to the pods of every namespace."""

SERVING_CA: Final = "kubelet-serving-ca"
"""The ConfigMap by which a metrics-server, and whatever else scrapes kubelets, trusts them; ours."""

CLUSTER_TRUST_BUNDLES: Final = "clustertrustbundles"
"""The resource in the group `certificates.k8s.io`, served since Kubernetes 1.37 unless it is switched off."""

API_SERVER_SIGNER: Final = "kubernetes.io/kube-apiserver-serving"
"""The signer of the ClusterTrustBundle in which the controller manager publishes its `--root-ca-file`.

kubernetes pkg/controller/certificates/clustertrustbundlepublisher: it deletes every other one of this signer.
"""

# What kube-apiserver takes (MaxTrustBundleSize in pkg/apis/certificates/types.go).
_LARGEST_BUNDLE: Final = 1024 * 1024

_ENDED: Final = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class RootCopy:
    """The `kube-root-ca.crt` of one namespace: its PEM, and when it last changed; None if the object does not say."""

    namespace: str
    pem: str
    changed: datetime | None


@dataclass(frozen=True, slots=True)
class ClusterTrustBundle:
    """A ClusterTrustBundle: its name, its signer, empty if it has none, and its PEM."""

    name: str
    signer: str
    pem: str

    @property
    def published(self) -> bool:
        """Whether it is the controller manager's, with the CAs by which the API server is recognised."""
        return self.signer == API_SERVER_SIGNER


@dataclass(frozen=True, slots=True)
class PodStart:
    """A running pod that was given the root: when it was made ready to run, and its first container began."""

    namespace: str
    name: str
    started: datetime
    first_container: datetime


@dataclass(frozen=True, slots=True)
class KubeTrust:
    """What a cluster's pods trust: its namespaces, their copies of the root, and the pods that read them.

    `serving` are the files of `kubelet-serving-ca`; none if there is no such ConfigMap. `bundles` are the
    ClusterTrustBundles; none if the cluster does not have this kind. `bundles_unread` is why they could not be read.
    """

    namespaces: tuple[str, ...]
    copies: tuple[RootCopy, ...]
    pods: tuple[PodStart, ...]
    serving: tuple[str, ...] = ()
    bundles: tuple[ClusterTrustBundle, ...] = ()
    bundles_unread: str = ""


def mapping(value: object) -> Mapping[str, Any]:
    """Return the value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def entries(value: object) -> list[object]:
    """Return the value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def text(value: object) -> str:
    """Return the value if it is text, printable and cut short, else empty text."""
    return printable(value[:300]) if isinstance(value, str) else ""


def metadata(item: object) -> Mapping[str, Any]:
    """Return the metadata of an object."""
    return mapping(mapping(item).get("metadata"))


def namespaces(items: Iterable[object]) -> Iterator[str]:
    """Yield the namespaces that are in use, from a list of Namespace objects."""
    for item in items:
        if mapping(mapping(item).get("status")).get("phase") != "Terminating":
            yield text(metadata(item).get("name"))


def copies(items: Iterable[object]) -> Iterator[RootCopy]:
    """Yield the copies of the root in a list of ConfigMap objects."""
    for item in items:
        about = metadata(item)
        if about.get("name") != ROOT_COPY:
            continue
        pem = mapping(mapping(item).get("data")).get("ca.crt")
        yield RootCopy(text(about.get("namespace")), pem if isinstance(pem, str) else "", _changed(about))


def serving(items: Iterable[object]) -> Iterator[str]:
    """Yield the files of `kubelet-serving-ca` in a list of ConfigMap objects."""
    for item in items:
        if metadata(item).get("name") == SERVING_CA:
            yield from (held for held in mapping(mapping(item).get("data")).values() if isinstance(held, str))


def trust_bundles(items: Iterable[object]) -> Iterator[ClusterTrustBundle]:
    """Yield what is in a list of ClusterTrustBundle objects."""
    for item in items:
        spec = mapping(mapping(item).get("spec"))
        pem = spec.get("trustBundle")
        held = pem[:_LARGEST_BUNDLE] if isinstance(pem, str) else ""
        yield ClusterTrustBundle(text(metadata(item).get("name")), text(spec.get("signerName")), held)


def pods(items: Iterable[object]) -> Iterator[PodStart]:
    """Yield the running pods in a list of Pod objects that were given the root: by the ConfigMap, or by the bundle."""
    for item in items:
        pod = mapping(item)
        about, status = mapping(pod.get("metadata")), mapping(pod.get("status"))
        spec = json.dumps(pod.get("spec"))
        if status.get("phase") in _ENDED or not any(source in spec for source in (ROOT_COPY, API_SERVER_SIGNER)):
            continue
        containers = [*entries(status.get("containerStatuses")), *entries(status.get("initContainerStatuses"))]
        running = [mapping(mapping(mapping(one).get("state")).get("running")) for one in containers]
        begun = [when for one in running if (when := moment(one.get("startedAt"))) is not None]
        started = moment(status.get("startTime"))
        if begun and started is not None:
            yield PodStart(text(about.get("namespace")), text(about.get("name")), started, min(begun))


def _changed(about: Mapping[str, Any]) -> datetime | None:
    """Return when the data of an object last changed: `managedFields` has the time of each writer's last change."""
    times = [
        when
        for one in map(mapping, entries(about.get("managedFields")))
        if "f:data" in mapping(one.get("fieldsV1")) and (when := moment(one.get("time"))) is not None
    ]
    return max(times, default=None)
