"""Says when `ca.root_sha256` in cluster.yaml is changed, while the root is rotated and afterwards; pure.

The line may name the old root until the rotation is done, and the new one from then on. The new one is accepted earlier
too, since the old one vouches for it.
"""

from __future__ import annotations

from vaultpki.certificates import ROOT
from vaultpki.model import Cluster
from vaultpki.records.rotation import RotationRecord, State


def advice(cluster: Cluster, record: RotationRecord | None) -> str:
    """Return what to do with the line in this state of the root, in one sentence; "" if there is nothing to do.

    `record` is of any CA, None if it was never rotated.
    """
    pin = cluster.authority.root_sha256
    if pin is None or record is None or record.domain != ROOT or record.new is None:
        return ""
    old, new, file = record.old, record.new, cluster.file
    if cluster.authority.other_roots:
        return _of_list(cluster, record)
    if not record.active:
        other = replaced_by(record, pin)
        if not other:
            return ""
        was = f"was replaced by {new.title}" if record.state is State.DONE else f"is deleted, and {old.title} stays"
        named = old.title if record.state is State.DONE else new.title
        return f"{file} names {named}, which {was}: write `root_sha256: {other}` there, below `ca`"
    if pin == old.sha256:
        then = f"write `root_sha256: {new.sha256}` there" if new.sha256 else "write the new root there"
        return (
            f"{file} names {old.title} (ca.root_sha256). Leave it so until the rotation is done, and then {then}. "
            "After `vaultpki ca abort` it stays"
        )
    if new.sha256 and pin == new.sha256:
        return (
            f"{file} names {new.title} already (ca.root_sha256): if you go back with `vaultpki ca abort`, write "
            f"`root_sha256: {old.sha256}` there again"
        )
    return ""


def _of_list(cluster: Cluster, record: RotationRecord) -> str:
    """Return what to do with a list, which names the old and the new root."""
    authority, file = cluster.authority, cluster.file
    pins = {authority.root_sha256, *authority.other_roots}
    old, new = record.old, record.new
    if new is None or not {old.sha256, new.sha256} <= pins:
        return ""
    if record.active:
        return (
            f"{file} names {old.title} and {new.title} (ca.root_sha256). Leave it so until the rotation is done, and "
            f"then write `root_sha256: {new.sha256}` there. After `vaultpki ca abort` write `ca` as it was before"
        )
    stays, gone = (new, old) if record.state is State.DONE else (old, new)
    return f"{file} still names {gone.title}, which is gone: write `root_sha256: {stays.sha256}` there, below `ca`"


def replaced_by(record: RotationRecord | None, pin: str) -> str:
    """Return the SHA-256 of the root that stands in the place of `pin` since a rotation ended; "" if none did so."""
    if record is None or record.domain != ROOT or record.new is None:
        return ""
    if record.state is State.DONE and pin == record.old.sha256:
        return record.new.sha256
    if record.state is State.STEADY and pin == record.new.sha256:
        return record.old.sha256
    return ""
