"""Reads the part of a kubeconfig that says where the API server is and who asks: the current context, and no more."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from vaultpki.errors import SpecError, StoreError
from vaultpki.redact import printable
from vaultpki.values import input_file, yaml_tree
from vaultpki.values.yaml_tree import read_text

_LARGEST_KEY_FILE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class KubeAccess:
    """How to reach a cluster: `server` is the URL of its API server, `ca_pem` the CAs that its certificate may be of.

    `server_name` is the name in that certificate if it is not the host's. Either `token` or the pair is set.
    """

    file: str
    server: str
    ca_pem: str
    server_name: str | None = None
    token: str = field(default="", repr=False)
    certificate_pem: bytes = field(default=b"", repr=False)
    key_pem: bytes = field(default=b"", repr=False)


def read(path: Path) -> KubeAccess:
    """Read the current context of a kubeconfig; raise SpecError if it has none that this program can use."""
    import yaml

    text = read_text(path)
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise SpecError("is not YAML; name a kubeconfig, such as admin.conf", file=str(path)) from None
    document = _Document(path)
    whole = document.mapping(value, "")
    name = whole.get("current-context")
    if not isinstance(name, str) or not name:
        document.refuse("has no current-context, as every kubeconfig that can be used")
    context = document.named(whole, "contexts", "context", name)
    cluster = document.named(whole, "clusters", "cluster", context.get("cluster"))
    user = document.named(whole, "users", "user", context.get("user"))
    server = cluster.get("server")
    if not isinstance(server, str) or not server.startswith("https://"):
        document.refuse("has no https address of a cluster")
    if cluster.get("insecure-skip-tls-verify"):
        document.refuse("skips the check of the API server's certificate, which this command does not do")
    certificate = document.content(user, "client-certificate")
    key = document.content(user, "client-key")
    token = document.token(user)
    if not token and not (certificate and key):
        document.refuse("logs in with neither a client certificate nor a token")
    ca = document.content(cluster, "certificate-authority")
    if not ca:
        document.refuse("names no CA of the API server")
    server_name = cluster.get("tls-server-name")
    return KubeAccess(
        file=str(path),
        server=server,
        ca_pem=ca.decode("ascii", "replace"),
        server_name=server_name if isinstance(server_name, str) and server_name else None,
        token="" if certificate and key else token,
        certificate_pem=certificate,
        key_pem=key,
    )


@dataclass(frozen=True, slots=True)
class KubeconfigParts:
    """What a kubeconfig on a node says without its secrets: the server, its CA, and the client's certificate.

    `ca_pem` and `certificate_pem` are what the file itself holds, `ca_file` and `certificate_file` what it names.
    `server_name` is the name in the server's certificate if it is not the host's.
    """

    server: str = ""
    ca_pem: str = ""
    ca_file: str = ""
    certificate_pem: str = ""
    certificate_file: str = ""
    server_name: str = ""

    @property
    def embedded(self) -> tuple[str, ...]:
        """What the file holds itself, so that its reader does not follow a renewal: CA, client certificate, or both."""
        held = (("CA", self.ca_pem), ("client certificate", self.certificate_pem))
        return tuple(what for what, pem in held if pem)


def parts(text: str) -> KubeconfigParts | None:
    """Return the parts of the current context of a kubeconfig, else of its first entries; None if it is none.

    Keys and tokens are not kept. Pure.
    """
    whole = yaml_tree.plain_mapping(text, "kubeconfig")
    if whole.get("kind") != "Config":
        return None
    named = {kind: _by_name(whole, plural, kind) for plural, kind in _ENTRIES}
    context = named["context"].get(str(whole.get("current-context")), {})
    cluster = named["cluster"].get(str(context.get("cluster")), next(iter(named["cluster"].values()), {}))
    user = named["user"].get(str(context.get("user")), next(iter(named["user"].values()), {}))
    return KubeconfigParts(
        server=_plain(cluster.get("server")),
        ca_pem=_pem(cluster.get("certificate-authority-data")),
        ca_file=_plain(cluster.get("certificate-authority")),
        certificate_pem=_pem(user.get("client-certificate-data")),
        certificate_file=_plain(user.get("client-certificate")),
        server_name=_plain(cluster.get("tls-server-name")),
    )


def places(folder: str, names: Callable[[str], Iterable[str]], root: str = "") -> Iterator[str]:
    """Yield where kubeconfigs may lie on a machine: in kubeadm's folder, and in the home folders below `root`.

    `names` returns the names in a folder, none if there is none. Nothing is read here.
    """
    yield from (f"{folder}/{name}" for name in names(folder) if name.endswith(".conf"))
    homes = [f"{root}/root", *(f"{root}/home/{name}" for name in names(f"{root}/home"))]
    yield from (f"{home}/.kube/config" for home in homes)


_ENTRIES = (("contexts", "context"), ("clusters", "cluster"), ("users", "user"))


def _by_name(whole: Mapping[str, Any], plural: str, kind: str) -> dict[str, Mapping[str, Any]]:
    entries = whole.get(plural)
    return {
        str(entry.get("name")): inner
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and isinstance(inner := entry.get(kind), dict)
    }


def _plain(value: object) -> str:
    return printable(value[:300]) if isinstance(value, str) else ""


def _pem(value: object) -> str:
    try:
        return base64.b64decode(value, validate=True).decode("ascii", "replace") if isinstance(value, str) else ""
    except (binascii.Error, ValueError):
        return ""


@dataclass(frozen=True, slots=True)
class _Document:
    path: Path

    def refuse(self, problem: str) -> NoReturn:
        raise SpecError(
            f"{problem}; name a kubeconfig with a client certificate or a token, such as admin.conf",
            file=str(self.path),
        )

    def mapping(self, value: object, what: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            self.refuse(f"has no {what}" if what else "is not a kubeconfig")
        return value

    def named(self, whole: Mapping[str, Any], plural: str, kind: str, name: object) -> Mapping[str, Any]:
        entries = whole.get(plural)
        found = [
            entry.get(kind)
            for entry in (entries if isinstance(entries, list) else [])
            if isinstance(entry, dict) and isinstance(name, str) and entry.get("name") == name
        ]
        return self.mapping(found[0] if found else None, f"{kind} for its current context")

    def content(self, entry: Mapping[str, Any], key: str) -> bytes:
        """Return what `KEY-data` holds, or the file that KEY names; empty without either."""
        data, file = entry.get(f"{key}-data"), entry.get(key)
        try:
            if isinstance(data, str) and data:
                return base64.b64decode(data, validate=True)
            if isinstance(file, str) and file:
                return input_file.read(os.path.join(self.path.parent, file), _LARGEST_KEY_FILE)[0]
        except binascii.Error:
            self.refuse(f"has a {key}-data that does not decode")
        except (OSError, StoreError, ValueError):
            self.refuse(f"names a {key} that this user cannot read")
        return b""

    def token(self, user: Mapping[str, Any]) -> str:
        token = user.get("token")
        if isinstance(token, str) and token:
            return token
        return self.content({"token": user.get("tokenFile")}, "token").decode("ascii", "replace").strip()
