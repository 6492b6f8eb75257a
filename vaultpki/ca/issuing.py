"""Knows what is special about the rotation of an issuing CA: whom its steps wait for, and what an operator may say.

`run` is the course that it shares with the root.
"""

from __future__ import annotations

from vaultpki.ca import outside_move, token_key_certificates
from vaultpki.ca.facts import life, longest_ttl, no_time_gained, read_operator_leaves, reload
from vaultpki.ca.scene import Scene
from vaultpki.certificates import SERVICE_ACCOUNT, rows
from vaultpki.csr_roles import csr_roles, fits_pattern
from vaultpki.errors import ArgumentError, StateConflict
from vaultpki.identity import outside_signer
from vaultpki.kube.objects import KubeTrust
from vaultpki.model import Cluster
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.records.rotation import Method, RotationRecord, State
from vaultpki.redact import printable
from vaultpki.rotation import gates, mount_steps, recovery, serving_copy
from vaultpki.rotation.confirmations import Confirmations
from vaultpki.rotation.gates import SIGNER_OUTSIDE, OperatorLeaf, Participant
from vaultpki.rotation.mount_steps import MountIssuer, RotationMount
from vaultpki.rotation.reasons import Transition
from vaultpki.rotation.states import FORWARD, next_state

# States that may begin while the CA whose leaves are installed cannot sign: they lead to one that can.
_ON_THE_WAY = frozenset({State.PUBLISHED, State.RETRUSTING})


def refuse_beginning(scene: Scene, domain: str, method: Method) -> None:
    """Raise StateConflict if the root ends too early for another CA, or if a node's name means something else.

    Or if the new CA could not certify the keys of nodes again, or if a renewal would gain nothing.

    What nodes are called does not stop an emergency.
    """
    named = domain == serving_copy.DOMAIN and any(node.name == serving_copy.WORD for node in scene.cluster.nodes)
    if named and method is not Method.EMERGENCY:
        raise StateConflict(
            f"a node is called {serving_copy.WORD}, which `--without` means something else by; rename it first"
        )
    if domain == SERVICE_ACCOUNT and method is Method.NEW_KEY:
        token_key_certificates.refuse_other_types(scene)
    outside_move.refuse_other_root(scene)
    outside = scene.cluster.authority.outside
    if outside is not None and outside.by_people and method is Method.SAME_KEY:
        # Its signer may have renewed what is above as well; `ca import` judges all of it together.
        return
    if outside is not None and method is Method.SAME_KEY:
        _refuse_other_name(scene, domain)
    outside_signer.refuse_missing(scene.cluster, scene.vault)
    life(scene.cluster, domain, scene.root, scene.now)
    if method is Method.SAME_KEY and (why := gains_nothing(scene, domain)):
        raise StateConflict(why)


def gains_nothing(scene: Scene, domain: str) -> str:
    """Return that a new CA would end no later than the one in use, as a sentence; "" if it would, or nobody knows."""
    mount = scene.mount(domain)
    found = mount.issuer(mount.default)
    if found is None or found.facts is None:
        return ""
    return no_time_gained(scene.cluster, domain, scene.root, found.facts)


def _refuse_other_name(scene: Scene, domain: str) -> None:
    """Raise StateConflict if `ca.subject` asks for another name than the CA has: the signer may be sent that alone."""
    from vaultpki.pki.x509 import subject_values, subject_words

    mount = scene.mount(domain)
    issuer = mount.issuer(mount.default)
    has = subject_words(subject_values(issuer.facts)) if issuer is not None and issuer.facts is not None else ""
    wanted = subject_words(scene.cluster.authority.subject)
    if has != wanted:
        raise StateConflict(
            f"the CA of {domain} has {printable(has) or 'nothing'} beside its CN, and ca.subject of "
            f"{scene.cluster.file} asks for {printable(wanted) or 'nothing'}. A renewal with the same key keeps the "
            "name. Leave out `--same-key`, or write the old ca.subject until it is done"
        )


def signer(cluster: Cluster, record: RotationRecord, mount: RotationMount) -> MountIssuer | None:
    """Return the issuer of the CA whose leaves are installed; None if the mount does not have it."""
    return mount_steps.issuer_of(cluster.name, record, mount, record.leaf)


def problem(cluster: Cluster, record: RotationRecord, mount: RotationMount) -> str:
    """Return why the CA whose leaves are installed cannot sign, as a sentence; "" if it can."""
    return mount_steps.problem(cluster.name, record, mount)


def step_to(scene: Scene, record: RotationRecord, mount: RotationMount, *, back: bool) -> State | None:
    """Return the state that comes next; in a rollback that has lost its CA, on again. None if there is none.

    The end of a rollback leads to itself, as long as something holds the CA that it deleted. Raises StateConflict if
    the CA whose leaves the next state installs cannot sign any.
    """
    name = scene.cluster.name
    if not record.active:
        return record.state if back and lingering(scene, record) is not None else None
    lost = record.state is State.RETURNING and not mount_steps.usable(name, record, mount, record.old)
    to = FORWARD[record.state] if lost and not back else next_state(record, back=back)
    if to is not None and to not in _ON_THE_WAY:
        ca = record.new if record.moved(to, record.since).leaf is record.new else record.old
        if why := mount_steps.problem(name, record, mount, ca):
            raise StateConflict(why)
    return to


def confirmed(
    scene: Scene, record: RotationRecord, to: State, mount: RotationMount, said: Confirmations
) -> RotationRecord:
    """Return the record with what a person says about nodes; raise StateConflict if that does not count.

    A recovered record gets the CAs, too, that nodes have told of since.
    """
    nodes = _waited_for(scene, record)
    by_name = {node.name: node for node in nodes}
    _refuse_unknown(scene, record, said, {*by_name})
    record = recovery.named_since(record, mount, nodes)
    step = Transition(record, to, scene.now)
    for word in said.restarted:
        why = gates.restart_refused(word, [(step, by_name[word.partition("/")[0]])])
        if why := token_key_certificates.word_refused(scene, record, word, why):
            raise StateConflict(why)
    for word in said.checked:
        if why := serving_copy.word_refused(record, to, word):
            raise StateConflict(why)
    for name in said.without:
        # The gate goes on waiting for a member of etcd whose word does not count any more.
        set_aside = name in by_name and recovery.ahead(record.domain, record, [by_name[name]])
        if name in by_name and not set_aside and (why := gates.without_refused(record, by_name[name], scene.now)):
            raise StateConflict(why)
    return said.noted(record)


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
    """Return the gate of a step. Unless it is wanted `whole`, operators' leaves are read once no node is waited for.

    A mount may have very many certificates, and whoever waits asks again and again. `pods` is what the Kubernetes
    cluster shows, None without `--kubeconfig`; `keeps` is the node that keeps the turn.
    """
    if not record.active:
        return lingering(scene, record, keeps) or Gate(opens=record.since)
    cluster, domain, nodes = scene.cluster, record.domain, scene.nodes(record.domain)
    if record.state is State.PREPARED and to is State.PUBLISHED and unsigned(cluster, record, mount):
        return Gate((for_signer(cluster, record),), turn=record.turn)
    keys = recovery.key_ids(record, mount, nodes)
    step = Transition(
        record, to, scene.now, reload(cluster, domain), longest_ttl(cluster, domain), keys, scene.root.not_after, keeps
    )
    found = gates.gate(step, nodes)
    if whole or not found.waiting:
        found = gates.gate(step, nodes, _operators(scene, record, to, mount))
    if domain == SERVICE_ACCOUNT:
        return token_key_certificates.joined(scene, record, to, mount, found)
    return serving_copy.gate(record, to, found, pods)


def unsigned(cluster: Cluster, record: RotationRecord, mount: RotationMount) -> bool:
    """Return whether people must still have the new CA signed by a signer outside."""
    outside = cluster.authority.outside
    if outside is None or not outside.by_people or record.new is None:
        return False
    return mount_steps.issuer_of(cluster.name, record, mount, record.new) is None


def waits_for_signer(scene: Scene, record: RotationRecord) -> bool:
    """Return whether people must still have a CA signed that goes along with the root, below that one."""
    outside = scene.cluster.authority.outside
    begun = record.state is State.PUBLISHED and record.method is Method.SAME_KEY
    return begun and outside is not None and outside.by_people and record.new is not None and not record.new.sha256


def for_signer(cluster: Cluster, record: RotationRecord) -> Waiting:
    """Return that a signer outside has not signed the new CA of a record yet."""
    name = record.new.title if record.new is not None else record.domain
    reason = (
        f"has not signed {name} yet: `vaultpki ca csr{cluster.file_option} -o DIR` writes the request, and `vaultpki "
        f"ca import{cluster.file_option} FILE...` takes what comes back"
    )
    return Waiting(SIGNER_OUTSIDE, reason)


def lingering(scene: Scene, record: RotationRecord, keeps: str = "") -> Gate | None:
    """Return what the end of a rollback waits for: processes that read bundles when they start and hold the deleted CA.

    Whoever kept a copy of that CA's key is let in by them. Agents restart them by turns, as in a rotation. None if
    nothing is left of it, or if `ca abort` has found this gate open.
    """
    nodes = _waited_for(scene, record)
    if not record.lingers or not nodes:
        return None
    return gates.gate(Transition(record, State.STEADY, scene.now, turn=keeps), nodes)


def along(scene: Scene) -> Scene:
    """Return the scene as it is: nothing goes along with an issuing CA."""
    return scene


def moved(scene: Scene, record: RotationRecord, to: State) -> tuple[Scene, RotationRecord]:
    """Return the record in the next state."""
    if to is record.state:
        return scene, record.changed(turn="", let_go=True)
    # Who trusts a stolen key again goes on as after any other rotation.
    again = to is State.RETRUSTING and record.method is Method.EMERGENCY
    return scene, record.moved(to, scene.now, method=Method.NEW_KEY if again else record.method)


def _waited_for(scene: Scene, record: RotationRecord) -> tuple[Participant, ...]:
    """Return the nodes that a step may wait for; at rest those with components that read the bundle at their start."""
    return tuple(each for each in scene.nodes(record.domain) if record.active or each.readers)


def _refuse_unknown(scene: Scene, record: RotationRecord, said: Confirmations, nodes: set[str]) -> None:
    """Raise ArgumentError for a name that nobody has whom a gate may wait for."""
    # Its word on another CA may be what is set aside.
    aside = {each.name for each in scene.members if each.kind == "listed"}
    words = {serving_copy.WORD} if record.domain == serving_copy.DOMAIN else set()
    certificates = {row.name for row in rows(scene.cluster) if row.operator and row.ca == record.domain}
    if any(role.ca == record.domain for role in csr_roles(scene.cluster)):
        pools = scene.cluster.token_pools
        words |= {name for name in said.without if any(fits_pattern(name, pool.node_names) for pool in pools)}
    if record.domain == SERVICE_ACCOUNT:
        aside |= token_key_certificates.departed(scene)
    for name in (*said.without, *(word.partition("/")[0] for word in said.restarted)):
        if name not in nodes and not (name in certificates | aside | words and name in said.without):
            raise ArgumentError(
                f"{printable(name)} takes no part in the rotation of {record.domain}; "
                f"`vaultpki ca status{scene.cluster.file_option}` names those that it waits for"
            )


def _operators(scene: Scene, record: RotationRecord, to: State, mount: RotationMount) -> tuple[OperatorLeaf, ...]:
    """Return the operators' leaves of the CA that is to leave, as far as they were not replaced.

    On the way back only a certificate of this state replaces one: the old CA has signed for operators before.
    """
    leaving, staying, since = {
        (State.SWITCHED, State.RETIRED): (record.old, record.new, None),
        (State.RETURNING, State.STEADY): (record.new, record.old, record.since),
    }.get((record.state, to), (None, None, None))
    if leaving is None or staying is None or record.method is Method.SAME_KEY:
        return ()
    found = [mount.issuer(each.issuer) for each in (leaving, staying)]
    ca, successor = (each.facts if each is not None else None for each in found)
    if ca is None:
        return ()
    return read_operator_leaves(scene.cluster, scene.vault, ca, record.domain, scene.now, successor, since)
