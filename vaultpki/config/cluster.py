"""cluster.yaml to a checked `Cluster`."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path

from vaultpki import certificates, words
from vaultpki.config import jwt, meaning, sizes, templates, tree
from vaultpki.config.declared import CLUSTER
from vaultpki.config.shape import Found
from vaultpki.config.tree import Place
from vaultpki.errors import SpecError
from vaultpki.model import (
    ApiServer,
    Authority,
    Cluster,
    Node,
    NodeRole,
    Override,
    Pool,
    Row,
    VaultAddress,
)

_API_PORT = 6443


def load_cluster(path: Path, *, allow_http: bool = False) -> Cluster:
    """The cluster that `path` describes, checked as a whole before it is returned.

    `allow_http` lets `vault.addresses` be plain http beyond loopback. Reads the CA file and the templates named
    there. Raises SpecError with file, line and field for the first thing that is wrong.
    """
    file = tree.shown(path)
    root = tree.parse(tree.read_text(path), file, start="`vaultpki init` writes one to start from")
    spec = CLUSTER.read(root, Place(file, 1, ""))
    nodes = _nodes(spec)
    pools = _pools(spec, nodes, path)
    named = spec["certificates"].value
    built_in = {row.name for row in certificates.TABLE}
    cluster = Cluster(
        name=spec.get("cluster"),
        prefix=spec.get("prefix") or f"vaultpki/{spec.get('cluster')}",
        vault=_vault(spec, path, allow_http),
        api_server=_api_server(spec, nodes),
        nodes=nodes,
        pools=pools,
        authority=Authority(
            spec["ca"].get("root_ttl"),
            spec["ca"].get("issuing_ttl"),
            spec["ca"].get("key"),
            spec["ca"].get("root_sha256"),
        ),
        ttl=spec["defaults"].get("ttl"),
        key=spec["defaults"].get("key"),
        overrides={name: _override(found) for name, found in named.items() if name in built_in},
        rows=tuple(_row(name, found, spec) for name, found in named.items() if name not in built_in),
        templates=tuple(templates.read(name, found, path.parent) for name, found in spec["templates"].value.items()),
        file=str(path),
    )
    templates.check(cluster, spec)
    meaning.check(cluster, spec)
    sizes.check(cluster, spec)
    return cluster


def _vault(spec: Found, path: Path, allow_http: bool) -> VaultAddress:
    if not spec.has("vault"):
        return VaultAddress()
    found = spec["vault"]
    for item in found.items("addresses"):
        if not allow_http:
            try:
                words.refuse_plain_http(item.value)
            except SpecError as error:
                raise item.refuse(error.problem) from None
    pem = None
    if found.has("ca_file"):
        pem = _beside(found["ca_file"], path, words.MOST_CA_BYTES)
        try:
            pem = words.pem_certificates(pem)
        except SpecError as error:
            raise found["ca_file"].refuse(error.problem) from None
    return VaultAddress(found.get("addresses") or (), pem, found.get("namespace"))


def _beside(found: Found, path: Path, limit: int) -> str:
    """The text of a file that cluster.yaml names; what is wrong with it is told where it is named."""
    try:
        return tree.read_text(path.parent / found.value, limit)
    except SpecError as error:
        raise found.refuse(f"{error.file}: {error.problem}" if error.file else error.problem) from None


def _nodes(spec: Found) -> tuple[Node, ...]:
    names: dict[str, Found] = {}
    addresses: dict[str, Found] = {}
    families = {ipaddress.ip_network(cidr).version for cidr in spec["api_server"].get("service_cidr")}
    for found in spec.items("nodes"):
        name = found["name"]
        if name.value in names:
            first = names[name.value].place
            raise name.refuse(f"{name.value} is also the name of {first.path.rpartition('.')[0]} in line {first.line}: "
                              "every node needs a name of its own")  # fmt: skip
        names[name.value] = name
        for item in found.items("addresses"):
            if item.value in addresses:
                first = addresses[item.value].place
                raise item.refuse(f"{item.value} is also {first.path} in line {first.line}: an address is one node's")
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


def _pools(spec: Found, nodes: Iterable[Node], path: Path) -> tuple[Pool, ...]:
    pools = [
        Pool(
            each.get("name"),
            frozenset(each.get("roles")),
            each.get("node_names"),
            jwt.read(each["jwt"], lambda found: _beside(found, path, words.MOST_CA_BYTES)) if each.has("jwt") else None,
        )
        for each in spec.items("pools")
    ]
    jwt.refuse_second_issuer(zip(pools, spec.items("pools"), strict=True))
    for index, (pool, found) in enumerate(zip(pools, spec.items("pools"), strict=True)):
        for other in pools[:index]:
            if other.name == pool.name:
                raise found["name"].refuse(f"there is a pool {pool.name} already: every pool needs a name of its own")
            start, earlier = pool.node_names[:-1], other.node_names[:-1]
            if start.startswith(earlier) or earlier.startswith(start):
                raise found["node_names"].refuse(
                    f"{pool.node_names} and {other.node_names} of pool {other.name} take the same names: a node can be "
                    "of one pool only, so choose beginnings of which neither begins with the other"
                )
        for node in nodes:
            if node.name.startswith(pool.node_names[:-1]):
                raise found["node_names"].refuse(
                    f"{pool.node_names} takes the listed node {node.name} too: rename the node or narrow the pattern"
                )
    return tuple(pools)


def _api_server(spec: Found, nodes: Iterable[Node]) -> ApiServer:
    found = spec["api_server"]
    cidrs = found.get("service_cidr")
    if len({ipaddress.ip_network(cidr).version for cidr in cidrs}) < len(cidrs):
        raise found["service_cidr"].refuse("both ranges are of one family: write one of IPv4 and one of IPv6")
    addresses = found.get("addresses")
    endpoint = found.get("endpoint")
    if endpoint is None:
        control_plane = [node for node in nodes if NodeRole.CONTROL_PLANE in node.roles]
        candidates = [*addresses, *(address for node in control_plane for address in node.addresses)]
        if not candidates:
            raise found.place.under("endpoint").refuse(
                "nothing tells where the API server is: write endpoint: https://HOST:6443, or list a control-plane node"
            )
        host = f"[{candidates[0]}]" if ":" in candidates[0] else candidates[0]
        endpoint = f"https://{host}:{_API_PORT}"
    return ApiServer(endpoint, found.get("names"), addresses, cidrs, found.get("dns_domain"))


def _override(found: Found) -> Override:
    return Override(
        ttl=found.get("ttl"),
        key=found.get("key"),
        extra_names=found.get("extra_names") or (),
        extra_addresses=found.get("extra_addresses") or (),
        stem=found.get("file"),
        allow_short_ttl=found.get("allow_short_ttl"),
    )


def _row(name: str, found: Found, spec: Found) -> Row:
    usage = found.get("kind")
    kubeconfig = found.get("kubeconfig")
    # A kubeconfig's reader is client-go, which looks at the pair as often as the table's own kubeconfig clients do.
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
        built_in=False,
    )
