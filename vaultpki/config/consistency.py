"""Checks that the parts of cluster.yaml fit together, and that its records fit into Vault."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from vaultpki import certificates
from vaultpki.config import outside_root, signer
from vaultpki.config.fields import FieldValue
from vaultpki.errors import SpecError
from vaultpki.layout import own_server
from vaultpki.model import NODE, Cluster, Node, NodeRole, Pool, Row
from vaultpki.places import Layout
from vaultpki.records import published
from vaultpki.records.service_account import MOST_KEY_NODES
from vaultpki.values import file_names, hosts, row_rules
from vaultpki.values.durations import format_duration
from vaultpki.values.names import LONGEST_COMMON_NAME, quoted

SHORTEST_CA: Final = 60


def check(cluster: Cluster, spec: FieldValue) -> None:
    """Raise SpecError for the first contradiction, or the first record that Vault would refuse.

    `spec` has the place of each value of `cluster`.
    """
    _layout(cluster, spec)
    _service_account_keys(cluster, spec)
    signer.check(cluster, spec)
    _node_names(cluster, spec)
    _endpoint(cluster, spec)
    _authority(cluster, spec)
    _ttls(cluster, spec)
    for row in cluster.rows:
        _own_row(row, cluster, spec["certificates"][row.name])
    _row_names(cluster, spec)
    _lengths(cluster, spec)
    _files(cluster, spec)
    _records(cluster, spec)


def _layout(cluster: Cluster, spec: FieldValue) -> None:
    if cluster.layout is Layout.DOCUMENT:
        return
    for node, found in zip(cluster.nodes, spec.items("nodes"), strict=True):
        if NodeRole.CONTROL_PLANE in node.roles and NodeRole.WORKER not in node.roles:
            raise found["roles"].refuse(
                f"kubeadm runs a kubelet on every control-plane node: add worker to the roles of {node.name}"
            )
    rows = {row.name for row in certificates.laid_out(cluster.layout, signer=True)}
    for name, found in spec["certificates"].value.items():
        if name in row_rules.OF_TABLE and name not in rows and row_rules.OF_TABLE[name].usage.tls:
            raise found.refuse(
                f"with kubeadm {name} has no certificate, since it logs in with a ServiceAccount: leave {name} out"
            )
        if name in row_rules.OF_TABLE and found.has("file"):
            raise found["file"].refuse(
                f"with kubeadm the file of {name} has the name that kubeadm expects: leave file out"
            )


def _service_account_keys(cluster: Cluster, spec: FieldValue) -> None:
    own = spec["certificates"].value.get(certificates.SERVICE_ACCOUNT)
    if not cluster.service_account_keys:
        if own is not None:
            raise own.refuse(
                f"nodes have no service-account keys of their own: write service_account_keys: true, or leave "
                f"{certificates.SERVICE_ACCOUNT} out"
            )
        return
    for row in certificates.signing_rows(cluster):
        if not (row.key or cluster.key).signs_tokens:
            raise spec["defaults"]["key"].refuse(
                f"kube-apiserver signs tokens with ECDSA or RSA keys alone: write another key, or under certificates "
                f"{row.name}: {{key: ec-p256}}"
            )
    names = certificates.key_nodes(cluster)
    if len(names) > MOST_KEY_NODES:
        places = {node.name: place for node, place in zip(cluster.nodes, spec.items("nodes"), strict=True)}
        raise places[names[MOST_KEY_NODES]].refuse(
            f"{len(names)} control-plane nodes are more than the {MOST_KEY_NODES} that may have service-account keys "
            "of their own: leave nodes out, or leave service_account_keys out"
        )


def _node_names(cluster: Cluster, spec: FieldValue) -> None:
    domain = cluster.api_server.dns_domain
    fixed = (dns for dns in row_rules.OF_TABLE["kube-apiserver"].dns if dns not in (NODE, certificates.API_NAMES))
    reserved = {"localhost", *(dns.replace("{domain}", domain) for dns in fixed)}
    taken = _reached_by(cluster)
    service = certificates.service_addresses(cluster)
    for node, found in zip(cluster.nodes, spec.items("nodes"), strict=True):
        if node.name in reserved:
            raise found["name"].refuse(f"{node.name} is reserved for another service in every cluster: rename the node")
        for item in found.items("addresses"):
            if item.value in service:
                raise item.refuse(f"{item.value} is the API server's service address: write the node's own address")
        if NodeRole.CONTROL_PLANE in node.roles:
            continue
        for key, items in (("names", [found["name"]]), ("addresses", found.items("addresses"))):
            for item in items:
                if item.value in taken:
                    named = item.value in spec["api_server"].get(key)
                    where = f"api_server.{key}" if named else f"certificates.kube-apiserver.extra_{key}"
                    raise item.refuse(f"{item.value} is also in {where}: only a control-plane node may have it")


def _reached_by(cluster: Cluster) -> frozenset[str]:
    """Return the names and addresses in the certificates of kube-apiserver on all control-plane nodes."""
    row = certificates.row_named(cluster, "kube-apiserver")
    holders = [node for node in cluster.nodes if NodeRole.CONTROL_PLANE in node.roles] or [Node("-", frozenset())]
    subjects = [certificates.resolve(row, cluster, node).subject for node in holders]
    return frozenset(name for subject in subjects for name in subject.dns + subject.ips)


def _endpoint(cluster: Cluster, spec: FieldValue) -> None:
    endpoint = cluster.api_server.endpoint or ""
    host = hosts.url_host(endpoint)
    if host in _reached_by(cluster):
        return
    api = spec["api_server"]
    place = api["endpoint"] if api.has("endpoint") else api
    where = "addresses" if hosts.is_address(host) else "names"
    raise place.refuse(
        f"{quoted(host)} is not in the certificate of the API server, so clients would reject it: add it to "
        f"api_server.{where}"
    )


def _authority(cluster: Cluster, spec: FieldValue) -> None:
    root, issuing = cluster.authority.root_ttl, cluster.authority.issuing_ttl
    for key, seconds in (("root_ttl", root), ("issuing_ttl", issuing)):
        if seconds < SHORTEST_CA:
            raise spec["ca"][key].refuse(
                f"{format_duration(seconds)} is too short for a CA: write at least {format_duration(SHORTEST_CA)}"
            )
    outside = cluster.authority.outside
    if outside is not None:
        outside_root.check(cluster, spec["ca"])
    elif issuing >= root:
        key = "issuing_ttl" if spec["ca"]["issuing_ttl"].given else "root_ttl"
        raise spec["ca"][key].refuse(
            f"an issuing CA must expire before the root, and {format_duration(issuing)} is not shorter than "
            f"{format_duration(root)}: make issuing_ttl shorter than root_ttl"
        )


def _ttls(cluster: Cluster, spec: FieldValue) -> None:
    issuing = cluster.authority.issuing_ttl
    for row in certificates.all_rows(cluster):
        own = spec["certificates"].value.get(row.name)
        default = spec["defaults"]["ttl"]
        if own is not None and own.has("ttl"):
            place, ttl = own["ttl"], row.ttl or 0
        elif row.ttl is not None:
            place, ttl = spec["ca"]["issuing_ttl"], row.ttl
        else:
            place, ttl = default, cluster.ttl
        if ttl < row_rules.SHORTEST_LEAF:
            raise place.refuse(f"{format_duration(ttl)} is too short to renew in time: write at least 30s")
        if ttl >= issuing:
            life = f"{row.name} would live {format_duration(ttl)}, and its CA only {format_duration(issuing)}"
            if not place.given and spec["ca"]["issuing_ttl"].given:
                place = spec["ca"]["issuing_ttl"]
            raise place.refuse(f"{life}: make the certificate's ttl shorter than ca.issuing_ttl")
        allowed = spec.get("allow_short_ttl") or (own is not None and own.get("allow_short_ttl"))
        allowed = allowed or (place is default and spec["defaults"].get("allow_short_ttl"))
        shortest = certificates.shortest_ttl(row)
        if ttl < shortest and not allowed:
            how = (
                f"its consumer reloads only every {format_duration(row.reload)}"
                if row.reload
                else f"clocks differ by up to {format_duration(certificates.SKEW)}"
            )
            raise place.refuse(
                f"{format_duration(ttl)} is too short for {row.name}, because {how}: write at least "
                f"{format_duration(shortest)}, or allow_short_ttl: true if failed requests do not matter"
            )


def _own_row(row: Row, cluster: Cluster, found: FieldValue) -> None:
    problem = row_rules.own_row_problem(
        row, node=NODE, reads_as=lambda text, other: _could_be(text, other, row, cluster)
    )
    if problem is not None:
        place = found[problem.key] if problem.key else found
        raise (place if problem.item is None else place.value[problem.item]).refuse(problem.text)
    if row.usage.server and row.ca == "kubernetes" and row.node_roles != {NodeRole.CONTROL_PLANE}:
        # Loopback names are excepted: a client that connects to loopback reaches only its own machine.
        taken = {name for name in _reached_by(cluster) if name != "localhost" and not hosts.is_loopback(name)}
        # A control-plane node may have its own name in another certificate.
        others = replace(cluster, nodes=tuple(n for n in cluster.nodes if NodeRole.CONTROL_PLANE not in n.roles))
        for item in (*found.items("names"), *found.items("addresses")):
            mine = item.value.replace("{domain}", cluster.api_server.dns_domain)
            for other in sorted(taken):
                if _could_be(mine, other, row, others):
                    raise item.refuse(
                        f"with {other} this certificate could pass for the API server's, on nodes outside the control "
                        "plane: choose another name, or another ca"
                    )


def _could_be(text: str, other: str, row: Row, cluster: Cluster) -> bool:
    """Return whether `text` equals the literal `other` for some node that gets the row; Vault ignores case."""
    text, other = text.lower(), other.lower()
    if NODE in other:
        return False
    if NODE not in text:
        return text == other
    if any(text.replace(NODE, node.name) == other for node in cluster.nodes if node.roles & row.node_roles):
        return True
    before, _, after = text.partition(NODE)
    if NODE in after:
        return False
    fits = len(other) > len(before) + len(after) and other.startswith(before) and other.endswith(after)
    middle = other[len(before) : len(other) - len(after)]
    return fits and any(
        middle.startswith(pool.node_names[:-1]) for pool in cluster.pools if pool.roles & row.node_roles
    )


def _row_names(cluster: Cluster, spec: FieldValue) -> None:
    every = {row.name: row for row in certificates.rows(cluster)}
    for index, pool in enumerate(cluster.pools):
        for row in certificates.node_rows(cluster, pool):
            role = certificates.pool_role(row, pool)
            if role == row.name or role not in every:
                continue
            own = spec["certificates"].value.get(role)
            place = own if own is not None and not every[role].built_in else agent_pools(spec)[index]["name"]
            raise place.refuse(f"{role} is also the role of {row.name} for pool {pool.name}: rename one of the two")


def _lengths(cluster: Cluster, spec: FieldValue) -> None:
    rows = certificates.all_rows(cluster)
    of_the_table = {dns for row in certificates.TABLE for dns in row.dns}
    for holder, found in holders(cluster, spec):
        name = holder.name if isinstance(holder, Node) else holder.node_names[:-1] + "x"
        for row in rows:
            if not row.node_roles & holder.roles:
                continue
            common_name = row.common_name.replace(NODE, name)
            if len(common_name) > LONGEST_COMMON_NAME:
                place = found if row.built_in else spec["certificates"][row.name]["common_name"]
                longest = f"choose a node name of at most {longest_node(row)} characters"
                hint = longest if row.built_in else "shorten it"
                raise place.refuse(
                    f"{quoted(common_name)}, the common name of {row.name}, has {len(common_name)} characters, and at "
                    f"most {LONGEST_COMMON_NAME} are allowed (RFC 5280): {hint}"
                )
            for dns in row.dns:
                try:
                    if dns not in (NODE, certificates.API_NAMES):
                        hosts.host_name(dns.replace(NODE, name).replace("{domain}", cluster.api_server.dns_domain))
                except SpecError as error:
                    by_domain = dns in of_the_table
                    place = spec["api_server"]["dns_domain"] if by_domain else spec["certificates"][row.name]
                    raise place.refuse(f"for {name}: {error.problem}") from None


def longest_node(row: Row) -> int:
    """Return how many characters a node's name may have in the common name of a row that contains it."""
    return LONGEST_COMMON_NAME - len(row.common_name.replace(NODE, ""))


def holders(cluster: Cluster, spec: FieldValue) -> Iterator[tuple[Node | Pool, FieldValue]]:
    """Yield the listed nodes and the pools, each with the place of its name or pattern."""
    for node, found in zip(cluster.nodes, spec.items("nodes"), strict=True):
        yield node, found["name"]
    for pool, found in zip(cluster.pools, agent_pools(spec), strict=True):
        yield pool, found["node_names"]


def agent_pools(spec: FieldValue) -> list[FieldValue]:
    """Return the pools of cluster.yaml whose nodes run an agent."""
    return [each for each in spec.items("pools") if not each.has("join")]


def _files(cluster: Cluster, spec: FieldValue) -> None:
    claims: list[file_names.FileUse] = []
    places: list[FieldValue | None] = []
    # Unchanged rows come first, so that an error points to a line that a person wrote.
    for row in sorted(certificates.rows(cluster), key=lambda row: row.name in spec["certificates"].value):
        found = spec["certificates"].value.get(row.name)
        for claim in file_names.of_row(row):
            key = "kubeconfig" if claim.kind == "kubeconfig" else "file"
            claims.append(claim)
            places.append(found[key] if found is not None and found.has(key) else found)
    for template in cluster.templates:
        claims.append(file_names.of_template(template))
        places.append(spec["templates"][template.name]["file"])
    for index, problem in file_names.refused(claims, cluster.layout):
        place = places[index]
        if place is not None:
            raise place.refuse(problem)


def _records(cluster: Cluster, spec: FieldValue) -> None:
    """Refuse records that would be too large for Vault, so that apply does not fail halfway."""
    seen = set()
    for holder, found in holders(cluster, spec):
        addresses = len(holder.addresses) if isinstance(holder, Node) else 0
        if (alike := (type(holder), holder.roles, addresses)) not in seen:
            seen.add(alike)
            _of_holder(holder, cluster, spec, found)
    _of_templates(cluster, spec)
    _of_memory(cluster, spec)


def _of_holder(holder: Node | Pool, cluster: Cluster, spec: FieldValue, found: FieldValue) -> None:
    rows = certificates.node_rows(cluster, holder)
    if len(rows) > published.MOST_CERTIFICATES:
        raise spec["certificates"][rows[published.MOST_CERTIFICATES].name].refuse(
            f"with this {holder.name} has {len(rows)} certificates, and its record has room for "
            f"{published.MOST_CERTIFICATES}: remove some, or give them to nodes of other roles"
        )
    if isinstance(holder, Node):
        # Sample addresses that differ from every other value, so that the result holds for all nodes with as many.
        sample = Node(NODE, holder.roles, tuple(f"#{number}" for number in range(len(holder.addresses))))
        held = tuple(certificates.resolve(row, cluster, sample) for row in rows)
        signing = [row for row in certificates.signing_rows(cluster) if row.node_roles & holder.roles]
        key = next((certificates.resolve(row, cluster, sample) for row in signing), None)
        record = published.node_record(sample, held, "", cluster.layout, own_server(cluster, holder), key)
    else:
        held = tuple(certificates.resolve(row, cluster, holder) for row in rows)
        record = published.pool_record(holder, held, cluster.layout)
    count = published.strings(record)
    if count > published.MOST_STRINGS:
        widest = max(held, key=lambda certificate: len(certificate.subject.dns) + len(certificate.subject.ips)).name
        place = spec["certificates"].value.get(widest, spec["api_server"] if widest == "kube-apiserver" else found)
        raise place.refuse(
            f"the certificates of {holder.name}, with all names and addresses, need {count} strings. Vault accepts "
            f"no more than {published.MOST_STRINGS} in one request: remove names, addresses or certificates"
        )


def _of_templates(cluster: Cluster, spec: FieldValue) -> None:
    record = published.cluster_record(cluster, (), None, "")
    size = published.size(record)
    if size > published.MOST_BYTES:
        largest = max(cluster.templates, key=lambda template: published.size({"text": template.text}))
        raise spec["templates"][largest.name]["template"].refuse(
            f"the templates need {size // 1024} KiB, this one the most, and their record has room for "
            f"{published.MOST_BYTES // 1024}: make them smaller, or leave some out"
        )
    if published.strings(record) > published.MOST_STRINGS:
        raise spec["templates"].refuse(
            f"Vault does not accept {len(cluster.templates)} templates with so many roles in one request: leave some "
            "out, or give them to fewer roles"
        )


def _of_memory(cluster: Cluster, spec: FieldValue) -> None:
    nodes, others = _remembered_nodes(cluster), _remembered_others(cluster)
    if nodes + others > published.MOST_APPLIED_BYTES:
        key, what = ("nodes", f"{len(cluster.nodes)} nodes") if nodes > others else ("pools", "pools and certificates")
        raise spec[key].refuse(
            f"apply keeps a list of its objects in {published.MOST_APPLIED_BYTES // 1024} KiB, which is too small for "
            f"{what}. Split the cluster in two, or choose shorter names or a shorter prefix"
        )


def _remembered_nodes(cluster: Cluster) -> int:
    """Return the bytes that apply needs to remember the listed nodes: the name and the role id of each."""
    return sum(len(node.name) + 40 for node in cluster.nodes)


def _remembered_others(cluster: Cluster) -> int:
    """Return the bytes for everything else, mainly PKI roles: a pool has its own role for each row with addresses."""
    names = [row.name for row in certificates.all_rows(cluster)]
    for pool in cluster.pools:
        names += [certificates.pool_role(row, pool) for row in certificates.node_rows(cluster, pool)]
        names += [pool.name] * 3
    return sum(len(name) + len(cluster.prefix) + 30 for name in names)
