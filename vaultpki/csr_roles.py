"""Says what Vault may sign of a cluster's certificate requests: the PKI roles for them, and the names that none gets.

The signer knows a cluster by `SignerFacts` alone, which `apply` writes down for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from vaultpki import certificates
from vaultpki.model import NODE, Cluster, Override, People, Row, Signer, TokenPool, Usage
from vaultpki.values.names import LONGEST_COMMON_NAME

NODE_PREFIX: Final = "system:node:"
"""The beginning of a kubelet's common name; the node's name follows (kubernetes.io, Using Node Authorization)."""

NODES_GROUP: Final = "system:nodes"

RESERVED: Final = ("system:", "vaultpki:")
"""Beginnings of names and groups that no person gets."""

LONGEST_FIRST_LABEL: Final = 51
"""Characters of a node's name up to its first dot: Vault takes `system:node:NODE` for a host name (RFC 1035, 63)."""


@dataclass(frozen=True, slots=True)
class SignerFacts:
    """What the signer knows of a cluster.

    `nodes` are the names of the listed nodes. `common_names` are those of the table and of the pools with agents, as
    patterns with at most one `*`, at the end. `addresses` are those of listed nodes and of the API server, in the form
    of `str(ipaddress.ip_address(x))`.
    """

    signer: Signer
    token_pools: tuple[TokenPool, ...]
    nodes: tuple[str, ...]
    common_names: tuple[str, ...]
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CsrRole:
    """A PKI role for certificate requests: on the mount of `ca`, for `ttl` seconds at most.

    `common_names` are patterns with at most one `*`, at an end; `dns` are those of DNS names, for servers alone, whose
    addresses lie in `networks`. `organization` is the whole O of each certificate.
    """

    name: str
    ca: str
    usage: Usage
    common_names: tuple[str, ...]
    organization: tuple[str, ...]
    ttl: int
    dns: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()


def signer_facts(cluster: Cluster) -> SignerFacts | None:
    """Return what the signer of this cluster knows of it; None if the cluster has no signer."""
    if cluster.signer is None:
        return None
    own = cluster.overrides.get("kube-apiserver", Override()).extra_addresses
    api = (*cluster.api_server.addresses, *certificates.service_addresses(cluster), *own)
    every = (*(address for node in cluster.nodes for address in node.addresses), *api)
    of_rows = (name for row in certificates.all_rows(cluster) for name in _patterns(row, cluster))
    return SignerFacts(
        cluster.signer,
        cluster.token_pools,
        tuple(node.name for node in cluster.nodes),
        tuple(dict.fromkeys((*of_rows, *(pool.node_names for pool in cluster.pools)))),
        tuple(dict.fromkeys(every)),
    )


def csr_roles(cluster: Cluster | SignerFacts) -> tuple[CsrRole, ...]:
    """Return the roles by which Vault signs a cluster's certificate requests; none without a signer.

    Kubelets have two once there is a token pool, people one for each list of groups: `csr-person`, `csr-person-1`.
    """
    signer, pools = cluster.signer, cluster.token_pools
    if signer is None:
        return ()
    made: list[CsrRole] = []
    if pools:
        patterns = tuple(pool.node_names for pool in pools)
        common = tuple(NODE_PREFIX + pattern for pattern in patterns)
        networks = tuple(dict.fromkeys(network for pool in pools for network in pool.networks))
        client, serving = ("kubernetes", Usage.CLIENT), ("kubelet", Usage.SERVER)
        made += [
            CsrRole("csr-kubelet-client", *client, common, (NODES_GROUP,), signer.ttl),
            CsrRole("csr-kubelet-serving", *serving, common, (NODES_GROUP,), signer.ttl, patterns, networks),
        ]
    people = signer.people or People(0, (), ())
    for number, groups in enumerate(people.groups):
        name = f"csr-person-{number}" if number else "csr-person"
        made.append(CsrRole(name, "kubernetes", Usage.CLIENT, people.names, groups, people.ttl))
    return tuple(made)


def fits_pattern(text: str, pattern: str, *, without: str = "") -> bool:
    """Return whether a pattern with at most one `*`, at an end, matches the text.

    `*` stands for one character or more, none of which is in `without`.
    """
    before, star, after = pattern.partition("*")
    if not star:
        return text == pattern
    middle = text[len(before) : len(text) - len(after)]
    fits = text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after)
    return fits and not any(each in middle for each in without)


def token_pool_of(node: str, pools: Iterable[TokenPool]) -> TokenPool | None:
    """Return the pool by token that a node of this name is in; None if there is none.

    The `*` of these pools crosses no dot: `w-9.evil.com` is no node of `w-*`, as DNS names in serving certificates go
    to the node's owner.
    """
    return next((pool for pool in pools if fits_pattern(node, pool.node_names, without=".")), None)


def is_person(name: str, people: People) -> bool:
    """Return whether a name is one of people's; the `*` of these patterns stands for no `@`: not for `x@evil`."""
    return any(fits_pattern(name, each, without="@") for each in people.names)


def fits_node(name: str) -> bool:
    """Return whether Vault and X.509 have room for a node of this name: `system:node:NODE` is its common name."""
    return len(NODE_PREFIX + name) <= LONGEST_COMMON_NAME and len(name.partition(".")[0]) <= LONGEST_FIRST_LABEL


def reserved(name: str, facts: SignerFacts) -> bool:
    """Return whether a name is of Kubernetes, of vaultpki, a listed node or a row of the table, in any case."""
    said = name.lower()
    known = (*facts.nodes, *facts.common_names)
    return said.startswith(RESERVED) or any(fits_pattern(said, each.lower()) for each in known)


def _patterns(row: Row, cluster: Cluster) -> tuple[str, ...]:
    """Return the names that holders of a row have, as patterns: what follows a placeholder may be anything."""
    before = row.common_name.partition("{")[0]
    if before or row.common_name == NODE:
        return (f"{before}*" if before != row.common_name else before,) if before else ()
    return tuple(row.common_name.replace(NODE, node.name) for node in cluster.nodes)
