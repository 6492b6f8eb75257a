"""Reads the records of rotations, of CAs and keys, from Vault, and says what follows from each for their reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from vaultpki.certificates import ISSUING_CAS, ROOT, SERVICE_ACCOUNT
from vaultpki.errors import Denied, SpecError
from vaultpki.pki.succession import RotationView
from vaultpki.procedure.envelope import Envelope
from vaultpki.records import rotation as rotation_record
from vaultpki.records import service_account, written
from vaultpki.records.node_report import Seen
from vaultpki.records.rotation import EVERY_DOMAIN, MOST_AHEAD, ROTATION_FOLDER, Method, RotationRecord, State
from vaultpki.records.service_account import KEYS_RECORD, KeyRecord
from vaultpki.records.written import Written
from vaultpki.vault import Vault

R = TypeVar("R", bound=Envelope[Any])


@dataclass(frozen=True, slots=True)
class RecordRead(Generic[R]):
    """What was read of a record: None if there is none, `error` why it cannot be read.

    `not_followed` is its revision if that is too far ahead of what the reader has read; it is not `record` then.
    `written` says who wrote it.
    """

    record: R | None = None
    error: SpecError | None = None
    not_followed: int = 0
    written: Written = field(default_factory=Written, compare=False)

    @property
    def under_way(self) -> bool:
        """Whether the next step may come at any time: it is not at rest, or the reader does not know what it says."""
        return bool(self.not_followed) or (self.record is not None and self.record.active)

    def seen(self, highest: int) -> Seen:
        """Return the revision that was read and the highest ever read; `highest` is that of earlier reads.

        A record that is not followed counts as not read.
        """
        revision = self.record.revision if self.record is not None else highest if self.not_followed else 0
        return Seen(revision, max(revision, highest))

    def frozen(self, highest: int) -> bool:
        """Return whether nothing may be dropped or replaced: it is unreadable, an older one, or too far ahead."""
        return self.error is not None or bool(self.not_followed) or self.seen(highest).behind


@dataclass(frozen=True, slots=True)
class Rotations:
    """What was read of the rotation records, by domain, of those that there are."""

    read: Mapping[str, RecordRead[RotationRecord]] = field(default_factory=dict)

    @property
    def records(self) -> dict[str, RotationRecord]:
        """The records that count."""
        return {domain: each.record for domain, each in self.read.items() if each.record is not None}

    @property
    def unreadable(self) -> dict[str, SpecError]:
        """Those that this version cannot read, and why."""
        return {domain: each.error for domain, each in self.read.items() if each.error is not None}

    @property
    def not_followed(self) -> dict[str, int]:
        """The revisions of those that are too far ahead of what the node has read."""
        return {domain: each.not_followed for domain, each in self.read.items() if each.not_followed}

    def seen(self, highest: Mapping[str, int]) -> dict[str, Seen]:
        """Return the revision read of each domain and the highest ever read; `highest` is that of earlier reads.

        Not of those that this version cannot read.
        """
        # That of this CA only control-plane nodes read; the others are everybody's.
        domains = [each for each in EVERY_DOMAIN if each != SERVICE_ACCOUNT or each in {*self.read, *highest}]
        found = {domain: self._of(domain) for domain in domains}
        return {domain: each.seen(highest.get(domain, 0)) for domain, each in found.items() if each.error is None}

    def frozen(self, domain: str, highest: Mapping[str, int]) -> bool:
        """Return whether nothing of a domain may be dropped or replaced, as `RecordRead.frozen`."""
        return self._of(domain).frozen(highest.get(domain, 0))

    def leading(self, ca: str, highest: Mapping[str, int]) -> str:
        """Return the domain whose record gives an issuing CA's turns.

        The rotation of the root takes the issuing CAs along, and gives the turns of all of them. In a move to another
        server it is prepared there while these are still under way.
        """
        root, own = self.records.get(ROOT), self.records.get(ca)
        moves = root is not None and root.state is State.PREPARED and own is not None and own.active
        return ROOT if self.frozen(ROOT, highest) or (root is not None and root.active and not moves) else ca

    def _of(self, domain: str) -> RecordRead[RotationRecord]:
        return self.read.get(domain) or RecordRead()

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


def fetch_key_record(vault: Vault, prefix: str) -> Any:
    """Return what the record contains; None if there is none, or if the token's policy is of an older apply."""
    try:
        return vault.stored(f"{prefix}/config", KEYS_RECORD).get("data")
    except Denied:
        return None


def read_rotations(contents: Mapping[str, Any], prefix: str, highest: Mapping[str, int] | None = None) -> Rotations:
    """Read the records in what `fetch_rotations` returned.

    `highest` are the highest revisions that a node has read, 0 for a domain that is missing: a record that is more than
    MOST_AHEAD above is not followed. None follows every record: nothing was ever read of this cluster.
    """

    def read(domain: str) -> RecordRead[RotationRecord]:
        where = f"{prefix}/config/data/{ROTATION_FOLDER}/{domain}"
        known = None if highest is None else highest.get(domain, 0)
        return _judged(contents[domain], lambda found: rotation_record.read(found, domain, where=where), known)

    return Rotations({domain: read(domain) for domain in EVERY_DOMAIN if domain in contents})


def read_key_record(content: object, prefix: str, highest: int | None = None) -> RecordRead[KeyRecord]:
    """Read what `fetch_key_record` returned; `highest` as in `read_rotations`, of this record."""
    if content is None:
        return RecordRead()
    where = f"{prefix}/config/data/{KEYS_RECORD}"
    return _judged(content, lambda found: service_account.read(found, where=where), highest)


def _judged(content: object, read: Callable[[object], R], highest: int | None) -> RecordRead[R]:
    """Return what `read` makes of a record, if it is followed by one who has read that `highest` revision."""
    try:
        record = read(content)
    except SpecError as error:
        return RecordRead(error=error)
    if highest is not None and record.revision > highest + MOST_AHEAD:
        return RecordRead(not_followed=record.revision)
    return RecordRead(record, written=written.of_record(content))
