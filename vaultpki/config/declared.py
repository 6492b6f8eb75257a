"""cluster.yaml as declarations: every key, what it may hold, its default, and the sentence an editor shows for it."""

from __future__ import annotations

from typing import Final

from vaultpki import words
from vaultpki.certificates import ISSUING_CAS, TABLE
from vaultpki.config import jwt, tree
from vaultpki.config.shape import Choice, Field, Flag, ListOf, MapOf, Record, Schema, Text, Version, duration
from vaultpki.model import KeyType, NodeRole, Row, Usage

_ADDRESS_EXAMPLES = ("10.0.0.11", "fd00::11")

ROLE = Choice(tuple(role.value for role in NodeRole), "role", NodeRole)
_ROLES = ListOf(ROLE, least=1)
_KEYS = tuple(key.value for key in KeyType)
_KEY = Choice(_KEYS, "key type", KeyType)
_CA_KEY = Choice(
    tuple(key for key in _KEYS if key != KeyType.ED25519.value),
    "key type of a CA",
    KeyType,
    {KeyType.ED25519.value: "many TLS clients cannot verify what an ed25519 CA signed: write ec-p256, or an RSA key"},
)
_LABEL = f"^{words.LABEL}$"
_NAME = Text(words.dns_name, "a DNS name", f"^{words.DNS}$", ("api.example.com",))
_ADDRESS = Text(words.address, "an IP address", r"^[0-9a-fA-F:.]+$", _ADDRESS_EXAMPLES)
_SAN_NAME = Text(words.san_name, "a DNS name", r"^[a-z0-9{}.-]+$", ("{node}.internal",))
_SHORT = Field(Flag(), "Allows TTLs too short for the consumer's way of reloading, down to 30s", default=False)
_PLACEHOLDERS = "{node} and {domain} may stand in it"

VAULT: Final = Record(
    {
        "addresses": Field(
            ListOf(
                Text(words.vault_address, "an https:// address", "^https?://", ("https://vault.example.com:8200",)),
                1,
                16,
            ),
            "Where nodes find Vault; left out: VAULT_ADDR of whoever runs a command",
        ),
        "ca_file": Field(
            Text(words.file_path, "a path"),
            "PEM file with the CA of Vault's own TLS certificate, seen from this file's folder",
        ),
        "namespace": Field(
            Text(words.vault_namespace, "a namespace", r"^/?[A-Za-z0-9_][A-Za-z0-9._/-]*$", ("team1/prod",)),
            "The namespace in Vault that the cluster lies in; left out: VAULT_NAMESPACE, else none",
        ),
    }
)

API_SERVER: Final = Record(
    {
        "endpoint": Field(
            Text(words.endpoint, "https://HOST:PORT", "^https://[^/?#@]+$", ("https://api.example.com:6443",)),
            "What kubeconfigs say; left out: port 6443 on the first of addresses or control-plane nodes",
        ),
        "names": Field(ListOf(_NAME), "Further DNS names of the API server", default=[]),
        "addresses": Field(ListOf(_ADDRESS), "Further addresses of the API server: load balancer, VIP", default=[]),
        "service_cidr": Field(
            ListOf(
                Text(words.service_cidr, "a network", r"^[0-9a-fA-F:.]+/\d+$", ("10.96.0.0/12",)), 1, 2, single=True
            ),
            "Range of service addresses, whose first is the API server's; a list of two for dual stack",
            default="10.96.0.0/12",
        ),
        "dns_domain": Field(
            Text(words.dns_name, "a DNS name", f"^{words.DNS}$"), "The cluster's DNS domain", default="cluster.local"
        ),
    }
)

NODE: Final = Record(
    {
        "name": Field(
            Text(words.node_name, "a node's name", f"^{words.DNS}$"),
            "The Node object's name: a lower-case DNS name",
            required=True,
        ),
        "roles": Field(_ROLES, "What the node does: control-plane, etcd, worker, or several", required=True),
        "addresses": Field(
            ListOf(Text(words.node_address, "an IP address", r"^[0-9a-fA-F:.]+$", _ADDRESS_EXAMPLES), 1, 32),
            "The node's addresses, as its certificates shall carry them",
            required=True,
        ),
    }
)

POOL: Final = Record(
    {
        "name": Field(Text(words.pool_name, "a pool's name", _LABEL), "The pool's name: one DNS label", required=True),
        "roles": Field(
            ListOf(
                Choice(
                    (NodeRole.WORKER.value,),
                    "role of a pool",
                    NodeRole,
                    {
                        role.value: f"a pool cannot be {role.value}, since nothing fixes its nodes' names: "
                        "write [worker], and list such nodes under nodes"
                        for role in NodeRole
                        if role is not NodeRole.WORKER
                    },
                ),
                least=1,
            ),
            "What the pool's nodes do: [worker]",
            required=True,
        ),
        "node_names": Field(
            Text(words.node_pattern, "a pattern such as w-*", r"^[a-z0-9][a-z0-9.-]*\*$", ("w-*",)),
            "The beginning of its nodes' names, and a *",
            required=True,
        ),
        "jwt": Field(jwt.JWT, "Its nodes prove who they are by a token of this issuer; left out: by a join file"),
    }
)

CA: Final = Record(
    {
        "root_ttl": Field(duration("10y"), "Life of the root CA; longer than the issuing CAs'", default="10y"),
        "issuing_ttl": Field(duration("5y"), "Life of the issuing CAs; longer than every certificate's", default="5y"),
        "key": Field(_CA_KEY, "Key of every CA", default="ec-p256"),
        "root_sha256": Field(
            Text(words.sha256, "64 hex digits", "^[0-9A-Fa-f:]{64,95}$"),
            "SHA-256 of the root CA's certificate, as `apply` prints it: a server that shows another root is refused",
        ),
    }
)

DEFAULTS: Final = Record(
    {
        "ttl": Field(duration("30d"), "Life of every certificate that does not say otherwise", default="30d"),
        "key": Field(_KEY, "Key of every certificate that does not say otherwise", default="ec-p256"),
        "allow_short_ttl": _SHORT,
    }
)


def _override(row: Row) -> Record:
    fields = {
        "ttl": Field(duration("7d"), "Life of this certificate"),
        "key": Field(_KEY, "Key of this certificate"),
        "file": Field(
            Text(words.stem, "a file name without extension", f"^{words.STEM}$"), "File name without extension"
        ),
        "allow_short_ttl": _SHORT,
    }
    extra = {
        "extra_names": Field(ListOf(_SAN_NAME), f"Further DNS names; {_PLACEHOLDERS}", default=[]),
        "extra_addresses": Field(ListOf(_ADDRESS), "Further IP addresses", default=[]),
    }
    if row.usage.server:
        return Record({**fields, **extra})
    reason = (
        f"{row.name} is a client's certificate, known by its common name alone, so it carries no names or addresses"
    )
    return Record(fields, {key: f"{reason}: leave {key} out" for key in extra})


OWN_ROW: Final = Record(
    {
        "kind": Field(
            Choice(tuple(usage.value for usage in Usage), "kind", Usage), "One of client, server, both", required=True
        ),
        "common_name": Field(
            Text(words.common_name, "a common name", r"^[A-Za-z0-9{][A-Za-z0-9 ._:{}-]*$"),
            f"The subject's CN, at most 64 characters; {_PLACEHOLDERS}",
            required=True,
        ),
        "ca": Field(
            Choice(ISSUING_CAS, "issuing CA"), f"The issuing CA, one of {', '.join(ISSUING_CAS)}", required=True
        ),
        "roles": Field(_ROLES, "The roles of the nodes that get it", required=True),
        "organization": Field(
            ListOf(Text(words.organization, "a name"), most=16), "The subject's O values", default=[]
        ),
        "names": Field(ListOf(_SAN_NAME), f"DNS names; {_PLACEHOLDERS}", default=[]),
        "addresses": Field(
            ListOf(Text(words.san_address, "an IP address", r"^([0-9a-fA-F:.]+|\{node_addresses\})$")),
            "IP addresses; {node_addresses} stands for the node's own",
            default=[],
        ),
        "file": Field(
            Text(words.stem, "a file name without extension", f"^{words.STEM}$"),
            "File name without extension; left out: the certificate's name",
        ),
        "kubeconfig": Field(
            Text(words.kubeconfig_name, "a file name that ends in .conf", r"^[A-Za-z0-9][A-Za-z0-9._-]*\.conf$"),
            "File name of a kubeconfig to write beside the pair; for clients of kube-apiserver",
        ),
        "ttl": Field(duration("7d"), "Life of this certificate"),
        "key": Field(_KEY, "Key of this certificate"),
        "allow_short_ttl": _SHORT,
        "from": Field(Text(words.component, "a component's name"), "Who holds it, for people"),
        "to": Field(Text(words.component, "a component's name"), "Who is reached with it, for people"),
    }
)


def _stranger(name: str, node: tree.Mapping) -> str | None:
    if {"kind", "common_name", "ca"} & set(node.items):
        return None
    hint = words.nearest(name, [row.name for row in TABLE])
    own = "a certificate of your own needs kind, common_name, ca and roles"
    return f"{words.quoted(name)} is no certificate of the table: {hint}; {own}"


TEMPLATE: Final = Record(
    {
        "file": Field(
            Text(words.file_name, "a plain file name", f"^{words.FILE}$", ("audit.yaml",)),
            "The file's name in the node's directory",
            required=True,
        ),
        "template": Field(
            Text(words.file_path, "a path"),
            "The template, in this file's folder or below; it may name ${node}, ${cluster}, ${endpoint}, ${directory}",
            required=True,
        ),
        "roles": Field(_ROLES, "The roles of the nodes that get it", required=True),
    }
)

CLUSTER: Final = Record(
    {
        "version": Field(Version(), "Version of this file's form", default=1),
        "cluster": Field(
            Text(words.cluster_name, "a cluster's name", "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$", ("prod",)),
            "The cluster's name: one lower-case DNS label of at most 40 characters",
            required=True,
        ),
        "prefix": Field(
            Text(words.prefix, "a path in Vault", f"^{words.LABEL}(?:/{words.LABEL})*$"),
            "Where in Vault everything lies; left out: vaultpki/CLUSTER",
        ),
        "vault": Field(VAULT, "Where the cluster's nodes find Vault"),
        "api_server": Field(API_SERVER, "What kube-apiserver is reached by", default={}),
        "nodes": Field(ListOf(NODE, most=10_000), "Listed nodes: names and addresses are fixed here", default=[]),
        "pools": Field(ListOf(POOL, most=200), "Nodes that come and go, without addresses in certificates", default=[]),
        "ca": Field(CA, "The certificate authorities", default={}),
        "defaults": Field(DEFAULTS, "What certificates have unless they say otherwise", default={}),
        "allow_short_ttl": _SHORT,
        "certificates": Field(
            MapOf(
                Text(words.label, "a name", _LABEL),
                OWN_ROW,
                {row.name: _override(row) for row in TABLE},
                stranger=_stranger,
            ),
            "Changes to the table's certificates, by name, and certificates of your own",
            default={},
        ),
        "templates": Field(
            MapOf(Text(words.label, "a name", _LABEL), TEMPLATE, most=100),
            "Further files that nodes render into their directory",
            default={},
        ),
    }
)


def schema() -> Schema:
    """The JSON Schema (2020-12) of cluster.yaml, for editors; it says what can be said of single values."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vaultpki cluster.yaml",
        "description": "A Kubernetes cluster whose certificate authority is Vault or OpenBao.",
        **CLUSTER.schema(),
    }
