"""All that a server holds of one cluster, read by the test's own client and made comparable with another cluster's."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from typing import Any
from urllib.parse import urlsplit

from helpers.vault.servers import Server

ISSUERS = ("root", "kubernetes", "kubelet", "etcd", "front-proxy")

# What differs from one run to the next by nature. The cluster's own name goes first.
_VOLATILE = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"\b(?:auth_approle|kv|pki)_[0-9a-f]{8}\b"), "ACCESSOR"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "SHA256"),
    (re.compile(r"\b(?:[0-9a-f]{2}:){19}[0-9a-f]{2}\b"), "SERIAL"),
    (re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z"), "TIME"),
    # That of the record `changes` with which somebody applied last: one who is killed may have written it as well.
    (re.compile(r'(?<="entity": null,\n)( +"version": )\d+'), r"\1 1"),
)

Listing = dict[str, Any]


def listing(server: Server, cluster: str, *, prefix: str | None = None) -> Listing:
    """Mounts, keys, issuers, roles, configurations, policies, AppRoles and records of `cluster`."""
    url = urlsplit(server.address)
    context = ssl.create_default_context(cafile=server.ca_file)
    # One connection for all: a cluster takes some hundred requests.
    connection = http.client.HTTPSConnection(url.hostname or "", url.port, context=context, timeout=30)
    try:
        seen = _Reader(connection, server.token).cluster(prefix or f"vaultpki/{cluster}")
    finally:
        connection.close()
    text = json.dumps(seen, sort_keys=True, indent=1).replace(cluster, "CLUSTER")
    for pattern, word in _VOLATILE:
        text = pattern.sub(word, text)
    made: Listing = json.loads(text)
    return made


class _Reader:
    def __init__(self, connection: http.client.HTTPSConnection, token: str) -> None:
        self._connection, self._token = connection, token

    def data(self, path: str, method: str = "GET") -> dict[str, Any]:
        self._connection.request(method, f"/v1/{path}", headers={"X-Vault-Token": self._token})
        answer = self._connection.getresponse()
        raw = answer.read()
        if answer.status == 404:
            return {}
        assert answer.status == 200, (path, raw)
        data: dict[str, Any] = json.loads(raw)["data"]
        return data

    def names(self, path: str) -> list[str]:
        return [str(name) for name in self.data(path, "LIST").get("keys", [])]

    def records(self, path: str, below: str = "") -> list[str]:
        found = []
        for name in self.names(f"{path}/{below}".rstrip("/")):
            found += self.records(path, below + name) if name.endswith("/") else [below + name]
        return found

    def cluster(self, prefix: str) -> Listing:
        seen: Listing = {"mounts": {}, "auth": {}, "records": {}}
        for path, mount in self.data("sys/mounts").items():
            if path.startswith(f"{prefix}/"):
                seen["mounts"][path] = {name: mount[name] for name in ("type", "description", "config", "options")}
        for path, mount in self.data("sys/auth").items():
            if path.startswith(f"{prefix}/"):
                seen["auth"][path] = {name: mount[name] for name in ("type", "description", "config")}
                roles = f"auth/{path}role"
                seen[roles] = {name: self.data(f"{roles}/{name}") for name in self.names(roles)}
        for name in ISSUERS:
            mount = f"{prefix}/{name}"
            if f"{mount}/" not in seen["mounts"]:
                continue
            keys = self.data(f"{mount}/keys", "LIST").get("key_info", {}).values()
            seen[f"{mount}/keys"] = sorted(json.dumps(key, sort_keys=True) for key in keys)
            issuers = [self.data(f"{mount}/issuer/{id_}") for id_ in self.names(f"{mount}/issuers")]
            kept = ("issuer_name", "leaf_not_after_behavior", "usage", "revoked")
            seen[f"{mount}/issuers"] = [
                {**{field: issuer[field] for field in kept}, "chain": len(issuer["ca_chain"])} for issuer in issuers
            ]
            roles = f"{mount}/roles"
            seen[roles] = {role: self.data(f"{roles}/{role}") for role in self.names(roles)}
            for config in ("urls", "crl", "auto-tidy", "issuers", "keys"):
                seen[f"{mount}/config/{config}"] = self.data(f"{mount}/config/{config}")
        policies = [name for name in self.names("sys/policies/acl") if name.startswith(f"{prefix}/")]
        seen["policies"] = {name: json.loads(self.data(f"sys/policies/acl/{name}")["policy"]) for name in policies}
        store = f"{prefix}/config"
        if f"{store}/" in seen["mounts"]:
            for name in self.records(f"{store}/metadata"):
                seen["records"][name] = _ordered(self.data(f"{store}/data/{name}")["data"])
        return seen


def _ordered(record: dict[str, Any]) -> dict[str, Any]:
    """The list of what was applied is a set, a name a line."""
    if "objects" in record:
        record["objects"] = sorted(record["objects"].splitlines())
    return record
