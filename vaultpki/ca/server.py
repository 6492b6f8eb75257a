"""Makes an issuing CA's mount hold what its rotation record says, and its successor live as long as it may."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from vaultpki.ca import mount_writes
from vaultpki.ca.facts import longest_ttl
from vaultpki.certificates import ca_subject
from vaultpki.errors import StateConflict
from vaultpki.model import Cluster
from vaultpki.pki.facts import Facts
from vaultpki.provision import authorities
from vaultpki.provision.ca_facts import BEFORE_ROOT
from vaultpki.provision.rotation_records import StoredRecord
from vaultpki.records.rotation import RotationRecord
from vaultpki.redact import stamp
from vaultpki.rotation.mount_steps import RotationMount, Write, key_of, next_write
from vaultpki.rotation.states import number
from vaultpki.vault import Vault

# How much later than the record says a switch may be without being written into it.
_LATE: Final = timedelta(seconds=60)


def match(
    cluster: Cluster, vault: Vault, stored: StoredRecord, root: Facts, now: datetime
) -> tuple[StoredRecord, RotationMount, int]:
    """Make the mount of an issuing CA hold what the record says; see `mount_writes.match`."""

    def decide(record: RotationRecord, mount: RotationMount) -> Write | None:
        write = next_write(cluster.name, record, mount)
        late = record.active and record.since + _LATE < now
        if write is not None and write.kind == "default" and write.ca is not None and late:
            # Gates count from the moment when the other CA signed for the last time.
            return Write("amend", record=record.changed(since=now))
        return write

    def sign(record: RotationRecord, mount: RotationMount, write: Write) -> None:
        ca = write.ca or record.old
        subject = ca_subject(cluster.name, record.domain, number(ca.name))
        seconds = life(cluster, record.domain, root, now)
        authorities.sign_successor(cluster, vault, mount.path, subject, key_of(record, mount, ca), seconds)

    return mount_writes.match(cluster, vault, stored, root, decide, {"sign": sign})


def life(cluster: Cluster, domain: str, root: Facts, now: datetime) -> int:
    """Return how many seconds a new CA can live below the root; raise StateConflict if leaves need more."""
    left = int((root.not_after - now).total_seconds()) - BEFORE_ROOT
    if left <= 2 * longest_ttl(cluster, domain):
        raise StateConflict(
            f"the root CA ends at {stamp(root.not_after)}, too early for a new CA of {domain} and its certificates; "
            "rotate the root first (`vaultpki ca rotate root`)"
        )
    return min(cluster.authority.issuing_ttl, left)
