"""Finds the one cause of changes that follow from it: another certificate in a record changes a role and a policy too.

A change is folded into its cause only where its old side is just what the old record implies. What somebody changed by
hand at the same time is never hidden behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vaultpki import records
from vaultpki.differences import by_name, certificate_differences, word
from vaultpki.identities import node_certificates, sign_rule
from vaultpki.model import Certificate, Cluster, KeyType, Subject, Usage
from vaultpki.plain import escaped
from vaultpki.plan import Change
from vaultpki.values import dataclass


@dataclass(frozen=True, slots=True)
class CertificateChange:
    """One certificate of one node or pool that is otherwise from now on; `parts` are words for people."""

    sign: str
    holder: str
    certificate: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Folded:
    """What certificates change by, and the changes of objects that do not follow from that."""

    certificates: tuple[CertificateChange, ...]
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class _Pair:
    """A certificate before and after, as records describe it; None where it comes or goes."""

    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class _Record:
    """A node's or a pool's record that is updated; `node_names` are the pool's before that."""

    pairs: Mapping[str, _Pair]
    node_names: str = ""


def folded(cluster: Cluster, changes: Sequence[Change]) -> Folded:
    """The changes of certificates in updated records, and what else changes."""
    updated: dict[str, _Record] = {}
    told: list[CertificateChange] = []
    for change in changes:
        holder = _holder(cluster, change)
        if holder is not None and change.action == "update":
            updated[holder] = _record(cluster, holder, change)
            label = holder.partition("/")[2] if holder.startswith("node/") else holder.replace("/", " ")
            told += _told(escaped(label), updated[holder].pairs)
    every = [pair for record in updated.values() for pair in record.pairs.values()]
    kept = []
    for change in changes:
        fields = dict(_unexplained(cluster, change, updated, every))
        if fields or change.action != "update":
            kept.append(replace(change, fields=fields) if change.action == "update" else change)
    return Folded(tuple(told), tuple(kept))


def _holder(cluster: Cluster, change: Change) -> str | None:
    """`node/NAME` or `pool/NAME` of a record of one."""
    store = cluster.mount("config")
    for folder in ("node", "pool"):
        if change.kind == "config" and change.name.startswith(f"{store}/{folder}s/"):
            return f"{folder}/{change.name.rpartition('/')[2]}"
    return None


def _record(cluster: Cluster, holder: str, change: Change) -> _Record:
    """A record that is updated: its certificates before and after, and the names that its nodes had before."""
    pool = next((pool for pool in cluster.pools if holder == f"pool/{pool.name}"), None)
    names = change.fields.get("node_names", (pool.node_names if pool else "",))[0]
    if "certificates" in change.fields:
        before, after = (by_name(side) for side in change.fields["certificates"])
    else:
        # The same before and after; with other names for its nodes a pool's rules change all the same.
        wanted = records.pool_record(pool, node_certificates(cluster, pool))["certificates"] if pool else []
        before = after = by_name(wanted)
    pairs = {name: _Pair(before.get(name), after.get(name)) for name in dict.fromkeys((*before, *after))}
    return _Record(pairs, names if isinstance(names, str) else "")


def _told(holder: str, pairs: Mapping[str, _Pair]) -> Iterator[CertificateChange]:
    for name, pair in pairs.items():
        if pair.old is None:
            assert pair.new is not None  # noqa: S101 -- for mypy: one of the two is there
            yield CertificateChange("+", holder, name, (f"ttl {word('ttl', pair.new.get('ttl'))}",))
        elif pair.new is None:
            yield CertificateChange("-", holder, name)
        elif found := certificate_differences(pair.old, pair.new):
            yield CertificateChange("~", holder, name, tuple(map(str, found)))


def _unexplained(
    cluster: Cluster, change: Change, updated: Mapping[str, _Record], every: Sequence[_Pair]
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The fields of an update that do not follow from a changed certificate."""
    for name, (old, new) in change.fields.items():
        if change.kind == "config" and name == "certificates" and _accounts(old, new):
            continue
        if change.kind == "policy" and _follows_in_policy(cluster, change, name, old, updated):
            continue
        if change.kind == "role" and _follows_in_role(cluster, change, name, (old, new), every):
            continue
        yield name, (old, new)


def _accounts(old: object, new: object) -> bool:
    """Whether the certificates told by name are all there is to two lists of a record."""
    return all(isinstance(side, list) and len(by_name(side)) == len(side) for side in (old, new))


def _follows_in_policy(
    cluster: Cluster, change: Change, path: str, old: object, updated: Mapping[str, _Record]
) -> bool:
    """Whether the rule of one path was what the holder's record said before, and changes as the record does."""
    holder = change.name.removeprefix(f"{cluster.prefix}/")
    record = updated.get(holder)
    if record is None:
        return False
    for pair in record.pairs.values():
        side = pair.new if pair.old is None else pair.old
        if side is None or f"{cluster.mount(str(side.get('ca')))}/sign/{side.get('role')}" != path:
            continue
        if pair.old is None:
            return old is None
        before = _certificate(pair.old)
        return before is not None and old == sign_rule(
            before, exact=holder.startswith("node/"), pattern=record.node_names
        )
    return False


def _follows_in_role(
    cluster: Cluster, change: Change, field: str, sides: tuple[Any, Any], every: Sequence[_Pair]
) -> bool:
    """Whether a changed certificate of that role explains both sides of one of its fields."""
    for pair in every:
        if pair.old is None or pair.new is None or pair.old == pair.new:
            continue
        if change.name != f"{cluster.mount(str(pair.new.get('ca')))}/{pair.new.get('role')}":
            continue
        before, after = (_certificate(side) for side in (pair.old, pair.new))
        if before is None or after is None:
            continue
        if field == "allowed_domains":
            if _names_follow(sides, before, after):
                return True
        elif _role_fields(before).get(field) == sides[0] and _role_fields(after).get(field) == sides[1]:
            return True
    return False


def _names_follow(sides: tuple[Any, Any], before: Certificate, after: Certificate) -> bool:
    """Whether a role's names come and go as the certificate's do. The node's own is a template there, and stays."""
    if not all(isinstance(side, list) and all(isinstance(name, str) for name in side) for side in sides):
        return False
    old, new = map(set, sides)
    was, is_ = ({certificate.subject.common_name, *certificate.subject.dns} for certificate in (before, after))
    return new - old == is_ - was and old - new == was - is_


def _role_fields(certificate: Certificate) -> dict[str, Any]:
    """Fields of a certificate's role that the certificate decides."""
    key, usage = certificate.key, certificate.usage
    return {
        "ttl": certificate.ttl,
        "max_ttl": certificate.ttl,
        "key_type": key.vault_type,
        "key_bits": key.vault_bits,
        "server_flag": usage.server,
        "client_flag": usage.client,
        "key_usage": ["DigitalSignature", *(["KeyEncipherment"] if key.rsa and usage.server else [])],
        "organization": list(certificate.subject.organization),
    }


def _certificate(entry: Mapping[str, Any]) -> Certificate | None:
    """A record's entry as a certificate; None where it is not what a vaultpki writes."""
    lists = [entry.get(name) for name in ("organization", "dns", "ips")]
    if not all(isinstance(some, list) and all(isinstance(item, str) for item in some) for some in lists):
        return None
    organization, dns, ips = (tuple(some) for some in lists if some is not None)
    try:
        usage, key, ttl = Usage(entry.get("usage")), KeyType(entry.get("key")), int(entry.get("ttl", 0))
    except (TypeError, ValueError):
        return None
    name, ca, role = (str(entry.get(field)) for field in ("name", "ca", "role"))
    subject = Subject(str(entry.get("common_name")), organization, dns, ips)
    return Certificate(name, usage, subject, ca, ca, role, ttl, key, stem="")
