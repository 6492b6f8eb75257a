"""Rotates a CA: reads where it stands, decides by its gate, writes the record, and makes the server match it.

Every command may be killed at any request; the next one continues. Two operators at once never both take a step: the
record is written by check-and-set before the server is changed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from vaultpki.ca import gate as rotation_gate
from vaultpki.ca import letting_go, set_back
from vaultpki.ca.facts import read_mount
from vaultpki.ca.scene import Scene, read_old_root, record_of, refuse_active
from vaultpki.ca.server import life, match
from vaultpki.certificates import ISSUING_CAS, ROOT, ca_subject, rows
from vaultpki.errors import ArgumentError, StateConflict
from vaultpki.kube.objects import KubeTrust
from vaultpki.model import Cluster
from vaultpki.pki.facts import Facts
from vaultpki.provision.rotation_records import StoredRecord, read_records, write_record
from vaultpki.records.rotation import Method, RotationRecord, State
from vaultpki.redact import printable
from vaultpki.rotation import gates, listener_trust, mount_steps, recovery, serving_copy, start
from vaultpki.rotation.confirmations import NOTHING, Confirmations
from vaultpki.rotation.gates import Gate, Participant, Waiting
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount
from vaultpki.rotation.states import FORWARD, next_state

# States that may begin while the CA whose leaves are installed cannot sign: they lead to one that can.
_ON_THE_WAY: Final = frozenset({State.PUBLISHED, State.RETRUSTING})


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


@dataclass(frozen=True, slots=True)
class CaStatus:
    """One CA: its name, its certificate's SHA-256, end and kind of key, and where its rotation stands.

    `record` is None if it was never rotated. `next` is the state that `continue` leads to, with its gate; `back` the
    one that `abort` leads to. `problem` is why it cannot sign, in one sentence. `apart` are the nodes that have not the
    record that the server has, and cannot follow it. `advice` is as in `Step`.
    """

    domain: str
    name: str
    sha256: str
    not_after: datetime | None
    record: RotationRecord | None = None
    next: State | None = None
    back: State | None = None
    gate: Gate | None = None
    problem: str = ""
    key: str = ""
    apart: tuple[Waiting, ...] = ()
    advice: str = ""


def status(scene: Scene, pods: KubeTrust | None = None) -> tuple[CaStatus, ...]:
    """Return where each issuing CA stands; writes nothing. `pods` is what the Kubernetes cluster shows."""
    return tuple(scene.vault.map(lambda domain: _status(scene, domain, pods), ISSUING_CAS))


def rotate(scene: Scene, domain: str, method: Method, spread: int, without: Sequence[str] = ()) -> RotationRecord:
    """Begin the rotation of an issuing CA; returns its record. `spread` is in seconds; no gate waits for `without`.

    An emergency goes on until nobody trusts the old CA. A run that was cut off is continued. Raises StateConflict if
    another rotation is under way or this one cannot begin, Refused if another operator was faster.
    """
    if domain not in ISSUING_CAS:
        raise ArgumentError(f"there is no issuing CA {domain}; write one of {', '.join(ISSUING_CAS)}")
    cluster, vault, now, stored = scene.cluster, scene.vault, scene.now, scene.records[domain]
    if _just_begun(stored, method):
        stored, _, _ = match(cluster, vault, stored, scene.root, now)
        return record_of(_hasten(scene, stored))
    hasty = method is Method.EMERGENCY
    if not hasty:
        # What nodes say does not stop an emergency.
        set_back.refuse(scene, without)
        _refuse_name(cluster, domain)
    refuse_active(cluster, scene.records)
    before = stored.record or (_lost_record(scene, domain) if hasty else None)
    life(cluster, domain, scene.root, now)
    if stored.record is None:
        mount = read_mount(cluster, vault, domain, scene.root)
    else:
        stored, mount, _ = match(cluster, vault, stored, scene.root, now)
    begun = start.first_record(cluster, domain, method, spread, before, mount, scene.nodes(domain), now)
    revision = recovery.emergency_revision(domain, begun, scene.nodes(domain)) if hasty else begun.revision
    begun = replace(begun, revision=revision, excused=tuple(sorted(set(without))))
    written = write_record(cluster, vault, begun, stored.version)
    others = {name: each for name, each in read_records(cluster, vault).items() if name != domain}
    if any(each.record is not None and each.record.active for each in others.values()):
        # Two operators began one each: both are withdrawn, or the later one.
        write_record(cluster, vault, start.withdrawn(begun, stored.record, now), written.version)
        refuse_active(cluster, others)
    written, _, _ = match(cluster, vault, written, scene.root, now)
    return record_of(_hasten(scene, written))


def step(
    scene: Scene,
    said: Confirmations = NOTHING,
    *,
    back: bool,
) -> Step:
    """Take the next step of the rotation, or of its way back, if the gate is open; else say what it waits for."""
    cluster, vault, now = scene.cluster, scene.vault, scene.now
    resting = [each for each in scene.records.values() if each.record is not None and not each.record.active]
    done = [match(cluster, vault, each, scene.root, now) for each in resting if each.domain != ROOT]
    stored = next((each for each in scene.records.values() if each.record is not None and each.record.active), None)
    if stored is None:
        for finished, _, _ in done if back else ():
            if letting_go.held(scene, record_of(finished)) is not None:
                return _let_go(scene, finished, said)
        for finished, mount, writes in done:
            record = record_of(finished)
            if writes or mount_steps.problem(cluster.name, record, mount):
                return Step(record, note=mount_steps.problem(cluster.name, record, mount))
        raise StateConflict(
            f"no CA of {cluster.name} is being rotated; `vaultpki ca rotate DOMAIN -f {cluster.file}` begins"
        )
    stored, mount, _ = match(cluster, vault, stored, scene.root, now)
    record, nodes = record_of(stored), scene.nodes(stored.domain)
    to = _next(cluster, record, mount, back=back)
    if to is None:
        raise StateConflict(f"{record.domain} is {record.state.value}, and there is no step from there")
    _refuse_unusable(cluster, record, to, mount)
    _refuse_unknown(scene, record, nodes, said)
    told = _told(recovery.named_since(record, mount, nodes), to, nodes, now, said)
    if told.trust != record.trust:
        # Nobody's report answers this one yet, so the gate is closed.
        written = write_record(cluster, vault, replace(told, revision=record.revision + 1), stored.version)
        return Step(record_of(written), rotation_gate.gate(scene, record_of(written), to, mount, nodes, said.pods))
    gate = rotation_gate.gate(scene, told, to, mount, nodes, said.pods)

    def kept(turn: str) -> Gate:
        return rotation_gate.gate(scene, told, to, mount, nodes, said.pods, keeps=turn)

    seen = listener_trust.looked(
        cluster, told, to, gate, now, nodes=[each.name for each in nodes], look=said.look, kept=kept
    )
    told, gate = seen.record, seen.gate
    if gate.open(now):
        moved = told.moved(to, now, **_changes(told, to))
        stored, mount, _ = match(cluster, vault, write_record(cluster, vault, moved, stored.version), scene.root, now)
        record = record_of(_hasten(scene, stored))
        after = next_state(record)
        return Step(
            record,
            rotation_gate.gate(scene, record, after, mount, nodes, said.pods)
            if after is not None
            else letting_go.held(scene, record),
            moved=True,
            advice=serving_copy.advice(record, said.pods, ended=True),
            note=mount_steps.problem(cluster.name, record, mount) or seen.note,
        )
    told = replace(told, turn=gate.turn)
    if told != record:
        stored = write_record(cluster, vault, replace(told, revision=record.revision + 1), stored.version)
    return Step(record_of(stored), gate, note=mount_steps.problem(cluster.name, record, mount))


def _let_go(scene: Scene, stored: StoredRecord, said: Confirmations) -> Step:
    """Go on at the end of a way back, until no process holds the CA that was deleted."""
    record = record_of(stored)
    nodes = letting_go.nodes(scene, record)
    _refuse_unknown(scene, record, nodes, said)
    told = _told(record, State.STEADY, nodes, scene.now, said)

    def kept(turn: str) -> Gate:
        return letting_go.gate(scene, told, keeps=turn)

    names, found = [each.name for each in nodes], letting_go.gate(scene, told)
    seen = listener_trust.looked(
        scene.cluster, told, State.STEADY, found, scene.now, nodes=names, look=said.look, kept=kept
    )
    over = seen.gate.open(scene.now)
    told = replace(seen.record, turn="" if over else seen.gate.turn, let_go=over)
    if told != record:
        changed = replace(told, revision=record.revision + 1)
        stored = write_record(scene.cluster, scene.vault, changed, stored.version)
    return Step(record_of(stored), None if over else seen.gate, moved=over, note=seen.note)


def rest(scene: Scene, domain: str) -> Step:
    """Finish what a rotation of an issuing CA that has come to rest left on its mount."""
    stored, mount, _ = match(scene.cluster, scene.vault, scene.records[domain], scene.root, scene.now)
    record = record_of(stored)
    return Step(record, note=mount_steps.problem(scene.cluster.name, record, mount))


def _just_begun(stored: StoredRecord, method: Method) -> bool:
    """Return whether the same command began this rotation and may have been cut off."""
    record = stored.record
    if record is None or record.method is not method:
        return False
    hasty = method is Method.EMERGENCY and record.state in (State.PUBLISHED, State.RETIRED)
    return record.state is State.PREPARED or hasty


def _next(cluster: Cluster, record: RotationRecord, mount: RotationMount, *, back: bool) -> State | None:
    """Return the state that `continue` or `abort` leads to; on a way back that has lost its CA, on again."""
    lost = record.state is State.RETURNING and not mount_steps.usable(cluster.name, record, mount, record.old)
    return FORWARD[record.state] if lost and not back else next_state(record, back=back)


def _refuse_unusable(cluster: Cluster, record: RotationRecord, to: State, mount: RotationMount) -> None:
    """Raise StateConflict if the CA whose leaves the next state installs cannot sign any."""
    later = record.moved(to, record.since)
    ca = record.new if later.leaf is record.new else record.old
    why = mount_steps.problem(cluster.name, record, mount, ca)
    if why and to not in _ON_THE_WAY:
        raise StateConflict(why)


def _refuse_unknown(
    scene: Scene,
    record: RotationRecord,
    nodes: Collection[Participant],
    said: Confirmations,
) -> None:
    """Raise ArgumentError for a name that nobody has whom a gate may wait for."""
    cluster, names = scene.cluster, {node.name for node in nodes}
    # Its word on another CA may be what is set aside.
    aside = {each.name for each in scene.members if each.kind == "listed"}
    if record.domain == serving_copy.DOMAIN:
        names.add(serving_copy.WORD)
    certificates = {row.name for row in rows(cluster) if row.operator and row.ca == record.domain}
    for name in (*said.without, *said.restarted):
        if name not in names and not (name in certificates | aside and name in said.without):
            raise ArgumentError(
                f"{printable(name)} takes no part in the rotation of {record.domain}; "
                f"`vaultpki ca status -f {cluster.file}` names those that it waits for"
            )


def _told(
    record: RotationRecord,
    to: State,
    nodes: Collection[Participant],
    now: datetime,
    said: Confirmations,
) -> RotationRecord:
    """Return the record with what a person says about nodes; raise StateConflict if that does not count."""
    by_name = {node.name: node for node in nodes}
    for name in said.restarted:
        node = by_name.get(name)
        if why := gates.restart_refused(record, to, node, now) if node else serving_copy.word_refused(record, to):
            raise StateConflict(why)
    for name in said.without:
        # The gate goes on waiting for a member of etcd whose word does not count any more.
        set_aside = name in by_name and recovery.ahead(record.domain, record, [by_name[name]])
        if name in by_name and not set_aside and (why := gates.without_refused(record, by_name[name], now)):
            raise StateConflict(why)
    return said.noted(record)


def _refuse_name(cluster: Cluster, domain: str) -> None:
    """Raise StateConflict if a node has the name by which a person speaks of something else."""
    if domain == serving_copy.DOMAIN and any(node.name == serving_copy.WORD for node in cluster.nodes):
        raise StateConflict(
            f"a node is called {serving_copy.WORD}, which `--restarted` means something else by; rename it first"
        )


def _changes(record: RotationRecord, to: State) -> dict[str, Method]:
    """Return what else changes with a step: who trusts a stolen key again goes on as after any other rotation."""
    again = to is State.RETRUSTING and record.method is Method.EMERGENCY
    return {"method": Method.NEW_KEY} if again else {}


def _hasten(scene: Scene, stored: StoredRecord) -> StoredRecord:
    """Go on, in an emergency, until nobody trusts the old CA: no gate is waited for."""
    record = record_of(stored)
    while record.method is Method.EMERGENCY and record.state in (State.PREPARED, State.PUBLISHED):
        to = next_state(record)
        if to is None:
            break
        written = write_record(scene.cluster, scene.vault, record.moved(to, scene.now), stored.version)
        stored, _, _ = match(scene.cluster, scene.vault, written, scene.root, scene.now)
        record = record_of(stored)
    return stored


def _lost_record(scene: Scene, domain: str) -> RotationRecord | None:
    """Return a record in place of a lost one, by which the CA that signs is replaced; None if none was lost."""
    mount = set_back.lost_mount(scene, domain)
    if mount is None:
        return None
    found = recovery.rebuilt(scene.cluster.name, domain, mount, (), scene.now)
    later = found.new is not None and mount.default == found.new.issuer
    return replace(found, state=State.DONE if later else State.STEADY)


def _own(scene: Scene, domain: str, mount: RotationMount) -> MountIssuer | None:
    """Return the issuer of a CA that was never rotated; of the old root as long as it has not followed the new one."""
    name = scene.cluster.name
    found = start.own_issuer(name, domain, mount)
    old = read_old_root(scene) if found is None else None
    return found if old is None else start.own_issuer(name, domain, replace(mount, root=old))


def _status(scene: Scene, domain: str, pods: KubeTrust | None) -> CaStatus:
    record, cluster = scene.records[domain].record, scene.cluster
    mount, nodes = read_mount(cluster, scene.vault, domain, scene.root), scene.nodes(domain)
    behind = set_back.why(scene, domain, record.excused if record is not None else ())
    if behind:
        behind += f"; {set_back.what_to_do(cluster, set_back.with_root(scene, domain))}"
    if record is None:
        own = _own(scene, domain, mount)
        facts = own.facts if own is not None else None
        missing = f"{mount.path} has no CA {ca_subject(cluster.name, domain)}; run `vaultpki apply -f {cluster.file}`"
        return CaStatus(
            domain,
            own.name if own is not None else f"{domain}-1",
            facts.fingerprint if facts is not None else "",
            facts.not_after if facts is not None else None,
            problem=behind or ("" if own is not None else missing),
            key=_kind(facts),
        )
    issuer = mount_steps.issuer_of(cluster.name, record, mount, record.leaf)
    facts = issuer.facts if issuer is not None else None
    to = next_state(record)
    return CaStatus(
        domain,
        record.leaf.name,
        record.leaf.sha256,
        facts.not_after if facts is not None else None,
        record,
        to,
        next_state(record, back=True),
        rotation_gate.shown(scene, record, to, mount, nodes, pods)
        if to is not None
        else letting_go.held(scene, record),
        behind or mount_steps.problem(cluster.name, record, mount),
        _kind(facts),
        advice=serving_copy.advice(record, pods),
    )


def _kind(facts: Facts | None) -> str:
    """Return the kind of a CA's key as cluster.yaml writes it; empty if it is unknown."""
    return facts.key.value if facts is not None and facts.key is not None else ""
