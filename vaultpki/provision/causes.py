"""Finds what changes in the records of nodes and pools, and which other changes follow from it; pure.

A changed certificate in a record changes a role and a policy too.

A change is left out only if its old value is exactly what the old record implies. What somebody changed by hand at
the same time is never hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from vaultpki.certificates import file_set
from vaultpki.identity.access import node_certificates, sign_rule
from vaultpki.model import Certificate, Cluster, KeyType, Subject, Usage
from vaultpki.provision.desired import role_fields
from vaultpki.provision.plan import Action, Change
from vaultpki.records import published as records

# What makes a certificate the one that it is: `agent.pairs.of_another` compares the same.
_IDENTITY: Final = ("usage", "common_name", "organization", "dns", "ips")

Entry = Mapping[str, Any]
"""A certificate as a record describes it."""


@dataclass(frozen=True, slots=True)
class RecordChange:
    """A change of the record of one node or pool.

    `folder` is `nodes` or `pools`. `certificates` are by name, each before and after, with None if it is missing.
    `node_names` is what the pool had before, empty if the record does not say. `others` are its other fields.
    """

    folder: str
    name: str
    action: Action
    certificates: Mapping[str, tuple[Entry | None, Entry | None]]
    node_names: str = ""
    others: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def holder(self) -> str:
        """The end of the name of the policy: `node/NAME` or `pool/NAME`."""
        return f"{self.folder[:-1]}/{self.name}"

    @property
    def longest_ttl(self) -> int:
        """Return the longest TTL in seconds of the certificates before the change; 0 if the record does not say."""
        ttls = [before.get("ttl") for before, _ in self.certificates.values() if before]
        return max((ttl for ttl in ttls if isinstance(ttl, int)), default=0)


@dataclass(frozen=True, slots=True)
class AwaitedPath:
    """A certificate that waits for a path: a node keeps what is there of `holder`, until that has expired.

    `pair` is whether it is the path of its pair, else that of its kubeconfig. `ttl` is that of `holder` in seconds; 0
    if the record does not say.
    """

    name: str
    holder: str
    path: str
    pair: bool
    ttl: int


def record_changes(cluster: Cluster, changes: Sequence[Change]) -> list[RecordChange]:
    """Return the changes of records, nodes first."""
    found = []
    for folder in ("nodes", "pools"):
        head = f"{cluster.mount('config')}/{folder}/"
        for change in changes:
            if change.kind == "config" and change.name.startswith(head):
                name = change.name.removeprefix(head)
                before, after = (by_name(side) for side in change.fields.get("certificates", (None, None)))
                pairs = {each: (before.get(each), after.get(each)) for each in dict.fromkeys((*before, *after))}
                node_names = str(change.fields.get("node_names", ("", ""))[0] or "")
                others = {each: sides for each, sides in change.fields.items() if each != "certificates"}
                found.append(RecordChange(folder, name, change.action, pairs, node_names, others))
    return found


def waits(record: RecordChange) -> list[AwaitedPath]:
    """Return which certificates wait for a path, since a record takes no pair and no kubeconfig away."""
    found: list[AwaitedPath] = []
    wanted = [after for _, after in record.certificates.values() if after]
    for held in (before for before, _ in record.certificates.values() if before):
        place, conf = _place(held), held.get("kubeconfig")
        taker = next((each for each in wanted if _place(each) == place), None)
        if taker is not None and not _another(taker, held):
            continue
        heir = next((each for each in wanted if conf and each.get("kubeconfig") == conf and each is not taker), None)
        ttl = held.get("ttl")
        for each, path, pair in ((taker, f"{held.get('file')}.crt", True), (heir, str(conf), False)):
            if each is not None and _another(each, held):
                names = str(each["name"]), str(held["name"])
                found.append(AwaitedPath(*names, path, pair, ttl if isinstance(ttl, int) else 0))
    return found


def _place(entry: Entry) -> str:
    return file_set(str(entry.get("file")))


def _another(wanted: Entry, held: Entry) -> bool:
    """Return whether a certificate is another one than what is held; one that only got another name is not."""
    return any(wanted.get(field) != held.get(field) for field in _IDENTITY) and wanted["name"] != held["name"]


def by_name(entries: object) -> dict[str, Entry]:
    """Return the certificates of a record by their names; anything else in it is left out."""
    found = entries if isinstance(entries, list) else []
    return {str(entry["name"]): entry for entry in found if isinstance(entry, Mapping) and "name" in entry}


def folded(cluster: Cluster, changes: Sequence[Change]) -> tuple[list[RecordChange], list[Change]]:
    """Return the updated records, and the changes that they do not explain."""
    updated = {each.holder: each for each in record_changes(cluster, changes) if each.action == "update"}
    explaining = {holder: _explaining(cluster, each) for holder, each in updated.items()}
    kept = []
    for change in changes:
        if change.action != "update":
            kept.append(change)
            continue
        fields = {name: pair for name, pair in change.fields.items() if not _follows(cluster, change, name, explaining)}
        if fields:
            kept.append(replace(change, fields=fields))
    return list(updated.values()), kept


def _explaining(cluster: Cluster, record: RecordChange) -> RecordChange:
    """Return the record with all that its policy depends on, also if only a pool's `node_names` change."""
    pool = next((pool for pool in cluster.pools if record.holder == f"pool/{pool.name}"), None)
    if pool is None:
        return record
    wanted = by_name(records.pool_record(pool, node_certificates(cluster, pool), cluster.layout)["certificates"])
    same = {name: (entry, entry) for name, entry in wanted.items()}
    return replace(record, certificates=record.certificates or same, node_names=record.node_names or pool.node_names)


def _follows(cluster: Cluster, change: Change, field: str, records: Mapping[str, RecordChange]) -> bool:
    """Return whether a changed field follows from a changed certificate."""
    old, new = change.fields[field]
    if change.kind == "config" and field == "certificates":
        # The certificates are shown by name; that is all if every entry has a name of its own.
        return all(isinstance(side, list) and len(by_name(side)) == len(side) for side in (old, new))
    if change.kind == "policy":
        record = records.get(change.name.removeprefix(f"{cluster.prefix}/"))
        return record is not None and _in_policy(cluster, record, field, old)
    if change.kind == "role":
        pairs = [pair for record in records.values() for pair in record.certificates.values()]
        return _in_role(cluster, change, field, pairs)
    return False


def _in_policy(cluster: Cluster, record: RecordChange, path: str, old: object) -> bool:
    """Return whether the old rule of a path is what the record said before."""
    for before, after in record.certificates.values():
        side = before or after
        if side is None or f"{cluster.mount(str(side.get('ca')))}/sign/{side.get('role')}" != path:
            continue
        if before is None:
            return old is None
        certificate = _certificate(before)
        pattern = record.node_names if record.folder == "pools" else None
        return certificate is not None and old == sign_rule(certificate, pattern)
    return False


def _in_role(cluster: Cluster, change: Change, field: str, pairs: Iterable[tuple[Entry | None, Entry | None]]) -> bool:
    """Return whether a changed certificate of the role explains the old and the new value of a field."""
    old, new = change.fields[field]
    for before, after in pairs:
        if before is None or after is None or before == after:
            continue
        if change.name != f"{cluster.mount(str(after.get('ca')))}/{after.get('role')}":
            continue
        was, becomes = _certificate(before), _certificate(after)
        if was is None or becomes is None:
            continue
        if field == "allowed_domains":
            if _names_follow(old, new, was, becomes):
                return True
        elif field in (fields := role_fields(was)) and (fields[field], role_fields(becomes)[field]) == (old, new):
            return True
    return False


def _names_follow(old: Any, new: Any, was: Certificate, becomes: Certificate) -> bool:
    """Return whether a role's names change as the certificate's do. A node's own name is a template in the role."""
    if not all(isinstance(side, list) and all(isinstance(name, str) for name in side) for side in (old, new)):
        return False
    had, has = ({certificate.subject.common_name, *certificate.subject.dns} for certificate in (was, becomes))
    return set(new) - set(old) == has - had and set(old) - set(new) == had - has


def _certificate(entry: Entry) -> Certificate | None:
    """Return a record's entry as a certificate; None if vaultpki would not write it."""
    lists = [entry.get(name) for name in ("organization", "dns", "ips")]
    if not all(isinstance(items, list) and all(isinstance(item, str) for item in items) for items in lists):
        return None
    organization, dns, ips = (tuple(items) for items in lists if items is not None)
    try:
        usage, key, ttl = Usage(entry.get("usage")), KeyType(entry.get("key")), int(entry.get("ttl", 0))
    except (TypeError, ValueError):
        return None
    name, ca, role = (str(entry.get(field)) for field in ("name", "ca", "role"))
    subject = Subject(str(entry.get("common_name")), organization, dns, ips)
    return Certificate(name, usage, subject, ca, ca, role, ttl, key, stem="")
