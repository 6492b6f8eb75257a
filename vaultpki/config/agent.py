"""Reads agent.yaml into a checked `AgentConfig`, and writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from vaultpki import layout
from vaultpki.config import foreign_cas, kinds, taken_over
from vaultpki.config.fields import (
    Boolean,
    Choice,
    Field,
    FieldValue,
    Kind,
    ListOf,
    MapOf,
    Record,
    Schema,
    Text,
    Version,
    duration,
)
from vaultpki.config.hooks import HOOKS, plain_hooks, read_hooks
from vaultpki.errors import SpecError
from vaultpki.model import VERSION, AgentConfig, Auth, FileOptions, TakenOver
from vaultpki.places import AGENT_FILE, KUBECONFIGS, KUBELET, Layout
from vaultpki.values import hosts, names, windows, yaml_tree
from vaultpki.values.durations import format_duration, parse_duration
from vaultpki.values.names import quoted
from vaultpki.values.yaml_tree import Place

_LIMITS: Final = {"poll": ("10s", "24h"), "hook_timeout": ("1s", "1h")}
_METHODS = ("approle", "jwt", "token_file")
_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
_HEADER = "# Written by the join. Everything from `owner` on may be changed on this node.\n"


_owner: Final = names.matching(
    rf"{_WORD}\$?:{_WORD}\$?", "is not an owner: write user:group, by names or numbers, such as root:root"
)
_role_id: Final = names.matching(r"[A-Za-z0-9._-]{1,128}", "is not a role id: write the one from the join file")


def _mode(text: str) -> int:
    if not re.fullmatch(r"0[0-7]{3,4}", text):
        raise SpecError(f'{quoted(text)} is not a mode: write it in octal and in quotes, such as "0640"')
    mode = int(text, 8)
    if mode & 0o7000:
        raise SpecError(f'{quoted(text)} sets setuid, setgid or sticky: write a mode such as "0640"')
    if mode & 0o007:
        raise SpecError(f'{quoted(text)} opens a private key to everyone: write a mode that ends in 0, such as "0640"')
    if mode & 0o111:
        raise SpecError(f'{quoted(text)} makes a key executable: write a mode such as "0600" or "0640"')
    if mode & 0o400 == 0 or mode & 0o020:
        raise SpecError(
            f'{quoted(text)} lets the group write or the owner not read: write a mode such as "0600" or "0640"'
        )
    return mode


def _metrics(text: str) -> str:
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:]+)\]|([0-9.]+)):(\d{1,5})", text, re.ASCII)
    host = (match[1] or match[2]) if match else ""
    if match is None or not hosts.is_address(host) or not 1 <= int(match[3]) <= 65535:
        raise SpecError(f"{quoted(text)} is not an address and port: write one such as 127.0.0.1:9910")
    if not hosts.is_loopback(host):
        raise SpecError(
            f"{quoted(text)} is reachable from the network: write a loopback address such as 127.0.0.1:9910"
        )
    return text


def _listed_host(text: str) -> str:
    """Return a host as `metrics_hosts` has it: lower case, an address in its normal form and without brackets."""
    return hosts.host(text.lower() if text.isascii() else text, underscores=True).strip("[]")


class _Metrics(Kind):
    """An address and port, or a mapping with that and with hosts."""

    expected = "a loopback address and port such as 127.0.0.1:9910, or a mapping of address and hosts"
    _address = Text(_metrics, "a loopback address and port")
    _record = Record(
        {
            "address": Field(_address, "A loopback address and port", required=True),
            "hosts": Field(
                ListOf(Text(_listed_host, "a host name or address"), 0, 64),
                "Further names and addresses, without port, that a request may have in its Host header",
                default=[],
            ),
        }
    )

    def read(self, node: yaml_tree.Node, place: Place) -> FieldValue:
        if isinstance(node, yaml_tree.Mapping):
            found = self._record.read(node, place)
            return FieldValue((found.get("address"), found.get("hosts")), place)
        return FieldValue((self._address.read(self.scalar(node, place), place).value, ()), place)

    def schema(self) -> Schema:
        return {"anyOf": [self._address.schema(), self._record.schema()]}


_OWNER = Text(_owner, "user:group")
_MODE = Text(_mode, 'a mode in octal and quotes, such as "0640"')

AGENT: Final = Record(
    {
        "version": Field(Version(), "Version of the file format", default=VERSION),
        "cluster": Field(kinds.CLUSTER_NAME, "The cluster's name", required=True),
        "prefix": Field(kinds.PREFIX, "The cluster's path in Vault"),
        "node": Field(kinds.NODE_NAME, "This node's name", required=True),
        "pool": Field(kinds.POOL_NAME, "Its pool; absent for a listed node"),
        "vault": Field(
            Record(
                {
                    "addresses": Field(kinds.VAULT_ADDRESSES, "Vault's addresses", required=True),
                    "ca_file": Field(kinds.ABSOLUTE_PATH, "PEM file with the CA of Vault's own TLS certificate"),
                    "namespace": Field(kinds.NAMESPACE, "The Vault namespace of the cluster"),
                }
            ),
            "Where Vault is",
            required=True,
        ),
        "root_sha256": Field(
            kinds.ROOT_SHA256,
            "SHA-256 of the cluster's root certificate, in hex; a list also names a root to come, for which the other "
            "one need not vouch",
            required=True,
        ),
        "auth": Field(
            Record(
                {
                    "method": Field(Choice(_METHODS, "method"), "One of approle, jwt, token_file", required=True),
                    "role_id": Field(Text(_role_id, "a role id"), "The AppRole's role id"),
                    "path": Field(kinds.ABSOLUTE_PATH, "The file with the JWT or the token"),
                }
            ),
            "How this node logs in to Vault",
            required=True,
        ),
        "directory": Field(
            kinds.ABSOLUTE_PATH, "Folder for certificates, bundles and kubeconfigs", default=layout.DIRECTORY
        ),
        "layout": Field(
            Choice(tuple(each.value for each in Layout), "layout", Layout),
            "Names and folders of the files, as cluster.yaml has it",
            default=Layout.DOCUMENT.value,
        ),
        "folders": Field(
            Record(
                {
                    KUBECONFIGS: Field(
                        kinds.ABSOLUTE_PATH,
                        "Folder for kubeconfigs; default: the one above a directory called pki, else /etc/kubernetes",
                    ),
                    KUBELET: Field(
                        kinds.ABSOLUTE_PATH, "Folder for the kubelet's certificates; default: /var/lib/kubelet/pki"
                    ),
                }
            ),
            "Further folders of the layout kubeadm",
            default={},
        ),
        "state": Field(kinds.ABSOLUTE_PATH, "The agent's own folder", default="/var/lib/vaultpki"),
        "owner": Field(_OWNER, "Owner of the files"),
        "also_trust": Field(
            foreign_cas.PINS, "Foreign CAs that this node accepts: their SHA-256, by issuing CA", default={}
        ),
        "adopt": Field(
            Record(
                {
                    "by_agent": Field(
                        Boolean(),
                        "Whether the agent may exchange folders, change manifests and restart components itself",
                        default=False,
                    )
                }
            ),
            "Set by the join on a machine of a kubeadm cluster that is taken over",
        ),
        "certificates": Field(
            MapOf(
                kinds.LABEL,
                Record(
                    {
                        "owner": Field(_OWNER, "Owner of this certificate's files"),
                        "mode": Field(_MODE, "Mode of its key"),
                    }
                ),
            ),
            "Owner and mode by certificate",
            default={},
        ),
        "hooks": Field(HOOKS, "Commands to run after a change, by certificate or bundle", default={}),
        "hook_timeout": Field(duration("60s"), "How long one hook may take", default="60s"),
        "poll": Field(duration("5m"), "How often the agent reads the config store", default="5m"),
        "windows": Field(
            ListOf(Text(windows.parse, "a window such as `sat,sun 22:00-03:00`"), 0, 64),
            "When to renew, in UTC; ignored if waiting would let a certificate expire",
            default=[],
        ),
        "metrics": Field(_Metrics(), "Address of the Prometheus metrics, and the hosts that may be asked for"),
        "signer": Field(
            Boolean(), "Set by the join in the signer.yaml of a signer, which no agent uses", default=False
        ),
    },
    strange={"nodes": "a cluster.yaml, and not the agent.yaml of a node"},
)


def load_agent(path: Path, *, allow_http: bool = False, signer: bool | None = False) -> AgentConfig:
    """Return the agent's configuration; raise SpecError with file, line and field for the first problem.

    `allow_http` allows plain http to other hosts than loopback in `vault.addresses`. With `signer` it must be the
    signer.yaml of a signer, without it that of an agent; None takes both.
    """
    file = yaml_tree.shown(path)
    _refuse_unjoined(path, file)
    text = yaml_tree.read_text(path)
    start = "remove it, and join with a join file (`vaultpki join`), which writes it"
    spec = AGENT.read(yaml_tree.parse(text, file, start=start), Place(file, 1, ""))
    if signer is not None and spec.get("signer") != signer:
        is_of = "the agent.yaml of a node, and no signer's" if signer else "the signer.yaml of a signer, and no agent's"
        raise SpecError(f"this is {is_of}; name the other file with -c", file=file)
    if not allow_http:
        for item in spec["vault"].items("addresses"):
            item.checked(hosts.refuse_plain_http)
    directory, state = spec.get("directory"), spec.get("state")
    if f"{state}/".startswith(f"{directory}/"):
        raise (spec["state"] if spec["state"].given else spec["directory"]).refuse(
            f"state {quoted(state)} is inside directory {quoted(directory)}, which static pods mount: keep the node's "
            "credential outside, such as in /var/lib/vaultpki"
        )
    folders = _folders(spec)
    auth = _auth(spec["auth"])
    if auth.method == "jwt" and not spec.has("pool"):
        raise spec.place.under("pool").refuse(
            "method jwt is for nodes of a pool: write the pool's name from cluster.yaml"
        )
    for key, (least, most) in _LIMITS.items():
        if not parse_duration(least) <= spec.get(key) <= parse_duration(most):
            raise spec[key].refuse(f"{format_duration(spec.get(key))} is out of range: write {least} to {most}")
    metrics, listed = spec.get("metrics") or (None, ())
    roots = spec["root_sha256"].plain()
    config = AgentConfig(
        cluster=spec.get("cluster"),
        prefix=spec.get("prefix") or f"vaultpki/{spec.get('cluster')}",
        node=spec.get("node"),
        pool=spec.get("pool"),
        addresses=spec["vault"].get("addresses"),
        ca_file=spec["vault"].get("ca_file"),
        root_sha256=roots[0],
        further_roots=roots[1:],
        auth=auth,
        directory=directory,
        state=state,
        owner=spec.get("owner"),
        certificates={
            name: FileOptions(found.get("owner"), found.get("mode"))
            for name, found in spec["certificates"].value.items()
        },
        hooks=read_hooks(spec["hooks"]),
        hook_timeout=spec.get("hook_timeout"),
        poll=spec.get("poll"),
        windows=tuple(spec.get("windows")),
        metrics=metrics,
        metrics_hosts=listed,
        namespace=spec["vault"].get("namespace"),
        layout=spec.get("layout"),
        folders=folders,
        also_trust=foreign_cas.pins(spec["also_trust"]),
        taken_over=_taken_over(spec, folders),
        signer=spec.get("signer"),
        file=str(path),
        source=sha256(text.encode()).hexdigest(),
    )
    return taken_over.located(config)


def _taken_over(spec: FieldValue, folders: Mapping[str, str]) -> TakenOver | None:
    if not spec.has("adopt"):
        return None
    if spec.get("layout") is Layout.DOCUMENT:
        raise spec["adopt"].refuse("only a machine of the layout kubeadm is taken over: leave it out")
    return TakenOver(spec["adopt"].get("by_agent"), spec.get("directory"), folders[KUBELET], folders[KUBECONFIGS])


def _refuse_unjoined(path: Path, file: str) -> None:
    """Raise SpecError, with how to join, if there is no agent.yaml."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        option = "" if str(path) == AGENT_FILE else f" -c {file}"
        raise SpecError(
            "there is no such file, so this machine has not joined a cluster. If it has joined, name its agent.yaml "
            "with -c. Else make a join file where the cluster is applied (`vaultpki enroll NODE -o join.json`) and "
            f"bring it here. Then run `vaultpki join{option} join.json`",
            file=file,
        ) from None
    except OSError:
        # Whoever reads it says why.
        return


def is_current(config: AgentConfig) -> bool:
    """Return whether agent.yaml is still what `config` was read from; False for one that cannot be read."""
    try:
        return not config.source or sha256(yaml_tree.read_text(Path(config.file)).encode()).hexdigest() == config.source
    except SpecError:
        return False


def dump_agent(config: AgentConfig) -> str:
    """Return the text of an agent.yaml which `load_agent` reads back to the same values."""
    from vaultpki.values import yaml_text

    config = taken_over.final(config)

    content: dict[str, Any] = {
        "version": VERSION,
        "cluster": config.cluster,
        "prefix": config.prefix,
        "node": config.node,
        "pool": config.pool,
        "vault": _given(
            {"addresses": list(config.addresses), "ca_file": config.ca_file, "namespace": config.namespace}
        ),
        "root_sha256": [config.root_sha256, *config.further_roots] if config.further_roots else config.root_sha256,
        "auth": _given({"method": config.auth.method, "role_id": config.auth.role_id, "path": config.auth.path}),
        "directory": config.directory,
        "layout": None if config.layout is Layout.DOCUMENT else config.layout.value,
        "folders": dict(config.folders),
        "state": config.state,
        "signer": config.signer or None,
        "owner": config.owner,
        "also_trust": {ca: list(pins) for ca, pins in config.also_trust.items()},
        "adopt": None if config.taken_over is None else {"by_agent": config.taken_over.by_agent},
        "certificates": {
            name: _given({"owner": each.owner, "mode": None if each.mode is None else f"0{each.mode:03o}"})
            for name, each in config.certificates.items()
        },
        "hooks": plain_hooks(config.hooks),
        "hook_timeout": format_duration(config.hook_timeout),
        "poll": format_duration(config.poll),
        "windows": [window.text for window in config.windows],
        "metrics": {"address": config.metrics, "hosts": list(listed)}
        if (listed := config.metrics_hosts)
        else config.metrics,
    }
    kept = {key: value for key, value in _given(content).items() if value not in ({}, [])}
    return _HEADER + yaml_text.dump(kept, inline=True)


def refuse_folders(directory: str, state: str, folders: Mapping[str, str]) -> None:
    """Raise SpecError if the folders of kubeadm's layout lie in one another, or in the agent's own.

    A static pod that mounts one of them would see the keys of another component.
    """
    kubeconfigs, kubelet = folders[KUBECONFIGS], folders[KUBELET]
    for inner, outer in (
        (kubeconfigs, directory),
        (kubelet, directory),
        (directory, kubelet),
        (kubeconfigs, kubelet),
        (state, kubelet),
        (directory, state),
        (kubeconfigs, state),
        (kubelet, state),
    ):
        if f"{inner}/".startswith(f"{outer}/"):
            raise SpecError(
                f"{quoted(inner)} is inside {quoted(outer)}, and static pods mount folders whole: keep certificates, "
                "kubeconfigs, the kubelet's certificates and the agent's state apart"
            )


def _folders(spec: FieldValue) -> dict[str, str]:
    found = spec["folders"]
    if spec.get("layout") is Layout.DOCUMENT:
        if found.given:
            raise found.refuse("only the layout kubeadm has further folders: write layout: kubeadm, or leave it out")
        return {}
    folders = layout.node_folders(spec.get("directory"), found.get(KUBECONFIGS), found.get(KUBELET))
    try:
        refuse_folders(spec.get("directory"), spec.get("state"), folders)
    except SpecError as error:
        raise (found if found.given else spec["directory"]).refuse(error.problem) from None
    return folders


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _auth(found: FieldValue) -> Auth:
    method = found.get("method")
    needs, not_here = ("role_id", "path") if method == "approle" else ("path", "role_id")
    if not found.has(needs):
        raise found.place.under(needs).refuse(f"method {method} needs {needs}: add it")
    if found.has(not_here):
        raise found[not_here].refuse(f"method {method} has no {not_here}: leave it out")
    return Auth(method, found.get("role_id"), found.get("path"))
