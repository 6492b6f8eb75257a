"""Decides which write comes next until the root's mount holds what the record of its rotation says; pure.

As `mount_steps` for issuing CAs: each write is decided from the record and from the mount as it is then, so that a run
that was interrupted anywhere is continued by the next one. The mount has three certificates meanwhile: the old root,
the new one, and the cross certificate, which is the new root's key signed by the old one.

A root from outside has no key there, and the CAs of its chain beside it. If the old root is one, a person brings the
cross certificate (`ca import`): the new root is made before that, and nodes do not trust it yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from vaultpki.certificates import ROOT, ca_subject
from vaultpki.pki import chains, trust
from vaultpki.pki.facts import Facts
from vaultpki.records import above
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount, Write, key_of, key_writes
from vaultpki.values import der
from vaultpki.vault.issuer import FULL, NO_SIGNING, READ_ONLY, number

_OLD_SIGNS: Final = frozenset(State) - {State.RETIRED, State.DONE}
_NO_CERTIFICATE: Final = frozenset({State.STEADY, State.PREPARED})


def cross_name(record: RotationRecord) -> str:
    """Return the name of the cross certificate's issuer: `root-2-by-root-1`."""
    return f"{record.new.name}-by-{record.old.name}" if record.new is not None else ""


def new_is_outside(record: RotationRecord) -> bool:
    """Return whether the new root is from outside: its SHA-256 is known before anything is made, and it has no key."""
    return record.new is not None and bool(record.new.sha256) and not record.new.key


def next_write(cluster: str, record: RotationRecord, mount: RotationMount, now: datetime) -> Write | None:
    """Return the next write for `record`; None if the mount holds all that it says, as far as it can."""
    return next(_writes(cluster, record, mount, now), None)


def new_issuer(cluster: str, record: RotationRecord, mount: RotationMount) -> MountIssuer | None:
    """Return the issuer of the new root; None if the mount does not have it."""
    new = record.new
    if new is None:
        return None
    if new_is_outside(record):
        return next((each for each in mount.issuers if each.sha256 == new.sha256), None)
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
            if not _is_self_signed(each) and each.name in ("", cross_name(record))
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
    elsewhere = ca is record.old and not record.old.key
    if found is not None and not found.revoked and (found.key or elsewhere or not _is_ours(cluster, found)):
        return ""
    how = f"`vaultpki ca abort` goes back to {record.old.title}" if back else "restore it from a backup of Vault"
    return f"{ca.title} can sign nothing any more ({mount.path}); {how}"


def _writes(cluster: str, record: RotationRecord, mount: RotationMount, now: datetime) -> Iterator[Write]:
    old, new = mount.issuer(record.old.issuer), new_issuer(cluster, record, mount)
    cross = cross_issuer(cluster, record, mount)
    if mount.follows:
        yield Write("default", target=mount.default)
    if record.new is not None and record.state is not State.STEADY:
        outside, carried = new_is_outside(record), old is not None and _is_keyless(cluster, record, old)
        if not outside:
            yield from key_writes(record, mount, record.new)
        if outside and record.state not in _NO_CERTIFICATE:
            yield from _chain(record, mount, record.new)
        if not outside and (record.state not in _NO_CERTIFICATE or carried):
            yield from _root(record, mount, record.new, new)
            if new is not None and new.name and not new.chain and (carried or _has_older_cross(record, mount)):
                yield Write("chain", target=new.id)
        yield from _cross(record, mount, record.new, old, new, cross)
    for each, signs in ((old, record.state in _OLD_SIGNS), (new, record.state is not State.PREPARED)):
        wanted = READ_ONLY if each is not None and _is_keyless(cluster, record, each) else FULL
        if each is not None and signs and not each.revoked and not each.has(wanted):
            yield Write("usage", target=each.id, usage=wanted)
    leaf = new if record.leaf is record.new else old
    yield from _default(cluster, record, mount, leaf)
    if old is not None and record.state is State.RETIRED and old.signs:
        yield Write("usage", target=old.id, usage=NO_SIGNING)
    if record.state is State.DONE:
        # Without a new root that is the default nothing of the old one goes.
        yield from _old_deleted(record, mount, old, leaf)
        yield from _above_deleted(mount, leaf)
        if cross is not None and cross.facts is not None and cross.facts.not_after <= now:
            yield Write("delete-issuer", target=cross.id)
    if record.new is not None and record.state is State.STEADY:
        yield from _new_deleted(cluster, record, mount)
        yield from _above_deleted(mount, old)
    else:
        yield from _strays(cluster, record, mount, [each.id for each in (old, new, cross) if each is not None])


def _root(record: RotationRecord, mount: RotationMount, new: CaRef, found: MountIssuer | None) -> Iterator[Write]:
    """Yield what makes the certificate of a root of ours."""
    if found is None:
        if not new.sha256 and key_of(record, mount, new):
            yield Write("sign-root", new)
    elif found.name != new.name:
        yield Write("name", new, found.id)


def _has_older_cross(record: RotationRecord, mount: RotationMount) -> bool:
    return any("-by-" in each.name and each.name != cross_name(record) for each in mount.issuers)


def _chain(record: RotationRecord, mount: RotationMount, new: CaRef) -> Iterator[Write]:
    """Yield what puts a root from outside, and the CAs of its chain, beside the old one."""
    if not mount.incoming or mount.incoming[0].fingerprint != new.sha256:
        return
    for facts in mount.incoming:
        found = next((each for each in mount.issuers if each.sha256 == facts.fingerprint), None)
        name = new.name if facts.fingerprint == new.sha256 else above.name(facts.pem)
        if found is None:
            yield Write("import-root", new, facts.fingerprint)
        elif found.name != name and not (found.name and facts.fingerprint == record.old.sha256):
            yield Write("name-outside", CaRef(name), found.id)
        elif not found.has(READ_ONLY):
            yield Write("usage", target=found.id, usage=READ_ONLY)


def _cross(
    record: RotationRecord,
    mount: RotationMount,
    new: CaRef,
    old: MountIssuer | None,
    found: MountIssuer | None,
    cross: MountIssuer | None,
) -> Iterator[Write]:
    """Yield what makes the old root vouch for the new one, and then writes the new one into the record.

    A mute root signs nothing; without the cross certificate a node that was away has to join again. Where a person
    brings it, or nodes have the SHA-256 of the new root from their owners, the record names that before.
    """
    published = record.state not in _NO_CERTIFICATE
    signs = old is not None and old.signs and bool(old.key) and record.state in _OLD_SIGNS
    if found is not None and cross is None and old is not None and signs and published and can_be_crossed(found.facts):
        yield Write("sign-cross", new, old.id)
    usage = NO_SIGNING if cross is not None and cross.key else READ_ONLY
    if cross is not None and (cross.name != cross_name(record) or not cross.has(usage)):
        yield Write("name-cross", new, cross.id, usage=usage)
    if found is None:
        return
    known = replace(new, issuer=found.id, key=found.key or new.key, sha256=found.sha256)
    # Nodes take the new root from now on: the cross certificate is there, or a person brings it.
    if known != new and (cross is not None or not signs or new_is_outside(record)):
        yield Write("amend", new, record=record.changed(new=known))


def can_be_crossed(root: Facts | None) -> bool:
    """Return whether nodes take another certificate for this root as the word of the one that signed it."""
    return root is not None and trust.no_root(root) is None and trust.self_signed(root)


def chain_of(root: Facts, shown: Sequence[Facts]) -> frozenset[Facts]:
    """Return the CAs of `shown` that stand below a root from outside, or above it if that is an intermediate."""
    return frozenset((*chains.between(shown, (root,)), *chains.tops((root,), shown)))


def _default(cluster: str, record: RotationRecord, mount: RotationMount, issuer: MountIssuer | None) -> Iterator[Write]:
    """Yield what makes a root the one that signs, or in whose name others sign elsewhere."""
    if issuer is None:
        return
    if (issuer.signs or _is_keyless(cluster, record, issuer)) and mount.default != issuer.id:
        yield Write("default", record.leaf, issuer.id)
    if issuer.key and mount.default_key != issuer.key:
        yield Write("default-key", record.leaf, issuer.key)


def _above_deleted(mount: RotationMount, root: MountIssuer | None) -> Iterator[Write]:
    """Delete the CAs of chains that lead to another root than the one that stays."""
    if root is None or root.facts is None:
        return
    named_above = [each for each in mount.issuers if above.is_name(each.name) and each.facts is not None]
    mine = chain_of(root.facts, [each.facts for each in named_above if each.facts is not None])
    kept = {*mine, *(mount.incoming if mount.incoming[:1] == (root.facts,) else ())}
    for each in named_above:
        if each.facts not in kept and each.id != mount.default:
            yield Write("delete-issuer", target=each.id)


def _old_deleted(
    record: RotationRecord, mount: RotationMount, old: MountIssuer | None, leaf: MountIssuer | None
) -> Iterator[Write]:
    if leaf is None or mount.default != leaf.id:
        return
    if old is not None:
        yield Write("delete-issuer", target=old.id)
    for each in mount.issuers:
        # By which an earlier root vouched for one from outside.
        if not each.key and each.name.startswith(f"{record.old.name}-by-"):
            yield Write("delete-issuer", target=each.id)
    key = record.old.key if record.old.key in mount.keys else ""
    for each in mount.issuers:
        # The cross certificate of an earlier rotation, without which its key can go too.
        if key and each.key == key and each.id != mount.default:
            yield Write("delete-issuer", target=each.id)
    if key and key != leaf.key:
        yield Write("delete-key", target=key)


def _new_deleted(cluster: str, record: RotationRecord, mount: RotationMount) -> Iterator[Write]:
    new = record.new.sha256 if record.new is not None else ""
    # The root itself last: a root from outside is how the cross certificate is known.
    for each in sorted(_of_new_key(cluster, record, mount), key=lambda one: one.sha256 == new):
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
        made = (_is_root(each) and each.key) or (old is not None and _signed(each, old))
        if made and not each.name and each.id not in (*ours, mount.default):
            yield Write("delete-issuer", target=each.id)


def _of_new_key(cluster: str, record: RotationRecord, mount: RotationMount) -> list[MountIssuer]:
    """Return the issuers of the new root's key that have its name; the cross certificate is one of them."""
    if new_is_outside(record):
        return _of_outside(record, mount)
    key = key_of(record, mount, record.new) if record.new is not None else ""
    wanted = ca_subject(cluster, ROOT, number(record.new.name)) if record.new is not None else ""
    return [
        each
        for each in mount.issuers
        if key and each.key == key and each.facts is not None and each.facts.subject.common_name == wanted
    ]


def _of_outside(record: RotationRecord, mount: RotationMount) -> list[MountIssuer]:
    root = new_issuer("", record, mount)
    facts = root.facts if root is not None else next(iter(mount.incoming), None)
    if facts is None or record.new is None or facts.fingerprint != record.new.sha256:
        # Another cluster.yaml by now, and no such root on the mount yet.
        return []
    name = der.certificate_parts(facts.der).subject
    return [
        each
        for each in mount.issuers
        if each.facts is not None and each.facts.public_key == facts.public_key
        if der.certificate_parts(each.facts.der).subject == name
    ]


def _is_ours(cluster: str, issuer: MountIssuer) -> bool:
    """Return whether a root was made for this cluster; one that cannot be read is taken for one."""
    return issuer.facts is None or trust.named(issuer.facts, ca_subject(cluster, ROOT))


def _is_keyless(cluster: str, record: RotationRecord, issuer: MountIssuer) -> bool:
    """Return whether a root has its key elsewhere: one from outside, or the old one after a move from its server."""
    moved = not record.old.key and not issuer.key and issuer.id == record.old.issuer
    return moved or not _is_ours(cluster, issuer)


def _is_self_signed(issuer: MountIssuer) -> bool:
    return issuer.facts is not None and trust.self_signed(issuer.facts)


def _first(found: list[MountIssuer]) -> MountIssuer | None:
    # Of several, which a run that was interrupted has left, the one that was named.
    return min(found, key=lambda each: (not each.name, each.id), default=None)


def _is_root(issuer: MountIssuer) -> bool:
    return issuer.facts is not None and trust.no_root(issuer.facts) is None and _signed(issuer, issuer)


def _signed(issuer: MountIssuer, signer: MountIssuer) -> bool:
    from vaultpki.pki import x509

    both = issuer.facts is not None and signer.facts is not None
    return both and x509.signed_by(issuer.facts, signer.facts)  # type: ignore[arg-type]
