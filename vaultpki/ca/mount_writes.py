"""Makes a CA's mount hold what its rotation record says, write by write; a run that was cut off is continued."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from vaultpki.ca.facts import read_mount
from vaultpki.ca.scene import record_of
from vaultpki.errors import BadAnswer, Refused
from vaultpki.model import Cluster
from vaultpki.pki.facts import Facts
from vaultpki.provision import authorities
from vaultpki.provision.rotation_records import StoredRecord, other_operator, read_record, write_record
from vaultpki.records.rotation import RotationRecord
from vaultpki.rotation.mount_steps import RotationMount, Write
from vaultpki.vault import Vault

Decide = Callable[[RotationRecord, RotationMount], Write | None]
Make = Callable[[RotationRecord, RotationMount, Write], None]

# More than any state takes from any other, with what an interrupted run has left.
_MOST: Final = 40


def match(
    cluster: Cluster, vault: Vault, stored: StoredRecord, root: Facts, decide: Decide, own: Mapping[str, Make]
) -> tuple[StoredRecord, RotationMount, int]:
    """Make the mount hold what the record says; returns the record, which may have been amended, the mount, the writes.

    `decide` returns the next write, and `own` makes those that only this kind of CA has, by their kinds. Before each
    write the record is read again. Raises Refused if somebody else has changed it.
    """
    writes = 0
    while True:
        record, mount = record_of(stored), read_mount(cluster, vault, stored.domain, root)
        write = decide(record, mount)
        if write is None:
            return stored, mount, writes
        if read_record(cluster, vault, stored.domain).version != stored.version:
            raise other_operator(cluster, stored.domain)
        if writes >= _MOST:
            raise BadAnswer(f"{mount.path} does not become what it is told ({write.kind}): something else writes here")
        writes += 1
        if write.record is not None:
            stored = write_record(cluster, vault, write.record, stored.version)
            continue
        try:
            if write.kind in own:
                own[write.kind](record, mount, write)
            else:
                _make(cluster, vault, mount.path, record, write)
        except Refused as error:
            # A second operator, or the last request of a run that was killed, made the same meanwhile.
            if not any("already in use" in reason for reason in error.reasons):
                raise


def _make(cluster: Cluster, vault: Vault, path: str, record: RotationRecord, write: Write) -> None:
    name = (write.ca or record.old).name
    if write.kind == "make-key":
        authorities.make_key(cluster, vault, path, name)
    elif write.kind == "name":
        authorities.name_issuer(vault, path, write.target, name)
    elif write.kind == "usage":
        authorities.update_issuer(vault, path, write.target, {"usage": write.usage})
    elif write.kind == "default":
        authorities.make_default(vault, path, write.target)
    elif write.kind == "default-key":
        authorities.make_default_key(vault, path, write.target)
    elif write.kind == "delete-issuer":
        authorities.delete_issuer(vault, path, write.target)
    elif write.kind == "delete-key":
        authorities.delete_key(vault, path, write.target)
