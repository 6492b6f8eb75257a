"""The plain values everything else is said in: frozen, comparable, free of input and output.

Durations are whole seconds, times are aware UTC datetimes, names are already validated.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from vaultpki.values import dataclass

VERSION = 1
"""The version of cluster.yaml, agent.yaml, join.json and the config store's records that this program speaks."""

NODE = "{node}"
"""Where a row or a pool's record says this, the node's own name goes."""


class Usage(enum.Enum):
    """What a leaf may be used for (RFC 5280 section 4.2.1.12)."""

    CLIENT = "client"
    SERVER = "server"
    BOTH = "both"

    @property
    def client(self) -> bool:
        return self is not Usage.SERVER

    @property
    def server(self) -> bool:
        return self is not Usage.CLIENT


class NodeRole(enum.Enum):
    """What a node does in the cluster; a node may have several."""

    CONTROL_PLANE = "control-plane"
    ETCD = "etcd"
    WORKER = "worker"


class KeyType(enum.Enum):
    """A key as people write it in cluster.yaml."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    ED25519 = "ed25519"

    @property
    def vault_type(self) -> str:
        """The engine's `key_type`: ec, rsa or ed25519."""
        return {"ec": "ec", "rsa": "rsa", "ed25519": "ed25519"}[self.value.partition("-")[0]]

    @property
    def vault_bits(self) -> int:
        """The engine's `key_bits`; 0 where the type has only one size."""
        digits = "".join(c for c in self.value.partition("-")[2] if c.isdigit())
        return int(digits) if digits else 0

    @property
    def rsa(self) -> bool:
        return self.vault_type == "rsa"


@dataclass(frozen=True, slots=True)
class Subject:
    """Who a certificate is for: CN, O values, DNS SANs and IP SANs, each in the order of the table.

    IP addresses are text in the form `str(ipaddress.ip_address(x))` gives.
    """

    common_name: str
    organization: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: a certificate that a cluster needs, before it is resolved for a holder.

    `common_name`, `dns` and `ips` may hold the placeholders of `certificates.py`. `node_roles` is empty for what
    an operator holds. `stem` is the file name without `.crt`; `kubeconfig` a file name or None. `reload` is the
    longest time in seconds that the consumer goes on with a pair after a new one lies on disk (facts, section 1).
    `manifest` names the template of a Kubernetes manifest without which the certificate lets nobody in.
    """

    name: str
    usage: Usage
    source: str
    target: str
    common_name: str
    organization: tuple[str, ...]
    dns: tuple[str, ...]
    ips: tuple[str, ...]
    ca: str
    stem: str
    kubeconfig: str | None = None
    node_roles: frozenset[NodeRole] = frozenset()
    reload: int = 0
    ttl: int | None = None
    key: KeyType | None = None
    manifest: str | None = None
    document: bool = False
    built_in: bool = True

    @property
    def operator(self) -> bool:
        return not self.node_roles

    @property
    def addressed(self) -> bool:
        """Whether the certificate carries IP SANs, which only a listed node's policy can hold."""
        return bool(self.ips)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A row resolved for one holder: exactly what is asked of Vault and laid down on disk.

    `mount` is the issuing CA's mount path, `role` the PKI role there, `ttl` seconds.
    """

    name: str
    usage: Usage
    subject: Subject
    ca: str
    mount: str
    role: str
    ttl: int
    key: KeyType
    stem: str
    kubeconfig: str | None = None
    reload: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """A listed node: its names and addresses are fixed in cluster.yaml."""

    name: str
    roles: frozenset[NodeRole]
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Jwt:
    """Who vouches for a pool's nodes, and in which claim of its tokens a node's name stands.

    `node_claim` is a claim, or a JSON pointer (RFC 6901) to one below another. The issuer's keys are either
    `public_keys`, each PEM without a newline at its end, or what `jwks_url` gives, trusted by `jwks_ca_pem` or the
    server's own roots.
    """

    issuer: str
    audiences: tuple[str, ...]
    node_claim: str
    public_keys: tuple[str, ...] = ()
    jwks_url: str | None = None
    jwks_ca_pem: str | None = None

    @property
    def trust(self) -> tuple[object, ...]:
        """What the server's one configuration holds; all pools of a cluster have it alike."""
        return self.issuer, self.public_keys, self.jwks_url, self.jwks_ca_pem


@dataclass(frozen=True, slots=True)
class Pool:
    """Nodes that come and go; `node_names` is a non-empty prefix followed by `*`.

    With `jwt` a node proves who it is by its issuer's token; without, by an AppRole of its own.
    """

    name: str
    roles: frozenset[NodeRole]
    node_names: str
    jwt: Jwt | None = None

    @property
    def auth_mount(self) -> str:
        """The last part of the auth mount at which the pool's nodes log in."""
        return "jwt" if self.jwt else "pooled"


@dataclass(frozen=True, slots=True)
class ApiServer:
    """What kube-apiserver is reached by. `endpoint` is None where the default of `Cluster.endpoint` applies."""

    endpoint: str | None = None
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    service_cidr: tuple[str, ...] = ("10.96.0.0/12",)
    dns_domain: str = "cluster.local"


@dataclass(frozen=True, slots=True)
class VaultAddress:
    """Where the cluster's nodes find Vault; what is empty is taken from the environment of whoever runs a command.

    `namespace` is the one that the cluster lies in, without slashes at its ends; `root` is the one above all.
    """

    addresses: tuple[str, ...] = ()
    ca_pem: str | None = None
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class Authority:
    """The CAs: TTLs in seconds, and the key of every one of them.

    `root_sha256` is the only root certificate that is taken for the cluster's, in lower-case hex; None takes the one
    that the root's mount shows.
    """

    root_ttl: int
    issuing_ttl: int
    key: KeyType = KeyType.EC_P256
    root_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Override:
    """What cluster.yaml's `certificates` says of a built-in row; None leaves the table's or the default's value."""

    ttl: int | None = None
    key: KeyType | None = None
    extra_names: tuple[str, ...] = ()
    extra_addresses: tuple[str, ...] = ()
    stem: str | None = None
    allow_short_ttl: bool = False


@dataclass(frozen=True, slots=True)
class UserTemplate:
    """A file of the user's own that nodes of `roles` render into their directory; `text` is the template itself."""

    name: str
    file: str
    text: str
    roles: frozenset[NodeRole]


@dataclass(frozen=True, slots=True)
class Cluster:
    """cluster.yaml, whole and checked. `file` is the path it was read from, for later messages."""

    name: str
    prefix: str
    vault: VaultAddress
    api_server: ApiServer
    nodes: tuple[Node, ...]
    pools: tuple[Pool, ...]
    authority: Authority
    ttl: int
    key: KeyType
    overrides: Mapping[str, Override] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    templates: tuple[UserTemplate, ...] = ()
    file: str = "cluster.yaml"

    def mount(self, ca: str) -> str:
        return f"{self.prefix}/{ca}"


@dataclass(frozen=True, slots=True)
class Auth:
    """How a node proves who it is: AppRole with its role id, or a file that holds a JWT or a token."""

    method: Literal["approle", "jwt", "token_file"]
    role_id: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class FileOptions:
    """Owner and mode of one certificate's files on this node; None leaves the agent's own."""

    owner: str | None = None
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class Hook:
    """One thing to do after a change: run `argv`, restart the systemd unit `name`, or restart the static pod `name`.

    A static pod's `name` is the file name without `.yaml` in kubeadm's folder, or the absolute path of its manifest.
    """

    kind: Literal["command", "systemd", "static_pod"]
    argv: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class Window:
    """A maintenance window: from `begin` on, for `length` minutes, on the `days` (Monday is 0).

    Minutes count from midnight UTC; `text` is how agent.yaml says it.
    """

    days: frozenset[int]
    begin: int
    length: int
    text: str


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """agent.yaml, whole and checked. Paths are absolute; `poll` and `hook_timeout` are seconds.

    `namespace` is the one in Vault that the cluster lies in; None is the one above all. `source` is a digest of the
    file's bytes; empty where it was not read from one.
    """

    cluster: str
    prefix: str
    node: str
    pool: str | None
    addresses: tuple[str, ...]
    ca_file: str | None
    root_sha256: str
    auth: Auth
    directory: str
    state: str
    owner: str | None = None
    certificates: Mapping[str, FileOptions] = field(default_factory=dict)
    hooks: Mapping[str, tuple[Hook, ...]] = field(default_factory=dict)
    hook_timeout: int = 60
    poll: int = 300
    windows: tuple[Window, ...] = ()
    metrics: str | None = None
    namespace: str | None = None
    file: str = "agent.yaml"
    source: str = field(default="", compare=False, repr=False)
