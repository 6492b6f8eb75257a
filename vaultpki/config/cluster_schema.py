"""Declares every key of cluster.yaml: its kind of value, its default, and the sentence that an editor shows."""

from __future__ import annotations

from typing import Final

from vaultpki.certificates import ISSUING_CAS, TABLE
from vaultpki.config import foreign_cas, jwt, kinds, outside_root, signer
from vaultpki.config.fields import Boolean, Choice, Field, ListOf, MapOf, Record, Schema, Version, duration
from vaultpki.model import KeyType, NodeRole, Row, Usage
from vaultpki.places import Layout
from vaultpki.values import names, yaml_tree

ROLE = Choice(tuple(role.value for role in NodeRole), "role", NodeRole)
_ROLES = ListOf(ROLE, least=1)
_KEYS = tuple(key.value for key in KeyType)
_KEY = Choice(_KEYS, "key type", KeyType)
_CA_KEY = Choice(
    tuple(key for key in _KEYS if key != KeyType.ED25519.value),
    "key type of a CA",
    KeyType,
    {KeyType.ED25519.value: "many TLS clients cannot verify an ed25519 CA: write ec-p256, or an RSA key"},
)
_POOL_ROLE = Choice(
    (NodeRole.WORKER.value,),
    "role of a pool",
    NodeRole,
    {
        role.value: f"a pool cannot be {role.value}, because its nodes' names are not fixed: write [worker], and list "
        "such nodes under nodes"
        for role in NodeRole
        if role is not NodeRole.WORKER
    },
)
_USAGE = Choice(tuple(usage.value for usage in Usage if usage.tls), "kind", Usage)
_CA = Choice(ISSUING_CAS, "issuing CA")

_SHORT = Field(
    Boolean(), "Allows TTLs that are too short for the consumer to reload in time, down to 30s", default=False
)
_UNSTORED = (
    "Vault keeps no copy: saves storage and CPU; `revoke NODE`, `revoke --serial` and `show --serial` do not find it"
)
_PLACEHOLDERS = "may contain {node} and {domain}"
_COMMON_NAME = f"The subject's CN, at most {names.LONGEST_COMMON_NAME} characters; {_PLACEHOLDERS}"

VAULT: Final = Record(
    {
        "addresses": Field(
            kinds.VAULT_ADDRESSES,
            "Vault's addresses for the nodes; default: VAULT_ADDR of the person who runs a command",
        ),
        "ca_file": Field(
            kinds.FILE_PATH, "PEM file with the CA of Vault's own TLS certificate, relative to this file's folder"
        ),
        "namespace": Field(kinds.NAMESPACE, "The Vault namespace of the cluster; default: VAULT_NAMESPACE, else none"),
    }
)

NEW_SERVER: Final = Record(
    {
        "addresses": Field(kinds.VAULT_ADDRESSES, "The new server's addresses for the nodes", required=True),
        "ca_file": Field(
            kinds.FILE_PATH, "PEM file with the CA of its own TLS certificate, relative to this file's folder"
        ),
        "namespace": Field(kinds.NAMESPACE, "The Vault namespace of the cluster there; default: none"),
        "prefix": Field(kinds.PREFIX, "The cluster's path there; default: prefix"),
    }
)

API_SERVER: Final = Record(
    {
        "endpoint": Field(
            kinds.ENDPOINT,
            "The URL in kubeconfigs; default: port 6443 on the first of addresses or control-plane nodes",
        ),
        "names": Field(ListOf(kinds.DNS_NAME), "Further DNS names of the API server", default=[]),
        "addresses": Field(
            ListOf(kinds.ADDRESS), "Further addresses of the API server: load balancer, VIP", default=[]
        ),
        "service_cidr": Field(
            ListOf(kinds.SERVICE_CIDR, 1, 2, single=True),
            "Range of service addresses; the first is the API server's; a list of two for dual stack",
            default="10.96.0.0/12",
        ),
        "dns_domain": Field(kinds.DNS_NAME, "The cluster's DNS domain", default="cluster.local"),
    }
)

LISTED_NODE: Final = Record(
    {
        "name": Field(kinds.NODE_NAME, "The Node object's name: a lower-case DNS name", required=True),
        "roles": Field(_ROLES, "The node's roles: control-plane, etcd, worker, or several", required=True),
        "addresses": Field(
            ListOf(kinds.NODE_ADDRESS, 1, 32), "The node's addresses, which its certificates contain", required=True
        ),
    }
)

POOL: Final = Record(
    {
        "name": Field(kinds.POOL_NAME, "The pool's name: one DNS label", required=True),
        "roles": Field(ListOf(_POOL_ROLE, least=1), "The roles of the pool's nodes: [worker]", required=True),
        "node_names": Field(kinds.NODE_PATTERN, "The beginning of its nodes' names, followed by a *", required=True),
        "jwt": Field(jwt.JWT, "Its nodes log in with a token of this issuer; default: with a join file"),
        **signer.POOL_KEYS,
    }
)

CA: Final = Record(
    {
        "root_ttl": Field(duration("10y"), "Life of the root CA; longer than the issuing CAs'", default="10y"),
        "issuing_ttl": Field(duration("5y"), "Life of the issuing CAs; longer than every certificate's", default="5y"),
        "key": Field(_CA_KEY, "Key of every CA", default="ec-p256"),
        "root_sha256": Field(
            kinds.ROOT_SHA256,
            "SHA-256 of the root CA's certificate, as `apply` prints it; a server with another root is refused. A list "
            "while the root is rotated: of the old and of the new one",
        ),
        **outside_root.KEYS,
        "also_trust": Field(
            foreign_cas.FILES, "CAs that are not the cluster's and that bundles hold too, by issuing CA: files"
        ),
    }
)

DEFAULTS: Final = Record(
    {
        "ttl": Field(duration("30d"), "Life of every certificate without a ttl of its own", default="30d"),
        "key": Field(_KEY, "Key of every certificate without a key of its own", default="ec-p256"),
        "allow_short_ttl": _SHORT,
        "no_store": Field(
            Boolean(), f"For certificates of nodes without a no_store of their own: {_UNSTORED}", default=False
        ),
    }
)

_OF_EVERY_ROW: Final = {
    "ttl": Field(duration("7d"), "Life of this certificate"),
    "key": Field(_KEY, "Key of this certificate"),
    "file": Field(kinds.STEM, "File name without extension; default: the table's, or the certificate's own name"),
    "allow_short_ttl": _SHORT,
    "no_store": Field(Boolean(), _UNSTORED),
}


# ECDSA and RSA alone sign tokens (kubernetes pkg/serviceaccount/jwt.go).
_TOKEN_KEY = Choice(
    tuple(key.value for key in KeyType if key.signs_tokens),
    "key type of a service-account key",
    KeyType,
    {KeyType.ED25519.value: "kube-apiserver signs tokens with ECDSA or RSA keys alone: write ec-p256, or an RSA key"},
)


def _of_signing(row: Row) -> Record:
    reason = f"{row.name} is no certificate for TLS and has no name but its own"
    refused = {key: f"{reason}; leave {key} out" for key in ("extra_names", "extra_addresses")}
    refused["file"] = "kube-apiserver's flags name sa.key and sa.pub, as kubeadm does: leave file out"
    fields = {key: each for key, each in _OF_EVERY_ROW.items() if key != "file"}
    return Record({**fields, "key": Field(_TOKEN_KEY, "Key of this certificate")}, refused)


def _override(row: Row) -> Record:
    if not row.usage.tls:
        return _of_signing(row)
    extra = {
        "extra_names": Field(ListOf(kinds.SAN_NAME), f"Further DNS names; {_PLACEHOLDERS}", default=[]),
        "extra_addresses": Field(ListOf(kinds.ADDRESS), "Further IP addresses", default=[]),
    }
    if row.usage.server:
        return Record({**_OF_EVERY_ROW, **extra})
    reason = f"{row.name} is a client's certificate: servers check its common name alone, not names or addresses"
    refused = {key: f"{reason}; leave {key} out" for key in extra}
    if not row.operator:
        return Record(_OF_EVERY_ROW, refused)
    refused["no_store"] = (
        f"{row.name} is an operator's, and a rotation knows those from Vault's copies alone: leave no_store out"
    )
    return Record({key: each for key, each in _OF_EVERY_ROW.items() if key != "no_store"}, refused)


OWN_ROW: Final = Record(
    {
        "kind": Field(_USAGE, "One of client, server, both", required=True),
        "common_name": Field(kinds.COMMON_NAME, _COMMON_NAME, required=True),
        "ca": Field(_CA, f"The issuing CA, one of {', '.join(ISSUING_CAS)}", required=True),
        "roles": Field(_ROLES, "The roles of the nodes that get it", required=True),
        "organization": Field(ListOf(kinds.ORGANIZATION, most=16), "The subject's O values", default=[]),
        "names": Field(ListOf(kinds.SAN_NAME), f"DNS names; {_PLACEHOLDERS}", default=[]),
        "addresses": Field(
            ListOf(kinds.SAN_ADDRESS), "IP addresses; {node_addresses} means the node's own", default=[]
        ),
        "kubeconfig": Field(
            kinds.KUBECONFIG, "File name of a kubeconfig to write beside the pair; for clients of kube-apiserver"
        ),
        **_OF_EVERY_ROW,
        "from": Field(kinds.COMPONENT, "The component that has it; shown to people only"),
        "to": Field(kinds.COMPONENT, "The component that it connects to; shown to people only"),
    }
)


def _explain_unknown_row(name: str, node: yaml_tree.Mapping) -> str | None:
    if {"kind", "common_name", "ca"} & set(node.items):
        return None
    hint = names.nearest(name, [row.name for row in TABLE])
    own = "your own certificate needs kind, common_name, ca and roles"
    return f"{names.quoted(name)} is not a certificate of the table: {hint}; {own}"


TEMPLATE: Final = Record(
    {
        "file": Field(kinds.FILE_NAME, "The file's name in the node's directory", required=True),
        "template": Field(
            kinds.FILE_PATH,
            "The template, in this file's folder or below; may contain ${node}, ${cluster}, ${endpoint}, ${directory}",
            required=True,
        ),
        "roles": Field(_ROLES, "The roles of the nodes that get it", required=True),
    }
)

# The limit of Kubernetes itself for one cluster (kubernetes.io/docs/setup/best-practices/cluster-large).
MOST_NODES: Final = 5000

CLUSTER: Final = Record(
    {
        "version": Field(Version(), "Version of the file format", default=1),
        "cluster": Field(
            kinds.CLUSTER_NAME,
            f"The cluster's name: one lower-case DNS label of at most {names.LONGEST_CLUSTER} characters",
            required=True,
        ),
        "prefix": Field(kinds.PREFIX, "The cluster's path in Vault; default: vaultpki/CLUSTER"),
        "vault": Field(VAULT, "How the cluster's nodes reach Vault"),
        "move": Field(NEW_SERVER, "The server to which the cluster moves (`vaultpki move`); default: it stays"),
        "layout": Field(
            Choice(tuple(layout.value for layout in Layout), "layout", Layout),
            "Names and folders of the nodes' files: document, or kubeadm for nodes that kubeadm sets up",
            default=Layout.DOCUMENT.value,
        ),
        "service_account_keys": Field(
            Boolean(),
            "Each control-plane node has its own key for the tokens of ServiceAccounts, which Vault certifies",
            default=False,
        ),
        "api_server": Field(API_SERVER, "Names and addresses of kube-apiserver", default={}),
        "nodes": Field(
            ListOf(LISTED_NODE, most=MOST_NODES), "Listed nodes: names and addresses are fixed here", default=[]
        ),
        "pools": Field(ListOf(POOL, most=200), "Nodes that come and go, without addresses in certificates", default=[]),
        "signer": Field(signer.SIGNER_KEYS, "Vault signs the cluster's certificate requests; default: nobody does"),
        "ca": Field(CA, "The certificate authorities", default={}),
        "defaults": Field(DEFAULTS, "Defaults for all certificates", default={}),
        "allow_short_ttl": _SHORT,
        "certificates": Field(
            MapOf(
                kinds.LABEL, OWN_ROW, {row.name: _override(row) for row in TABLE}, explain_unknown=_explain_unknown_row
            ),
            "Changes to the table's certificates, by name, and certificates of your own",
            default={},
        ),
        "templates": Field(
            MapOf(kinds.LABEL, TEMPLATE, most=100), "Further files that nodes render into their directory", default={}
        ),
    },
    strange={
        "auth": "the agent.yaml of a node, and not a cluster.yaml",
        "wrap_token": "a join file, and not a cluster.yaml",
    },
)


def schema() -> Schema:
    """Return the JSON Schema (2020-12) of cluster.yaml for editors; it covers single values only."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vaultpki cluster.yaml",
        "description": "A Kubernetes cluster whose certificate authority is Vault or OpenBao.",
        **CLUSTER.schema(),
    }
