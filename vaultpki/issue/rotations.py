"""Reads a cluster's rotation records from Vault, and says what follows from each for one who trusts the CAs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from vaultpki.certificates import ISSUING_CAS, ROOT, SERVICE_ACCOUNT
from vaultpki.errors import Denied, SpecError
from vaultpki.pki.succession import RotationView
from vaultpki.records import rotation as rotation_record
from vaultpki.records.node_report import Seen
from vaultpki.records.rotation import EVERY_DOMAIN, MOST_AHEAD, ROTATION_FOLDER, Method, RotationRecord
from vaultpki.vault import Vault


@dataclass(frozen=True, slots=True)
class Rotations:
    """The rotation records by domain. `unreadable` are those that this version cannot read, and why.

    `not_followed` are the revisions of those that are too far ahead of what the node has read; they are not among
    `records`.
    """

    records: Mapping[str, RotationRecord] = field(default_factory=dict)
    unreadable: Mapping[str, SpecError] = field(default_factory=dict)
    not_followed: Mapping[str, int] = field(default_factory=dict)

    def seen(self, highest: Mapping[str, int]) -> dict[str, Seen]:
        """Return the revision read of each domain and the highest ever read; `highest` is that of earlier reads.

        A record that is not followed counts as not read.
        """
        found = {}
        for domain in EVERY_DOMAIN:
            known = domain in self.records or domain in self.not_followed or domain in highest
            # The other records are everybody's; that of this CA only control-plane nodes read.
            if domain not in self.unreadable and (known or domain != SERVICE_ACCOUNT):
                record = self.records.get(domain)
                revision = record.revision if record else 0
                if domain in self.not_followed:
                    revision = highest.get(domain, 0)
                found[domain] = Seen(revision, max(revision, highest.get(domain, 0)))
        return found

    def frozen(self, domain: str, highest: Mapping[str, int]) -> bool:
        """Return whether nothing of a domain may be dropped or replaced.

        Its record is unreadable, an older one, or too far ahead to be followed.
        """
        seen = self.seen(highest).get(domain)
        return domain in self.unreadable or domain in self.not_followed or (seen is not None and seen.behind)

    def views(
        self, highest: Mapping[str, int], vanished: Mapping[str, datetime], clock_offset: float = 0.0
    ) -> dict[str, RotationView]:
        """Return the view of each CA.

        `clock_offset` is by how many seconds Vault's clock is ahead of this one.
        """
        found = {}
        for domain in EVERY_DOMAIN:
            record = self.records.get(domain)
            if record is not None:
                record = replace(record, since=record.since - timedelta(seconds=clock_offset))
            found[domain] = RotationView(record, frozen=self.frozen(domain, highest), vanished=vanished)
        return found

    def named(self) -> dict[str, set[str]]:
        """Return the ids and names of the issuers that the records name, by domain."""
        return {
            domain: {text for ca in (record.old, record.new) if ca for text in (ca.issuer, ca.name) if text}
            for domain, record in self.records.items()
        }

    def at_once(self, domain: str) -> bool:
        """Return whether a CA that is not trusted any more leaves the bundles before its leaves are replaced."""
        record = self.records.get(domain)
        return record is not None and record.method is Method.EMERGENCY


def stepped(before: Rotations, after: Rotations) -> frozenset[str]:
    """Return the issuing CAs whose records one command has changed; empty if it may have changed something else.

    Such a command changes these records and the issuers of these CAs. One that rotates the root changes more.
    """
    was, now = before.records, after.records
    changed = frozenset(domain for domain, record in now.items() if record != was.get(domain))
    set_back = any(each in was and now[each].revision <= was[each].revision for each in changed)
    unclear = before.unreadable or before.not_followed or after.unreadable or after.not_followed
    with_root = ROOT in changed or (ROOT in now and now[ROOT].active)
    return frozenset() if set_back or unclear or with_root or was.keys() - now.keys() else changed


def only_turns(before: Rotations, after: Rotations, defaults: Mapping[str, str]) -> bool:
    """Return whether the records say of nothing but turns what they did not, so that no issuers have changed.

    `defaults` are the SHA-256 of the default issuers by CA as they were: a mount that was not what its record says yet
    may have become so.
    """
    for domain, record in after.records.items():
        known = before.records.get(domain)
        if known is None or replace(known, revision=record.revision, turn=record.turn) != record:
            return False
        if known != record and defaults.get(domain) != record.leaf.sha256:
            return False
    return True


def fetch_rotations(vault: Vault, prefix: str, cas: Sequence[str] = ISSUING_CAS) -> dict[str, Any]:
    """Return what the rotation records contain, by domain; nothing if the token's policy is of an older apply.

    It reads those of the root and of the issuing CAs `cas`.
    """
    domains = (ROOT, *cas)
    read = vault.prepare.secrets.kv.v2.read_secret
    requests = [
        read(f"{ROTATION_FOLDER}/{domain}", mount_point=f"{prefix}/config", raise_on_deleted_version=False)
        for domain in domains
    ]
    try:
        answers = vault.many(requests)
    except Denied:
        return {}
    return {domain: answer.data.get("data") for domain, answer in zip(domains, answers, strict=True) if answer.found}


def read_rotations(contents: Mapping[str, Any], prefix: str, highest: Mapping[str, int] | None = None) -> Rotations:
    """Read the records in what `fetch_rotations` returned.

    `highest` are the highest revisions that a node has read, 0 for a domain that is missing: a record that is more than
    MOST_AHEAD above is not followed. None follows every record: nothing was ever read of this cluster.
    """
    records, unreadable, not_followed = {}, {}, {}
    for domain in EVERY_DOMAIN:
        if domain in contents:
            where = f"{prefix}/config/data/{ROTATION_FOLDER}/{domain}"
            try:
                record = rotation_record.read(contents[domain], domain, where=where)
            except SpecError as error:
                unreadable[domain] = error
                continue
            if highest is not None and record.revision > highest.get(domain, 0) + MOST_AHEAD:
                not_followed[domain] = record.revision
            else:
                records[domain] = record
    return Rotations(records, unreadable, not_followed)
