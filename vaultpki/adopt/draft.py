"""Drafts the cluster.yaml of a kubeadm cluster whose certificates have at least the names of today's.

Only names count that a CA of the cluster has signed; a Node object's own addresses are kept for its node alone.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vaultpki import certificates
from vaultpki.adopt import own_rows
from vaultpki.adopt.found import ROWS, ClusterInventory, InUse
from vaultpki.config.cluster import read_cluster
from vaultpki.errors import SpecError
from vaultpki.kube.details import NodeObject
from vaultpki.kubernetes_versions import KUBEADM_KEYS
from vaultpki.layout import DIRECTORY
from vaultpki.model import NODE, Cluster, KeyType, NodeRole
from vaultpki.redact import first_few, printable, stamp
from vaultpki.values import hosts, names, yaml_text

SERVERS: Final = ("kube-apiserver", "etcd-server", "etcd-peer", "kubelet")
"""The rows whose names servers are called by; servers look at the subject of the others alone."""

_NAME: Final = "kubernetes"
"""The name that kubeadm gives every cluster."""

_DOMAIN: Final = "cluster.local"
_SERVICES: Final = "10.96.0.0/12"
_PORT: Final = 6443
# kube-apiserver's own order (cmd/kube-apiserver/app/options); kubeadm writes another one into its flag.
_PREFERRED: Final = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP"
_KEYS: Final = {name: KeyType(key) for key, (name, _) in KUBEADM_KEYS.items()}
# A CA lives ten years, and 2048 bits are enough until 2030 (NIST SP 800-57 part 1, table 4).
_LEAST_CA: Final = KeyType.RSA_3072


_WILDCARD: Final = "*."

# Values by row and key.
_Extra = Mapping[str, Mapping[str, list[str]]]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A name of today's that the draft does not carry: of which node and row, and why."""

    node: str
    row: str
    name: str
    why: str

    @property
    def wildcard(self) -> bool:
        """Return whether it stands for other names, so that a person may give it up."""
        return self.name.startswith(_WILDCARD)


class GivenNames:
    """The names and addresses that a cluster gives its servers' certificates, in lower case."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._nodes = {node.name: node for node in cluster.nodes}

    def names(self, row: str, node: str) -> frozenset[str]:
        """Return those of a row on a node, those of every node for an empty name; none without such a row."""
        found = certificates.row_named(self._cluster, row)
        one = self._nodes.get(node)
        holders = self._cluster.nodes if not node else (one,) if one is not None else ()
        subjects = (
            certificates.resolve(found, self._cluster, each).subject
            for each in holders
            if each.roles & found.node_roles
        )
        return frozenset(name.lower() for subject in subjects for name in subject.dns + subject.ips)


@dataclass(frozen=True, slots=True)
class ClusterDraft:
    """The drafted cluster.yaml: its text, and the checked cluster; None with the `problem` that the check found.

    `left_out` are names that it does not carry. `shared` are names of one node that its row gives to every node.
    `nodes` are the drafted nodes, also where the check has found a problem. `base` are the names without
    changes to rows, None with a problem. `whole` is the text with `ca.also_trust`, whose files `old_cas` are by name.
    """

    text: str
    nodes: tuple[Mapping[str, Any], ...]
    cluster: Cluster | None
    problem: str = ""
    left_out: tuple[LeftOut, ...] = ()
    shared: tuple[LeftOut, ...] = ()
    base: GivenNames | None = None
    whole: str = ""
    old_cas: Mapping[str, str] = field(default_factory=dict)

    def added(self, row: str) -> tuple[str, ...]:
        """Return the names and addresses that the draft adds to a row."""
        override = self.cluster.overrides.get(row) if self.cluster is not None else None
        return (*override.extra_names, *override.extra_addresses) if override is not None else ()


def draft(found: ClusterInventory, path: Path, name: str | None = None, given_up: Collection[str] = ()) -> ClusterDraft:
    """Return the draft for this inventory; `path` is where it will be written, `name` that of the cluster.

    `given_up` are wildcard names that a person does without.
    """
    parts = _Parts(found, name)
    document = parts.document()
    head = _head(found)
    text = _text(head, document)
    try:
        base = read_cluster(text, path)
        given = GivenNames(base)
        extra, left_out, shared = _extra(found, base, given)
        document = _with_extra(found, document, extra)
        document, cluster = _with_own_rows(found, head, document, path)
        text = _text(head, document)
    except SpecError as error:
        return ClusterDraft(text, tuple(document["nodes"]), None, str(error), parts.left_out)
    missing = tuple(_missing(found, cluster, {(each.node, each.row, each.name) for each in left_out}))
    gone = {each.lower() for each in given_up}
    kept = (each for each in left_out if not (each.wildcard and each.name.lower() in gone))
    every = (*parts.left_out, *kept, *missing)
    cas = {ca: each for ca, each in found.cas.items() if ca != "etcd" or _has_etcd(cluster)}
    trust = {"also_trust": {ca: [old_ca_file(ca)] for ca in cas}} if cas else {}
    whole = _text(head, {**document, "ca": {**document.get("ca", {}), **trust}}) if trust else text
    old_cas = {old_ca_file(ca): "".join(facts.pem for facts in each) for ca, each in cas.items()}
    return ClusterDraft(text, tuple(document["nodes"]), cluster, "", every, shared, given, whole, old_cas)


def old_ca_file(ca: str) -> str:
    """Return the name of the file beside cluster.yaml with today's CAs of a domain."""
    return f"old-{ca}-ca.crt"


def _has_etcd(cluster: Cluster) -> bool:
    return any(NodeRole.ETCD in node.roles for node in cluster.nodes)


def _with_own_rows(
    found: ClusterInventory, head: str, document: dict[str, Any], path: Path
) -> tuple[dict[str, Any], Cluster]:
    """Return document and cluster of the draft, with rows for certificates beside the table if its check takes them.

    Raises SpecError if it does not pass without them either.
    """
    own = own_rows.rows(found)
    if own:
        more = {**document, "certificates": {**document.get("certificates", {}), **own}}
        with contextlib.suppress(SpecError):
            return more, read_cluster(_text(head, more), path)
    return document, read_cluster(_text(head, document), path)


def counted(found: ClusterInventory, row: str) -> Iterator[InUse]:
    """Yield the certificates of a row whose names count."""
    return (each for each in found.certificates if each.row == row and each.ca)


def called_at(node: NodeObject, found: ClusterInventory) -> str:
    """Return the address at which kube-apiserver calls the kubelet of a node; "" if it has none.

    The first type of its flag that the Node object has decides (pkg/util/node/node.go, GetPreferredNodeAddress).
    """
    flags = next((pod.flags for pod in found.static if pod.component == "kube-apiserver"), {})
    for kind in flags.get("kubelet-preferred-address-types", _PREFERRED).split(","):
        for address in node.of_type(kind):
            return address
    return ""


class _Parts:
    """Makes the parts of the document from what was found."""

    def __init__(self, found: ClusterInventory, name: str | None) -> None:
        self._found, self._name = found, name
        self.left_out: tuple[LeftOut, ...] = ()

    def document(self) -> dict[str, Any]:
        nodes = [*self._nodes(), *self._outside()]
        return {
            "version": 1,
            "cluster": self._cluster_name(),
            "layout": "kubeadm",
            "api_server": self._api_server(nodes),
            "nodes": nodes,
        }

    def _cluster_name(self) -> str:
        settings = self._found.whole.settings
        given = self._name or (settings.cluster if settings is not None else "")
        return given if self._name or names.fits(given, names.cluster_name) else _NAME

    def _nodes(self) -> Iterator[dict[str, Any]]:
        members = {member.node: member for member in self._found.members}
        for node in self._found.whole.nodes:
            flags = {pod.component: pod.flags for pod in self._found.static if pod.node == node.name}
            roles = [NodeRole.WORKER.value]
            if node.name in members:
                roles.insert(0, NodeRole.ETCD.value)
            if node.control_plane:
                roles.insert(0, NodeRole.CONTROL_PLANE.value)
            first = flags.get("kube-apiserver", {}).get("advertise-address", "")
            member = members.get(node.name)
            addresses = [first, *node.of_type("InternalIP"), *(member.addresses if member is not None else ())]
            at = called_at(node, self._found)
            addresses += [at] if hosts.is_address(at) else []
            yield from self._node(node.name, roles, addresses)

    def _outside(self) -> Iterator[dict[str, Any]]:
        """Yield the members of etcd on machines without a Node object."""
        known = {node.name for node in self._found.whole.nodes}
        for member in self._found.members:
            if not member.stacked and member.node not in known:
                yield from self._node(member.node, [NodeRole.ETCD.value], member.addresses)

    def _node(self, name: str, roles: list[str], addresses: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Yield the node; none if it has no address, which the draft cannot do without."""
        usable = self._usable(name, addresses)
        if usable:
            yield {"name": name, "roles": roles, "addresses": usable}
        else:
            row = "kubelet" if NodeRole.WORKER.value in roles else "etcd-server"
            why = f"no address of {name} is known that a certificate can have, so the draft leaves the node out"
            self.left_out += (LeftOut(name, row, name, why),)

    def _usable(self, node: str, addresses: Iterable[str]) -> list[str]:
        found = []
        for address in dict.fromkeys(filter(None, addresses)):
            try:
                found.append(hosts.node_address(address))
            except SpecError as error:
                self.left_out += (LeftOut(node, "kubelet", address, error.problem),)
        return list(dict.fromkeys(found))

    def _api_server(self, nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        found = self._found
        flags = next((pod.flags for pod in found.static if pod.component == "kube-apiserver"), {})
        settings = found.whole.settings
        endpoint = self._endpoint()
        host = hosts.url_host(endpoint)
        own = {
            each for node in nodes if "control-plane" in node["roles"] for each in (node["name"], *node["addresses"])
        }
        made: dict[str, Any] = {"endpoint": endpoint}
        if host not in own:
            made["addresses" if hosts.is_address(host) else "names"] = [host]
        given = flags.get("service-cluster-ip-range") or (settings.service_cidr if settings is not None else "")
        ranges = [each.strip() for each in (given or _SERVICES).split(",")]
        made["service_cidr"] = ranges if len(ranges) > 1 else ranges[0]
        made["dns_domain"] = (settings.dns_domain if settings is not None else "") or _domain(found) or _DOMAIN
        return made

    def _endpoint(self) -> str:
        """Return the URL of the API server: kubeadm's endpoint, else its first control plane, else the kubeconfig's."""
        settings = self._found.whole.settings
        given = settings.endpoint if settings is not None else ""
        if given:
            host, colon, port = given.rpartition(":")
            # An address of IPv6 without brackets has colons of its own.
            bare = not colon or not port.isdecimal() or hosts.is_address(given)
            host, port = (given, str(_PORT)) if bare else (host, port)
            return f"https://{hosts.in_url(host.strip('[]'))}:{port}"
        for pod in self._found.static:
            host = pod.flags.get("advertise-address", "") if pod.component == "kube-apiserver" else ""
            if host:
                port = pod.flags.get("secure-port", "")
                return f"https://{hosts.in_url(host)}:{port if port.isdecimal() else _PORT}"
        return self._found.server.rstrip("/")


def _domain(found: ClusterInventory) -> str:
    """Return the cluster's DNS domain by a certificate of kube-apiserver; "" if none tells it."""
    start = "kubernetes.default.svc."
    every = (name for each in counted(found, "kube-apiserver") for name in each.facts.subject.dns)
    return next((name.removeprefix(start) for name in every if name.startswith(start)), "")


def _extra(
    found: ClusterInventory, base: Cluster, given: GivenNames
) -> tuple[dict[str, dict[str, list[str]]], tuple[LeftOut, ...], tuple[LeftOut, ...]]:
    """Return what rows need beside the base, by row and key; what cannot be carried, and what becomes shared.

    An address of a kubelet goes to its own node, as the key `node:NAME`.
    """
    extra: dict[str, dict[str, list[str]]] = {}
    left_out: list[LeftOut] = []
    shared: list[LeftOut] = []

    def add(row: str, key: str, value: str) -> None:
        held = extra.setdefault(row, {}).setdefault(key, [])
        if value not in held:
            held.append(value)

    every = [(row, each, name) for row in SERVERS for each in counted(found, row) for name in _beyond(each, row, given)]
    reached = _reached(base)
    for row, each, name in every:
        problem = _unfit(name)
        if name.startswith(_WILDCARD):
            below = [used for used in _called(found, row) if used.partition(".")[2] == name[2:].lower()]
            for used in below:
                if used not in given.names(row, each.node):
                    add(row, "extra_names", used)
            seen = f"in use below it: {first_few(below)}" if below else "no name below it was seen in use"
            left_out.append(LeftOut(each.node, row, name, f"{name} ({each.place}); {seen}"))
        elif problem:
            left_out.append(LeftOut(each.node, row, name, problem))
        elif hosts.is_address(name):
            if row != "kubelet" or hosts.is_loopback(name):
                add(row, "extra_addresses", name)
            elif name in reached.get(each.node, frozenset()):
                left_out.append(LeftOut(each.node, row, name, "it is an address of the API server"))
            else:
                add(f"node:{each.node}", "addresses", name)
        else:
            pattern = _pattern(name, each.node)
            add(row, "extra_names", pattern or name.lower())
            if row == "kubelet" and not pattern:
                shared.append(LeftOut(each.node, row, name, "each kubelet's certificate has it"))
    return extra, tuple(left_out), tuple(shared)


def _called(found: ClusterInventory, row: str) -> tuple[str, ...]:
    """Return the names by which clients call the servers of a row, as far as they were seen."""
    configs = [config.parts for machine in found.machines for config in machine.kubeconfigs if config.parts is not None]
    if row == "kube-apiserver":
        seen = [found.server_name, hosts.url_host(found.server)]
        seen += [name for each in configs for name in (each.server_name, hosts.url_host(each.server)) if name]
    else:
        seen = [host for member in found.members for host in member.hosts if row.startswith("etcd-")]
    return tuple(
        dict.fromkeys(name.lower() for name in seen if name and not _unfit(name) and not hosts.is_address(name))
    )


def further(each: InUse, draft: ClusterDraft) -> tuple[str, ...]:
    """Return the names in a certificate that its row does not have without the draft's own changes to the row."""
    if draft.base is None or each.row not in SERVERS:
        return ()
    return _beyond(each, each.row, draft.base)


def _reached(base: Cluster) -> dict[str, frozenset[str]]:
    """Return the addresses of kube-apiserver's certificates by the nodes that must not have them: those without it."""
    row = certificates.row_named(base, "kube-apiserver")
    planes = [node for node in base.nodes if NodeRole.CONTROL_PLANE in node.roles]
    every = frozenset(ip for node in planes for ip in certificates.resolve(row, base, node).subject.ips)
    return {node.name: every for node in base.nodes if node not in planes}


def _beyond(each: InUse, row: str, given: GivenNames) -> tuple[str, ...]:
    """Return the names in a certificate that a cluster does not give the row on its node."""
    have, subject = given.names(row, each.node), each.facts.subject
    return tuple(name for name in (*subject.dns, *subject.ips) if name.lower() not in have)


def _missing(found: ClusterInventory, cluster: Cluster, known: set[tuple[str, str, str]]) -> Iterator[LeftOut]:
    """Yield what today's certificates name and those of the draft would not, beside what is known: by the model."""
    given = GivenNames(cluster)
    for row in SERVERS:
        for each in counted(found, row):
            if each.node and not given.names(row, each.node):
                yield LeftOut(each.node, row, each.node, f"the draft gives this node no {row}")
                continue
            for name in _beyond(each, row, given):
                if (each.node, row, name) not in known:
                    yield LeftOut(each.node, row, name, "the draft does not have it")


def _unfit(name: str) -> str:
    """Return why cluster.yaml cannot carry a name; "" if it can."""
    try:
        if hosts.is_address(name):
            hosts.address(name)
        else:
            hosts.san_name(name.lower())
    except SpecError as error:
        return error.problem
    return ""


def _pattern(name: str, node: str) -> str:
    """Return a name that begins with the node's own as a pattern; "" for another name."""
    if node and name.lower().startswith(f"{node}."):
        return f"{NODE}{name.lower().removeprefix(node)}"
    return ""


def _keys(found: ClusterInventory) -> dict[str, KeyType]:
    """Return the key type of today's certificates by row; where nodes differ, an RSA one, which every client takes."""
    keys: dict[str, KeyType] = {}
    for row in ROWS:
        seen = {each.facts.key for each in counted(found, row) if each.facts.key is not None}
        if seen:
            keys[row] = max(seen, key=lambda key: (key.rsa, key.vault_bits))
    return keys


def _with_extra(found: ClusterInventory, document: Mapping[str, Any], extra: _Extra) -> dict[str, Any]:
    """Return the document with the keys of today's certificates, and with the further names."""
    keys = _keys(found)
    default = default_key(found) or (Counter(keys.values()).most_common(1)[0][0] if keys else None)
    made = dict(document)
    made["nodes"] = [
        {**node, "addresses": [*node["addresses"], *extra.get(f"node:{node['name']}", {}).get("addresses", [])]}
        for node in document["nodes"]
    ]
    return made | _key_parts(default) | _overrides(extra, keys, default)


def _key_parts(default: KeyType | None) -> dict[str, Any]:
    if default is None:
        return {}
    ca = max(default, _LEAST_CA, key=lambda key: key.vault_bits) if default.rsa else KeyType.EC_P256
    return {"ca": {"key": ca.value}, "defaults": {"key": default.value}}


def _overrides(extra: _Extra, keys: Mapping[str, KeyType], default: KeyType | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for row in ROWS:
        made: dict[str, Any] = {}
        if row in keys and keys[row] is not default:
            made["key"] = keys[row].value
        made |= {key: values for key, values in extra.get(row, {}).items() if values}
        if made:
            found[row] = made
    return {"certificates": found} if found else {}


def _head(found: ClusterInventory) -> str:
    lines = [
        f"Drafted by `vaultpki adopt inventory` from {found.server}, {stamp(found.now)}. Check it before you apply it.",
        "Nodes write their addresses into their Node objects themselves: compare each with what you know.",
        "Each cluster needs a name of its own in Vault: CAs are called by it, and they lie at vaultpki/NAME.",
    ]
    if found.directory != DIRECTORY:
        lines.append(f"Certificates are in {found.directory}: pass --dir {found.directory} to `vaultpki join`.")
    lines.append("vault: {addresses: [https://vault.example.com:8200], ca_file: vault-ca.crt}")
    return "".join(f"# {printable(line)}\n" for line in lines)


def _text(head: str, document: Mapping[str, Any]) -> str:
    parts = [head]
    for key, value in document.items():
        if key == "nodes":
            parts.append("nodes:\n")
            parts += [f"- {_inline(node)}\n" for node in value]
        elif key == "certificates":
            parts.append("certificates:\n")
            parts += [f"  {row}: {_inline(each)}\n" for row, each in value.items()]
        else:
            parts.append(yaml_text.dump({key: value}))
    return "".join(parts)


def _inline(value: object) -> str:
    """Return a value as YAML in one line, also where it has lists in it."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_inline(each)}' for key, each in value.items())}}}"
    # A scalar is written as in a list, where it is quoted if it must be.
    held = value if isinstance(value, list) else [value]
    text = yaml_text.dump(held, inline=True).strip()
    return text if isinstance(value, list) else text[1:-1]


def default_key(found: ClusterInventory) -> KeyType | None:
    """Return the key type that kubeadm makes certificates with, by its own configuration; None if that does not say."""
    settings = found.whole.settings
    return _KEYS.get(settings.key) if settings is not None else None
