"""Reads all that `verify --live` looks at from a cluster's API server: GET requests only, each part for itself.

A part that the kubeconfig's user may not read is missing with a reason, and the others are read all the same.
"""

from __future__ import annotations

import http
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final, TypeVar
from urllib.parse import quote

from vaultpki.errors import Unavailable, Untrusted
from vaultpki.kube import cluster as kube_cluster
from vaultpki.kube import objects
from vaultpki.kube.api import (
    BUNDLES_A_PAGE,
    LARGEST_PAGE,
    OBJECTS_A_PAGE,
    context,
    listed,
    refuse_unknown_user,
    request,
    trust_bundles_under,
)
from vaultpki.kube.cluster import CaCopy, LiveCluster
from vaultpki.kube.flags import COMPONENTS
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.kube.objects import CLUSTER_TRUST_BUNDLES, ROOT_COPY, SERVING_CA
from vaultpki.values import json_object

_T = TypeVar("_T")

# More at a time would be felt by kube-apiserver, which asks a kubelet for each.
_AT_ONCE: Final = 8

# Objects of one kind, bytes of an object, and characters of all copies of one kind: more than any cluster has.
_MOST: Final = 50_000
_LARGEST: Final = 2 * 1024 * 1024
_MOST_TEXT: Final = 64 * 1024 * 1024

_SYSTEM: Final = "/api/v1/namespaces/kube-system"
_PUBLIC: Final = "/api/v1/namespaces/kube-public"
_ADMISSION: Final = "/apis/admissionregistration.k8s.io/v1"
_KINDS: Final = {
    "validatingwebhookconfigurations": "ValidatingWebhookConfiguration",
    "mutatingwebhookconfigurations": "MutatingWebhookConfiguration",
}


def read(access: KubeAccess, deadline: float) -> LiveCluster:
    """Return what the API server shows; nothing more is asked for after `deadline` (monotonic seconds).

    Raises Unavailable or Untrusted if it cannot be talked to at all, and VaultpkiError if it does not accept the user.
    """
    reader = _ClusterReader(access, context(access), deadline)
    nodes = reader.part("nodes", lambda: tuple(kube_cluster.nodes(reader.list("nodes"))))
    pods = reader.part(
        "static pods", lambda: tuple(kube_cluster.static_pods(reader.list("pods", under=_SYSTEM), COMPONENTS))
    )
    found = _with_copies(reader)
    kubelets = reader.kubelets(tuple(node.name for node in nodes or ()))
    return replace(found, nodes=nodes or (), pods=pods or (), kubelets=kubelets, unread=dict(reader.unread))


def read_copies(access: KubeAccess, deadline: float) -> LiveCluster:
    """Return only the copies of CAs that the API server shows; otherwise as `read`."""
    return _with_copies(_ClusterReader(access, context(access), deadline))


def _with_copies(reader: _ClusterReader) -> LiveCluster:
    namespaces = reader.part("namespaces", lambda: tuple(objects.namespaces(reader.list("namespaces"))))
    copies = [copy for name, read_part in _copies(reader) for copy in reader.part(name, read_part) or ()]
    allowed = reader.part(
        kube_cluster.AUTHENTICATION,
        lambda: kube_cluster.allowed_names(reader.object(f"{_SYSTEM}/configmaps/{kube_cluster.AUTHENTICATION}")),
    )
    return LiveCluster(
        namespaces=namespaces or (), copies=tuple(copies), allowed_names=allowed, unread=dict(reader.unread)
    )


def _copies(reader: _ClusterReader) -> Iterator[tuple[str, Callable[[], tuple[CaCopy, ...]]]]:
    """Yield what holds copies of CAs, by its name for people, and how to read it."""
    named = f"fieldSelector=metadata.name%3D{ROOT_COPY}"
    yield ROOT_COPY, lambda: _bounded(kube_cluster.root_copies(reader.list("configmaps", named)))
    for name, space, parse in (
        (kube_cluster.CLUSTER_INFO, _PUBLIC, kube_cluster.cluster_info),
        (kube_cluster.AUTHENTICATION, _SYSTEM, kube_cluster.authentication),
        (SERVING_CA, _SYSTEM, kube_cluster.serving_ca),
    ):
        yield name, reader.single(f"{space}/configmaps/{name}", parse)
    for plural, kind in _KINDS.items():
        yield plural, reader.many(plural, _ADMISSION, lambda items, kind=kind: kube_cluster.webhooks(items, kind))  # type: ignore[misc]
    yield "apiservices", reader.many("apiservices", "/apis/apiregistration.k8s.io/v1", kube_cluster.api_services)
    definitions = "customresourcedefinitions"
    yield definitions, reader.many(definitions, "/apis/apiextensions.k8s.io/v1", kube_cluster.conversions)
    yield CLUSTER_TRUST_BUNDLES, reader.trust_bundles


class _ClusterReader:
    """Reads parts of one cluster, and keeps the reasons of those that could not be read."""

    def __init__(self, access: KubeAccess, tls: ssl.SSLContext, deadline: float) -> None:
        self._access, self._tls, self._deadline = access, tls, deadline
        self.unread: dict[str, str] = {}
        self._reached = False

    def part(self, name: str, read_part: Callable[[], _T]) -> _T | None:
        try:
            found = read_part()
        except (Unavailable, Untrusted):
            if not self._reached:
                # The first part: the API server itself cannot be reached.
                raise
            self.unread[name] = "the API server gave no answer"
            return None
        except _Unread as error:
            self.unread[name] = str(error)
            found = None
        self._reached = True
        return found

    def list(
        self, plural: str, more: str = "", *, under: str = "/api/v1", limit: int = OBJECTS_A_PAGE
    ) -> Iterator[object]:
        for count, item in enumerate(listed(self._access, self._page, plural, more, under=under, limit=limit)):
            if count >= _MOST:
                raise _Unread(f"there are more than {_MOST}")
            yield item

    def many(
        self, plural: str, under: str, parse: Callable[[Iterable[object]], Iterator[CaCopy]]
    ) -> Callable[[], tuple[CaCopy, ...]]:
        return lambda: _bounded(parse(self.list(plural, under=under)))

    def trust_bundles(self) -> tuple[CaCopy, ...]:
        """Return the copies in ClusterTrustBundles; none if the API server does not have this kind."""
        under = trust_bundles_under(self._access, self._asked)
        if under is None:
            return ()
        return _bounded(kube_cluster.trust_bundles(self.list(CLUSTER_TRUST_BUNDLES, under=under, limit=BUNDLES_A_PAGE)))

    def single(self, path: str, parse: Callable[[object], Iterator[CaCopy]]) -> Callable[[], tuple[CaCopy, ...]]:
        def read_one() -> tuple[CaCopy, ...]:
            found = self.object(path)
            return () if found is None else tuple(parse(found))

        return read_one

    def object(self, path: str) -> Any:
        """Return an object; None if there is none of this name."""
        status, body = self._asked(path)
        if status == http.HTTPStatus.NOT_FOUND:
            return None
        self._refuse(status)
        return _json(body)

    def _page(self, path: str) -> Mapping[str, Any]:
        status, body = self._asked(path, LARGEST_PAGE)
        self._refuse(status)
        return _json(body)

    def _proxied(self, path: str) -> Any:
        """Return what a kubelet answers, which the API server hands on with the kubelet's status."""
        status, body = self._asked(f"/api/v1/nodes/{path}")
        if status == http.HTTPStatus.UNAUTHORIZED:
            # The API server has accepted the user before.
            raise _Unread("the kubelet does not accept the certificate of kube-apiserver")
        if status == http.HTTPStatus.FORBIDDEN:
            raise _Unread(f"the user of {self._access.file}, or kube-apiserver at the kubelet, may not read it")
        self._refuse(status)
        return _json(body)

    def kubelets(self, names: tuple[str, ...]) -> dict[str, Mapping[str, Any]]:
        """Ask each kubelet, through the API server, for the configuration that it runs with."""

        def ask(name: str) -> Mapping[str, Any] | str:
            try:
                found = kube_cluster.kubelet_configuration(self._proxied(f"{quote(name, safe='')}/proxy/configz"))
            except (Unavailable, Untrusted):
                return "the API server gave no answer"
            except _Unread as error:
                return str(error)
            return "it shows no configuration" if found is None else found

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = dict(zip(names, pool.map(ask, names), strict=True))
        self.unread |= {f"kubelet of {name}": said for name, said in answers.items() if isinstance(said, str)}
        return {name: said for name, said in answers.items() if not isinstance(said, str)}

    def _asked(self, path: str, largest: int = _LARGEST) -> tuple[int, bytes]:
        if time.monotonic() >= self._deadline:
            raise _Unread("the time of this command is over")
        return request(self._access, self._tls, path, largest)

    def _refuse(self, status: int) -> None:
        refuse_unknown_user(self._access, status)
        if status == http.HTTPStatus.FORBIDDEN:
            raise _Unread(f"the user of {self._access.file} may not read it")
        if status != http.HTTPStatus.OK:
            raise _Unread(f"the API server answers {status}")


def _json(body: bytes) -> dict[str, Any]:
    found = json_object.parse(body)
    if found is None:
        raise _Unread("the answer is not a JSON object")
    return found


def _bounded(copies: Iterable[CaCopy]) -> tuple[CaCopy, ...]:
    """Return these copies; raise _Unread if their texts are longer than those of any cluster."""
    found, size = [], 0
    for copy in copies:
        size += len(copy.pem)
        if size > _MOST_TEXT:
            raise _Unread(f"they are longer than {_MOST_TEXT // 1024 // 1024} MiB")
        found.append(copy)
    return tuple(found)


class _Unread(Exception):
    """One part cannot be read; the message is the reason."""
