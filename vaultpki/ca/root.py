"""Knows what is special about the rotation of the root: the issuing CAs that go along, pods, and kubeconfigs outside.

`run` is the course that it shares with an issuing CA. In `switched` each issuing CA begins a renewal with its own key,
signed by the new root; its record then goes through the same states as the root's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vaultpki.ca import issuing, outside_move, token_key_certificates
from vaultpki.ca.facts import longest_ttl, read_joined, read_root, reload
from vaultpki.ca.mount_writes import reconcile_mount
from vaultpki.ca.scene import Scene, read_old_root
from vaultpki.certificates import ROOT, SERVICE_ACCOUNT, issuing_cas
from vaultpki.errors import ArgumentError, StateConflict
from vaultpki.kube.objects import KubeTrust
from vaultpki.model import Cluster
from vaultpki.procedure.gate import Gate
from vaultpki.records.rotation import CA_TABLE, Method, RotationRecord, State
from vaultpki.redact import printable
from vaultpki.rotation import gates, root_gates, root_steps, start
from vaultpki.rotation.confirmations import Confirmations
from vaultpki.rotation.gates import Participant
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount
from vaultpki.rotation.reasons import Transition
from vaultpki.rotation.root_gates import COMING_TO_REST, PODS, WITH_COMPANIONS
from vaultpki.rotation.states import next_state
from vaultpki.vault.kv import changed_meanwhile, read_stored, write_over


def refuse_beginning(scene: Scene, domain: str, method: Method) -> None:
    """Raise ArgumentError if the root has no such rotation, StateConflict if it is not ours or a name means another."""
    if method is Method.SAME_KEY:
        raise ArgumentError(
            "the root is trusted by its certificate, so another one for the same key is a new root all the same; leave "
            "out `--same-key`"
        )
    if method is Method.EMERGENCY:
        raise ArgumentError(
            "nodes trust a new root only because the old one signed it, and a thief of its key can sign one too. "
            "If the key is safe, leave out `--emergency`. Else make another cluster (`prefix`), and join every node "
            "anew"
        )
    outside_move.refuse_beginning(scene)


def signer(cluster: Cluster, record: RotationRecord, mount: RotationMount) -> MountIssuer | None:
    """Return the issuer of the root in force; None if the mount does not have it."""
    return root_steps.signer(cluster.name, record, mount)


def problem(cluster: Cluster, record: RotationRecord, mount: RotationMount) -> str:
    """Return why the root in force cannot sign, as a sentence; "" if it can."""
    return root_steps.problem(cluster.name, record, mount)


def step_to(scene: Scene, record: RotationRecord, mount: RotationMount, *, back: bool) -> State | None:
    """Return the state that comes next; None if there is none.

    Raises StateConflict for a rollback once an issuing CA has lost its certificate under the old root.
    """
    done = [ca for ca in issuing_cas(scene.cluster) if (own := scene.records[ca].record) is not None and not own.active]
    if back and record.state is State.RETIRED and (done or record.closing):
        which = f" ({', '.join(done)})" if done else ""
        raise StateConflict(
            f"the certificates under the old root are being deleted{which}. This cannot be undone. Go on: "
            f"`vaultpki ca continue{scene.cluster.file_option}`"
        )
    to = next_state(record, back=back)
    if to is not None and not back and record.state is not State.RETURNING:
        outside_move.refuse_other_target(scene, record)
    return to


def confirmed(
    scene: Scene, record: RotationRecord, to: State, mount: RotationMount, said: Confirmations
) -> RotationRecord:
    """Return the record with what a person says; raise StateConflict if that does not count."""
    nodes = {node.name: node for node in scene.nodes(ROOT)}
    own = _of_nodes(scene, record, to)
    joined = read_joined(scene.cluster, scene.vault, scene.now) if said.restarted else {}
    for word in said.restarted:
        name = word.partition("/")[0]
        if name in joined:
            if why := root_gates.rejoin_refused(record, to, word, joined[name]):
                raise StateConflict(why)
            continue
        if name not in nodes:
            raise ArgumentError(f"{printable(name)} takes no part in the rotation of the root; look at its name")
        steps = [(Transition(record, to, scene.now), nodes[name]), *_along_with(scene, record, to, name)]
        why = gates.restart_refused(word, steps)
        if why := token_key_certificates.word_refused(scene, record, word, why):
            raise StateConflict(why)
    for word in said.checked:
        if why := root_gates.word_refused(record, to, word, own, crossed=_crossed(scene, record, mount)):
            raise StateConflict(why)
    for name in said.without:
        why = f"pods cannot be left out; restart them (`--checked {PODS}`)" if name == PODS else ""
        if why := why or (gates.without_refused(record, nodes[name], scene.now) if name in nodes else ""):
            raise StateConflict(why)
    return said.noted(record)


def _along_with(scene: Scene, record: RotationRecord, to: State, name: str) -> Iterator[tuple[Transition, Participant]]:
    """Yield the steps of the issuing CAs that go along with the root, each with the node as its gate counts it."""
    if (record.state, to) in WITH_COMPANIONS:
        for ca in filter(scene.active, issuing_cas(scene.cluster)):
            own = replace(scene.record(ca), turn=record.turn)
            yield from ((Transition(own, to, scene.now), node) for node in scene.nodes(ca) if node.name == name)


def gate(
    scene: Scene,
    record: RotationRecord,
    to: State,
    mount: RotationMount,
    pods: KubeTrust | None,
    *,
    whole: bool = False,
    keeps: str = "",
) -> Gate:
    """Return the gate of a step. `pods` is what the Kubernetes cluster shows; `keeps` is the node that keeps the turn.

    What was begun when the gate was open goes on.
    """
    if record.closing:
        return Gate(opens=record.since, turn=record.turn)
    if (record.state, to) == (State.PREPARED, State.PUBLISHED):
        return outside_move.gate(scene, record, mount)
    along = filter(scene.active, issuing_cas(scene.cluster))
    unsigned = [ca for ca in along if issuing.waits_for_signer(scene, scene.record(ca))]
    if (record.state, to) == (State.SWITCHED, State.RETIRED) and unsigned:
        return Gate(tuple(issuing.for_signer(scene.target, scene.record(ca)) for ca in unsigned), turn=record.turn)
    companions = {}
    if (record.state, to) in WITH_COMPANIONS:
        for ca in filter(scene.active, issuing_cas(scene.cluster)):
            own = replace(scene.record(ca), turn=record.turn, restarted=record.restarted, excused=record.excused)
            companions[ca] = _of_nodes(scene, own, to, keeps)
            if ca == SERVICE_ACCOUNT:
                companions[ca] = token_key_certificates.joined(scene, own, to, scene.mount(ca), companions[ca])
    nodes, crossed = _of_nodes(scene, record, to, keeps), _crossed(scene, record, mount)
    # A mount may have very many certificates, and whoever waits asks again and again.
    looks = root_gates.waits_for_joined(record, to) and (whole or not nodes.waiting)
    joined = read_joined(scene.cluster, scene.vault, scene.now) if looks else {}
    return root_gates.gate(record, to, nodes, companions, pods, crossed=crossed, joined=joined)


def _crossed(scene: Scene, record: RotationRecord, mount: RotationMount) -> bool:
    return root_steps.cross_issuer(scene.cluster.name, record, mount) is not None


def _of_nodes(scene: Scene, record: RotationRecord, to: State, keeps: str = "") -> Gate:
    """Return what nodes alone keep a step from, of the root or of an issuing CA that goes along."""
    cluster, domain = scene.cluster, record.domain if record.domain != ROOT else "kubernetes"
    # Without key ids: the leaves stay those of the same keys.
    step = Transition(record, to, scene.now, reload(cluster, domain), longest_ttl(cluster, domain), turn=keeps)
    return gates.gate(step, scene.nodes(record.domain))


def moved(scene: Scene, record: RotationRecord, to: State) -> tuple[Scene, RotationRecord]:
    """Return the record in the next state, with the issuing CAs where they must be before it is written."""
    if CA_TABLE.phases[to].destroys and not record.closing:
        # Issuing CAs lose what the rollback needs, so no other operator may take it from here on.
        record = record.changed(closing=True)
        scene = scene.writing(record)
    after = record.moved(to, scene.now)
    # Of a rotation that ends the root's record is the last: until then another run knows that theirs belong to it.
    return (_followed(scene, after) if to in COMING_TO_REST else scene), after


def along(scene: Scene) -> Scene:
    """Bring the issuing CAs, and the cluster's own record of its root, to where the root's record is."""
    # The default issuer may be another root now.
    scene = scene.with_root(read_root(scene.target, scene.vault, scene.now, known=scene.root))
    correct_pin(scene)
    return _followed(scene, scene.record(ROOT))


def correct_pin(scene: Scene) -> bool:
    """Write the new root into the cluster's record once the old one has gone; return whether it was not there.

    Raises ChangedMeanwhile if somebody else has written that record since it was read.
    """
    cluster, store, record = scene.cluster, scene.cluster.mount("config"), scene.record(ROOT)
    if record.state is not State.DONE:
        return False
    found = read_stored(scene.vault, store, "cluster", lambda value: value)
    value = found.record
    if not isinstance(value, dict) or value.get("root_sha256") != record.old.sha256:
        return False
    corrected = {**value, "root_sha256": record.leaf.sha256}
    scene.notice.begin()
    # Without its writer: every plan compares the whole of it. The root's own record has the same operator's name.
    if not write_over(scene.vault.sending(once=True), store, "cluster", corrected, found.version):
        raise changed_meanwhile(f"the record of the cluster {cluster.name}", f"vaultpki plan{cluster.file_option}")
    return True


def _followed(scene: Scene, record: RotationRecord) -> Scene:
    """Bring each issuing CA to the state of the root's record, one after the other, and its mount with it."""
    if record.state in (State.PREPARED, State.PUBLISHED):
        return scene
    for ca in issuing_cas(scene.cluster):
        while True:
            if scene.records[ca].record is not None:
                scene, _, _ = reconcile_mount(scene, ca)
            to = root_gates.next_companion(record.state, scene.records[ca].record)
            if to is None:
                break
            after = _begun(scene, record, ca) if to is State.PUBLISHED else scene.record(ca).moved(to, scene.now)
            scene = scene.writing(after)
    return scene


def _begun(scene: Scene, record: RotationRecord, ca: str) -> RotationRecord:
    """Return the record with which an issuing CA begins its renewal under the new root."""
    cluster = scene.cluster
    old = read_old_root(scene)
    if old is None:
        raise StateConflict(root_steps.problem(cluster.name, record, scene.mount(ROOT)))
    mount = scene.mount(ca, old)
    before = scene.records[ca].record
    begun = start.first_record(cluster, ca, Method.SAME_KEY, record.spread, before, mount, scene.nodes(ca), scene.now)
    return replace(begun, state=State.PUBLISHED, excused=record.excused)
