"""`plan`, `apply` and `destroy` as whole processes, and what the server's own audit log saw of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from helpers.vault.applied_cluster import ROOT, AppliedCluster, Ran, environment, vaultpki
from helpers.vault.operator_tokens import Who
from helpers.vault.servers import OF_TESTS, Server

__all__ = ["ROOT", "SPEC", "AuditedCluster", "Ran", "changes", "environment", "everything", "fails", "vaultpki"]

SPEC = """\
api_server: {names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
"""

Changes = dict[tuple[str, str], tuple[str, dict[str, tuple[Any, Any]]]]


def changes(document: dict[str, Any]) -> Changes:
    """(kind, name) -> (action, field -> (from, to)) of what `--json` printed."""
    return {
        (change["kind"], change["name"]): (
            change["action"],
            {name: (field["from"], field["to"]) for name, field in change["fields"].items()},
        )
        for change in document["changes"]
    }


def fails(ran: Ran, *fragments: str) -> None:
    """One sentence on standard error that holds all of `fragments`, and nothing of a traceback."""
    lines = ran.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("vaultpki: "), ran.stderr
    assert "a fault of vaultpki itself" not in ran.stderr and "Traceback" not in ran.stdout, ran.stderr
    for fragment in fragments:
        assert fragment in ran.stderr, ran.stderr


@dataclass(frozen=True, slots=True)
class AuditedCluster(AppliedCluster):
    """A cluster's spec beside a server; every command also says what the audit log saw."""

    def _environment(self, token: str | None, who: Who = "applier") -> dict[str, str]:
        return self.environment(who) if token is None else self.server.environment(token)

    def plan(self, *, token: str | None = None) -> dict[str, Any]:
        """`plan --json`. Fails where it wrote anything, or its exit code does not tell of changes and dangers."""
        start = self.server.audit_position()
        ran = vaultpki(
            *("plan", "-f", self.file, "--json", "--detailed-exitcode"),
            env=self._environment(token, "viewer"),
            expect={0, 3, 4},
        )
        assert self.server.writes(start) == [] and ran.stderr == "", ran.stderr
        document: dict[str, Any] = json.loads(ran.stdout)
        urgent = [end for end in document["expires"] if end["level"] in ("warning", "critical", "expired")]
        attention = document["dangers"] or document["rotation_needed"] or urgent
        assert ran.returncode == (4 if document["changes"] else 3 if attention else 0)
        return document

    def applied(self, *, token: str | None = None) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """`apply --yes --json`, and its writes by the audit log."""
        start = self.server.audit_position()
        ran = vaultpki("apply", "-f", self.file, "--yes", "--json", env=self._environment(token))
        # The question what a token may do is a POST, and changes nothing.
        writes = [write for write in self.server.writes(start) if write[1] != "sys/capabilities-self"]
        document: dict[str, Any] = json.loads(ran.stdout)
        return document, writes

    def settled(self) -> dict[str, Any]:
        """What another apply shows; fails where it has anything to write."""
        document, writes = self.applied()
        assert (document["changes"], writes) == ([], [])
        assert document["requests"]["writes"] == 0
        return document

    def at_rest(self) -> None:
        """The same, and fails where anything is shown that a person must look at: an apply shows what a plan does."""
        document = self.settled()
        found = {name: document[name] for name in ("unmanaged", "dangers", "rotation_needed")}
        assert not any(found.values()), found

    def refused(self, *fragments: str, token: str | None = None, command: str = "apply") -> None:
        """`apply` (or another command) ends with 1 and one sentence, and the audit log has no write of it."""
        start = self.server.audit_position()
        further = {"apply": ["--yes"], "destroy": ["--confirm", self.name]}.get(command, [])
        ran = vaultpki(command, "-f", self.file, *further, env=self._environment(token), expect=1)
        fails(ran, *fragments)
        assert [write for write in self.server.writes(start) if write[1] != "sys/capabilities-self"] == []

    def read_names(self, path: str) -> list[str]:
        keys: list[str] = (self.server.api("LIST", path).body.get("data") or {}).get("keys") or []
        return keys

    def ca(self, *words: str | Path, expect: int = 0, who: Who = "applier") -> Ran:
        """`vaultpki ca` with these words."""
        return vaultpki("ca", words[0], "-f", self.file, *words[1:], env=self.environment(who), expect=expect)

    @property
    def rotated(self) -> str:
        """The state of the rotation that is under way, as `ca status` has it; "" without one."""
        found = json.loads(self.ca("status", "--json", who="viewer").stdout)["rotation"]
        return str(found["state"]) if found else ""

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        """Fails where what is done meanwhile writes anything."""
        start = self.server.audit_position()
        yield
        assert self.server.writes(start) == []

    def issuer_names(self, ca: str, what: str = "issuers") -> set[str]:
        """The names of the issuers on the mount of a CA, or of its `keys`."""
        answer = self.server.api("LIST", f"{self.prefix}/{ca}/{what}")
        found = answer.data["key_info"].values() if answer.status == 200 else ()
        return {str(each[f"{what[:-1]}_name"]) for each in found}

    def destroy(self, *, token: str | None = None) -> Ran:
        return vaultpki(*("destroy", "-f", self.file, "--confirm", self.name), env=self._environment(token), timeout=60)


def everything(server: Server) -> dict[str, Any]:
    """All that anybody has on a server, as far as it lists it: mounts, auth mounts, policies, entities, and below."""
    url = urlsplit(server.address)
    context = ssl.create_default_context(cafile=server.ca_file)
    # One connection for all: a server that other tests have used takes hundreds of requests.
    with contextlib.closing(http.client.HTTPSConnection(url.hostname or "", url.port, context=context)) as connection:
        return _everything(connection, server.token)


def _everything(connection: http.client.HTTPSConnection, token: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def data(method: str, path: str) -> dict[str, Any]:
        connection.request(method, f"/v1/{quote(path)}", headers={"X-Vault-Token": token})
        raw = connection.getresponse().read()
        return (json.loads(raw) if raw else {}).get("data") or {}

    def read(path: str) -> dict[str, Any]:
        found[path] = known = data("GET", path)
        return known

    def names(path: str) -> list[str]:
        keys = [name for name in data("LIST", path).get("keys") or [] if not name.startswith(f"{OF_TESTS}/")]
        found[f"{path}/"] = keys
        return keys

    mounts, auths = read("sys/mounts"), read("sys/auth")
    # What lists names, and where each of them is read.
    lists = [("sys/policies/acl", "sys/policies/acl"), ("identity/entity/id", "identity/entity/id")]
    for path in (path for path, mount in mounts.items() if mount["type"] == "pki"):
        lists += [(f"{path}roles", f"{path}roles"), (f"{path}issuers", f"{path}issuer")]
    for path in (path for path, mount in mounts.items() if mount["type"] == "kv"):
        lists += [(f"{path}metadata{folder}", f"{path}data{folder}") for folder in ("", "/nodes", "/pools", "/reports")]
    lists += [(f"auth/{path}role", f"auth/{path}role") for path, mount in auths.items() if mount["type"] == "approle"]
    for listed, below in lists:
        for name in names(listed):
            read(f"{below}/{name}")
    return found
