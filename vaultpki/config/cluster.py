"""Reads cluster.yaml into a checked `Cluster`."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from vaultpki import certificates
from vaultpki.config import consistency, foreign_cas, jwt, outside_root, signer, templates
from vaultpki.config.cluster_schema import CLUSTER
from vaultpki.config.fields import FieldValue
from vaultpki.model import (
    ApiServer,
    Authority,
    Cluster,
    ForeignCa,
    MoveTarget,
    Node,
    NodeRole,
    Override,
    Pool,
    Row,
    VaultAddress,
)
from vaultpki.values import hosts, pem, row_rules, yaml_tree
from vaultpki.values.yaml_tree import Place

_API_PORT = 6443
# About 800 bytes for each of 5,000 nodes.
_MOST_BYTES = 4 * 1024 * 1024

_T = TypeVar("_T")


def load_cluster(path: Path, *, allow_http: bool = False) -> Cluster:
    """Return the cluster that `path` describes, after checking it as a whole.

    `allow_http` allows plain http to other hosts than loopback in `vault.addresses`. Reads the CA files, key files and
    templates that the file names. Raises SpecError with file, line and field for the first problem.
    """
    missing = "name yours with -f, or write a new one with `vaultpki init`"
    return read_cluster(yaml_tree.read_text(path, _MOST_BYTES, missing=missing), path, allow_http=allow_http)


def read_cluster(text: str, path: Path, *, allow_http: bool = False) -> Cluster:
    """Return the cluster that a text describes, as `load_cluster` does; `path` is where its file is, or will be."""
    file = yaml_tree.shown(path)
    root = yaml_tree.parse(text, file, start="`vaultpki init` writes one to start from")
    spec = CLUSTER.read(root, Place(file, 1, ""))
    nodes = _nodes(spec)
    pools = _pools(spec, path)
    token_pools = signer.read_pools(spec.items("pools"))
    _pools_are_apart(spec, nodes)
    named = spec["certificates"].value
    cluster = Cluster(
        name=spec.get("cluster"),
        prefix=spec.get("prefix") or f"vaultpki/{spec.get('cluster')}",
        vault=_vault(spec, path, allow_http),
        api_server=_api_server(spec, nodes),
        nodes=nodes,
        pools=pools,
        authority=_authority(spec["ca"], path),
        ttl=spec["defaults"].get("ttl"),
        key=spec["defaults"].get("key"),
        overrides={name: _override(found) for name, found in named.items() if name in row_rules.OF_TABLE},
        rows=tuple(_row(name, found, spec) for name, found in named.items() if name not in row_rules.OF_TABLE),
        templates=tuple(templates.read(name, found, path.parent) for name, found in spec["templates"].value.items()),
        layout=spec.get("layout"),
        no_store=spec["defaults"].get("no_store"),
        service_account_keys=spec.get("service_account_keys"),
        signer=signer.read(spec),
        token_pools=token_pools,
        move=_move(spec, path, allow_http),
        file=str(path),
    )
    templates.check(cluster, spec)
    consistency.check(cluster, spec)
    return cluster


def _authority(found: FieldValue, path: Path) -> Authority:
    also: tuple[ForeignCa, ...] = ()
    if found.has("also_trust"):
        also = foreign_cas.read(found["also_trust"], lambda item, check: _file_content(item, path, check))
    outside, pins = outside_root.read(found, path.parent)
    ttls = found.get("root_ttl"), found.get("issuing_ttl")
    pin = pins[0] if pins else None
    return Authority(*ttls, found.get("key"), pin, also, outside, outside_root.subject(found), pins[1:])


def _vault(spec: FieldValue, path: Path, allow_http: bool) -> VaultAddress:
    if not spec.has("vault"):
        return VaultAddress()
    return VaultAddress(*_reached(spec["vault"], path, allow_http))


def _reached(found: FieldValue, path: Path, allow_http: bool) -> tuple[tuple[str, ...], str | None, str | None]:
    """Return the addresses of a server, its TLS CA as PEM, and the namespace."""
    if not allow_http:
        for item in found.items("addresses"):
            item.checked(hosts.refuse_plain_http)
    ca_pem = _file_content(found["ca_file"], path, pem.pem_certificates) if found.has("ca_file") else None
    return found.get("addresses") or (), ca_pem, found.get("namespace")


def _move(spec: FieldValue, path: Path, allow_http: bool) -> MoveTarget | None:
    if not spec.has("move"):
        return None
    found = spec["move"]
    addresses, ca_pem, namespace = _reached(found, path, allow_http)
    here = spec["vault"] if spec.has("vault") else None
    prefix = spec.get("prefix") or f"vaultpki/{spec.get('cluster')}"
    target = MoveTarget(addresses, found.get("prefix") or prefix, ca_pem, None if namespace == "root" else namespace)
    if here is not None and {*addresses}.intersection(here.get("addresses") or ()):
        own = here.get("namespace")
        if (target.namespace, target.prefix) == (None if own == "root" else own, prefix):
            raise found["addresses"].refuse(
                "this is the server that the cluster has: name another one, or another namespace or prefix of it"
            )
    return target


def _file_content(found: FieldValue, path: Path, check: Callable[[str], _T]) -> _T:
    """Return the checked text of the file that `found` names, relative to the folder of cluster.yaml."""
    return found.checked(lambda name: check(yaml_tree.read_text(path.parent / name, pem.MOST_CA_BYTES)))


def _nodes(spec: FieldValue) -> tuple[Node, ...]:
    names: dict[str, FieldValue] = {}
    addresses: dict[str, FieldValue] = {}
    families = {ipaddress.ip_network(cidr).version for cidr in spec["api_server"].get("service_cidr")}
    for found in spec.items("nodes"):
        name = found["name"]
        if name.value in names:
            first = names[name.value].place
            other = first.path.rpartition(".")[0]
            raise name.refuse(
                f"{name.value} is also the name of {other} in line {first.line}: give every node its own name"
            )
        names[name.value] = name
        for item in found.items("addresses"):
            if item.value in addresses:
                first = addresses[item.value].place
                raise item.refuse(
                    f"{item.value} is also {first.path} in line {first.line}: give every node its own address"
                )
            addresses[item.value] = item
        if not any(ipaddress.ip_address(item.value).version in families for item in found.items("addresses")):
            has, wants = ("IPv6", "IPv4") if families == {4} else ("IPv4", "IPv6")
            raise found["addresses"].refuse(
                f"{name.value} has {has} addresses only, and service_cidr is {wants}: add an {wants} address, or a "
                f"range of {has} to api_server.service_cidr"
            )
    return tuple(
        Node(each.get("name"), frozenset(each.get("roles")), each.get("addresses")) for each in spec.items("nodes")
    )


def _pools(spec: FieldValue, path: Path) -> tuple[Pool, ...]:
    found = consistency.agent_pools(spec)
    pools = [
        Pool(
            each.get("name"),
            frozenset(each.get("roles")),
            each.get("node_names"),
            jwt.read(each["jwt"], lambda found, check: _file_content(found, path, check)) if each.has("jwt") else None,
        )
        for each in found
    ]
    jwt.refuse_second_issuer(zip(pools, found, strict=True))
    return tuple(pools)


def _pools_are_apart(spec: FieldValue, nodes: Iterable[Node]) -> None:
    pools = spec.items("pools")
    for index, found in enumerate(pools):
        name, pattern = found.get("name"), found.get("node_names")
        for other in pools[:index]:
            if other.get("name") == name:
                raise found["name"].refuse(f"another pool is called {name}: give every pool its own name")
            start, earlier = pattern[:-1], other.get("node_names")[:-1]
            if start.startswith(earlier) or earlier.startswith(start):
                raise found["node_names"].refuse(
                    f"{pattern} and {earlier}* of pool {other.get('name')} match the same names, and a node "
                    "belongs to one pool only: choose patterns that do not overlap"
                )
        for node in nodes:
            if node.name.startswith(pattern[:-1]):
                raise found["node_names"].refuse(
                    f"{pattern} also matches the listed node {node.name}: rename the node or narrow the pattern"
                )


def _api_server(spec: FieldValue, nodes: Iterable[Node]) -> ApiServer:
    found = spec["api_server"]
    cidrs = found.get("service_cidr")
    if len({ipaddress.ip_network(cidr).version for cidr in cidrs}) < len(cidrs):
        raise found["service_cidr"].refuse(
            "both ranges have the same IP family: write one IPv4 range and one IPv6 range"
        )
    addresses = found.get("addresses")
    endpoint = found.get("endpoint")
    if endpoint is None:
        control_plane = [node for node in nodes if NodeRole.CONTROL_PLANE in node.roles]
        candidates = [*addresses, *(address for node in control_plane for address in node.addresses)]
        if not candidates:
            raise found.place.under("endpoint").refuse(
                "the address of the API server is unknown: write endpoint: https://HOST:6443, or list a control-plane "
                "node"
            )
        endpoint = f"https://{hosts.in_url(candidates[0])}:{_API_PORT}"
    return ApiServer(endpoint, found.get("names"), addresses, cidrs, found.get("dns_domain"))


def _override(found: FieldValue) -> Override:
    return Override(
        ttl=found.get("ttl"),
        key=found.get("key"),
        extra_names=found.get("extra_names") or (),
        extra_addresses=found.get("extra_addresses") or (),
        stem=found.get("file"),
        no_store=found.get("no_store"),
    )


def _row(name: str, found: FieldValue, spec: FieldValue) -> Row:
    usage = found.get("kind")
    kubeconfig = found.get("kubeconfig")
    # client-go reads every kubeconfig, and it reloads all pairs at the same interval.
    reload = max(row.reload for row in certificates.TABLE if row.kubeconfig) if kubeconfig else 0
    return Row(
        name=name,
        usage=usage,
        source=found.get("from") or name,
        target=found.get("to") or "-",
        common_name=found.get("common_name").replace("{domain}", spec["api_server"].get("dns_domain")),
        organization=found.get("organization"),
        dns=found.get("names"),
        ips=tuple(certificates.NODE_ADDRESSES if ip == "{node_addresses}" else ip for ip in found.get("addresses")),
        ca=found.get("ca"),
        stem=found.get("file") or name,
        kubeconfig=kubeconfig,
        node_roles=frozenset(found.get("roles")),
        reload=reload,
        ttl=found.get("ttl"),
        key=found.get("key"),
        no_store=found.get("no_store"),
        built_in=False,
    )
