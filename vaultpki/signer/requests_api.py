"""Lists, watches and answers the certificate requests of a cluster, by the signer's own kubeconfig."""

from __future__ import annotations

import base64
import http
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from vaultpki.errors import Unavailable, VaultpkiError
from vaultpki.kube import details
from vaultpki.kube.api import LARGEST_PAGE, OBJECTS_A_PAGE, context, listed, refuse_unknown_user, request, watching
from vaultpki.kube.details import NodeObject
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.kube.objects import entries, mapping, metadata
from vaultpki.kube.writer import ClusterWriter
from vaultpki.redact import stamp
from vaultpki.signer.requests import SAID
from vaultpki.values import json_object

REFUSED: Final = "VaultpkiRefused"
"""The reason of the condition Failed, and of Approved where the signer approves."""

_GROUP: Final = "/apis/certificates.k8s.io/v1"
_KIND: Final = "certificatesigningrequests"
_LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
# The kubelets' pair and the CAs may have been renewed.
_FRESH: Final = 30.0
_WATCH_SECONDS: Final = 240
_LARGEST_WATCH: Final = 1 << 30

Item = dict[str, Any]


class Stale(Exception):
    """The API server no longer has the version that a watch began at (410): list again."""


class RequestsApi:
    """The API server as `load` names it, which is asked again every half minute. Safe to use from several threads.

    Every method raises Unavailable or Untrusted as `kube.api.request`, and VaultpkiError if the user is not accepted or
    may not do it.
    """

    def __init__(self, load: Callable[[], KubeAccess]) -> None:
        self._load, self._lock = load, threading.Lock()
        self._opened: tuple[float, KubeAccess, ClusterWriter] | None = None

    def _open(self) -> tuple[KubeAccess, ClusterWriter]:
        with self._lock:
            now = time.monotonic()
            if self._opened is None or now - self._opened[0] > _FRESH:
                access = self._load()
                self._opened = now, access, ClusterWriter(access)
            return self._opened[1], self._opened[2]

    @property
    def writer(self) -> ClusterWriter:
        """What reads and replaces single objects."""
        return self._open()[1]

    def list(self) -> tuple[list[Item], str]:
        """Return every request, and the version from which to watch."""
        version = ""

        def page(target: str) -> Mapping[str, Any]:
            nonlocal version
            found = self._page(target)
            version = version or str(metadata(found).get("resourceVersion") or "")
            return found

        items = list(self._listed(page, _KIND, _GROUP))
        return [item for item in items if isinstance(item, dict)], version

    def watch(self, version: str) -> Iterator[tuple[str, Item]]:
        """Yield each change after `version`: its type (ADDED, MODIFIED, DELETED or BOOKMARK) and the object.

        It ends after some minutes. Raises Stale if the list must be read anew.
        """
        access, _ = self._open()
        query = f"watch=1&allowWatchBookmarks=true&timeoutSeconds={_WATCH_SECONDS}&resourceVersion={quote(version)}"
        target = f"{_GROUP}/{_KIND}?{query}"
        with watching(access, context(access), target, _WATCH_SECONDS, _LARGEST_WATCH) as (status, lines):
            if status == http.HTTPStatus.GONE:
                raise Stale
            self._refuse(access, status)
            for line in lines:
                event = json_object.parse(line)
                if event is None:
                    raise Unavailable(f"{access.server} sends no JSON while requests are watched; try again")
                found = event.get("object")
                if event.get("type") == "ERROR" or not isinstance(found, dict):
                    raise Stale
                yield str(event.get("type")), found

    def read(self, name: str) -> Item | None:
        """Return a request as it is now; None if it is gone."""
        return self.writer.read(_path(name))

    def write_certificate(self, found: Item, pem: bytes) -> None:
        """Write the certificate into a request, over the version that was read."""
        status = {**mapping(found.get("status")), "certificate": base64.b64encode(pem).decode()}
        self._replace(found, "status", {**found, "status": status})

    def write_failed(self, found: Item, message: str) -> None:
        """Mark a request as refused, over the version that was read."""
        self._replace(found, "status", _with(found, "Failed", REFUSED, message))

    def approve(self, found: Item) -> None:
        """Approve a request of a kubelet, over the version that was read."""
        self._replace(found, "approval", _with(found, "Approved", "VaultpkiApproved", f"{SAID}every rule is met"))

    def nodes(self) -> tuple[NodeObject, ...]:
        """Return every Node with its addresses."""
        return tuple(details.node_objects(self._listed(self._page, "nodes", "/api/v1")))

    def seen_alive(self, node: str) -> datetime | None:
        """Return when the kubelet of a node last renewed its Lease; None without one."""
        found = self.writer.read(f"{_LEASES}/{quote(node, safe='')}")
        if found is None:
            return None
        if (when := details.micro_moment(mapping(found.get("spec")).get("renewTime"))) is None:
            raise Unavailable(f"the Lease of {node} in kube-node-lease has no time; look at it")
        return when

    def _listed(self, page: Callable[[str], Mapping[str, Any]], kind: str, under: str) -> Iterator[object]:
        return listed(self._open()[0], page, kind, under=under, limit=OBJECTS_A_PAGE)

    def _page(self, target: str) -> Mapping[str, Any]:
        access, _ = self._open()
        status, body = request(access, context(access), target, LARGEST_PAGE)
        self._refuse(access, status)
        found = json_object.parse(body)
        if found is None:
            raise Unavailable(f"{access.server} answers no JSON to a list; try again")
        return found

    def _replace(self, found: Item, part: str, wanted: Item) -> None:
        self.writer.replace(f"{_path(str(metadata(found).get('name')))}/{part}", wanted)

    @staticmethod
    def _refuse(access: KubeAccess, status: int) -> None:
        refuse_unknown_user(access, status)
        if status == http.HTTPStatus.FORBIDDEN:
            raise VaultpkiError(
                f"the user of {access.file} may not read what a signer must: apply the manifest signer.yaml that "
                "`vaultpki issue` writes"
            )
        if status != http.HTTPStatus.OK:
            raise Unavailable(f"{access.server} answers {status} to a list; try again")


def _path(name: str) -> str:
    return f"{_GROUP}/{_KIND}/{quote(name, safe='')}"


def _with(found: Item, kind: str, reason: str, message: str) -> Item:
    status = mapping(found.get("status"))
    now = stamp(datetime.now(UTC))
    condition = {"type": kind, "status": "True", "reason": reason, "message": message, "lastUpdateTime": now}
    return {**found, "status": {**status, "conditions": [*entries(status.get("conditions")), condition]}}
