"""Defines the values that all other modules use: frozen, comparable, without input and output.

Durations are whole seconds, times are aware UTC datetimes, names are already validated.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from vaultpki.errors import SpecError
from vaultpki.places import (
    CLUSTER_FILE,
    KUBECONFIGS,
    PKI,
    TAKEOVER_FOLDER,
    KubeadmPlace,
    KubeconfigFile,
    Layout,
    file_option,
    inner_folders,
)

VERSION = 1
"""The version of cluster.yaml, agent.yaml, join.json and the config store's records that this program supports."""

NODE = "{node}"
"""The placeholder for a node's own name in rows and in records of pools."""

NUMBER = "{number}"
"""The placeholder for the number of a node's service-account key in the row of those."""


class Usage(enum.Enum):
    """The extended key usage of a leaf (RFC 5280 section 4.2.1.12): of TLS, or SIGNING, which no TLS peer accepts."""

    CLIENT = "client"
    SERVER = "server"
    BOTH = "both"
    SIGNING = "signing"

    @property
    def client(self) -> bool:
        return self in (Usage.CLIENT, Usage.BOTH)

    @property
    def server(self) -> bool:
        return self in (Usage.SERVER, Usage.BOTH)

    @property
    def tls(self) -> bool:
        return self is not Usage.SIGNING


class NodeRole(enum.Enum):
    """A role of a node in the cluster; a node may have several."""

    CONTROL_PLANE = "control-plane"
    ETCD = "etcd"
    WORKER = "worker"


class KeyType(enum.Enum):
    """A key type, as written in cluster.yaml."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    ED25519 = "ed25519"

    @property
    def vault_type(self) -> str:
        """The engine's `key_type`: ec, rsa or ed25519."""
        return self.value.partition("-")[0]

    @property
    def vault_bits(self) -> int:
        """The engine's `key_bits`; 0 if the type has only one size."""
        return int(self.value.partition("-")[2].removeprefix("p") or 0)

    @property
    def rsa(self) -> bool:
        return self.vault_type == "rsa"

    @property
    def signs_tokens(self) -> bool:
        """Whether kube-apiserver signs tokens with it: RSA and ECDSA alone (pkg/serviceaccount/jwt.go)."""
        return self is not KeyType.ED25519


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject and SANs of a certificate: CN, O values, DNS SANs and IP SANs, in the order of the table.

    IP addresses are in the form of `str(ipaddress.ip_address(x))`.
    """

    common_name: str
    organization: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table: a certificate that a cluster needs, before it is resolved for a holder.

    `purpose` is one sentence for people; a row from cluster.yaml has none. `common_name`, `dns` and `ips` may contain
    the placeholders of `certificates.py`. `node_roles` is empty for a certificate that an operator holds. `stem` is the
    file name without `.crt`. `kubeadm` is the place in kubeadm's layout: None for a row of the table that no node has
    there, and for rows from cluster.yaml, which keep `stem` in the folder PKI. `kubeconfig` is a file name. `reload` is
    the longest time in seconds for which the consumer keeps using an old pair after a new one is installed. `manifest`
    names the template of a Kubernetes manifest that grants the certificate its permissions. `document` marks the rows
    of the original document. `no_store` is as in cluster.yaml, None for its default; see `certificates.stored`.
    """

    name: str
    purpose: str = ""
    usage: Usage
    source: str
    target: str = "-"
    common_name: str
    organization: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    ca: str
    stem: str
    kubeadm: KubeadmPlace | None = None
    kubeconfig: str | None = None
    node_roles: frozenset[NodeRole] = frozenset()
    reload: int = 0
    ttl: int | None = None
    key: KeyType | None = None
    no_store: bool | None = None
    manifest: str | None = None
    document: bool = False
    built_in: bool = True

    @property
    def operator(self) -> bool:
        return not self.node_roles

    @property
    def addressed(self) -> bool:
        """Whether the certificate has IP SANs, which only the policy of a listed node can restrict."""
        return bool(self.ips)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A row resolved for one holder: exactly what is requested from Vault and installed on disk.

    `mount` is the issuing CA's mount path, `role` the PKI role there, `ttl` seconds. `folder` is that of the pair.
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
    folder: str = PKI
    kubeconfig_file: KubeconfigFile = KubeconfigFile.LINKED

    @property
    def kubeconfig_folder(self) -> str:
        """The folder of the kubeconfig: beside the bundles, unless it is a plain file."""
        return PKI if self.kubeconfig_file is KubeconfigFile.LINKED else KUBECONFIGS


@dataclass(frozen=True, slots=True)
class Node:
    """A listed node: its names and addresses are fixed in cluster.yaml."""

    name: str
    roles: frozenset[NodeRole]
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Jwt:
    """The issuer of the tokens with which a pool's nodes log in, and the claim that contains a node's name.

    `node_claim` is a claim, or a JSON pointer (RFC 6901) to a nested one. The issuer's keys are either `public_keys`,
    each PEM without a newline at its end, or come from `jwks_url`, which is verified with `jwks_ca_pem` or the server's
    own roots.
    """

    issuer: str
    audiences: tuple[str, ...]
    node_claim: str
    public_keys: tuple[str, ...] = ()
    jwks_url: str | None = None
    jwks_ca_pem: str | None = None

    @property
    def trust(self) -> tuple[object, ...]:
        """The values in the configuration of the jwt auth mount; they are equal in all pools of a cluster."""
        return self.issuer, self.public_keys, self.jwks_url, self.jwks_ca_pem


@dataclass(frozen=True, slots=True)
class Pool:
    """Nodes that come and go; `node_names` is a non-empty prefix followed by `*`.

    With `jwt`, a node logs in with a token of the issuer; without, with its own AppRole.
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
class TokenPool:
    """Nodes that join with a bootstrap token of Kubernetes: the signer alone serves them, and they run no agent.

    `node_names` is a non-empty prefix followed by `*`. `networks` are those of the addresses in their certificates.
    """

    name: str
    node_names: str
    networks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class People:
    """People whose certificate requests are signed: for `ttl` seconds, with a name that one of `names` matches.

    A pattern of `names` has at most one `*`, at one of its ends. Each of `groups` is a whole set of O values.
    """

    ttl: int
    names: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Signer:
    """What is signed of the cluster's CertificateSigningRequests; `ttl` is that of kubelets' certificates in seconds.

    With `approve_serving` the signer approves requests for serving certificates that pass its rules.
    """

    ttl: int
    approve_serving: bool = False
    people: People | None = None


@dataclass(frozen=True, slots=True)
class ApiServer:
    """The endpoint, names and addresses of kube-apiserver, and the cluster's service ranges and DNS domain."""

    endpoint: str | None = None
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    service_cidr: tuple[str, ...] = ("10.96.0.0/12",)
    dns_domain: str = "cluster.local"


@dataclass(frozen=True, slots=True)
class VaultAddress:
    """How the cluster's nodes reach Vault; empty values come from the environment of the person who runs a command.

    `namespace` is the Vault namespace of the cluster, without slashes at its ends; `root` is the root namespace.
    """

    addresses: tuple[str, ...] = ()
    ca_pem: str | None = None
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class MoveTarget:
    """The server for which the cluster leaves the one that it has; values as in `VaultAddress`.

    Its `namespace` is None for the root namespace: no environment says it.
    """

    addresses: tuple[str, ...]
    prefix: str
    ca_pem: str | None = None
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class ForeignCa:
    """A CA that is not the cluster's and that the bundles of the domain `ca` hold too: one certificate.

    `pem` is in the form of `Facts.pem`, `sha256` of its DER in lower-case hex. `source` is the file as cluster.yaml
    names it, and `place` line and field there.
    """

    ca: str
    pem: str
    sha256: str
    source: str = field(default="", compare=False)
    place: tuple[int, str] = field(default=(1, ""), compare=False)


@dataclass(frozen=True, slots=True)
class OutsideRoot:
    """A root CA that vaultpki did not make, as PEM, and who signs the issuing CAs below it.

    `anchor` is the certificate that nodes are pinned to; empty if it is to be read from the signer. `others` are the
    further CAs of its chain, most of them between the anchor and the issuing CAs. `mount` and `issuer` name the signer
    on the same server; both are empty if people carry requests to it.
    """

    anchor: str = ""
    others: tuple[str, ...] = ()
    mount: str = ""
    issuer: str = ""

    @property
    def certificates(self) -> tuple[str, ...]:
        """The whole chain as PEM, the anchor first; empty as long as the anchor is not known."""
        return (self.anchor, *self.others) if self.anchor else ()

    @property
    def by_people(self) -> bool:
        """Whether people carry requests to the signer."""
        return not self.mount


@dataclass(frozen=True, slots=True)
class Authority:
    """The CAs: TTLs in seconds, and the key type of all of them.

    `root_sha256` is the SHA-256 of the only root certificate that is accepted, in lower-case hex; None accepts the one
    on the root's mount. `also_trust` are the foreign CAs, by domain in the order of the table. With an `outside` root
    `root_sha256` is that of its anchor, and `root_ttl` means nothing. `subject` are the further attributes of the
    issuing CAs' names, by the parameters of the PKI engine (`organization`). `other_roots` are the further SHA-256 of a
    list, while the root is rotated: a server that shows one of these roots is accepted too.
    """

    root_ttl: int
    issuing_ttl: int
    key: KeyType = KeyType.EC_P256
    root_sha256: str | None = None
    also_trust: tuple[ForeignCa, ...] = ()
    outside: OutsideRoot | None = None
    subject: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    other_roots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Override:
    """The changes of cluster.yaml to a built-in row; None keeps the value of the table or the default."""

    ttl: int | None = None
    key: KeyType | None = None
    extra_names: tuple[str, ...] = ()
    extra_addresses: tuple[str, ...] = ()
    stem: str | None = None
    no_store: bool | None = None


@dataclass(frozen=True, slots=True)
class UserTemplate:
    """A user's own template, which nodes with `roles` render into their directory; `text` is the template itself.

    `source` is the path of the template as cluster.yaml names it; empty in a record.
    """

    name: str
    file: str
    text: str
    roles: frozenset[NodeRole]
    source: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A checked cluster.yaml. `file` is its path, for later messages.

    With `service_account_keys` each control-plane node has its own key for tokens, which Vault certifies. `pools` are
    those whose nodes run an agent. With a `signer` Vault signs the cluster's certificate requests. `move` is the server
    to which the cluster moves, None if it stays.
    """

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
    layout: Layout = Layout.DOCUMENT
    no_store: bool = False
    service_account_keys: bool = False
    signer: Signer | None = None
    token_pools: tuple[TokenPool, ...] = ()
    move: MoveTarget | None = None
    file: str = CLUSTER_FILE

    @property
    def file_option(self) -> str:
        """The option that names its file in a command, with a space before it; empty if commands read it anyway."""
        return file_option(self.file)

    def mount(self, ca: str) -> str:
        return f"{self.prefix}/{ca}"


def at_new(cluster: Cluster) -> Cluster:
    """Return the cluster as it is on the server to which it moves. Raises SpecError if cluster.yaml names none."""
    target = cluster.move
    if target is None:
        raise SpecError("cluster.yaml names no new server: write its addresses", file=cluster.file, field="move")
    vault = VaultAddress(target.addresses, target.ca_pem, target.namespace or "root")
    return replace(cluster, vault=vault, prefix=target.prefix, move=None)


@dataclass(frozen=True, slots=True)
class Auth:
    """How a node logs in: AppRole with its role id, or a file that contains a JWT or a token."""

    method: Literal["approle", "jwt", "token_file"]
    role_id: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class FileOptions:
    """Owner and mode of one certificate's files on this node; None keeps the agent's default."""

    owner: str | None = None
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class Hook:
    """One action after a change: run `argv`, restart the systemd unit `name`, or restart the static pod `name`.

    A static pod's `name` is the file name without `.yaml` in kubeadm's folder, or the absolute path of its manifest.
    `place` is where agent.yaml has it: file, line and field.
    """

    kind: Literal["command", "systemd", "static_pod"]
    argv: tuple[str, ...] = ()
    name: str = ""
    place: str = field(default="agent.yaml", compare=False)


@dataclass(frozen=True, slots=True)
class Window:
    """A maintenance window: begins at `begin` and lasts `length` minutes, on the `days` (Monday is 0).

    `begin` is in minutes after midnight UTC; `text` is the window as in agent.yaml.
    """

    days: frozenset[int]
    begin: int
    length: int
    text: str


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A machine that kubeadm made and that is taken over: where its files are in the end, by absolute paths.

    `by_agent` is whether the agent may exchange folders, change manifests and restart components by itself. Until
    folders of the agent are in place, they lie `aside`, each beside the folder that it takes the place of.
    """

    by_agent: bool
    directory: str
    kubelet: str
    kubeconfigs: str

    @property
    def aside(self) -> str:
        """The folder with those that are exchanged with `directory`, and with the copy for the CSR signer."""
        return f"{self.directory.rpartition('/')[0]}/{TAKEOVER_FOLDER}"

    @property
    def kubelet_aside(self) -> str:
        """The folder with those that are exchanged with `kubelet`."""
        return f"{self.kubelet.rpartition('/')[0]}/{TAKEOVER_FOLDER}"


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """A checked agent.yaml. Paths are absolute; `poll` and `hook_timeout` are seconds.

    `folders` are the paths of KUBELET and KUBECONFIGS in the layout kubeadm, and empty in the other. `namespace` is the
    Vault namespace of the cluster; None is the root namespace. `source` is a digest of the file's bytes, empty if the
    value was not read from a file. `also_trust` are the SHA-256 of the foreign CAs that this node accepts, by domain.
    `further_roots` are the SHA-256 of roots that its owner names beside `root_sha256`: each counts once a rotation of
    the root names it.
    `taken_over` is set on a machine of a kubeadm cluster that is taken over: `directory` and `folders` are then where
    the agent's files lie now. `signer` is whether this is the signer.yaml of the signer on this node.
    `credential_folder` is where its credential lies if not in `state`: that of the server to which its cluster moves.
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
    metrics_hosts: tuple[str, ...] = ()
    namespace: str | None = None
    layout: Layout = Layout.DOCUMENT
    folders: Mapping[str, str] = field(default_factory=dict)
    further_roots: tuple[str, ...] = ()
    also_trust: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    taken_over: TakenOver | None = None
    signer: bool = False
    credential_folder: str = ""
    file: str = "agent.yaml"
    source: str = field(default="", compare=False, repr=False)

    @property
    def credentials(self) -> str:
        """The folder of the node's own credential."""
        return self.credential_folder or self.state

    @property
    def paths(self) -> dict[str, str]:
        """The path of every folder of this node, by name, in the order in which they are locked."""
        if self.layout is Layout.DOCUMENT:
            return {PKI: self.directory}
        return {PKI: self.directory, **inner_folders(self.directory), **self.folders}
