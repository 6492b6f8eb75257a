"""Rotates the root CA, and takes the issuing CAs along.

As `rotation_run` for issuing CAs. In `switched` each issuing CA begins a renewal with its own key, signed by the new
root; its record then goes through the same states as the root's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vaultpki.ca import root_server, set_back
from vaultpki.ca import server as rotation_server
from vaultpki.ca.facts import longest_ttl, read_mount, read_root, reload
from vaultpki.ca.run import CaStatus, Step
from vaultpki.ca.scene import Scene, read_old_root, record_of, refuse_active
from vaultpki.certificates import ISSUING_CAS, ROOT
from vaultpki.errors import ArgumentError, StateConflict
from vaultpki.kube.objects import KubeTrust
from vaultpki.model import Cluster
from vaultpki.provision.rotation_records import StoredRecord, read_records, write_record
from vaultpki.records.rotation import CaRef, Method, RotationRecord, State
from vaultpki.rotation import gates, listener_trust, recovery, root_gates, root_recovery, root_steps, start
from vaultpki.rotation.confirmations import NOTHING, Confirmations
from vaultpki.rotation.gates import Gate, Participant
from vaultpki.rotation.mount_steps import RotationMount
from vaultpki.rotation.reasons import Transition
from vaultpki.rotation.root_gates import COMING_TO_REST, PODS, WITH_COMPANIONS, WORDS
from vaultpki.rotation.states import next_state, number
from vaultpki.vault import member

# For these nobody is waited for: they take nobody's trust away, and nodes go on serving what clients verify.
_FREE = frozenset(
    {
        (State.PREPARED, State.PUBLISHED),
        (State.PREPARED, State.STEADY),
        (State.PUBLISHED, State.STEADY),
        (State.SWITCHED, State.RETURNING),
        (State.RETIRED, State.RETRUSTING),
    }
)


def rotate(scene: Scene, method: Method, spread: int, without: Sequence[str] = ()) -> RotationRecord:
    """Begin the rotation of the root; returns its record. `spread` is in seconds, and nobody waits for `without`.

    A run that was cut off is continued. Raises StateConflict if another rotation is under way or this one cannot begin,
    Refused if another operator was faster.
    """
    _refuse_method(method)
    cluster, vault = scene.cluster, scene.vault
    begun = scene.records[ROOT].record
    if begun is not None and begun.state is State.PREPARED:
        # The same command began it, and may have been cut off.
        return record_of(root_server.match(cluster, vault, scene.records[ROOT], scene.root, scene.now)[0])
    set_back.refuse(scene, without)
    refuse_active(cluster, scene.records)
    taken = {node.name for node in cluster.nodes} & WORDS
    if taken:
        raise StateConflict(
            f"a node is called {min(taken)}, which `--restarted` means something else by; rename it first"
        )
    before = scene.records[ROOT].record
    stored = scene.records[ROOT]
    if before is not None:
        stored, _, _ = root_server.match(cluster, vault, stored, scene.root, scene.now)
    mount = read_mount(cluster, vault, ROOT, scene.root)
    old = before.leaf if before is not None else _own(cluster, mount)
    highest = max(number(old.name), before.highest if before is not None else 1, *start.numbers(ROOT, mount))
    begun = RotationRecord(
        domain=ROOT,
        state=State.PREPARED,
        revision=(before.revision if before is not None else 0) + 1,
        since=scene.now,
        old=old,
        new=CaRef(f"{ROOT}-{highest + 1}"),
        highest=highest + 1,
        spread=spread,
        excused=tuple(sorted(set(without))),
    )
    written = write_record(cluster, vault, begun, stored.version)
    others = {name: each for name, each in read_records(cluster, vault).items() if name != ROOT}
    if any(each.record is not None and each.record.active for each in others.values()):
        write_record(cluster, vault, start.withdrawn(begun, before, scene.now), written.version)
        refuse_active(cluster, others)
    written, _, _ = root_server.match(cluster, vault, written, scene.root, scene.now)
    return record_of(written)


def active(scene: Scene) -> bool:
    """Return whether the root is being rotated."""
    record = scene.records[ROOT].record
    return record is not None and record.active


def propose(scene: Scene, aside: Sequence[str]) -> dict[str, RotationRecord]:
    """Return the records with which the root, and each issuing CA that nodes have read more of, go on.

    `aside` are the nodes whose word does not count.
    """
    mount = read_mount(scene.cluster, scene.vault, ROOT, scene.root)
    companions = {ca: scene.records[ca].record for ca in ISSUING_CAS}
    record, name = scene.records[ROOT].record, scene.cluster.name
    root = root_recovery.recovered(name, record, mount, scene.nodes(ROOT), companions, aside, scene.now)
    found = {ROOT: root}
    for ca in ISSUING_CAS:
        if set_back.told(ca, companions[ca], scene.nodes(ca), aside):
            found[ca] = _renewed(scene, ca, root, aside)
    return found


def recover(scene: Scene, records: Mapping[str, RotationRecord]) -> RotationRecord:
    """Write what `propose` returned, and make the server match; returns the root's record."""
    cluster, vault, stored = scene.cluster, scene.vault, dict(scene.records)
    for domain, record in records.items():
        stored[domain] = write_record(cluster, vault, record, stored[domain].version)
    scene = replace(scene, records=stored)
    scene = _settled(scene) if records[ROOT].active else scene
    return record_of(scene.records[ROOT])


def _renewed(scene: Scene, ca: str, root: RotationRecord, aside: Sequence[str]) -> RotationRecord:
    """Return an issuing CA's record with a higher revision than nodes have read, in the state that fits the root's."""
    own, nodes = scene.records[ca].record, scene.nodes(ca)
    revision = recovery.next_revision(ca, own, nodes, aside)
    if own is None:
        mount = read_mount(scene.cluster, scene.vault, ca, scene.root)
        own = recovery.rebuilt(scene.cluster.name, ca, mount, nodes, scene.now)
    state = State.RETRUSTING if own.active and root.state is State.RETRUSTING else own.state
    return replace(own.moved(state, scene.now), revision=revision)


def rest(scene: Scene) -> Step | None:
    """Finish what a rotation of the root that has come to rest left on its mount; None if nothing was left."""
    cluster, vault, stored = scene.cluster, scene.vault, scene.records[ROOT]
    if stored.record is None or stored.record.active:
        return None
    stored, mount, writes = root_server.match(cluster, vault, stored, scene.root, scene.now)
    left = _correct_pin(scene, record_of(stored)) or writes > 0
    return Step(record_of(stored), note=root_steps.problem(cluster.name, record_of(stored), mount)) if left else None


def step(
    scene: Scene,
    said: Confirmations = NOTHING,
    *,
    back: bool,
) -> Step:
    """Take the next step of the root's rotation, or of its way back, if the gate is open; else say what it waits for.

    What is said to have been restarted may be `pods` and `outside` too.
    """
    scene = _settled(scene)
    cluster, vault, stored = scene.cluster, scene.vault, scene.records[ROOT]
    record = record_of(stored)
    _refuse_late(scene, record, back=back)
    to = next_state(record, back=back)
    if to is None:
        raise StateConflict(f"root is {record.state.value}, and there is no step from there")
    own = _own_gate(scene, record, to)
    told = _told(scene, record, to, own, said)
    gate = _gate(scene, told, to, said.pods)

    def kept(turn: str) -> Gate:
        return _gate(scene, told, to, said.pods, keeps=turn)

    names = [node.name for node in scene.nodes(ROOT)]
    gate = listener_trust.looked(cluster, told, to, gate, scene.now, nodes=names, look=said.look, kept=kept).gate
    if not gate.open(scene.now):
        told = replace(told, turn=gate.turn)
        if told != record:
            stored = write_record(cluster, vault, replace(told, revision=record.revision + 1), stored.version)
        return Step(record_of(stored), gate)
    if to is State.DONE and not told.closing:
        # Issuing CAs lose what the way back needs, so no other operator may take it from here on.
        told = replace(told, revision=record.revision + 1, closing=True)
        stored = write_record(cluster, vault, told, stored.version)
    moved = told.moved(to, scene.now)
    if to in COMING_TO_REST:
        # The root's record last: until then another run knows that these belong to it.
        scene = _followed(scene, moved)
    stored = write_record(cluster, vault, moved, stored.version)
    scene = _settled(replace(scene, records={**scene.records, ROOT: stored}))
    record = record_of(scene.records[ROOT])
    after = next_state(record)
    return Step(record, _gate(scene, record, after, said.pods) if after is not None else None, moved=True)


def status(scene: Scene, pods: KubeTrust | None = None) -> CaStatus:
    """Return where the root stands; writes nothing."""
    cluster, vault = scene.cluster, scene.vault
    record, mount = scene.records[ROOT].record, read_mount(cluster, vault, ROOT, scene.root)
    behind = set_back.why(scene, ROOT, record.excused if record is not None else ())
    if behind:
        behind += f"; {set_back.what_to_do(cluster, ROOT)}"
    kind = scene.root.key.value if scene.root.key is not None else ""
    if record is None:
        return CaStatus(ROOT, f"{ROOT}-1", scene.root.fingerprint, scene.root.not_after, problem=behind, key=kind)
    to = next_state(record)
    issuer = mount.issuer(record.leaf.issuer)
    return CaStatus(
        ROOT,
        record.leaf.name,
        record.leaf.sha256,
        issuer.facts.not_after if issuer is not None and issuer.facts is not None else None,
        record,
        to,
        next_state(record, back=True),
        _gate(scene, record, to, pods) if to is not None else None,
        behind or root_steps.problem(cluster.name, record, mount),
        kind,
    )


def _settled(scene: Scene) -> Scene:
    """Make the server match the root's record, and the issuing CAs follow it."""
    cluster, vault = scene.cluster, scene.vault
    stored, _, _ = root_server.match(cluster, vault, scene.records[ROOT], scene.root, scene.now)
    # The default issuer may be another root now.
    root = read_root(cluster, vault, scene.now, known=scene.root)
    scene = replace(scene, root=root, records={**scene.records, ROOT: stored})
    _correct_pin(scene, record_of(stored))
    return _followed(scene, record_of(stored))


def _correct_pin(scene: Scene, record: RotationRecord) -> bool:
    """Write the new root into the cluster's record once the old one has gone; return whether it was not there."""
    kv, store = scene.vault.api.secrets.kv.v2, scene.cluster.mount("config")
    if record.state is not State.DONE:
        return False
    found = scene.vault.stored(store, "cluster")
    value, version = found.get("data"), member(found, "metadata").get("version")
    if not isinstance(value, dict) or value.get("root_sha256") != record.old.sha256:
        return False
    corrected = {**value, "root_sha256": record.leaf.sha256}
    kv.create_or_update_secret("cluster", corrected, cas=version, mount_point=store)
    return True


def _followed(scene: Scene, record: RotationRecord) -> Scene:
    """Bring each issuing CA to the state of the root's record, one after the other, and its mount with it."""
    cluster, vault, records = scene.cluster, scene.vault, dict(scene.records)
    if record.state in (State.PREPARED, State.PUBLISHED):
        return scene
    for ca in ISSUING_CAS:
        stored = records[ca]
        while True:
            if stored.record is not None:
                stored, _, _ = rotation_server.match(cluster, vault, stored, scene.root, scene.now)
            to = root_gates.next_companion(record.state, stored.record)
            if to is None:
                break
            after = _begun(scene, record, ca, stored) if to is State.PUBLISHED else None
            after = after or record_of(stored).moved(to, scene.now)
            stored = write_record(cluster, vault, after, stored.version)
        records[ca] = stored
    return replace(scene, records=records)


def _begun(scene: Scene, record: RotationRecord, ca: str, stored: StoredRecord) -> RotationRecord:
    """Return the record with which an issuing CA begins its renewal under the new root."""
    cluster, vault = scene.cluster, scene.vault
    old = read_old_root(scene)
    if old is None:
        roots = read_mount(cluster, vault, ROOT, scene.root)
        raise StateConflict(root_steps.problem(cluster.name, record, roots))
    mount = read_mount(cluster, vault, ca, old)
    begun = start.first_record(
        cluster, ca, Method.SAME_KEY, record.spread, stored.record, mount, scene.nodes(ca), scene.now
    )
    return replace(begun, state=State.PUBLISHED, excused=record.excused)


def _gate(scene: Scene, record: RotationRecord, to: State, pods: KubeTrust | None, *, keeps: str = "") -> Gate:
    if record.closing:
        # What was begun when the gate was open goes on.
        return Gate(opens=record.since)
    companions = {}
    if (record.state, to) in WITH_COMPANIONS:
        for ca in ISSUING_CAS:
            own = scene.records[ca].record
            if own is not None and own.active:
                own = replace(own, turn=record.turn, restarted=record.restarted, excused=record.excused)
                companions[ca] = _gate_of(scene, own, to, keeps)
    return root_gates.gate(record, to, _own_gate(scene, record, to, keeps), companions, pods)


def _own_gate(scene: Scene, record: RotationRecord, to: State, keeps: str = "") -> Gate:
    return Gate(opens=record.since) if (record.state, to) in _FREE else _gate_of(scene, record, to, keeps)


def _gate_of(scene: Scene, record: RotationRecord, to: State, keeps: str) -> Gate:
    domain = record.domain if record.domain != ROOT else "kubernetes"
    # Without key ids: the leaves stay those of the same keys.
    step = Transition(
        record, to, scene.now, reload(scene.cluster, domain), longest_ttl(scene.cluster, domain), turn=keeps
    )
    return gates.gate(step, scene.nodes(record.domain))


def _told(scene: Scene, record: RotationRecord, to: State, own: Gate, said: Confirmations) -> RotationRecord:
    """Return the record with what a person says; raise StateConflict if that does not count."""
    nodes = {node.name: node for node in scene.nodes(ROOT)}
    for name in said.restarted:
        if name in WORDS:
            why = root_gates.word_refused(record, to, name, own)
        elif name not in nodes:
            why = f"{name} takes no part in the rotation of the root; look at its name"
        else:
            why = _restart_refused(scene, record, to, nodes[name])
        if why:
            raise StateConflict(why)
    for name in said.without:
        if name == PODS or any(
            why := gates.without_refused(replace(record, domain=ca), node, scene.now)
            for ca in ISSUING_CAS
            for node in scene.nodes(ca)
            if node.name == name
        ):
            raise StateConflict(
                why if name != PODS else f"pods cannot be left out; restart them (`--restarted {PODS}`)"
            )
    return said.noted(record)


def _restart_refused(scene: Scene, record: RotationRecord, to: State, node: Participant) -> str:
    why = gates.restart_refused(record, to, node, scene.now)
    if why or (record.state, to) not in WITH_COMPANIONS:
        return why
    for ca in ISSUING_CAS:
        own, mine = scene.records[ca].record, {each.name: each for each in scene.nodes(ca)}
        if own is not None and own.active and mine[node.name].readers:
            own = replace(own, turn=record.turn)
            why = why or gates.restart_refused(own, to, mine[node.name], scene.now)
    return why


def _refuse_method(method: Method) -> None:
    if method is Method.SAME_KEY:
        raise ArgumentError(
            "the root is trusted by its certificate, so another one for the same key is a new root all the same; leave "
            "out `--same-key`"
        )
    if method is Method.EMERGENCY:
        raise ArgumentError(
            "nodes take a new root on the word of the old one alone, and a thief of its key can give that word too; "
            "leave out `--emergency` if the key is safe, else make another cluster (`prefix`), and join every node anew"
        )


def _refuse_late(scene: Scene, record: RotationRecord, *, back: bool) -> None:
    """Raise StateConflict for a way back once an issuing CA has lost its certificate under the old root."""
    done = [ca for ca in ISSUING_CAS if (own := scene.records[ca].record) is not None and not own.active]
    if back and record.state is State.RETIRED and (done or record.closing):
        which = f" ({', '.join(done)})" if done else ""
        raise StateConflict(
            f"the certificates under the old root are being deleted{which}, from which there is no way back; go on "
            f"with `vaultpki ca continue -f {scene.cluster.file}`"
        )


def _own(cluster: Cluster, mount: RotationMount) -> CaRef:
    """Return the root that `apply` made."""
    name = f"{ROOT}-1"
    own = next((each for each in mount.issuers if each.name == name and each.id == mount.default), None)
    if own is None or not own.key or own.facts is None:
        raise StateConflict(
            f"{mount.path} does not sign by its own root CA {name}; run `vaultpki apply -f {cluster.file}` first"
        )
    return CaRef(name, own.id, own.key, own.sha256)
