"""Rotates a CA: reads where it stands, decides by its gate, writes the record, and makes the server match it.

The root and the issuing CAs go the same course; `root` and `issuing` know what differs. Every command may be killed at
any request; the next one continues. Two operators at once never both take a step: the record is written by
check-and-set before the server is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from vaultpki.ca import issuing, root, set_back
from vaultpki.ca.mount_writes import reconcile_mount
from vaultpki.ca.scene import Scene, keys_in_the_way, refuse_active
from vaultpki.certificates import ROOT, all_cas
from vaultpki.errors import ArgumentError, StateConflict
from vaultpki.identity.adoption_record import refuse_adoption
from vaultpki.kube.objects import KubeTrust
from vaultpki.model import Cluster
from vaultpki.procedure.gate import Gate
from vaultpki.provision.rotation_records import move_in_the_way, read_key_record, read_records, refuse_move
from vaultpki.records.rotation import Method, RotationRecord, State
from vaultpki.rotation import listener_trust, recovery, serving_copy, start
from vaultpki.rotation.confirmations import NOTHING_CONFIRMED, Confirmations
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount
from vaultpki.rotation.states import next_state


class CaKind(Protocol):
    """What differs between the root and an issuing CA; the modules `root` and `issuing` are the two kinds."""

    def refuse_beginning(self, scene: Scene, domain: str, method: Method) -> None:
        """Raise StateConflict if such a rotation cannot begin."""

    def signer(self, cluster: Cluster, record: RotationRecord, mount: RotationMount) -> MountIssuer | None:
        """Return the issuer of the CA in force."""

    def problem(self, cluster: Cluster, record: RotationRecord, mount: RotationMount) -> str:
        """Return why the CA in force cannot sign, as a sentence; "" if it can."""

    def step_to(self, scene: Scene, record: RotationRecord, mount: RotationMount, *, back: bool) -> State | None:
        """Return the state that comes next, None if there is none; StateConflict if it cannot be taken."""

    def confirmed(
        self, scene: Scene, record: RotationRecord, to: State, mount: RotationMount, said: Confirmations
    ) -> RotationRecord:
        """Return the record with what a person says; StateConflict if that does not count."""

    def gate(
        self,
        scene: Scene,
        record: RotationRecord,
        to: State,
        mount: RotationMount,
        pods: KubeTrust | None,
        *,
        whole: bool = False,
        keeps: str = "",
    ) -> Gate:
        """Return what stands before a step; `whole` with all that can be said, `keeps` if this node keeps the turn."""

    def moved(self, scene: Scene, record: RotationRecord, to: State) -> tuple[Scene, RotationRecord]:
        """Return the record in the next state, and do what must be done before it is written."""

    def along(self, scene: Scene) -> Scene:
        """Bring what goes along with the CA to where its record is."""


def kind_of(domain: str) -> CaKind:
    """Return what is special about a CA."""
    return root if domain == ROOT else issuing


@dataclass(frozen=True, slots=True)
class Step:
    """What a command has done: the record as it is now, and whether a step was made.

    `gate` is what stands before the next step, None if there is none. `note` is a sentence about something unusual.
    `stopped` says that another operator has decided otherwise, which `note` tells: a command with `--wait` ends then.
    `advice` is a sentence on what a person does now that the rotation is at rest.
    """

    record: RotationRecord
    gate: Gate | None = None
    moved: bool = False
    note: str = ""
    stopped: bool = False
    advice: str = ""

    @property
    def ended(self) -> bool:
        """Whether the rotation is at rest, and nothing is waited for."""
        return not self.record.active and self.gate is None


def rotate(scene: Scene, domain: str, method: Method, spread: int, without: Sequence[str] = ()) -> RotationRecord:
    """Begin the rotation of a CA; returns its record. `spread` is in seconds; no gate waits for `without`.

    An emergency goes on until nobody trusts the old CA. A run that was interrupted is continued. Raises StateConflict
    if another rotation is under way or this one cannot begin, Refused if another operator was faster.
    """
    cluster, vault = scene.cluster, scene.vault
    if domain not in all_cas(cluster):
        raise ArgumentError(f"there is no CA {domain}; write one of {', '.join(all_cas(cluster))}")
    refuse_move(cluster, vault)
    stored = scene.records[domain]
    if _just_begun(stored.record, method):
        return _pass_emergency_gates(reconcile_mount(scene, domain)[0], domain).record(domain)
    hasty = method is Method.EMERGENCY
    if not hasty:
        # What nodes say does not stop an emergency.
        set_back.refuse(scene, without)
        refuse_adoption(cluster, vault)
    refuse_active(cluster, scene.records)
    if not hasty and (why := keys_in_the_way(cluster, vault)):
        raise StateConflict(why)
    kind_of(domain).refuse_beginning(scene, domain, method)
    if stored.record is None:
        mount = scene.mount(domain)
    else:
        scene, mount, _ = reconcile_mount(scene, domain)
    known, nodes = scene.records[domain].record, scene.nodes(domain)
    before = known or (set_back.lost_record(scene, domain) if hasty else None)
    begun = start.first_record(cluster, domain, method, spread, before, mount, nodes, scene.now)
    revision = recovery.emergency_revision(domain, begun, nodes) if hasty else begun.revision
    begun = replace(begun, revision=revision, excused=tuple(sorted(set(without))))
    scene = scene.writing(begun)
    needed = domain if hasty else ""
    others = {name: each for name, each in read_records(cluster, vault, needed).items() if name != domain}
    why = move_in_the_way(cluster, vault) or ("" if hasty else keys_in_the_way(cluster, vault))
    if why or any(each.record is not None and each.record.active for each in others.values()):
        # Two operators began one each: both are withdrawn, or the later one.
        scene.writing(start.withdrawn(begun, known, scene.now))
        refuse_active(cluster, others)
        raise StateConflict(why)
    return _pass_emergency_gates(reconcile_mount(scene, domain)[0], domain).record(domain)


def step(scene: Scene, said: Confirmations = NOTHING_CONFIRMED, *, back: bool) -> Step:
    """Take the next step of the rotation that is under way, or of its rollback; else say what it waits for.

    What earlier rotations have left on the mounts of other CAs is finished first, unless the root is rotated.
    """
    active = next(filter(scene.active, all_cas(scene.cluster)), None)
    cas = all_cas(scene.cluster)
    resting = [domain for domain in cas if scene.records[domain].record is not None and not scene.active(domain)]
    finished = []
    for domain in resting if active != ROOT else ():
        scene, found, left = _finished(scene, domain)
        if domain == ROOT and left:
            return found
        finished += [found] if domain != ROOT and (left or found.note) else []
    if active is not None:
        return _advance(scene, active, said, back=back)
    for domain in resting if back else ():
        if issuing.lingering(scene, scene.record(domain)) is not None:
            return _advance(scene, domain, said, back=True)
    if finished:
        return finished[0]
    raise StateConflict(_nothing_under_way(scene, back=back))


def _nothing_under_way(scene: Scene, *, back: bool) -> str:
    """Return that there is no rotation to go on with, or to lead back, as a sentence."""
    cluster = scene.cluster
    said = f"no CA of {cluster.name} is being rotated"
    if back:
        keys = ", nor are service-account keys" if cluster.service_account_keys else ""
        return f"{said}{keys}, so there is nothing to lead back"
    if cluster.service_account_keys and read_key_record(cluster, scene.vault).record is None:
        return (
            f"{said}, and no control-plane node has joined whose service-account key could be taken in; enrol one "
            f"first (`vaultpki enroll{cluster.file_option} NODE`)"
        )
    return f"{said}; `vaultpki ca rotate DOMAIN{cluster.file_option}` begins"


def finish_rotation(scene: Scene, domain: str) -> Step:
    """Finish what a rotation of a CA that has come to rest left on its mount."""
    return _finished(scene, domain)[1]


def reconcile(scene: Scene, domain: str) -> tuple[Scene, RotationMount]:
    """Make the server match a CA's record, and what goes along with it; return the mount too."""
    scene, mount, _ = reconcile_mount(scene, domain)
    return kind_of(domain).along(scene), mount


def _finished(scene: Scene, domain: str) -> tuple[Scene, Step, bool]:
    """Finish what a CA at rest has left; return the scene with its record, and whether anything was left."""
    scene, mount, writes = reconcile_mount(scene, domain)
    left = (domain == ROOT and root.correct_pin(scene)) or writes > 0
    record = scene.record(domain)
    return scene, Step(record, note=kind_of(domain).problem(scene.cluster, record, mount)), left


def _advance(scene: Scene, domain: str, said: Confirmations, *, back: bool) -> Step:
    """Take the next step of this CA's rotation if the gate is open."""
    kind, pods = kind_of(domain), said.pods
    scene, mount = reconcile(scene, domain)
    record = scene.record(domain)
    to = kind.step_to(scene, record, mount, back=back)
    if to is None:
        raise StateConflict(f"{domain} is {record.state.value}, and there is no step from there")
    told = kind.confirmed(scene, record, to, mount, said)
    if told.trust != record.trust:
        # Nobody's report answers this one yet, so the gate is closed.
        # A restart of before has read another bundle.
        record = told.changed(restarted=())
        scene = scene.writing(record)
        return Step(record, kind.gate(scene, record, to, mount, pods))

    def gate(keeps: str = "") -> Gate:
        return kind.gate(scene, told, to, mount, pods, keeps=keeps)

    nodes = [node.name for node in scene.nodes(domain)]
    seen = listener_trust.looked(scene.cluster, told, to, gate(), scene.now, nodes=nodes, look=said.look, kept=gate)
    if not seen.gate.open(scene.now):
        told = replace(seen.record, turn=seen.gate.turn)
        if told != record:
            record = told.changed()
            scene = scene.writing(record)
        return Step(record, seen.gate, note=kind.problem(scene.cluster, record, mount))
    scene, after = kind.moved(scene, replace(seen.record, turn=seen.gate.turn), to)
    scene = scene.writing(after)
    scene, mount = reconcile(scene, domain)
    record = _pass_emergency_gates(scene, domain).record(domain)
    following = next_state(record)
    return Step(
        record,
        kind.gate(scene, record, following, mount, pods) if following is not None else issuing.lingering(scene, record),
        moved=True,
        advice=serving_copy.advice(record, pods, ended=True) if to is not told.state else "",
        note=kind.problem(scene.cluster, record, mount) or seen.note,
    )


def _just_begun(record: RotationRecord | None, method: Method) -> bool:
    """Return whether the same command began this rotation and may have been interrupted."""
    if record is None or record.method is not method:
        return False
    hasty = method is Method.EMERGENCY and record.state in (State.PUBLISHED, State.RETIRED)
    return record.state is State.PREPARED or hasty


def _pass_emergency_gates(scene: Scene, domain: str) -> Scene:
    """Take the steps of an emergency until nobody trusts the old CA; no gate is waited for."""
    record = scene.record(domain)
    while record.method is Method.EMERGENCY and record.state in (State.PREPARED, State.PUBLISHED):
        to = next_state(record)
        mount = scene.mount(domain)
        if to is None or (record.state is State.PREPARED and issuing.unsigned(scene.cluster, record, mount)):
            # To distrust the old CA before there is a new one would be an outage as long as the signer takes.
            break
        scene, _, _ = reconcile_mount(scene.writing(record.moved(to, scene.now)), domain)
        record = scene.record(domain)
    return scene
