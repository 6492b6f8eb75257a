"""Writes single objects of a cluster's API server: each over the version that was read, or not at all.

A person's kubeconfig decides what is allowed. Nothing is ever created here.
"""

from __future__ import annotations

import http
import json
from typing import Any, Final

from vaultpki.errors import ChangedMeanwhile, Unavailable, VaultpkiError
from vaultpki.kube.api import JSON, METADATA, context, exchange, refuse_unknown_user
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.kube.objects import mapping, metadata, text
from vaultpki.values import json_object

_LARGEST: Final = 4 * 1024 * 1024


class ClusterWriter:
    """Reads, replaces and deletes objects by their paths. Raises Unavailable or Untrusted as `api.request`."""

    def __init__(self, access: KubeAccess) -> None:
        self._access, self._tls = access, context(access)

    def read(self, path: str, *, metadata_only: bool = False) -> dict[str, Any] | None:
        """Return an object, None if there is none; with `metadata_only` its content is not asked for."""
        status, body = exchange(
            self._access, self._tls, "GET", path, _LARGEST, accept=METADATA if metadata_only else JSON
        )
        if status == http.HTTPStatus.NOT_FOUND:
            return None
        self._refuse(status, path, "read")
        found = json_object.parse(body)
        if found is None:
            raise Unavailable(f"{self._access.server} answers no JSON object at {path}; try again")
        return found

    def replace(self, path: str, found: dict[str, Any]) -> None:
        """Write an object over the version that it was read with; ChangedMeanwhile if somebody was faster."""
        body = json.dumps(found).encode()
        self._refuse(exchange(self._access, self._tls, "PUT", path, _LARGEST, body=body)[0], path, "change")

    def delete(self, path: str) -> bool:
        """Delete the object that is there now, and none that takes its place; return whether there was one."""
        found = self.read(path, metadata_only=True)
        if found is None:
            return False
        uid = text(metadata(found).get("uid"))
        options = {"kind": "DeleteOptions", "apiVersion": "v1", **({"preconditions": {"uid": uid}} if uid else {})}
        status, _ = exchange(self._access, self._tls, "DELETE", path, _LARGEST, body=json.dumps(options).encode())
        if status != http.HTTPStatus.NOT_FOUND:
            self._refuse(status, path, "delete")
        return True

    def _refuse(self, status: int, path: str, verb: str) -> None:
        refuse_unknown_user(self._access, status)
        if status == http.HTTPStatus.FORBIDDEN:
            raise VaultpkiError(
                f"the user of {self._access.file} may not {verb} {path}; name the kubeconfig of one who may, such as "
                "admin.conf"
            )
        if status == http.HTTPStatus.CONFLICT:
            raise ChangedMeanwhile(f"{path} was changed meanwhile, and not by this command; run it again", status=409)
        if status not in (http.HTTPStatus.OK, http.HTTPStatus.ACCEPTED):
            raise Unavailable(f"{self._access.server} answers {status} to a request to {verb} {path}; try again")


def data_of(found: object) -> dict[str, str]:
    """Return the texts in the data of a ConfigMap."""
    return {key: value for key, value in mapping(mapping(found).get("data")).items() if isinstance(value, str)}
