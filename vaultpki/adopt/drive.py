"""Drives an adoption: looks, changes what the state asks for, passes the turn, and takes a step if its gate is open.

Every command may be killed at any request; the next one continues. Two operators at once never both take a step: the
record is written by check-and-set before anything else is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final, Protocol

from vaultpki.adopt import gates, imported_keys, obstacles, writes
from vaultpki.adopt.draft import ClusterDraft
from vaultpki.adopt.look import AdoptionLook
from vaultpki.adopt.writes import ObjectWrite
from vaultpki.errors import ArgumentError, ChangedMeanwhile, StateConflict
from vaultpki.findings.catalogue import Severity
from vaultpki.identity.adoption_record import delete_adoption
from vaultpki.kube.flags import replaced_etcd_files
from vaultpki.kube.writer import ClusterWriter, data_of
from vaultpki.kubeadm import adopted
from vaultpki.kubeadm.configuration import KubeadmFolders
from vaultpki.layout import DIRECTORY
from vaultpki.model import NodeRole
from vaultpki.places import Layout
from vaultpki.procedure.gate import Gate
from vaultpki.provision.refused_changes import adopted_domains
from vaultpki.provision.rotation_records import existing, refuse_move
from vaultpki.records.adoption import ADOPTION_TABLE, AdoptionRecord, AdoptionState
from vaultpki.records.adoption_report import OldKeys
from vaultpki.redact import first_few
from vaultpki.rotation import adoption_reasons as reasons
from vaultpki.rotation.adoption_states import AdoptionStep

_S = AdoptionState

# kubeadm's own (cmd/kubeadm/app/constants), and where `vaultpki kubeadm config` says that its folder is.
_KUBELETS: Final = "/var/lib/kubelet/pki"
_KUBEADM: Final = "/etc/kubernetes/kubeadm"

# How often a command that takes a step looks again after its own changes: never more than these in one state.
_LOOKS: Final = 6


class Ask(Protocol):
    """Names what is about to be done, and returns whether a person agrees."""

    def __call__(self, title: str, lines: Collection[str]) -> bool:
        """Return whether a person agrees to these, of which each is a sentence without a subject."""


@dataclass(frozen=True, slots=True)
class AdoptionWords:
    """What an operator says with a command: words that are confirmed, and components that were restarted by hand.

    `keep` says where the keys of the old CAs are kept at the end; empty lets nodes delete theirs. `onward` is whether
    the command goes on to the end, and says the same at each step.
    """

    confirmed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    keep: str = ""
    onward: bool = False


@dataclass(frozen=True, slots=True)
class AdoptionOutcome:
    """What a command has done: the last look, the state that comes next with its gate, and whether a step was made.

    `refused` says that a person did not agree to what must be done first. `over` says that the adoption is at its end:
    done, or given up with nothing left of it. `notes` are sentences about that.
    """

    look: AdoptionLook
    to: AdoptionState | None
    gate: Gate
    moved: bool = False
    refused: bool = False
    over: bool = False
    notes: tuple[str, ...] = ()


def start(look: AdoptionLook, draft: ClusterDraft, ask: Ask) -> AdoptionOutcome:
    """Begin the adoption: write its record. Nothing else changes, and nodes can enrol after that.

    `draft` is what the inventory would write. Raises StateConflict if the cluster cannot be taken over as it is.
    """
    cluster, stored = look.cluster, look.stored
    if stored.record is not None:
        raise StateConflict(
            f"the adoption of {cluster.name} has begun before and is {stored.record.state.value}; look at `vaultpki "
            f"adopt status{cluster.file_option}`"
        )
    if cluster.layout is not Layout.KUBEADM:
        raise StateConflict(f"{cluster.file} has another layout; a kubeadm cluster is taken over in `layout: kubeadm`")
    if cluster.service_account_keys:
        raise StateConflict(
            f"{cluster.file} asks for service_account_keys, and sa.key stays kubeadm's while a cluster is taken over. "
            "Take that line out and apply. Write it again once the adoption is done"
        )
    if cluster.token_pools:
        raise StateConflict(
            f"{cluster.file}: pools: nodes of {cluster.token_pools[0].name} join by token, and controller managers "
            f"sign until the adoption is {_S.CLOSED.value}. Take such pools out and apply. Write them again once it is "
            "done"
        )
    refuse_move(cluster, look.vault)
    for domain, record in existing(cluster, look.vault).items():
        if record.active:
            raise StateConflict(f"the CA {domain} is being rotated ({record.state.value}); end that first")
    _refuse_other_cas(look)
    every = obstacles.obstacles(look.found, draft)
    # A cluster of one CA that is right needs no draft: its cluster.yaml is written and applied.
    critical = [each for each in every if each.severity is Severity.CRITICAL and each.kind.name != "draft-refused"]
    if critical:
        raise StateConflict(
            f"{first_few([f'{each.kind.name} ({each.text})' for each in critical])}: cure that first; `vaultpki adopt "
            "inventory` says how"
        )
    revision = gates.first_revision(look.seen, stored.version)
    prices = [each.text for each in every if each.kind.name in ("two-etcd-members", "one-control-plane")]
    if prices and not ask("The adoption restarts components, and this cluster pays for that", prices):
        return AdoptionOutcome(look, None, Gate(), refused=True)
    old = {domain: tuple(each.fingerprint for each in cas) for domain, cas in look.sides.old.items()}
    former = imported_keys.domains(look)
    begun = AdoptionRecord(_S.PREPARED, revision, revision, look.now, old, imported=former)
    after = look.writing(begun)
    return AdoptionOutcome(after, _S.PUBLISHED, Gate(opens=look.now), moved=True)


def advance(look_again: Callable[[], AdoptionLook], said: AdoptionWords, ask: Ask, *, back: bool) -> AdoptionOutcome:
    """Take the next step, or the next one back; else say what it waits for. Changes what the state asks for first.

    `look_again` looks anew. Raises StateConflict if there is no adoption, if the record is older than one that machines
    have read, or if the way back cannot work.
    """
    look = _with_record(look_again())
    gates.refuse_set_back(look.record, look.seen)
    _refuse_early(look.record, said)
    if back and look.record.state is _S.DONE:
        raise StateConflict(
            f"the adoption of {look.cluster.name} is done, and there is no way back; `vaultpki adopt status"
            f"{look.cluster.file_option}` says what is left to do"
        )
    look, refused = _settle(look, look_again, ask)
    if refused:
        return _standing(look, back=back, refused=True)
    to = gates.next_state(look.record.state, back=back)
    if to is None:
        return _at_rest(look, said, back=back)
    step = AdoptionStep(look.record, to, look.now)
    if back:
        gates.refuse_hopeless(step, look.seen, look.sides.old_ends, imported_keys.domains(look))
    look = _confirmed(look, step, said)
    step = replace(step, record=look.record)
    found = gates.gate(step, look.seen)
    if not found.open(look.now):
        look = _with_turn(look, found.turn)
        return AdoptionOutcome(look, to, gates.gate(replace(step, record=look.record), look.seen))
    if ADOPTION_TABLE.phases[to].destroys and not ask("The last step: after it there is no way back", _final(look)):
        return AdoptionOutcome(look, to, found, refused=True)
    look.writing(replace(look.record, turn=found.turn).moved(to, look.now))
    look, refused = _settle(_with_record(look_again()), look_again, ask)
    return replace(_standing(look, back=back), moved=True, refused=refused)


def standing(look: AdoptionLook, *, back: bool = False) -> AdoptionOutcome:
    """Return where the adoption stands; changes nothing."""
    return _standing(look, back=back)


def _with_record(look: AdoptionLook) -> AdoptionLook:
    if look.stored.record is None:
        command = f"vaultpki adopt start{look.cluster.file_option}"
        raise StateConflict(f"{look.cluster.name} is not being taken over; `{command}` begins")
    return look


def _refuse_other_cas(look: AdoptionLook) -> None:
    """Raise StateConflict unless cluster.yaml names exactly the CAs that the cluster has."""
    cluster, old = look.cluster, look.sides.old
    etcd = any(NodeRole.ETCD in node.roles for node in cluster.nodes)
    lacking = [domain for domain in adopted_domains(cluster) if domain not in old]
    if lacking:
        raise StateConflict(
            f"{cluster.file} names no old CA of {first_few(lacking)}: put the files of today's CAs below "
            "`ca.also_trust`, and run `vaultpki apply`"
        )
    if not etcd and any(member.stacked for member in look.found.members):
        raise StateConflict(
            f"etcd runs as static pods of kubeadm, and {cluster.file} gives no node the role etcd: give it to those"
        )
    directory = look.found.directory or DIRECTORY
    for pod in look.found.static if "etcd" not in old else ():
        if pod.component == "kube-apiserver" and (kept := next(replaced_etcd_files(pod.flags, directory), "")):
            raise StateConflict(f"kube-apiserver on {pod.node}: {kept}")
    for domain, shown in look.found.cas.items():
        named = {each.fingerprint for each in old.get(domain, ())}
        other = [each for each in shown if domain in old and each.fingerprint not in named]
        if other:
            raise StateConflict(
                f"the cluster's CA of {domain} is {other[0].subject_text} with the SHA-256 {other[0].fingerprint}, and "
                f"`ca.also_trust` of {cluster.file} names another one; correct that, and run `vaultpki apply`"
            )
        known = {each.fingerprint for each in shown}
        further = [each for each in old.get(domain, ()) if shown and each.fingerprint not in known]
        if further:
            raise StateConflict(
                f"`ca.also_trust.{domain}` of {cluster.file} names {further[0].subject_text} too, which is no CA of "
                "this cluster. An adoption takes away every CA there. Take this one out until the adoption is done; "
                "who is let in by it is shut out meanwhile. Then run `vaultpki apply`"
            )


def _settle(look: AdoptionLook, look_again: Callable[[], AdoptionLook], ask: Ask) -> tuple[AdoptionLook, bool]:
    """Make imported CAs, and the API server's objects, what the state asks for.

    Return the last look, and whether a person refused. An imported CA is at rest again before any gate looks whether a
    certificate of it is left.
    """
    for _ in range(_LOOKS):
        if imported_keys.settle(look):
            look = _with_record(look_again())
        due = writes.due(look.record, look.seen)
        if due:
            if not ask("The cluster's API server is changed", [each.text for each in due]):
                return look, True
            _carry_out(look, due)
            again = any(each.path == writes.INFO_PATH for each in due) and look.record.joins_closed is not None
            look = _with_record(look_again())
            if again:
                # Somebody had written the CAs of before into it, and who has read those since may be joining.
                look = look.writing(look.record.changed(joins_closed=None))
        elif gates.joins_open(look.record) and not gates.JOINS_BY & look.seen.unread.keys():
            # Every token that there was is gone, and cluster-info is right: who joins from now on reads that.
            look = look.writing(look.record.changed(joins_closed=look.now))
        else:
            return look, False
    raise ChangedMeanwhile(
        "somebody else changes the same objects all the time: look who makes bootstrap tokens or writes cluster-info, "
        "and run this again",
        status=409,
    )


def _carry_out(look: AdoptionLook, due: Collection[ObjectWrite]) -> None:
    writer = ClusterWriter(look.access)
    for each in due:
        if each.delete:
            writer.delete(each.path)
            continue
        found = writer.read(each.path)
        if found is not None:
            writer.replace(each.path, _changed(look, each.path, found))


def _changed(look: AdoptionLook, path: str, found: dict[str, object]) -> dict[str, object]:
    """Return an object as the state asks for it."""
    sides = look.sides
    if path == writes.INFO_PATH:
        old, new = ([each.pem for each in cas.get("kubernetes", ())] for cas in (sides.old, sides.new))
        if look.cluster.signer is not None:
            # A node without an agent keeps what it reads there: with the issuing CA alone its rotation would strand it.
            new.append(sides.root.pem)
        return writes.cluster_info(found, look.record.accepts, old, new)
    data, key = data_of(found), adopted.SETTINGS if path == writes.SETTINGS_PATH else adopted.KUBELET_DEFAULTS
    return {**found, "data": {**data, key: _right(look, path, data.get(key, ""))}}


def _right(look: AdoptionLook, path: str, text: str) -> str:
    """Return kubeadm's own settings as they must be at the end."""
    places = KubeadmFolders(look.found.directory or DIRECTORY, _KUBELETS, _KUBEADM)
    if path == writes.SETTINGS_PATH:
        return adopted.settings(text, look.cluster, places)
    return adopted.defaults(text, places, tokens=bool(look.cluster.token_pools))


def with_settings(look: AdoptionLook) -> AdoptionLook:
    """Return the look with what of kubeadm's own settings is not right yet; they are read only at the end."""
    if look.stored.record is None or look.stored.record.state is not _S.DONE:
        return look
    writer, stale = ClusterWriter(look.access), []
    for path, key in ((writes.SETTINGS_PATH, adopted.SETTINGS), (writes.DEFAULTS_PATH, adopted.KUBELET_DEFAULTS)):
        text = data_of(writer.read(path)).get(key)
        if text is not None and _right(look, path, text) != text:
            stale.append(path)
    return replace(look, seen=replace(look.seen, stale=tuple(stale)))


def _confirmed(look: AdoptionLook, step: AdoptionStep, said: AdoptionWords) -> AdoptionLook:
    """Note what a person says in the record; ArgumentError for what is no word, StateConflict if it does not count."""
    for word in said.confirmed:
        if word not in gates.CONFIRMABLE:
            raise ArgumentError(f"--checked {word}: write one of {', '.join(sorted(gates.CONFIRMABLE))}")
        if why := gates.word_refused(step, word, look.seen):
            raise StateConflict(why)
    for name in said.restarted:
        if why := gates.restart_refused(step, look.seen.machine(name.partition("/")[0]), name):
            raise StateConflict(why)
    record = look.record
    noted = record.noted(confirmed=said.confirmed, restarted=said.restarted)
    # Where the keys are kept is noted before the gate opens too: whoever takes the last step need not say it again.
    noted = replace(noted, kept=said.keep if said.keep and step.to is _S.DONE else record.kept)
    return look if noted == record else look.writing(noted.changed())


def _refuse_early(record: AdoptionRecord, said: AdoptionWords) -> None:
    """Raise StateConflict where nobody would note in which place the old keys are kept."""
    if not said.keep or record.state is _S.RETIRED:
        return
    if record.state is not _S.DONE:
        if not said.onward:
            raise StateConflict(
                f"--keep-keys belongs to the last step, and the adoption is {record.state.value}. Leave it out now. "
                "Pass it in retired, or with --wait, which goes on to that step"
            )
    elif said.keep != record.kept:
        noted = f"are kept, as was said then: {record.kept}" if record.kept else "are deleted"
        raise StateConflict(f"the adoption is done, and --keep-keys comes too late: the keys of the old CAs {noted}")


def _with_turn(look: AdoptionLook, turn: str) -> AdoptionLook:
    """Pass the turn on, if another machine has it now."""
    return look if look.record.turn == turn else look.writing(look.record.changed(turn=turn))


def _standing(look: AdoptionLook, *, back: bool, refused: bool = False) -> AdoptionOutcome:
    record = look.record
    to = gates.next_state(record.state, back=back)
    found = _rest_gate(look) if to is None else gates.gate(AdoptionStep(record, to, look.now), look.seen)
    return AdoptionOutcome(look, to, found, refused=refused, over=to is None and not found.waiting)


def _at_rest(look: AdoptionLook, said: AdoptionWords, *, back: bool) -> AdoptionOutcome:
    """Finish what has no next state: the end, or the way back that has come to prepared."""
    # Nothing but a restart is waited for here.
    words = AdoptionWords(restarted=said.restarted)
    look = _confirmed(look, AdoptionStep(look.record, look.record.state, look.now), words)
    look = _with_turn(look, _rest_gate(look).turn)
    found = _rest_gate(look)
    if found.waiting or not back:
        return AdoptionOutcome(
            look, None, found, over=not found.waiting, notes=_last_words(look) if not found.waiting else ()
        )
    # A deletion is made by no check-and-set, and another operator may have gone on since this look.
    look = look.writing(look.record.changed())
    delete_adoption(look.cluster, look.vault)
    ended = replace(look, stored=replace(look.stored, record=None))
    return AdoptionOutcome(ended, None, found, moved=True, over=True, notes=_given_up(look))


def _rest_gate(look: AdoptionLook) -> Gate:
    """Return what is left to do on machines in a state from which there is no step."""
    record = look.record
    step = AdoptionStep(record, record.state, look.now)
    waiting = [*gates.unread(step, look.seen), *reasons.waiting(step, look.seen.machines)]
    return Gate(tuple(waiting), opens=record.since, turn=gates.turn(record, look.seen.machines))


def _final(look: AdoptionLook) -> list[str]:
    """Return what the last step ends, as sentences."""
    holders = [each.name for each in look.seen.machines if each.report and each.report.keys is not OldKeys.NONE]
    keys = (
        f"keep the keys of the old CAs ({look.record.kept}): whoever has them can make certificates for the old trust"
        if look.record.kept
        else f"delete the keys of the old CAs and the old pairs on {first_few(holders) or 'every machine'}. The agent "
        "there does it a day after it has seen retired, or root at once by `vaultpki adopt node --finish`"
    )
    former = first_few([*look.imported])
    return [
        keys,
        *([f"delete the imported CAs of {former} in Vault, with their keys and mounts"] if former else []),
        "delete the bootstrap tokens, and change kubeadm-config and kubelet-config",
        "leave to you: copies and backups of /etc/kubernetes, and of etcd, hold the old keys and tokens still",
    ]


def _last_words(look: AdoptionLook) -> tuple[str, ...]:
    kept = f"; the old keys are kept: {look.record.kept}" if look.record.kept else ""
    notes = [f"the adoption is done{kept}"]
    if look.cluster.authority.also_trust:
        notes.append(
            f"take `ca.also_trust` out of {look.cluster.file} and run `vaultpki apply`, and take the SHA-256 out of "
            "each agent.yaml, so that nobody can bring the old CAs back"
        )
    notes.append(
        "delete copies and backups of the old keys; backups from before have them, of /etc/kubernetes and of a Vault "
        "into which they were imported"
    )
    return (*notes, *adopted.AFTERWARDS)


def _given_up(look: AdoptionLook) -> tuple[str, ...]:
    first = next((each.name for each in look.seen.machines if each.enrolled), "NODE")
    home = (
        "each machine now puts back kubeadm's own manifests and kubeconfigs: its agent does that, or `vaultpki adopt "
        f"node` as root. After that stop the agent there, and end its credentials (`vaultpki lock {first}`)"
    )
    former = (
        f"the keys of {first_few([*look.imported])} are in Vault still, and sign nothing (`vaultpki ca import"
        f"{look.cluster.file_option} --remove DOMAIN` deletes one)"
    )
    return (
        "the adoption is given up: its record is deleted",
        home,
        *([former] if look.imported else []),
        "bootstrap tokens were deleted (`kubeadm token create` makes one)",
        "kubeadm-certs was deleted (`kubeadm init phase upload-certs --upload-certs` makes it anew)",
    )
