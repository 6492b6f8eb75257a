"""The records of the config store: what apply publishes, and what an agent takes from it, strictly read.

A record tells a node which certificates, bundles and kubeconfigs it holds, and nothing else: every name in it must be
one that cluster.yaml could give, so that whoever can write the store still cannot make a node write or run anything of
theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from vaultpki import file_names, row_rules, words
from vaultpki.certificates import ISSUING_CAS
from vaultpki.errors import SpecError
from vaultpki.model import (
    NODE,
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
from vaultpki.values import dataclass

Json = dict[str, Any]

# OpenBao refuses a request of more than 1000 strings, keys among them (its listener's `max_request_json_strings`), and
# HashiCorp's one of more than 10 000 entries; both store no more than 1 MiB in one piece, with 227 bytes of their own.
MOST_STRINGS: Final = 900
"""How many strings, keys among them, a record of ours may have at most."""

MOST_BYTES: Final = 512 * 1024
"""How large a record may be without the CA of Vault's own certificate, which is up to 256 KiB more."""

MOST_CERTIFICATES: Final = 40
"""How many certificates one node has at most: each takes 21 strings and more of its record."""

# A certificate's name, or its and a pool's (`certificates.pool_role`).
_ROLE = re.compile(rf"{words.LABEL}(?:-{words.LABEL})?")
_MOST_SECONDS = 100 * 365 * 86400
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """What every node is told of its cluster."""

    cluster: str
    endpoint: str
    root_sha256: str
    templates: tuple[UserTemplate, ...] = ()


def cluster_record(cluster: Cluster, addresses: tuple[str, ...], ca_pem: str | None, root_sha256: str) -> Json:
    """The record `cluster`. What it says of Vault's addresses is for people to read, and believed by nobody."""
    return {
        "version": VERSION,
        "cluster": cluster.name,
        "endpoint": cluster.api_server.endpoint,
        "root_sha256": root_sha256,
        "vault": {"addresses": list(addresses), "ca_pem": ca_pem or ""},
        "templates": {
            t.name: {"file": t.file, "text": t.text, "roles": sorted(role.value for role in t.roles)}
            for t in cluster.templates
        },
    }


def drift(record: Any, wanted: Json, *, where: str) -> tuple[str, ...]:
    """The fields in which a cluster's record is not as it should be; SpecError where a newer vaultpki wrote it."""
    version = record.get("version") if isinstance(record, Mapping) else None
    if isinstance(version, int) and version > VERSION:
        _Reading(record, where)
    if not isinstance(record, Mapping):
        return ("all of it",)
    changed = tuple(name for name, value in wanted.items() if record.get(name) != value)
    # What names others give their fields is not repeated.
    return changed + (("further fields",) if record.keys() - wanted.keys() else ())


def node_record(node: Node, certificates: tuple[Certificate, ...], role_id: str) -> Json:
    """The record `nodes/NODE`. `role_id` is the AppRole's, written before the AppRole is: proof that it is ours."""
    return {
        "version": VERSION,
        "node": node.name,
        "roles": sorted(role.value for role in node.roles),
        "role_id": role_id,
        "certificates": [_certificate(c) for c in certificates],
    }


def pool_record(pool: Pool, certificates: tuple[Certificate, ...]) -> Json:
    """The record `pools/POOL`; the node's own name stands in it as `{node}`."""
    return {
        "version": VERSION,
        "pool": pool.name,
        "roles": sorted(role.value for role in pool.roles),
        "node_names": pool.node_names,
        "certificates": [_certificate(c) for c in certificates],
    }


def strings(record: Any) -> int:
    """How many strings Vault counts in a record: every key, and every value that is text."""
    if isinstance(record, Mapping):
        return sum(1 + strings(value) for value in record.values())
    return sum(map(strings, record)) if isinstance(record, list) else int(isinstance(record, str))


def size(record: Json) -> int:
    """How many bytes of a record Vault stores at most."""
    text = json.dumps(record)
    # Go writes these as `\u003c` (encoding/json, HTMLEscape), and takes no more than Python does for any other.
    return len(text) + 5 * sum(map(text.count, "<>&"))


def read_cluster(record: Mapping[str, Any], *, where: str, cluster: str | None = None) -> ClusterRecord:
    """A cluster record as a value; SpecError names the record and the field that no vaultpki writes.

    SpecError also where it is the record of another cluster than `cluster`.
    """
    reading = _Reading(record, where)
    own = reading.word("cluster", words.cluster_name)
    if cluster is not None and own != cluster:
        raise SpecError(f"belongs to cluster {own}, not {cluster}", file=where, field="cluster")
    templates = []
    for name, value in reading.mapping("templates").items():
        entry = _Reading(value, f"{where}: templates.{name}", versioned=False)
        text = entry.text("text", None)
        if len(text) > 1 << 16:
            raise entry.wrong("text")
        if not words.fits(name, words.label):
            raise reading.wrong("templates")
        templates.append(UserTemplate(name, entry.word("file", words.file_name), text, entry.roles()))
    _refuse_file_names((), templates, where)
    return ClusterRecord(
        cluster=own,
        endpoint=reading.word("endpoint", words.endpoint),
        root_sha256=reading.text("root_sha256", _SHA256),
        templates=tuple(templates),
    )


def read_certificates(
    record: Mapping[str, Any], *, node: str, prefix: str, where: str
) -> tuple[frozenset[NodeRole], tuple[Certificate, ...]]:
    """The roles and certificates that a node's or a pool's record gives to `node`; SpecError as for read_cluster."""
    reading = _Reading(record, where)
    pool = reading.holder(node)
    roles = reading.roles()
    entries = reading.value("certificates")
    if not isinstance(entries, list) or len(entries) > MOST_CERTIFICATES or strings(entries) > MOST_STRINGS:
        raise reading.wrong("certificates")
    certificates = []
    for index, value in enumerate(entries):
        entry = _Reading(value, f"{where}: certificates[{index}]", versioned=False)
        certificate = entry.certificate(node, prefix)
        changed = row_rules.held_problem(certificate, node=node, roles=roles, pool=pool)
        if changed is not None:
            raise entry.wrong(changed)
        certificates.append(certificate)
    for taken in ([c.name for c in certificates], [(c.ca, c.role) for c in certificates]):
        if len(set(taken)) != len(taken):
            raise reading.wrong("certificates")
    _refuse_file_names(certificates, (), where)
    return roles, tuple(certificates)


def refuse_file_names(cluster: ClusterRecord, certificates: Sequence[Certificate], *, where: str) -> None:
    """SpecError where a template of the cluster's record has the file of one of a node's certificates."""
    _refuse_file_names(certificates, cluster.templates, where)


def _refuse_file_names(certificates: Sequence[Certificate], templates: Sequence[UserTemplate], where: str) -> None:
    # The rows of the table first, as cluster.yaml's are: of two the other one is told.
    ordered = sorted(certificates, key=lambda certificate: certificate.name not in row_rules.OF_TABLE)
    claims = [claim for certificate in ordered for claim in file_names.of_row(certificate)]
    claims += map(file_names.of_template, templates)
    for index, problem in file_names.refused(claims):
        claim = claims[index]
        name = claim.holder.removeprefix("template ")
        field = f"templates.{name}.file" if claim.kind == "template" else f"certificates: {name}"
        raise SpecError(
            f"holds what no vaultpki writes ({problem.partition(':')[0]}); apply the cluster again",
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


class _Reading:
    """One JSON object being read; every getter either gives a value that is what it should be or raises."""

    def __init__(self, record: object, where: str, *, versioned: bool = True) -> None:
        self._where = where
        if not isinstance(record, Mapping):
            raise SpecError("is no record of vaultpki; apply the cluster again", file=where)
        self._record = record
        version = record.get("version")
        if versioned and version != VERSION:
            if isinstance(version, int) and version > VERSION:
                raise SpecError(
                    f"has version {version} and this vaultpki speaks {VERSION}; install the newer vaultpki here",
                    file=where,
                    field="version",
                )
            raise self.wrong("version")

    def wrong(self, key: str) -> SpecError:
        return SpecError("holds what no vaultpki writes; apply the cluster again", file=self._where, field=key)

    def value(self, key: str) -> Any:
        return self._record.get(key)

    def text(self, key: str, pattern: re.Pattern[str] | None) -> str:
        value = self.value(key)
        if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
            raise self.wrong(key)
        return value

    def word(self, key: str, check: Callable[[str], str]) -> str:
        value = self.value(key)
        if not words.fits(value, check):
            raise self.wrong(key)
        return value

    def several(self, key: str, check: Callable[[str], str], *, node: str = NODE) -> tuple[str, ...]:
        """A list of texts, with `node` in place of `{node}`."""
        value = self.value(key)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.wrong(key)
        # A pool's node may have the very name that cluster.yaml adds for all of them.
        filled = tuple(dict.fromkeys(text.replace(NODE, node) for text in value))
        if len(set(value)) != len(value) or not all(words.fits(text, check) for text in filled):
            raise self.wrong(key)
        return filled

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.value(key) or {}
        if not isinstance(value, Mapping) or not all(isinstance(v, Mapping) for v in value.values()):
            raise self.wrong(key)
        return value

    def seconds(self, key: str, least: int = 0) -> int:
        value = self.value(key)
        # KV gives numbers back as JSON numbers; a bool is one to Python.
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _MOST_SECONDS:
            raise self.wrong(key)
        return value

    def roles(self) -> frozenset[NodeRole]:
        try:
            found = frozenset(NodeRole(value) for value in self.several("roles", words.label))
        except ValueError:
            raise self.wrong("roles") from None
        if not found:
            raise self.wrong("roles")
        return found

    def holder(self, node: str) -> Pool | None:
        """The pool whose record this is, which takes the node `node`; None where it is that node's own."""
        if "node" in self._record:
            if self.value("node") != node:
                raise self.wrong("node")
            return None
        pool = Pool(self.word("pool", words.pool_name), self.roles(), self.word("node_names", words.node_pattern))
        if pool.roles != {NodeRole.WORKER}:
            raise self.wrong("roles")
        if not node.startswith(pool.node_names[:-1]):
            raise self.wrong("node_names")
        return pool

    def certificate(self, node: str, prefix: str) -> Certificate:
        ca = self.word("ca", words.label)
        if ca not in ISSUING_CAS:
            raise self.wrong("ca")
        try:
            usage, key = Usage(self.value("usage")), KeyType(self.value("key"))
        except ValueError:
            raise self.wrong("usage or key") from None
        common_name = self.text("common_name", None).replace(NODE, node)
        if not words.fits(common_name, words.filled_name):
            raise self.wrong("common_name")
        subject = Subject(
            common_name,
            self.several("organization", words.organization),
            # A node's name may be a number, which no other name ends with.
            self.several("dns", lambda text: text if text == node else words.dns_name(text), node=node),
            self.several("ips", words.address),
        )
        return Certificate(
            name=self.word("name", words.label),
            usage=usage,
            subject=subject,
            ca=ca,
            mount=f"{prefix}/{ca}",
            role=self.text("role", _ROLE),
            ttl=self.seconds("ttl", row_rules.SHORTEST_LEAF),
            key=key,
            stem=self.word("file", words.stem),
            kubeconfig=self.word("kubeconfig", words.kubeconfig_name) if self.text("kubeconfig", None) else None,
            reload=self.seconds("reload"),
        )
