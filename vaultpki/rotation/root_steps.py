"""Decides which write comes next until the root's mount holds what the record of its rotation says; pure.

As `mount_steps` for issuing CAs: each write is decided from the record and from the mount as it is then, so that a run
that was interrupted anywhere is continued by the next one. The mount has three certificates meanwhile: the old root,
the new one, and the cross certificate, which is the new root's key signed by the old one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Final

from vaultpki.certificates import ROOT, ca_subject
from vaultpki.pki import trust
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount, Write, default_writes, key_of, key_writes
from vaultpki.rotation.states import FULL, NO_SIGNING, number

_OLD_SIGNS: Final = frozenset(State) - {State.RETIRED, State.DONE}
_NO_CERTIFICATE: Final = frozenset({State.STEADY, State.PREPARED})


def cross_name(record: RotationRecord) -> str:
    """Return the name of the cross certificate's issuer: `root-2-by-root-1`."""
    return f"{record.new.name}-by-{record.old.name}" if record.new is not None else ""


def next_write(cluster: str, record: RotationRecord, mount: RotationMount, now: datetime) -> Write | None:
    """Return the next write for `record`; None if the mount holds all that it says, as far as it can."""
    return next(_writes(cluster, record, mount, now), None)


def new_issuer(cluster: str, record: RotationRecord, mount: RotationMount) -> MountIssuer | None:
    """Return the issuer of the new root; None if the mount does not have it."""
    new = record.new
    if new is None:
        return None
    return mount.issuer(new.issuer) or _first(
        [each for each in _of_new_key(cluster, record, mount) if _is_root(each) and each.name in ("", new.name)]
    )


def cross_issuer(cluster: str, record: RotationRecord, mount: RotationMount) -> MountIssuer | None:
    """Return the issuer of the cross certificate; None if the mount does not have it."""
    old = mount.issuer(record.old.issuer)
    return _first(
        [
            each
            for each in _of_new_key(cluster, record, mount)
            if not _is_root(each) and each.name in ("", cross_name(record))
            if old is None or old.facts is None or (each.facts is not None and _signed(each, old))
        ]
    )


def signer(cluster: str, record: RotationRecord, mount: RotationMount) -> MountIssuer | None:
    """Return the issuer of the root that the record names as the one in force; None if the mount does not have it."""
    return new_issuer(cluster, record, mount) if record.leaf is record.new else mount.issuer(record.old.issuer)


def problem(cluster: str, record: RotationRecord, mount: RotationMount) -> str:
    """Return why the root that the record names cannot sign, in one sentence that says what to do; else nothing."""
    ca, back = record.leaf, record.state in (State.SWITCHED, State.RETRUSTING, State.RETIRED)
    found = signer(cluster, record, mount)
    if found is not None and not found.revoked and found.key:
        return ""
    how = f"`vaultpki ca abort` goes back to {record.old.name}" if back else "restore it from a backup of Vault"
    return f"the root CA {ca.name} can sign nothing any more ({mount.path}); {how}"


def _writes(cluster: str, record: RotationRecord, mount: RotationMount, now: datetime) -> Iterator[Write]:
    old, new = mount.issuer(record.old.issuer), new_issuer(cluster, record, mount)
    cross = cross_issuer(cluster, record, mount)
    if mount.follows:
        yield Write("default", target=mount.default)
    if record.new is not None and record.state is not State.STEADY:
        yield from key_writes(record, mount, record.new)
        if record.state not in _NO_CERTIFICATE:
            yield from _certificates(record, mount, record.new, old, new, cross)
    for each, signs in ((old, record.state in _OLD_SIGNS), (new, True)):
        if each is not None and signs and not each.revoked and not each.has(FULL):
            yield Write("usage", target=each.id, usage=FULL)
    leaf = new if record.leaf is record.new else old
    yield from default_writes(mount, record.leaf, leaf)
    if old is not None and record.state is State.RETIRED and old.signs:
        yield Write("usage", target=old.id, usage=NO_SIGNING)
    if record.state is State.DONE:
        # Without a new root that is the default nothing of the old one goes.
        yield from _old_deleted(record, mount, old, leaf)
        if cross is not None and cross.facts is not None and cross.facts.not_after <= now:
            yield Write("delete-issuer", target=cross.id)
    if record.new is not None and record.state is State.STEADY:
        yield from _new_deleted(cluster, record, mount)
    else:
        yield from _strays(cluster, record, mount, [each.id for each in (old, new, cross) if each is not None])


def _certificates(
    record: RotationRecord,
    mount: RotationMount,
    new: CaRef,
    old: MountIssuer | None,
    found: MountIssuer | None,
    cross: MountIssuer | None,
) -> Iterator[Write]:
    if found is None:
        if not new.sha256 and key_of(record, mount, new):
            yield Write("sign-root", new)
        return
    if found.name != new.name:
        yield Write("name", new, found.id)
    # A mute root signs nothing; without the cross certificate a node that was away has to join again.
    if cross is None and old is not None and old.signs and old.key and record.state in _OLD_SIGNS:
        yield Write("sign-cross", new, old.id)
    if cross is not None and (cross.name != cross_name(record) or cross.signs):
        yield Write("name-cross", new, cross.id)
    known = replace(new, issuer=found.id, key=found.key or new.key, sha256=found.sha256)
    # Nodes take the new root from now on: the cross certificate is there.
    if known != new and cross is not None:
        yield Write("amend", new, record=record.changed(new=known))


def _old_deleted(
    record: RotationRecord, mount: RotationMount, old: MountIssuer | None, leaf: MountIssuer | None
) -> Iterator[Write]:
    if leaf is None or mount.default != leaf.id:
        return
    if old is not None:
        yield Write("delete-issuer", target=old.id)
    key = record.old.key if record.old.key in mount.keys else ""
    for each in mount.issuers:
        # The cross certificate of an earlier rotation, without which its key can go too.
        if key and each.key == key and each.id != mount.default:
            yield Write("delete-issuer", target=each.id)
    if key and key != leaf.key:
        yield Write("delete-key", target=key)


def _new_deleted(cluster: str, record: RotationRecord, mount: RotationMount) -> Iterator[Write]:
    for each in _of_new_key(cluster, record, mount):
        if each.id not in (mount.default, record.old.issuer):
            yield Write("delete-issuer", target=each.id)
    key = key_of(record, mount, record.new) if record.new is not None else ""
    if key and not any(each.key == key for each in mount.issuers):
        yield Write("delete-key", target=key)


def _strays(cluster: str, record: RotationRecord, mount: RotationMount, ours: list[str]) -> Iterator[Write]:
    """Delete what a second operator made for the new key and nobody named.

    With two cross certificates OpenBao builds a chain that it then refuses, and the new root signs nothing.
    """
    old = mount.issuer(record.old.issuer)
    for each in _of_new_key(cluster, record, mount):
        made = _is_root(each) or (old is not None and _signed(each, old))
        if made and not each.name and each.id not in (*ours, mount.default):
            yield Write("delete-issuer", target=each.id)


def _of_new_key(cluster: str, record: RotationRecord, mount: RotationMount) -> list[MountIssuer]:
    """Return the issuers of the new root's key that have its name; the cross certificate is one of them."""
    key = key_of(record, mount, record.new) if record.new is not None else ""
    wanted = ca_subject(cluster, ROOT, number(record.new.name)) if record.new is not None else ""
    return [
        each
        for each in mount.issuers
        if key and each.key == key and each.facts is not None and each.facts.subject.common_name == wanted
    ]


def _first(found: list[MountIssuer]) -> MountIssuer | None:
    # Of several, which a run that was interrupted has left, the one that was named.
    return min(found, key=lambda each: (not each.name, each.id), default=None)


def _is_root(issuer: MountIssuer) -> bool:
    return issuer.facts is not None and trust.no_root(issuer.facts) is None and _signed(issuer, issuer)


def _signed(issuer: MountIssuer, signer: MountIssuer) -> bool:
    from vaultpki.pki import x509

    both = issuer.facts is not None and signer.facts is not None
    return both and x509.signed_by(issuer.facts, signer.facts)  # type: ignore[arg-type]
