"""Reads parts of a cluster's API server, each for itself: GET requests only, bounded in time and size.

A part that the kubeconfig's user may not read is missing with a reason, and the others are read all the same.
"""

from __future__ import annotations

import http
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar
from urllib.parse import quote

from vaultpki.errors import Unavailable, Untrusted
from vaultpki.kube import cluster as kube_cluster
from vaultpki.kube.api import (
    BUNDLES_A_PAGE,
    JSON,
    LARGEST_PAGE,
    METADATA,
    OBJECTS_A_PAGE,
    context,
    listed,
    refuse_unknown_user,
    request,
    trust_bundles_under,
)
from vaultpki.kube.cluster import CaCopy
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.kube.objects import CLUSTER_TRUST_BUNDLES
from vaultpki.values import json_object

_T = TypeVar("_T")

SYSTEM: Final = "/api/v1/namespaces/kube-system"
PUBLIC: Final = "/api/v1/namespaces/kube-public"

# More at a time would be felt by kube-apiserver, which asks a kubelet for each.
_AT_ONCE: Final = 8

# Objects of one kind, bytes of an object, and characters of all copies of one kind: more than any cluster has.
_MOST: Final = 50_000
_LARGEST: Final = 2 * 1024 * 1024
_MOST_TEXT: Final = 64 * 1024 * 1024


class ClusterReader:
    """Reads parts of one cluster, and keeps the reasons of those that could not be read.

    Nothing is asked for after `deadline` (monotonic seconds).
    """

    def __init__(self, access: KubeAccess, deadline: float) -> None:
        self._access, self._tls, self._deadline = access, context(access), deadline
        self.unread: dict[str, str] = {}
        self._reached = False

    def part(self, name: str, read_part: Callable[[], _T]) -> _T | None:
        """Return what `read_part` reads; None if it cannot be read, with the reason in `unread` by `name`.

        Raises Unavailable or Untrusted if nothing of this cluster was read before.
        """
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
        self, plural: str, more: str = "", *, under: str = "/api/v1", limit: int = OBJECTS_A_PAGE, accept: str = JSON
    ) -> Iterator[object]:
        """Yield the objects of a kind; `under` is the path before it, and `more` is added to the query.

        `accept` is the form of the answer to ask for.
        """

        def page(path: str) -> Mapping[str, Any]:
            return self._page(path, accept)

        for count, item in enumerate(listed(self._access, page, plural, more, under=under, limit=limit)):
            if count >= _MOST:
                raise _Unread(f"there are more than {_MOST}")
            yield item

    def many(
        self, plural: str, under: str, parse: Callable[[Iterable[object]], Iterator[CaCopy]]
    ) -> Callable[[], tuple[CaCopy, ...]]:
        """Return a reader of the copies of CAs in the objects of a kind."""
        return lambda: bounded(parse(self.list(plural, under=under)))

    def trust_bundles(self) -> tuple[CaCopy, ...]:
        """Return the copies in ClusterTrustBundles; none if the API server does not have this kind."""
        under = trust_bundles_under(self._access, self._asked)
        if under is None:
            return ()
        return bounded(kube_cluster.trust_bundles(self.list(CLUSTER_TRUST_BUNDLES, under=under, limit=BUNDLES_A_PAGE)))

    def single(self, path: str, parse: Callable[[object], Iterator[CaCopy]]) -> Callable[[], tuple[CaCopy, ...]]:
        """Return a reader of the copies of CAs in one object, none if there is no object of this name."""

        def read_one() -> tuple[CaCopy, ...]:
            found = self.object(path)
            return () if found is None else tuple(parse(found))

        return read_one

    def object(self, path: str, *, metadata_only: bool = False) -> Any:
        """Return an object, None if there is none of this name; with `metadata_only` its content is not asked for."""
        status, body = self._asked(path, accept=METADATA if metadata_only else JSON)
        if status == http.HTTPStatus.NOT_FOUND:
            return None
        self._refuse(status)
        return _json(body)

    def _page(self, path: str, accept: str = JSON) -> Mapping[str, Any]:
        status, body = self._asked(path, LARGEST_PAGE, accept=accept)
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

    def _asked(self, path: str, largest: int = _LARGEST, *, accept: str = JSON) -> tuple[int, bytes]:
        if time.monotonic() >= self._deadline:
            raise _Unread("the time of this command is over")
        return request(self._access, self._tls, path, largest, accept=accept)

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


def bounded(copies: Iterable[CaCopy]) -> tuple[CaCopy, ...]:
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
