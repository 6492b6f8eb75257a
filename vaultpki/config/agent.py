"""agent.yaml to a checked `AgentConfig`, and back."""

from __future__ import annotations

import ipaddress
import re
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from vaultpki import windows, words
from vaultpki.config import tree
from vaultpki.config.durations import format_duration
from vaultpki.config.hooks import HOOKS, plain_hooks, read_hooks
from vaultpki.config.shape import Choice, Field, Found, ListOf, MapOf, Record, Text, Version, duration
from vaultpki.config.tree import Place
from vaultpki.errors import SpecError
from vaultpki.model import VERSION, AgentConfig, Auth, FileOptions
from vaultpki.words import quoted

_POLL_LEAST, _POLL_MOST = 10, 86400
_HOOK_MOST = 3600
_METHODS = ("approle", "jwt", "token_file")
_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
_HEADER = "# Written by the join; everything from owner on is this node's own to change.\n"


def _owner(text: str) -> str:
    if not re.fullmatch(rf"{_WORD}\$?:{_WORD}\$?", text):
        raise SpecError(f"{quoted(text)} is no owner: write user:group, by names or numbers, such as root:root")
    return text


def _mode(text: str) -> int:
    if not re.fullmatch(r"0[0-7]{3,4}", text):
        raise SpecError(f'{quoted(text)} is no mode: write it in octal and in quotes, such as "0640"')
    mode = int(text, 8)
    if mode & 0o7000:
        raise SpecError(
            f'{quoted(text)} sets setuid, setgid or sticky, which no certificate needs: write such as "0640"'
        )
    if mode & 0o007:
        raise SpecError(f'{quoted(text)} opens a private key to everyone: write a mode that ends in 0, such as "0640"')
    if mode & 0o111:
        raise SpecError(f'{quoted(text)} makes a key executable: write such as "0600" or "0640"')
    if mode & 0o400 == 0 or mode & 0o020:
        raise SpecError(f'{quoted(text)} lets the group write or the owner not read: write such as "0600" or "0640"')
    return mode


def _role_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", text):
        raise SpecError(f"{quoted(text)} is no role id: write the one that the join file has")
    return text


def _metrics(text: str) -> str:
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:]+)\]|([0-9.]+)):(\d{1,5})", text, re.ASCII)
    host = (match[1] or match[2]) if match else ""
    if match is None or not words.is_address(host) or not 1 <= int(match[3]) <= 65535:
        raise SpecError(f"{quoted(text)} is no address and port: write such as 127.0.0.1:9910")
    if not ipaddress.ip_address(host).is_loopback:
        raise SpecError(f"{quoted(text)} is open to the network: write a loopback address such as 127.0.0.1:9910")
    return text


_PATH = Text(words.absolute_path, "an absolute path")
_NAME_KEY = Text(words.label, "a certificate's name")

AGENT: Final = Record(
    {
        "version": Field(Version(), "Version of this file's form", default=VERSION),
        "cluster": Field(Text(words.cluster_name, "a cluster's name"), "The cluster's name", required=True),
        "prefix": Field(Text(words.prefix, "a path in Vault"), "Where in Vault the cluster lies"),
        "node": Field(Text(words.node_name, "a node's name"), "This node's name", required=True),
        "pool": Field(Text(words.pool_name, "a pool's name"), "Its pool; absent for a listed node"),
        "vault": Field(
            Record(
                {
                    "addresses": Field(
                        ListOf(Text(words.vault_address, "an https:// address"), 1, 16), "Where Vault is", required=True
                    ),
                    "ca_file": Field(_PATH, "PEM file with the CA of Vault's own TLS certificate"),
                    "namespace": Field(
                        Text(words.vault_namespace, "a namespace"), "The namespace in Vault that the cluster lies in"
                    ),
                }
            ),
            "Where Vault is",
            required=True,
        ),
        "root_sha256": Field(
            Text(words.sha256, "64 hex digits"), "SHA-256 of the cluster's root certificate, in hex", required=True
        ),
        "auth": Field(
            Record(
                {
                    "method": Field(Choice(_METHODS, "method"), "One of approle, jwt, token_file", required=True),
                    "role_id": Field(Text(_role_id, "a role id"), "The AppRole's role id"),
                    "path": Field(_PATH, "The file with the JWT or the token"),
                }
            ),
            "How this node proves who it is",
            required=True,
        ),
        "directory": Field(_PATH, "Where the files go", default="/etc/kubernetes/pki"),
        "state": Field(_PATH, "The agent's own folder", default="/var/lib/vaultpki"),
        "owner": Field(Text(_owner, "user:group"), "Owner of the files"),
        "certificates": Field(
            MapOf(
                _NAME_KEY,
                Record(
                    {
                        "owner": Field(Text(_owner, "user:group"), "Owner of this certificate's files"),
                        "mode": Field(Text(_mode, 'a mode in octal and quotes, such as "0640"'), "Mode of its key"),
                    }
                ),
            ),
            "Owner and mode by certificate",
            default={},
        ),
        "hooks": Field(HOOKS, "What to do after a change, by certificate or bundle", default={}),
        "hook_timeout": Field(duration("60s"), "How long one hook may take", default="60s"),
        "poll": Field(duration("5m"), "How often the config store is looked at", default="5m"),
        "windows": Field(
            ListOf(Text(windows.parse, "a window such as `sat,sun 22:00-03:00`"), 0, 64),
            "When to renew what can wait, in UTC; they give way to expiry",
            default=[],
        ),
        "metrics": Field(Text(_metrics, "a loopback address and port"), "Where Prometheus finds metrics"),
    }
)


def load_agent(path: Path, *, allow_http: bool = False) -> AgentConfig:
    """The agent's configuration in `path`; SpecError with file, line and field for the first thing that is wrong.

    `allow_http` lets `vault.addresses` be plain http beyond loopback.
    """
    file = tree.shown(path)
    text = tree.read_text(path)
    start = "remove it, and join with a join file (`vaultpki agent --join`), which writes it"
    spec = AGENT.read(tree.parse(text, file, start=start), Place(file, 1, ""))
    if not allow_http:
        for item in spec["vault"].items("addresses"):
            try:
                words.refuse_plain_http(item.value)
            except SpecError as error:
                raise item.refuse(error.problem) from None
    directory, state = spec.get("directory"), spec.get("state")
    if f"{state}/".startswith(f"{directory}/"):
        raise (spec["state"] if spec["state"].given else spec["directory"]).refuse(
            f"state {quoted(state)} lies in directory {quoted(directory)}, which static pods mount: keep the node's "
            "credential elsewhere, such as /var/lib/vaultpki"
        )
    auth = _auth(spec["auth"])
    if auth.method == "jwt" and not spec.has("pool"):
        raise spec.place.under("pool").refuse(
            "method jwt is for nodes of a pool: write the pool's name, as cluster.yaml has it"
        )
    poll = spec.get("poll")
    if not _POLL_LEAST <= poll <= _POLL_MOST:
        raise spec["poll"].refuse(f"{format_duration(poll)} is out of bounds: write 10s to 24h")
    hook_timeout = spec.get("hook_timeout")
    if hook_timeout > _HOOK_MOST:
        raise spec["hook_timeout"].refuse(f"{format_duration(hook_timeout)} is out of bounds: write 1s to 1h")
    return AgentConfig(
        cluster=spec.get("cluster"),
        prefix=spec.get("prefix") or f"vaultpki/{spec.get('cluster')}",
        node=spec.get("node"),
        pool=spec.get("pool"),
        addresses=spec["vault"].get("addresses"),
        ca_file=spec["vault"].get("ca_file"),
        root_sha256=spec.get("root_sha256"),
        auth=auth,
        directory=directory,
        state=state,
        owner=spec.get("owner"),
        certificates={
            name: FileOptions(found.get("owner"), found.get("mode"))
            for name, found in spec["certificates"].value.items()
        },
        hooks=read_hooks(spec["hooks"]),
        hook_timeout=hook_timeout,
        poll=poll,
        windows=tuple(spec.get("windows")),
        metrics=spec.get("metrics"),
        namespace=spec["vault"].get("namespace"),
        file=str(path),
        source=sha256(text.encode()).hexdigest(),
    )


def dump_agent(config: AgentConfig) -> str:
    """The configuration as the text of an agent.yaml, which `load_agent` reads back to the same values."""
    import yaml

    content: dict[str, Any] = {
        "version": VERSION,
        "cluster": config.cluster,
        "prefix": config.prefix,
        "node": config.node,
        "pool": config.pool,
        "vault": _given(
            {"addresses": list(config.addresses), "ca_file": config.ca_file, "namespace": config.namespace}
        ),
        "root_sha256": config.root_sha256,
        "auth": _given({"method": config.auth.method, "role_id": config.auth.role_id, "path": config.auth.path}),
        "directory": config.directory,
        "state": config.state,
        "owner": config.owner,
        "certificates": {
            name: _given({"owner": each.owner, "mode": None if each.mode is None else f"0{each.mode:03o}"})
            for name, each in config.certificates.items()
        },
        "hooks": plain_hooks(config.hooks),
        "hook_timeout": format_duration(config.hook_timeout),
        "poll": format_duration(config.poll),
        "windows": [window.text for window in config.windows],
        "metrics": config.metrics,
    }
    kept = {key: value for key, value in _given(content).items() if value not in ({}, [])}
    return _HEADER + yaml.safe_dump(kept, sort_keys=False, default_flow_style=None, width=4096)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _auth(found: Found) -> Auth:
    method = found.get("method")
    needs, not_here = ("role_id", "path") if method == "approle" else ("path", "role_id")
    if not found.has(needs):
        raise found.place.under(needs).refuse(f"method {method} needs {needs}: add it")
    if found.has(not_here):
        raise found[not_here].refuse(f"method {method} takes no {not_here}: leave it out")
    return Auth(method, found.get("role_id"), found.get("path"))
