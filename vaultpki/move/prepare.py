"""Makes the new server of a move: CAs below the root that nodes are pinned to, and then all that `apply` makes.

Each write is decided from what is there, so that a run that was killed is continued by the next one. The store with the
record of the move comes first: by it the next run knows what it finds there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from vaultpki.ca import root_signing
from vaultpki.ca.facts import life, read_mount, read_root
from vaultpki.certificates import ROOT, all_cas, ca_subject, issuing_cas
from vaultpki.errors import ChangedMeanwhile, StateConflict
from vaultpki.identity import ending
from vaultpki.model import VERSION
from vaultpki.move import locks, trial
from vaultpki.move.server import MoveServer
from vaultpki.pki.facts import Facts
from vaultpki.provision import apply, authorities, carry_out, destroy
from vaultpki.provision.authorities import NewCa
from vaultpki.provision.desired import STORE_OPTIONS, marker
from vaultpki.provision.observe import observe
from vaultpki.provision.rotation_records import read_move_record, read_record, write_move_record, write_record
from vaultpki.records.adoption import RECORD as ADOPTION_RECORD
from vaultpki.records.move import MovedCa, MoveRecord, of_domain
from vaultpki.records.paths import LOCKED
from vaultpki.records.rotation import CaRef, RotationRecord, State
from vaultpki.records.server_facts import ServerFacts
from vaultpki.redact import first_few
from vaultpki.rotation import root_steps, start
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount
from vaultpki.vault import Json
from vaultpki.vault.issuer import NO_SIGNING, READ_ONLY, number
from vaultpki.vault.kv import write_over

Say = Callable[[str], None]

_STORE: Final = {"type": "kv", "version": "2", **STORE_OPTIONS}


def refuse_occupied(new: MoveServer, record: MoveRecord | None) -> None:
    """Raise StateConflict if the new server has something below the prefix that is not of this move.

    `record` is that of the move, None if none is under way: then nothing may be there.
    """
    cluster, vault = new.cluster, new.vault
    found = _found(new)
    if not found:
        return
    own = read_move_record(cluster, vault).record if cluster.mount("config") in found else None
    if record is not None and own is not None and own.number == record.number and own.root == record.root:
        return
    if own is None and found == [cluster.mount("config")] and _is_empty(new):
        # A run that was killed had made its store, and nothing more.
        return
    raise StateConflict(
        f"{vault.address} has {first_few(found)} already, which this move did not make. A cluster moves to a prefix "
        f"where nothing is: choose another `move.prefix` in {cluster.file}, or remove them"
    )


def _found(new: MoveServer) -> list[str]:
    """Return what the new server has at the cluster's prefix, the store first."""
    head, sys = f"{new.cluster.prefix}/", new.vault.api.sys
    mounts = [path.rstrip("/") for path in sys.list_mounted_secrets_engines().data if path.startswith(head)]
    auths = [f"auth/{path.rstrip('/')}" for path in sys.list_auth_methods().data if path.startswith(head)]
    policies = [f"the policy {name}" for name in sys.list_acl_policies().keys if name.startswith(head)]
    store = new.cluster.mount("config")
    return [*sorted(mounts, key=lambda path: (path != store, path)), *sorted(auths), *sorted(policies)]


def _is_empty(new: MoveServer) -> bool:
    store, sys = new.cluster.mount("config"), new.vault.api.sys
    entry = sys.list_mounted_secrets_engines().data.get(f"{store}/") or {}
    listed = new.vault.api.secrets.kv.v2.list_secrets("", mount_point=store).keys
    return entry.get("description") == marker(new.cluster) and not listed


def prepare(old: MoveServer, new: MoveServer, record: MoveRecord, say: Say = lambda line: None) -> MoveRecord:
    """Make the new server, or complete it; return the record with the SHA-256 of what was made, which nobody wrote yet.

    `say` gets a line for each part. Nodes notice nothing of it. Raises StateConflict if something else is in the place,
    or if the old server's root is not that of the record.
    """
    refuse_occupied(new, record)
    root = _root_of(old, record)
    say("the store")
    _make_store(new, record)
    say("the mounts of the CAs")
    _make_mounts(new)
    say("the root")
    new_root = _make_root(old, new, record, root, begins_again=False)
    cas = {}
    for domain in issuing_cas(old.cluster):
        say(f"the CA {domain}")
        cas[domain] = _make_issuing(old, new, record, domain, root)
    made = replace(record, cas=cas, new_root=new_root)
    for domain in cas:
        _write_rotation(new, made, domain, root)
    _copy_records(old, new)
    say("roles, policies and identities")
    apply.apply(new.cluster, new.vault, _where(new), first=None, progress=lambda change: None)
    _copy_locks(old, new)
    locks.lock_tokens(old, new)
    trial.try_signing(new, made)
    return made


def new_root(old: MoveServer, new: MoveServer, record: MoveRecord) -> MoveRecord:
    """Begin the rotation of the new server's root once more, after an abort has deleted the one that was to come.

    The record of the move stays as it is: the hand-over binds the first one, and nodes take the next one by its cross
    certificate.
    """
    _make_root(old, new, record, _root_of(old, record), begins_again=True)
    return record


def remove(new: MoveServer, record: MoveRecord) -> None:
    """Remove all that the move made on the new server, the store last; nothing if it has gone.

    Raises StateConflict if what is there is not of this move.
    """
    found = _found(new)
    if not found:
        return
    refuse_occupied(new, record)
    if new.cluster.mount("config") in found:
        destroy.destroy(new.cluster, new.vault, _where(new), progress=lambda path: None)


def _where(new: MoveServer) -> ServerFacts:
    place = new.place
    return ServerFacts(place.addresses, place.ca_pem or None, place.namespace)


def _now(server: MoveServer) -> datetime:
    offset = timedelta(seconds=server.vault.clock_offset or 0.0)
    return (datetime.now(UTC) + offset).replace(microsecond=0)


def _root_of(old: MoveServer, record: MoveRecord) -> Facts:
    root = read_root(old.cluster, old.vault, _now(old))
    if root.fingerprint != record.root:
        raise StateConflict(
            f"the root CA at {old.vault.address} has the SHA-256 {root.fingerprint}, and the move began with "
            f"{record.root}; find out who changed it"
        )
    return root


def _make_store(new: MoveServer, record: MoveRecord) -> None:
    """Make the store, and put the record of the move there if what it has is older."""
    cluster, vault = new.cluster, new.vault
    store = cluster.mount("config")
    if f"{store}/" not in vault.api.sys.list_mounted_secrets_engines().data:
        carry_out.write_mount(cluster, vault, ("mount", store), _STORE, create=True)
    found = read_move_record(cluster, vault)
    if found.record is None or found.record.revision < record.revision:
        write_move_record(cluster, vault, record, found.version)


def _make_mounts(new: MoveServer) -> None:
    seen = observe(new.cluster, new.vault, _where(new))
    for ca in all_cas(new.cluster):
        key = ("mount", new.cluster.mount(ca))
        if key not in seen.observed.objects:
            carry_out.write_mount(new.cluster, new.vault, key, seen.wanted[key], create=True)


def _make_root(old: MoveServer, new: MoveServer, record: MoveRecord, root: Facts, *, begins_again: bool) -> str:
    """Install the root without its key, make the next one with its key, and have the first one vouch for it.

    Returns the SHA-256 of the next one. Its rotation is prepared then, and goes on once the CAs of the move are done.
    """
    cluster, vault, now = new.cluster, new.vault, _now(new)
    there = read_mount(old.cluster, old.vault, ROOT, root)
    own = next(each for each in there.issuers if each.facts == root)
    issuer = _keyless_root(new, root, own.name)
    stored = read_record(cluster, vault, ROOT)
    rotation = stored.record
    if rotation is None or (begins_again and rotation.state is State.STEADY):
        before = rotation or read_record(old.cluster, old.vault, ROOT).record
        known = [before.highest] if before is not None else []
        used = [*start.numbers(ROOT, there), *start.numbers(ROOT, read_mount(cluster, vault, ROOT, root))]
        highest = max([*known, *used]) + 1
        revision = max(before.revision if before is not None else 0, _revision(old)) + 1
        rotation = RotationRecord(
            domain=ROOT,
            state=State.PREPARED,
            revision=revision,
            since=now,
            old=CaRef(own.name, issuer, "", root.fingerprint),
            new=CaRef(f"{ROOT}-{highest}"),
            highest=highest,
            spread=record.spread,
        )
        stored = write_record(cluster, vault, rotation, stored.version)
    if rotation.state is not State.PREPARED or rotation.new is None:
        return record.new_root
    made = _next_root(old, new, rotation, own, root, now)
    if made != rotation.new:
        write_record(cluster, vault, rotation.changed(new=made), stored.version)
    return made.sha256


def _revision(server: MoveServer) -> int:
    found = read_record(server.cluster, server.vault, ROOT).record
    return found.revision if found is not None else 0


def _keyless_root(new: MoveServer, root: Facts, name: str) -> str:
    """Install the root's certificate under its name as the default; return the id of its issuer."""
    path = new.cluster.mount(ROOT)
    mount = read_mount(new.cluster, new.vault, ROOT, root)
    found = _of(mount, root.fingerprint)
    id_ = found.id if found is not None else authorities.import_keyless(new.vault, path, root.pem)
    if found is None or found.name != name or not found.has(READ_ONLY):
        authorities.update_issuer(new.vault, path, id_, {"issuer_name": name, "usage": READ_ONLY})
    if mount.follows or not mount.default or (found is None and mount.default != id_):
        authorities.make_default(new.vault, path, id_)
    return id_


def _next_root(
    old: MoveServer, new: MoveServer, rotation: RotationRecord, signer: MountIssuer, root: Facts, now: datetime
) -> CaRef:
    """Make the next root by the new server's key, and its cross certificate by the old server's; return it."""
    cluster, vault, path = new.cluster, new.vault, new.cluster.mount(ROOT)
    wanted = rotation.new or CaRef("")
    mount = read_mount(cluster, vault, ROOT, root)
    key = mount.key_named(wanted.name) or authorities.make_key(cluster, vault, path, wanted.name)
    known = replace(rotation, new=CaRef(wanted.name, key=key))
    made = root_steps.new_issuer(cluster.name, known, mount)
    if made is None:
        root_signing.sign_root(cluster, vault, path, CaRef(wanted.name, key=key))
        mount = read_mount(cluster, vault, ROOT, root)
        made = root_steps.new_issuer(cluster.name, known, mount)
    if made is None:
        raise ChangedMeanwhile(f"the new root at {path} has gone at once: something else writes there", status=409)
    if made.name != wanted.name:
        authorities.name_issuer(vault, path, made.id, wanted.name)
    if not made.chain:
        authorities.chain_alone(vault, path, made.id)
    known = replace(known, new=CaRef(wanted.name, made.id, key, made.sha256))
    cross = root_steps.cross_issuer(cluster.name, known, mount)
    if cross is None:
        name = ca_subject(cluster.name, ROOT, number(wanted.name))
        csr = authorities.cross_request(vault, path, name, key)
        pem = root_signing.signed_cross(old.vault, old.cluster.mount(ROOT), signer.id, root, name, csr, now)
        root_signing.install_cross(vault, path, pem, key)
        cross = root_steps.cross_issuer(cluster.name, known, read_mount(cluster, vault, ROOT, root))
    if cross is not None and (cross.name != root_steps.cross_name(known) or not cross.has(NO_SIGNING)):
        fields = {"issuer_name": root_steps.cross_name(known), "usage": NO_SIGNING}
        authorities.update_issuer(vault, path, cross.id, fields)
    return CaRef(wanted.name, made.id, key, made.sha256)


def _make_issuing(old: MoveServer, new: MoveServer, record: MoveRecord, domain: str, root: Facts) -> MovedCa:
    """Make an issuing CA by a key of the new server, signed by the old one's root; return it with its SHA-256."""
    cluster, vault, path, ca = new.cluster, new.vault, new.cluster.mount(domain), record.cas[domain]
    mount = read_mount(cluster, vault, domain, root)
    key = mount.key_named(ca.new) or authorities.make_key(cluster, vault, path, ca.new)
    found = _issuing(new, mount, ca.new, key)
    if found is None:
        subject = ca_subject(cluster.name, domain, number(ca.new))
        csr = authorities.signing_request(cluster, vault, path, subject, key)
        wanted = NewCa(subject, life(old.cluster, domain, root, _now(old)), "existing", {})
        held = authorities.fingerprints(vault, path)
        pem = authorities.signed_by_root(old.cluster, old.vault, old.cluster.mount(domain), wanted, csr, held)
        authorities.install_signed(vault, path, pem, key)
        mount = read_mount(cluster, vault, domain, root)
        found = _issuing(new, mount, ca.new, key)
    if found is None:
        raise ChangedMeanwhile(f"the new CA at {path} has gone at once: something else writes there", status=409)
    if found.name != ca.new:
        authorities.name_issuer(vault, path, found.id, ca.new)
    if mount.follows or mount.default != found.id:
        authorities.make_default(vault, path, found.id)
    if mount.default_key != key:
        authorities.make_default_key(vault, path, key)
    return replace(ca, new_sha256=found.sha256)


def _issuing(new: MoveServer, mount: RotationMount, name: str, key: str) -> MountIssuer | None:
    """Return the issuer of a key that is the CA of this name; the named one, if several runs have left some."""
    subject = ca_subject(new.cluster.name, mount.path.rpartition("/")[2], number(name))
    fit = [each for each in mount.issuers if each.key == key and each.facts is not None and each.name in ("", name)]
    fit = [each for each in fit if each.facts is not None and mount.takes(each.facts, subject)]
    return min(fit, key=lambda each: (not each.name, each.id), default=None)


def _write_rotation(new: MoveServer, record: MoveRecord, domain: str, root: Facts) -> None:
    """Write the record of a CA's rotation on the new server, by which it is known which CA has its key there."""
    ca, mount = record.cas[domain], read_mount(new.cluster, new.vault, domain, root)
    issuer = _of(mount, ca.new_sha256)
    other = _of(mount, ca.old_sha256)
    if issuer is None:
        raise ChangedMeanwhile(f"the new CA at {mount.path} has gone: something else writes there", status=409)
    wanted = of_domain(
        record, domain, CaRef("", other.id if other is not None else ""), CaRef("", issuer.id, issuer.key)
    )
    stored = read_record(new.cluster, new.vault, domain)
    found = stored.record
    if found is None or (found.revision <= wanted.revision and replace(found, revision=wanted.revision) != wanted):
        write_record(new.cluster, new.vault, wanted, stored.version)


def _of(mount: RotationMount, sha256: str) -> MountIssuer | None:
    return next((each for each in mount.issuers if each.sha256 == sha256), None)


def _copy_records(old: MoveServer, new: MoveServer) -> None:
    """Copy the record of an adoption that has ended: nodes that have read it would take its absence for a restore."""
    store = new.cluster.mount("config")
    value = old.vault.stored(old.cluster.mount("config"), ADOPTION_RECORD).get("data")
    if isinstance(value, dict) and not new.vault.stored(store, ADOPTION_RECORD).get("data"):
        write_over(new.vault, store, ADOPTION_RECORD, value, 0)


def _copy_locks(old: MoveServer, new: MoveServer) -> None:
    """Copy the records of locks; a locked node gets no credential, so that its AppRole lets nobody in."""
    there = ending.locked_names(new.cluster, new.vault)
    for name, lock in ending.all_locks(old.cluster, old.vault).items():
        if name not in there:
            made = {"version": VERSION, "by": lock.by}
            ending.change_record(new.cluster, new.vault, f"{LOCKED}/{name}", partial(_unless_there, made))


def _unless_there(made: Json, found: Json) -> Json:
    return found or made
