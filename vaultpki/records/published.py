"""Writes and reads the records of the config store, which apply publishes and agents read.

A record tells a node which certificates, bundles and kubeconfigs it gets, and nothing else. Every value in it must be
possible in cluster.yaml, so that an attacker who can write to the store cannot make a node write other files or run
commands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from vaultpki.certificates import ISSUING_CAS, SERVICE_ACCOUNT, in_layout
from vaultpki.errors import SpecError
from vaultpki.model import (
    NODE,
    NUMBER,
    VERSION,
    Certificate,
    Cluster,
    KeyType,
    Node,
    NodeRole,
    Pool,
    Subject,
    Usage,
    UserTemplate,
)
from vaultpki.places import Layout
from vaultpki.records import foreign_cas
from vaultpki.values import file_names, hosts, names, row_rules
from vaultpki.values.json_object import DIGEST, Integer, Items, JsonObject, JsonText, OneOf, word

Json = dict[str, Any]

# OpenBao refuses a request of more than 1000 strings, including keys (listener option `max_request_json_strings`), and
# Vault one of more than 10 000 entries. Both store at most 1 MiB in one entry, of which they use 227 bytes themselves.
MOST_STRINGS: Final = 900
"""The largest number of strings, including keys, in a record."""

MOST_BYTES: Final = 512 * 1024
"""The largest size of a record in bytes, without the CA of Vault's TLS certificate (up to 256 KiB more)."""

MOST_APPLIED_BYTES: Final = 960 * 1024
"""The largest size in bytes of the record in which apply lists the objects that it created."""

MOST_CERTIFICATES: Final = 40
"""The largest number of certificates of one node; each one needs at least 21 strings of its record."""

# The name of a certificate, or of a certificate and a pool (`certificates.pool_role`).
_ROLE: Final = JsonText(re.compile(rf"{names.LABEL_PATTERN}(?:-{names.LABEL_PATTERN})?").fullmatch)
_MOST_SECONDS = 100 * 365 * 86400 - 1
_WORDS: Final = "usage or key"
KEY_FIELD: Final = "service_account"
"""The field of a node's record that says that it has service-account keys of its own."""


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """The part of the cluster that every node needs. `also_trust` are certificates of foreign CAs, by domain."""

    cluster: str
    endpoint: str
    root_sha256: str
    templates: tuple[UserTemplate, ...] = ()
    layout: Layout = Layout.DOCUMENT
    also_trust: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def cluster_record(cluster: Cluster, addresses: tuple[str, ...], ca_pem: str | None, root_sha256: str) -> Json:
    """Return the record `cluster`. Its addresses and CA of Vault are for people; no agent uses them."""
    return {
        **_head(cluster.layout),
        "cluster": cluster.name,
        "endpoint": cluster.api_server.endpoint,
        "root_sha256": root_sha256,
        "vault": {"addresses": list(addresses), "ca_pem": ca_pem or ""},
        "templates": {
            t.name: {"file": t.file, "text": t.text, "roles": sorted(role.value for role in t.roles)}
            for t in cluster.templates
        },
        **foreign_cas.to_json(cluster.authority.also_trust),
    }


def drift(record: Any, wanted: Json, *, where: str) -> tuple[str, ...]:
    """Return the fields of a cluster's record that differ from `wanted`; raise SpecError for a newer version."""
    if not isinstance(record, Mapping):
        return ("all of it",)
    version = record.get("version")
    if isinstance(version, int) and version > VERSION:
        _read(record, where)
    changed = tuple(name for name, value in wanted.items() if record.get(name) != value)
    # The names of unknown fields are not shown: anyone could have written them.
    return changed + (("further fields",) if record.keys() - wanted.keys() else ())


def node_record(
    node: Node,
    certificates: tuple[Certificate, ...],
    role_id: str,
    layout: Layout = Layout.DOCUMENT,
    server: str | None = None,
    token_key: Certificate | None = None,
) -> Json:
    """Return the record `nodes/NODE`. Written before the AppRole, which is made with `role_id`.

    `server` is the URL of the node's own kube-apiserver, which its kubeconfigs name. `token_key` is the certificate of
    a service-account key of the node, of any number; None if it has none of its own.
    """
    return {
        **_head(layout),
        **({"server": server} if server else {}),
        **({KEY_FIELD: {"ttl": token_key.ttl, "key": token_key.key.value}} if token_key else {}),
        "node": node.name,
        "roles": sorted(role.value for role in node.roles),
        "role_id": role_id,
        "certificates": [_certificate(c) for c in certificates],
    }


def pool_record(pool: Pool, certificates: tuple[Certificate, ...], layout: Layout = Layout.DOCUMENT) -> Json:
    """Return the record `pools/POOL`, which contains `{node}` in place of a node's name."""
    return {
        **_head(layout),
        "pool": pool.name,
        "roles": sorted(role.value for role in pool.roles),
        "node_names": pool.node_names,
        "certificates": [_certificate(c) for c in certificates],
    }


def _head(layout: Layout) -> Json:
    """Return what says for which layout a record is; those for the layout document do not name it."""
    return {"version": layout.version, **({} if layout is Layout.DOCUMENT else {"layout": layout.value})}


def strings(record: Any) -> int:
    """Return the number of strings that Vault counts in a record: every key and every text value."""
    if isinstance(record, Mapping):
        return sum(1 + strings(value) for value in record.values())
    return sum(map(strings, record)) if isinstance(record, list) else int(isinstance(record, str))


def size(record: Json) -> int:
    """Return an upper limit of the bytes that Vault stores for a record."""
    text = json.dumps(record)
    # Go writes these as `\u003c` (encoding/json, HTMLEscape); all other characters are no longer than in Python.
    return len(text) + 5 * sum(map(text.count, "<>&"))


def read_cluster(record: Mapping[str, Any], *, where: str, cluster: str | None = None) -> ClusterRecord:
    """Return a cluster record; raise SpecError with record and field if no vaultpki writes it like this.

    Also raises SpecError if it is the record of another cluster than `cluster`.
    """
    read = _read(record, where)
    own = read.get("cluster", word(names.cluster_name))
    if cluster is not None and own != cluster:
        raise SpecError(f"belongs to cluster {own}, not {cluster}", file=where, field="cluster")
    entries = read.value.get("templates") or {}
    if not isinstance(entries, Mapping) or not all(names.fits(name, names.label) for name in entries):
        raise read.wrong("templates")
    templates = []
    for name, value in entries.items():
        entry = _entry(value, f"{where}: templates.{name}")
        text = entry.get("text", JsonText())
        if len(text) > 1 << 16:
            raise entry.wrong("text")
        templates.append(UserTemplate(name, entry.get("file", word(names.file_name)), text, _roles(entry)))
    layout = read.layout()
    refuse_file_names((), templates, layout, where=where)
    return ClusterRecord(
        cluster=own,
        endpoint=read.get("endpoint", word(hosts.endpoint)),
        root_sha256=read.get("root_sha256", DIGEST),
        templates=tuple(templates),
        layout=layout,
        also_trust=foreign_cas.read(read),
    )


def read_certificates(
    record: Mapping[str, Any], *, node: str, prefix: str, where: str, layout: Layout = Layout.DOCUMENT
) -> tuple[frozenset[NodeRole], tuple[Certificate, ...]]:
    """Return roles and certificates of `node` from its own or its pool's record; raise SpecError as `read_cluster`.

    The record names no folder: `layout` alone decides where a certificate lies.
    """
    read = _read(record, where)
    refuse_other_layout(read.layout(), layout, where=where)
    pool = _pool(read, node)
    roles = _roles(read)
    entries = read.value.get("certificates")
    if not isinstance(entries, list) or len(entries) > MOST_CERTIFICATES or strings(entries) > MOST_STRINGS:
        raise read.wrong("certificates")
    certificates = []
    for index, value in enumerate(entries):
        entry = _entry(value, f"{where}: certificates[{index}]")
        certificate = _read_certificate(entry, node, prefix)
        changed = row_rules.held_problem(certificate, node=node, roles=roles, pool=pool, layout=layout)
        if changed is not None:
            raise entry.wrong(changed)
        certificates.append(in_layout(certificate, layout))
    for taken in ([c.name for c in certificates], [(c.ca, c.role) for c in certificates]):
        if len(set(taken)) != len(taken):
            raise read.wrong("certificates")
    refuse_file_names(certificates, (), layout, where=where)
    return roles, tuple(certificates)


def read_server(record: Mapping[str, Any], *, where: str) -> str | None:
    """Return the URL of the node's own kube-apiserver, None if it has none; raise SpecError as `read_cluster`."""
    read = _read(record, where)
    return None if read.value.get("server") is None else read.get("server", word(hosts.endpoint))


def read_token_key(record: Mapping[str, Any], *, node: str, prefix: str, where: str) -> Certificate | None:
    """Return the certificate that says whose service-account key 1 of a node is; None if it has none of its own.

    The record says only how long it lives, and the type of the key. Raises SpecError as `read_cluster`.
    """
    read = _read(record, where)
    if KEY_FIELD not in read.value:
        return None
    row = row_rules.OF_TABLE[SERVICE_ACCOUNT]
    entry = _entry(read.value[KEY_FIELD], f"{where}: {KEY_FIELD}")
    key = next((key for key in KeyType if key.signs_tokens and key.value == entry.value.get("key")), None)
    if key is None:
        raise entry.wrong("key")
    if "node" not in read.value or not row.node_roles & _roles(read):
        raise read.wrong(KEY_FIELD)
    ttl = entry.get("ttl", Integer(row_rules.SHORTEST_LEAF, _MOST_SECONDS))
    return Certificate(
        name=row.name,
        usage=row.usage,
        subject=Subject(row.common_name.replace(NODE, node).replace(NUMBER, "1")),
        ca=row.ca,
        mount=f"{prefix}/{row.ca}",
        role=row.name,
        ttl=ttl,
        key=key,
        stem=row.stem,
    )


def refuse_other_layout(found: Layout, wanted: Layout, *, where: str) -> None:
    """Raise SpecError if a record is for another layout than the one that this node joined with."""
    if found is not wanted:
        raise SpecError(
            f"is for the layout {found.value}, and agent.yaml says {wanted.value}. A node gets its layout when it "
            "joins: put the layout back in cluster.yaml, or join this node anew with another agent.yaml",
            file=where,
            field="layout",
        )


def refuse_file_names(
    certificates: Sequence[Certificate],
    templates: Sequence[UserTemplate],
    layout: Layout = Layout.DOCUMENT,
    *,
    where: str,
) -> None:
    """Raise SpecError if two certificates or templates of a node have the same file, or one has a reserved name."""
    # Rows of the table come first, as for cluster.yaml, so that the error names the other one.
    ordered = sorted(certificates, key=lambda certificate: certificate.name not in row_rules.OF_TABLE)
    claims = [claim for certificate in ordered for claim in file_names.of_row(certificate)]
    claims += map(file_names.of_template, templates)
    for index, problem in file_names.refused(claims, layout):
        claim = claims[index]
        name = claim.holder.removeprefix("template ")
        field = f"templates.{name}.file" if claim.kind == "template" else f"certificates: {name}"
        raise SpecError(
            f"contains a value that vaultpki does not write ({problem.partition(':')[0]}); apply the cluster again",
            file=where,
            field=field,
        )


def _certificate(certificate: Certificate) -> Json:
    subject = certificate.subject
    return {
        "name": certificate.name,
        "usage": certificate.usage.value,
        "common_name": subject.common_name,
        "organization": list(subject.organization),
        "dns": list(subject.dns),
        "ips": list(subject.ips),
        "ca": certificate.ca,
        "role": certificate.role,
        "ttl": certificate.ttl,
        "key": certificate.key.value,
        "file": certificate.stem,
        "kubeconfig": certificate.kubeconfig or "",
        "reload": certificate.reload,
    }


def _entry(value: object, where: str) -> JsonObject:
    if not isinstance(value, Mapping):
        raise SpecError("is not a record of vaultpki; apply the cluster again", file=where)
    return JsonObject(value, where, "contains a value that vaultpki does not write; apply the cluster again")


def _read(record: object, where: str) -> JsonObject:
    read = _entry(record, where)
    read.layout()
    return read


def _roles(read: JsonObject) -> frozenset[NodeRole]:
    return frozenset(read.get("roles", Items(OneOf(NodeRole), least=1)))


def _pool(read: JsonObject, node: str) -> Pool | None:
    """Return the pool of the record, which must match `node`; None if it is the record of `node` itself."""
    if "node" in read.value:
        if read.value["node"] != node:
            raise read.wrong("node")
        return None
    pool = Pool(read.get("pool", word(names.pool_name)), _roles(read), read.get("node_names", word(hosts.node_pattern)))
    if pool.roles != {NodeRole.WORKER}:
        raise read.wrong("roles")
    if not node.startswith(pool.node_names[:-1]):
        raise read.wrong("node_names")
    return pool


def _filled(read: JsonObject, key: str, check: Callable[[str], str], node: str) -> tuple[str, ...]:
    """Return a list of texts with `node` in place of `{node}`."""
    # The name of a pool's node may equal a name that cluster.yaml adds for all nodes.
    filled = tuple(dict.fromkeys(text.replace(NODE, node) for text in read.get(key, Items(JsonText()))))
    if not all(names.fits(text, check) for text in filled):
        raise read.wrong(key)
    return filled


def _read_certificate(read: JsonObject, node: str, prefix: str) -> Certificate:
    ca = read.get("ca", JsonText(ISSUING_CAS.__contains__))
    usage, key = read.get("usage", OneOf(Usage, _WORDS)), read.get("key", OneOf(KeyType, _WORDS))
    common_name = read.get("common_name", JsonText()).replace(NODE, node)
    if not names.fits(common_name, names.filled_name):
        raise read.wrong("common_name")
    subject = Subject(
        common_name,
        _filled(read, "organization", names.organization, NODE),
        # Only a node's name may be a number.
        _filled(read, "dns", lambda text: text if text == node else hosts.dns_name(text), node),
        _filled(read, "ips", hosts.address, NODE),
    )
    return Certificate(
        name=read.get("name", word(names.label)),
        usage=usage,
        subject=subject,
        ca=ca,
        mount=f"{prefix}/{ca}",
        role=read.get("role", _ROLE),
        ttl=read.get("ttl", Integer(row_rules.SHORTEST_LEAF, _MOST_SECONDS)),
        key=key,
        stem=read.get("file", word(names.stem)),
        kubeconfig=read.get("kubeconfig", word(names.kubeconfig_name, or_empty=True)) or None,
        reload=read.get("reload", Integer(0, _MOST_SECONDS)),
    )
