"""Declares the kinds of text that several documents contain, each with its check and with what an editor needs."""

from __future__ import annotations

from typing import Final

from vaultpki.config.fields import ListOf, Text
from vaultpki.values import hosts, names

_IP: Final = r"^[0-9a-fA-F:.]+$"
_IP_EXAMPLES: Final = ("10.0.0.11", "fd00::11")

_CLUSTER: Final = rf"^[a-z0-9]([a-z0-9-]{{0,{names.LONGEST_CLUSTER - 2}}}[a-z0-9])?$"

CLUSTER_NAME: Final = Text(names.cluster_name, "a cluster's name", _CLUSTER, ("prod",))
PREFIX: Final = Text(names.prefix, "a path in Vault", f"^{names.LABEL_PATTERN}(?:/{names.LABEL_PATTERN})*$")
LABEL: Final = Text(names.label, "a name", f"^{names.LABEL_PATTERN}$")
POOL_NAME: Final = Text(names.pool_name, "a pool's name", f"^{names.LABEL_PATTERN}$")
NODE_NAME: Final = Text(hosts.node_name, "a node's name", f"^{names.DNS}$")
DNS_NAME: Final = Text(hosts.dns_name, "a DNS name", f"^{names.DNS}$", ("api.example.com",))
SAN_NAME: Final = Text(hosts.san_name, "a DNS name", r"^[a-z0-9{}.-]+$", ("{node}.internal",))
ADDRESS: Final = Text(hosts.address, "an IP address", _IP, _IP_EXAMPLES)
NODE_ADDRESS: Final = Text(hosts.node_address, "an IP address", _IP, _IP_EXAMPLES)
SAN_ADDRESS: Final = Text(hosts.san_address, "an IP address", r"^([0-9a-fA-F:.]+|\{node_addresses\})$")
SERVICE_CIDR: Final = Text(hosts.service_cidr, "a network", r"^[0-9a-fA-F:.]+/\d+$", ("10.96.0.0/12",))
NETWORK: Final = Text(hosts.network, "a network", r"^[0-9a-fA-F:.]+/\d+$", ("10.0.0.0/16",))
NODE_PATTERN: Final = Text(hosts.node_pattern, "a pattern such as w-*", r"^[a-z0-9][a-z0-9.-]*\*$", ("w-*",))
ENDPOINT: Final = Text(hosts.endpoint, "https://HOST:PORT", "^https://[^/?#@]+$", ("https://api.example.com:6443",))
VAULT_ADDRESSES: Final = ListOf(
    Text(hosts.vault_address, "an https:// address", "^https?://", ("https://vault.example.com:8200",)), 1, 16
)
NAMESPACE: Final = Text(names.vault_namespace, "a namespace", r"^/?[A-Za-z0-9_][A-Za-z0-9._/-]*$", ("team1/prod",))
SHA256: Final = Text(names.sha256, "64 hex digits", "^[0-9A-Fa-f:]{64,95}$")
ROOT_SHA256: Final = ListOf(SHA256, 1, 4, single=True)
SIGNER_MOUNT: Final = Text(names.signer_mount, "the path of a mount", r"^[A-Za-z0-9_][A-Za-z0-9._/-]*$", ("pki-corp",))
SIGNER: Final = Text(names.signer, "the name of an issuer", r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", ("corp-2026",))
SUBJECT_VALUE: Final = Text(names.subject_value, "text of at most 64 characters", None, ("Example Corp",))
COUNTRY: Final = Text(names.country, "a country's two letters", "^[A-Z]{2}$", ("DE",))
FILE_PATH: Final = Text(names.file_path, "a path")
ABSOLUTE_PATH: Final = Text(names.absolute_path, "an absolute path")
FILE_NAME: Final = Text(names.file_name, "a plain file name", f"^{names.FILE_PATTERN}$", ("audit.yaml",))
STEM: Final = Text(names.stem, "a file name without extension", f"^{names.STEM_PATTERN}$")
KUBECONFIG: Final = Text(names.kubeconfig_name, "a file name that ends in .conf", r"^[A-Za-z0-9][A-Za-z0-9._-]*\.conf$")
COMMON_NAME: Final = Text(names.common_name, "a common name", r"^[A-Za-z0-9{][A-Za-z0-9 ._:{}-]*$")
ORGANIZATION: Final = Text(names.organization, "a name")
COMPONENT: Final = Text(names.component, "a component's name")
