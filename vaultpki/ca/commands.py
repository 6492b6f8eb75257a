"""What `vaultpki ca` does: the root and the issuing CAs by the same four commands."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from vaultpki.ca import issuing, run, set_back
from vaultpki.ca import status as ca_status
from vaultpki.ca.announced import announced
from vaultpki.ca.run import Step
from vaultpki.ca.scene import Scene, read_scene
from vaultpki.certificates import issuing_cas
from vaultpki.errors import (
    ArgumentError,
    Attention,
    BadAnswer,
    ChangedMeanwhile,
    ForeignObject,
    Refused,
    SpecError,
    StateConflict,
)
from vaultpki.identity import adoption_record
from vaultpki.identity.nodes import NodeList, read_nodes
from vaultpki.kube.objects import KubeTrust
from vaultpki.model import Cluster
from vaultpki.provision.cluster_facts import CaStatus
from vaultpki.provision.rotation_records import read_records, refuse_move
from vaultpki.records.rotation import Method, RotationRecord
from vaultpki.rotation import course as rotation_course
from vaultpki.rotation import serving_copy
from vaultpki.rotation.confirmations import NOTHING_CONFIRMED, Confirmations
from vaultpki.rotation.course import Course
from vaultpki.vault import Vault

EMERGENCY_TRIES: Final = 5
"""How often an emergency is tried that other commands overtake, each of which soon ends or stops."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A rotation that has begun: its record, and sentences about nodes that it did not wait for."""

    record: RotationRecord
    notes: tuple[str, ...] = ()


def status(
    cluster: Cluster,
    vault: Vault,
    now: datetime,
    pods: KubeTrust | None = None,
    *,
    strict: bool = True,
    found: NodeList | None = None,
) -> tuple[CaStatus, ...]:
    """Return where each CA stands; writes nothing. `pods` is what the Kubernetes cluster shows.

    `strict` and `found` are as in `read_scene`.
    """
    return ca_status.status(read_scene(cluster, vault, now, strict=strict, found=found), pods)


def read_members(cluster: Cluster, vault: Vault) -> NodeList:
    """Return the nodes with their reports, as the server's active node has them."""
    vault.pin_to_leader()
    return read_nodes(cluster, vault)


def rotate(
    cluster: Cluster,
    vault: Vault,
    domain: str,
    method: Method,
    spread: int,
    now: datetime,
    without: Sequence[str] = (),
) -> Begun:
    """Begin the rotation of a CA; see `run.rotate`. `now` is the server's time.

    An emergency that another operator's command has overtaken looks again: it waits for nobody.
    """
    tries = EMERGENCY_TRIES if method is Method.EMERGENCY else 1
    for _ in range(tries - 1):
        with contextlib.suppress(ChangedMeanwhile):
            return _rotate(cluster, vault, domain, method, spread, now, without)
    return _rotate(cluster, vault, domain, method, spread, now, without)


def _rotate(
    cluster: Cluster, vault: Vault, domain: str, method: Method, spread: int, now: datetime, without: Sequence[str]
) -> Begun:
    hasty = method is Method.EMERGENCY
    with announced(cluster, vault, urgent=hasty) as notice:
        scene = read_scene(cluster, vault, now, strict=not hasty, needed=domain if hasty else "", notice=notice)
        set_back.refuse_no_member(scene, without, {serving_copy.WORD} if domain == serving_copy.DOMAIN else ())
        # A new key may be wanted all the same.
        may_gain = method is Method.NEW_KEY and domain in issuing_cas(cluster)
        vain = issuing.gains_nothing(scene, domain) if may_gain else ""
        record = run.rotate(scene, domain, method, spread, without)
    notes = (
        [set_back.beyond(scene, domain, record), notice.untold, adoption_record.unread(cluster, vault)]
        if hasty
        else [vain]
    )
    aside = {other: each.problem for other, each in scene.records.items() if each.problem}
    notes += [f"the rotation of {other} was left aside, since it cannot be read: {why}" for other, why in aside.items()]
    return Begun(record, tuple(note for note in (*notes, scene.unknown) if note))


def begun(cluster: Cluster, vault: Vault, *, back: bool) -> Course | None:
    """Return the rotation that is under way, as a command with `--wait` goes on with it; None if there is none."""
    vault.pin_to_leader()
    active = [each.record for each in read_records(cluster, vault).values() if each.record and each.record.active]
    # The root first: issuing CAs go along with it.
    return Course(active[0], back) if active else None


def advance(
    cluster: Cluster,
    vault: Vault,
    now: datetime,
    said: Confirmations = NOTHING_CONFIRMED,
    course: Course | None = None,
    *,
    back: bool = False,
) -> Step:
    """Take the next step of the rotation that is under way, or of its rollback.

    `now` is the server's time. With a `course` no step is taken once another operator has decided otherwise.
    """
    with announced(cluster, vault) as notice:
        return _advance(read_scene(cluster, vault, now, notice=notice), said, course, back=back)


def _advance(scene: Scene, said: Confirmations, course: Course | None, *, back: bool) -> Step:
    if course is not None:
        if ended := _ended(scene, course, said.pods):
            return ended
        if scene.record(course.last.domain).state is not course.last.state:
            # What a person said was about the state of before.
            said = replace(said, restarted=(), checked=())
    refuse_move(scene.cluster, scene.vault)
    try:
        set_back.refuse(scene, said.without)
        return run.step(scene, said, back=back)
    except (ArgumentError, SpecError, StateConflict, ForeignObject, Refused, BadAnswer):
        # What this one has read may have been overtaken: the mount is then another operator's, and nothing is wrong.
        if course is not None:
            scene.refuse_changed(course.last.domain)
        raise


def _ended(scene: Scene, course: Course, pods: KubeTrust | None) -> Step | None:
    """Answer a command whose rotation has come to rest, or goes another way; None if it goes on."""
    domain = course.last.domain
    record = scene.records[domain].record
    why = rotation_course.why_stopped(course, record, scene.cluster.file)
    if record is None:
        raise Attention(why)
    if why:
        gates = {each.domain: each.gate for each in ca_status.status(scene, pods)} if record.active else {}
        return Step(record, gates.get(domain), note=why, stopped=True)
    if record.active or (course.back and issuing.lingering(scene, record) is not None):
        return None
    return run.finish_rotation(scene, domain)
