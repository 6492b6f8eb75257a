"""A cluster with a pool, and nodes that take part by join files as people would do it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, Ran, environment, vaultpki
from helpers.vault.servers import Server
from vaultpki.errors import StateConflict
from vaultpki.identity import enrol
from vaultpki.vault import Settings, Vault

SPEC = """\
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
- {name: batch, roles: [worker], node_names: "batch-*"}
"""


def token(server: Server, *policies: str) -> str:
    """A token with these policies and no other, not even the default one."""
    answer = server.api("POST", "auth/token/create", {"policies": policies, "no_default_policy": True})
    assert answer.status == 200, answer
    made: str = answer.body["auth"]["client_token"]
    return made


def enroller_token(cluster: AppliedCluster) -> str:
    return token(cluster.server, f"{cluster.prefix}/enroller")


def client(server: Server, token: str) -> Vault:
    """The product's own client, for calls of its functions."""
    return Vault(Settings((server.address,), ca_pem=server.ca_file.read_text(), token=token))


@dataclass(frozen=True, slots=True)
class Enroller:
    """Where somebody enrols nodes of a cluster, with a token of their own."""

    cluster: AppliedCluster
    token: str

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.cluster.server.environment(self.token))

    def enroll(
        self, *arguments: str | Path, expect: int = 0, names: str | None = None, umask: int = 0o022, timeout: float = 90
    ) -> Ran:
        """`vaultpki enroll`; `names` are what comes on standard input."""
        if names is None:
            words = ["enroll", "-f", self.cluster.file, *arguments]
            return vaultpki(
                *words, env=self.cluster.server.environment(self.token), expect=expect, umask=umask, timeout=timeout
            )
        ran = subprocess.run(
            [*self.command, *map(str, arguments)],
            env=self.environment,
            input=names,
            capture_output=True,
            text=True,
            check=False,
            umask=umask,
            timeout=timeout,
        )
        assert ran.returncode == expect, f"{arguments}: exit {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        return ran

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "vaultpki", "enroll", "-f", str(self.cluster.file)]

    def join_file(
        self, node: str, path: Path, *, pool: str | None = None, wrap_ttl: str = "5m", replace: bool = False
    ) -> Path:
        """A fresh join file; with `replace` in place of every credential that the node has."""
        more = [*(["--pool", pool] if pool else []), *(["--replace"] if replace else [])]
        self.enroll(node, *more, "--wrap-ttl", wrap_ttl, "-o", path)
        return path

    def run(self, *arguments: str | Path, expect: int = 0) -> Ran:
        """Another command of the product with the same token."""
        return vaultpki(*arguments, env=self.cluster.server.environment(self.token), expect=expect)


def join(node: NodeFolder, file: Path, *, expect: int = 0, umask: int = 0o022) -> Ran:
    """`vaultpki join` and one pass, on a node that knows nothing of Vault but the file."""
    return vaultpki(*joining(node, file), expect=expect, umask=umask)


def joining(node: NodeFolder, file: Path) -> list[str | Path]:
    return ["join", "-c", node.config, file, "--dir", node.pki]


def vacate(cluster: AppliedCluster, node: str) -> None:
    """Ends whatever credentials the node has of earlier tests, and the record of that; it may have none."""
    with contextlib.suppress(StateConflict):
        enrol.lock(cluster.model, cluster.client("locker"), node, wait=0)
    assert cluster.server.api("DELETE", f"{cluster.prefix}/config/metadata/locked/{node}").status == 204


def wrapped(
    cluster: AppliedCluster, path: str, *, token: str | None = None, ttl: str = "60s", body: object = None
) -> str:
    """The token that wraps what a POST brings; with the root token where none is given."""
    url = urlsplit(cluster.server.address)
    context = ssl.create_default_context(cafile=cluster.server.ca_file)
    connection = http.client.HTTPSConnection(str(url.hostname), url.port, context=context, timeout=30)
    headers = {"X-Vault-Token": cluster.server.token if token is None else token, "X-Vault-Wrap-TTL": ttl}
    with contextlib.closing(connection):
        connection.request("POST", f"/v1/{path}", json.dumps(body or {}), headers)
        answer = json.loads(connection.getresponse().read())
    made: str = answer["wrap_info"]["token"]
    return made


def minted(cluster: AppliedCluster, kind: str, node: str, token: str) -> str:
    """A secret id that the node's own token mints, as its agent does."""
    wrapping = wrapped(cluster, f"auth/{cluster.prefix}/{kind}/role/{node}/secret-id", token=token)
    made: str = cluster.server.api("POST", "sys/wrapping/unwrap", token=wrapping).data["secret_id"]
    return made


def edited(file: Path, to: Path, **fields: Any) -> Path:
    """A copy of a join file with some fields changed."""
    to.touch(0o600)
    to.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return to


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def accessors(cluster: AppliedCluster, node: str, kind: str) -> list[str]:
    """The accessors of the node's live secret ids."""
    answer = cluster.server.api("LIST", f"auth/{cluster.prefix}/{kind}/role/{node}/secret-id")
    keys: list[str] = answer.data["keys"] if answer.status == 200 else []
    return keys


def login(cluster: AppliedCluster, kind: str, role_id: str, secret_id: str) -> str | None:
    """A token of the node, or None where Vault refuses."""
    body = {"role_id": role_id, "secret_id": secret_id}
    answer = cluster.server.api("POST", f"auth/{cluster.prefix}/{kind}/login", body, token="")
    made: str | None = answer.body["auth"]["client_token"] if answer.status == 200 else None
    return made


def works(cluster: AppliedCluster, token: str) -> bool:
    """Whether Vault still takes a node's token for anything that every node may read."""
    store = f"{cluster.prefix}/config/data"
    found = {cluster.server.api("GET", f"{store}/{name}", token=token).status for name in ("cluster", "changes")}
    assert found <= {200, 403}, found
    return 200 in found


def entity(cluster: AppliedCluster, kind: str, role_id: str) -> str | None:
    """The id of the entity that Vault made when this AppRole logged in."""
    mounts = cluster.read("sys/auth")
    accessor = mounts[f"{cluster.prefix}/{kind}/"]["accessor"]
    body = {"alias_name": role_id, "alias_mount_accessor": accessor}
    answer = cluster.server.api("POST", "identity/lookup/entity", body)
    return str(answer.data["id"]) if answer.status == 200 else None


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """The environment of a person at a terminal, for work that runs in a forked process."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith(("VAULT_", "BAO_"))]:
        del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
