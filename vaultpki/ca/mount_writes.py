"""Makes a CA's mount hold what its rotation record says, write by write; a run that was interrupted is continued."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from vaultpki.ca import issuing, root_signing
from vaultpki.ca.facts import life
from vaultpki.ca.scene import Scene
from vaultpki.certificates import ROOT, ca_subject
from vaultpki.errors import BadAnswer, Refused, StateConflict
from vaultpki.identity import outside_signer
from vaultpki.provision import authorities
from vaultpki.records.rotation import Method, RotationRecord
from vaultpki.rotation import mount_steps, root_steps
from vaultpki.rotation.mount_steps import RotationMount, Write, key_of
from vaultpki.vault.issuer import READ_ONLY, number

# More than any state takes from any other, with what an interrupted run has left.
_MOST: Final = 40
# How much later than the record says a switch may be without being written into it.
_LATE: Final = timedelta(seconds=60)


def reconcile_mount(scene: Scene, domain: str) -> tuple[Scene, RotationMount, int]:
    """Make a CA's mount hold what its record says; returns the scene with the record, which may have been amended.

    Also returns the mount as it is then, and the number of writes. Before each write the record is read again. Raises
    Refused if somebody else has changed it.
    """
    writes = 0
    while True:
        record, mount = scene.record(domain), scene.mount(domain)
        write = _next(scene, record, mount)
        if write is None:
            return scene, mount, writes
        scene.notice.begin()
        scene.refuse_changed(domain)
        if writes >= _MOST:
            raise BadAnswer(f"{mount.path} does not become what it is told ({write.kind}): something else writes here")
        writes += 1
        if write.record is not None:
            scene = scene.writing(write.record)
            continue
        try:
            _make(scene, record, mount, write)
        except Refused as error:
            # A second operator, or the last request of a run that was killed, made the same meanwhile.
            if not any("already in use" in reason for reason in error.reasons):
                raise


def _next(scene: Scene, record: RotationRecord, mount: RotationMount) -> Write | None:
    cluster, now = scene.cluster, scene.now
    if record.domain == ROOT:
        return root_steps.next_write(cluster.name, record, mount, now)
    write = mount_steps.next_write(cluster.name, record, mount)
    if (
        write is not None
        and write.kind == "sign"
        and write.ca is record.new
        and issuing.waits_for_signer(scene, record)
    ):
        return None
    late = record.active and record.since + _LATE < now
    if write is not None and write.kind == "default" and write.ca is not None and late:
        # Gates count from the moment when the other CA signed for the last time.
        return Write("amend", record=record.changed(since=now))
    return write


def _make(scene: Scene, record: RotationRecord, mount: RotationMount, write: Write) -> None:
    cluster, vault, now = scene.cluster, scene.vault, scene.now
    path, ca, target = mount.path, write.ca or record.old, write.target

    def sign() -> None:
        outside = cluster.authority.outside
        if outside is not None and outside.by_people:
            raise StateConflict(
                f"{ca.title} is gone from {path}, and only its signer outside can make it again. Restore it from a "
                "backup of Vault, or go back with `vaultpki ca abort`"
            )
        subject = ca_subject(cluster.name, record.domain, number(ca.name))
        seconds = life(cluster, record.domain, mount.root, now)
        before = mount.issuer(record.old.issuer) if record.method is Method.SAME_KEY else None
        keeping = cluster
        if before is not None and before.facts is not None:
            keeping = outside_signer.keeping_name(cluster, before.facts)
        authorities.sign_successor(keeping, vault, path, subject, key_of(record, mount, ca), seconds)

    def sign_cross() -> None:
        if root_steps.new_is_outside(record):
            root_signing.cross_outside(vault, mount, ca, target)
        else:
            root_signing.sign_cross(cluster, vault, mount, ca, target, now)

    def name_cross() -> None:
        fields = {"issuer_name": root_steps.cross_name(record), "usage": write.usage}
        authorities.update_issuer(vault, path, target, fields)

    kinds: dict[str, Callable[[], object]] = {
        "make-key": lambda: authorities.make_key(cluster, vault, path, ca.name),
        "sign": sign,
        "sign-root": lambda: root_signing.sign_root(cluster, vault, path, ca),
        "sign-cross": sign_cross,
        "import-root": lambda: root_signing.import_root(vault, mount, target),
        "name-outside": lambda: authorities.update_issuer(
            vault, path, target, {"issuer_name": ca.name, "usage": READ_ONLY}
        ),
        "name": lambda: authorities.name_issuer(vault, path, target, ca.name),
        "name-cross": name_cross,
        "chain": lambda: authorities.chain_alone(vault, path, target),
        "usage": lambda: authorities.update_issuer(vault, path, target, {"usage": write.usage}),
        "default": lambda: authorities.make_default(vault, path, target),
        "default-key": lambda: authorities.make_default_key(vault, path, target),
        "delete-issuer": lambda: authorities.delete_issuer(vault, path, target),
        "delete-key": lambda: authorities.delete_key(vault, path, target),
    }
    kinds[write.kind]()
