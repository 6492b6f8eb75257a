"""Reads a running cluster by its API server and a person's kubeconfig: GET requests only.

Lists are read page by page. Each answer is bounded in time and size, and each has a connection of its own, so that no
answer can be taken for another request's.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote, urlsplit

from vaultpki.errors import SpecError, Unavailable, Untrusted, VaultpkiError
from vaultpki.kube import http_exchange, objects
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.kube.objects import (
    CLUSTER_TRUST_BUNDLES,
    ROOT_COPY,
    SERVING_CA,
    ClusterTrustBundle,
    KubeTrust,
    entries,
    mapping,
)
from vaultpki.values import hosts, json_object
from vaultpki.vault.sockets import Channel, connect

JSON: Final = "application/json"
METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""The form of an answer without an object's content (kubernetes apimachinery, meta/v1, PartialObjectMetadata)."""

METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""The same, of a list."""

_SECONDS: Final = 30.0
LARGEST_PAGE: Final = 64 * 1024 * 1024
OBJECTS_A_PAGE: Final = 500
_MOST_PAGES: Final = 2000
_HTTPS: Final = 443
_SYSTEM: Final = "/api/v1/namespaces/kube-system"
_CERTIFICATES: Final = "/apis/certificates.k8s.io"
# Off by default until 1.37, in which it is v1 (kubernetes pkg/features/kube_features.go).
_BUNDLE_VERSIONS: Final = ("v1", "v1beta1", "v1alpha1")
BUNDLES_A_PAGE: Final = 50
"""How many ClusterTrustBundles, each of up to 1 MiB, are asked for at a time."""
# More than any cluster has.
_MOST_BUNDLE_TEXT: Final = 64 * 1024 * 1024
_SERVING: Final = f"fieldSelector=metadata.name%3D{SERVING_CA}"


def read_trust(access: KubeAccess) -> KubeTrust:
    """Return the namespaces, their `kube-root-ca.crt`, the running pods that were given one, and other copies of CAs.

    These are `kubelet-serving-ca`, and the ClusterTrustBundles if the user may list them.

    Raises Unavailable, Untrusted, or VaultpkiError with what the kubeconfig's user lacks.
    """
    tls = context(access)

    def every(kind: str, more: str = "", *, under: str = "/api/v1") -> Iterator[object]:
        return listed(access, lambda target: _page(access, tls, kind, target), kind, more, under=under)

    found = KubeTrust(
        namespaces=tuple(objects.namespaces(every("namespaces"))),
        copies=tuple(objects.copies(every("configmaps", f"fieldSelector=metadata.name%3D{ROOT_COPY}"))),
        pods=tuple(objects.pods(every("pods"))),
        # Who may list ConfigMaps everywhere need not be allowed to get one.
        serving=tuple(objects.serving(every("configmaps", _SERVING, under=_SYSTEM))),
    )
    bundles, unread = _trust_bundles(access, tls)
    return replace(found, bundles=bundles, bundles_unread=unread)


def _trust_bundles(access: KubeAccess, tls: ssl.SSLContext) -> tuple[tuple[ClusterTrustBundle, ...], str]:
    """Return the ClusterTrustBundles, none if there is no such kind, and why they cannot be read."""

    def ask(target: str) -> tuple[int, bytes]:
        return request(access, tls, target, LARGEST_PAGE)

    def page_at(target: str) -> Mapping[str, Any]:
        status, body = ask(target)
        if status == http.HTTPStatus.FORBIDDEN:
            raise _MayNotList
        return _answered(access, CLUSTER_TRUST_BUNDLES, status, body)

    under = trust_bundles_under(access, ask)
    if under is None:
        return (), ""
    found, size = [], 0
    try:
        for each in objects.trust_bundles(
            listed(access, page_at, CLUSTER_TRUST_BUNDLES, under=under, limit=BUNDLES_A_PAGE)
        ):
            size += len(each.pem)
            if size > _MOST_BUNDLE_TEXT:
                return (), f"they are longer than {_MOST_BUNDLE_TEXT // 1024 // 1024} MiB"
            found.append(each)
    except _MayNotList:
        # Who has a role from before there was this kind can still look at everything else.
        return (), f"the user of {access.file} may not list {CLUSTER_TRUST_BUNDLES} of certificates.k8s.io"
    return tuple(found), ""


class _MayNotList(Exception):
    """The kubeconfig's user may not list ClusterTrustBundles."""


def trust_bundles_under(access: KubeAccess, ask: Callable[[str], tuple[int, bytes]]) -> str | None:
    """Return the path before the list of ClusterTrustBundles, by the newest version that is served; None without one.

    `ask` sends a GET and returns the status and the body. Raises Unavailable if the API server does not say.
    """
    for version in _BUNDLE_VERSIONS:
        under = f"{_CERTIFICATES}/{version}"
        status, body = ask(under)
        if status == http.HTTPStatus.FORBIDDEN:
            # Everybody may see what is served unless somebody has taken that away; the list itself says it then.
            if ask(f"{under}/{CLUSTER_TRUST_BUNDLES}?limit=1")[0] != http.HTTPStatus.NOT_FOUND:
                return under
        elif status != http.HTTPStatus.NOT_FOUND:
            resources = _answered(access, "API resources", status, body).get("resources")
            if any(mapping(one).get("name") == CLUSTER_TRUST_BUNDLES for one in entries(resources)):
                return under
    return None


def listed(
    access: KubeAccess,
    page_at: Callable[[str], Mapping[str, Any]],
    kind: str,
    more: str = "",
    *,
    under: str,
    limit: int = OBJECTS_A_PAGE,
) -> Iterator[object]:
    """Yield the objects of a kind, up to `limit` a page; `under` is the path before it: all namespaces, or one.

    `page_at` reads one page of the list. Raises VaultpkiError for a list without end.
    """
    token: object = ""
    for _ in range(_MOST_PAGES):
        rest = f"continue={quote(str(token), safe='')}" if token else ""
        query = "&".join(part for part in (f"limit={limit}", more, rest) if part)
        page = page_at(f"{under}/{kind}?{query}")
        items, about = page.get("items"), page.get("metadata")
        yield from items if isinstance(items, list) else ()
        token = about.get("continue") if isinstance(about, dict) else ""
        if not isinstance(token, str) or not token:
            return
    raise VaultpkiError(f"{access.server} lists {kind} without end; check the address in {access.file}")


def refuse_unknown_user(access: KubeAccess, status: int) -> None:
    """Raise VaultpkiError if this status says that the API server does not accept the kubeconfig's user."""
    if status == http.HTTPStatus.UNAUTHORIZED:
        raise VaultpkiError(
            f"{access.server} does not accept the user of {access.file}: its certificate or token may have expired; "
            "issue it again"
        )


def _page(access: KubeAccess, tls: ssl.SSLContext, kind: str, target: str) -> dict[str, Any]:
    status, body = request(access, tls, target, LARGEST_PAGE)
    if status == http.HTTPStatus.FORBIDDEN:
        raise VaultpkiError(
            f"the user of {access.file} may not list {kind} in all namespaces. Name the kubeconfig of one who may list "
            # kube-apiserver refuses everybody until it has read its roles.
            "namespaces, configmaps and pods, such as admin.conf. If the API server has just started, try again in a "
            "minute"
        )
    return _answered(access, kind, status, body)


def _answered(access: KubeAccess, kind: str, status: int, body: bytes) -> dict[str, Any]:
    """Return the JSON object in an answer to a list; raise VaultpkiError if it is another answer."""
    refuse_unknown_user(access, status)
    value = json_object.parse(body) if status == http.HTTPStatus.OK else None
    if value is None:
        raise Unavailable(f"{access.server} answers {status} to a list of {kind}; check the address in {access.file}")
    return value


def request(
    access: KubeAccess, tls: ssl.SSLContext, target: str, largest: int, *, accept: str = JSON
) -> tuple[int, bytes]:
    """Send one GET on a connection of its own; return the status and the body. `accept` is the form to ask for.

    Raises Untrusted, or Unavailable, also if the answer has more than `largest` bytes.
    """
    return exchange(access, tls, "GET", target, largest, accept=accept)


def exchange(
    access: KubeAccess,
    tls: ssl.SSLContext,
    method: str,
    target: str,
    largest: int,
    *,
    accept: str = JSON,
    body: bytes = b"",
) -> tuple[int, bytes]:
    """Send one request with a JSON `body` unless that is empty; otherwise as `request`."""
    deadline = time.monotonic() + _SECONDS
    with _channel(access, tls, deadline) as channel:
        extra = _headers(access, accept) | ({"Content-Type": JSON} if body else {})
        netloc, where = _target(access, target)
        return http_exchange.send(channel, method, netloc, where, extra, body, deadline, largest)


@contextmanager
def watching(
    access: KubeAccess, tls: ssl.SSLContext, target: str, seconds: float, largest: int
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Send one GET whose answer goes on for up to `seconds`; yield the status, and its lines as they arrive.

    Raises as `request`, also while the lines are read.
    """
    deadline = time.monotonic() + seconds + _SECONDS
    with _channel(access, tls, deadline) as channel:
        netloc, where = _target(access, target)
        yield http_exchange.stream(channel, netloc, where, _headers(access, JSON), deadline, largest)


def _headers(access: KubeAccess, accept: str) -> dict[str, str]:
    return {"Accept": accept, **({"Authorization": f"Bearer {access.token}"} if access.token else {})}


def _target(access: KubeAccess, target: str) -> tuple[str, str]:
    url = urlsplit(access.server)
    return url.netloc, f"{url.path.rstrip('/')}{target}"


@contextmanager
def _channel(access: KubeAccess, tls: ssl.SSLContext, deadline: float) -> Iterator[Channel]:
    """Yield a connection to the API server, whose errors are told by the name of the kubeconfig."""
    url = urlsplit(access.server)
    origin = f"https://{url.hostname and hosts.in_url(url.hostname)}:{url.port or _HTTPS}"
    try:
        channel = connect(origin, tls, access.server_name, deadline)
    except ssl.SSLCertVerificationError:
        raise Untrusted(
            f"the certificate of {access.server} is not of a CA in {access.file}; take a kubeconfig with both roots"
        ) from None
    except (OSError, ValueError) as error:
        why = "it does not answer in time" if isinstance(error, TimeoutError) else type(error).__name__
        raise Unavailable(f"{access.server} cannot be reached ({why}); check the address in {access.file}") from None
    try:
        yield channel
    except (OSError, ValueError, http.client.HTTPException):
        raise Unavailable(f"{access.server} gave no whole answer in time; try again") from None
    finally:
        channel.close()


def context(access: KubeAccess) -> ssl.SSLContext:
    """Return the TLS settings of a kubeconfig: its CA and its pair. Raises SpecError if they cannot be used."""
    try:
        tls = ssl.create_default_context(cadata=access.ca_pem)
        # A bundle without the root is enough for Go, and so for kubectl.
        tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if access.certificate_pem:
            http_exchange.load_pair(tls, access.certificate_pem, access.key_pem)
    except (ssl.SSLError, OSError, ValueError):
        raise SpecError(
            "its CA, certificate or key cannot be used; issue the kubeconfig again", file=access.file
        ) from None
    return tls
