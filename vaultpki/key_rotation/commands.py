"""Rotates service-account keys: reads where they stand, writes the record, and makes the policies of nodes match it.

Every command may be killed at any request; the next one continues. Two operators at once never both take a step: the
record is written by check-and-set before the server is changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from vaultpki.ca.announced import announced
from vaultpki.ca.commands import EMERGENCY_TRIES
from vaultpki.ca.scene import keys_under_way, refuse_active
from vaultpki.certificates import SERVICE_ACCOUNT, signing_rows
from vaultpki.errors import ChangedMeanwhile, StateConflict
from vaultpki.identity.nodes import NodeList
from vaultpki.key_rotation.scene import KeysOnServer, read_keys
from vaultpki.kube.token_flags import TokensInUse
from vaultpki.model import Cluster
from vaultpki.pki.key_plan import refuses
from vaultpki.procedure.gate import Waiting
from vaultpki.provision.cluster_facts import KeyStepDone
from vaultpki.provision.rotation_records import read_records
from vaultpki.records.rotation import MOST_AHEAD
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS, Departure, KeyMethod, KeyRecord, KeyState
from vaultpki.redact import first_few
from vaultpki.token_keys import beginning
from vaultpki.token_keys import course as key_course
from vaultpki.token_keys import steps as key_steps
from vaultpki.token_keys.holders import never_ran, refused_at
from vaultpki.token_keys.starts import to_start
from vaultpki.token_keys.steps import NOTHING_SAID_OF_KEYS, KeysSaid
from vaultpki.token_keys.turns import next_turn, starting, still_accepted_by, to_read, why_waits
from vaultpki.vault import Vault


def status(
    cluster: Cluster,
    vault: Vault,
    now: datetime,
    tokens: TokensInUse | None = None,
    *,
    found: NodeList | None = None,
) -> KeyStepDone:
    """Return where service-account keys stand; writes nothing."""
    seen = read_keys(cluster, vault, now, strict=False, found=found, tokens=tokens)
    told = standing(seen, KeysSaid(tokens=tokens), notes=key_course.taken_in(seen.record, seen.facts).notes)
    return replace(told, written=seen.stored.written)


def rotate(
    cluster: Cluster,
    vault: Vault,
    now: datetime,
    *,
    emergency: bool = False,
    stolen: Collection[str] = (),
    tokens: TokensInUse | None = None,
) -> KeyStepDone:
    """Begin a rotation of all keys, or take out those of `stolen` nodes at once; returns what holds then.

    A run that was interrupted is continued. An emergency waits for no other rotation, and looks again where another
    operator was faster. Raises StateConflict if another rotation is under way, or if there are no keys;
    ChangedMeanwhile if another operator was faster.
    """

    def attempt() -> KeyStepDone:
        with announced(cluster, vault, urgent=emergency) as notice:
            seen = read_keys(cluster, vault, now, strict=not emergency, notice=notice, tokens=tokens)
            if stolen:
                shared = [beginning.counts_elsewhere(seen.record, name) for name in sorted(set(stolen)) if seen.record]
                notes = tuple(filter(None, shared))
                return standing(_take_out(seen, stolen), KeysSaid(tokens=tokens), changed=True, notes=notes)
            method = KeyMethod.EMERGENCY if emergency else KeyMethod.ROTATION
            return standing(_begin(seen, method), KeysSaid(tokens=tokens), moved=True)

    for _ in range(EMERGENCY_TRIES - 1 if emergency else 0):
        with contextlib.suppress(ChangedMeanwhile):
            return attempt()
    return attempt()


def advance(
    cluster: Cluster,
    vault: Vault,
    now: datetime,
    said: KeysSaid = NOTHING_SAID_OF_KEYS,
    *,
    back: bool = False,
) -> KeyStepDone:
    """Take in what nodes report, then take the next step of a rotation, or of its rollback, if its gate is open."""
    with announced(cluster, vault) as own:
        return go_on(read_keys(cluster, vault, now, notice=own, tokens=said.tokens), said, back=back)


def _begin(seen: KeysOnServer, method: KeyMethod) -> KeysOnServer:
    cluster, vault, record = seen.cluster, seen.vault, seen.record
    hasty = method is KeyMethod.EMERGENCY
    if not hasty:
        # Neither another rotation nor what a node says stops an emergency.
        refuse_active(cluster, seen.rotations)
        _refuse_set_back(seen)
    if record is not None and record.active:
        started = KeyState.RETIRED if hasty else KeyState.PUBLISHED
        if record.state is started and record.method is method:
            return seen.reconciled()
        if not hasty:
            raise StateConflict(keys_under_way(cluster, record))
    if record is None:
        _refuse_other_type(seen)
    begun = beginning.begun(record, seen.facts, method)
    begun = replace(begun, revision=max(begun.revision, _highest_seen(seen) + 1))
    seen = seen.writing(begun)
    others = {} if hasty else read_records(cluster, vault)
    if any(each.record is not None and each.record.active for each in others.values()):
        # Two operators began one each: both are withdrawn, or the later one.
        home = key_course.stepped(begun, KeyState.STEADY, seen.facts.now)
        seen.writing(home)
        refuse_active(cluster, others)
    return seen.reconciled()


def _refuse_other_type(seen: KeysOnServer) -> None:
    """Raise StateConflict if Vault would not certify the key that nodes share: its role takes one type of keys."""
    cluster = seen.cluster
    wanted = {(row.key or cluster.key).value for row in signing_rows(cluster)}
    found = {keys.shared_key for each in seen.facts.holders.values() if (keys := each.keys) is not None and keys.shared}
    for kind in sorted(found - wanted - {""}):
        raise StateConflict(
            f"the sa.key that nodes share is {kind}, and Vault certifies keys of type {', '.join(sorted(wanted))}: "
            f"write `certificates: {{{SERVICE_ACCOUNT}: {{key: {kind}}}}}` into {cluster.file}, run `vaultpki apply`, "
            "and begin again"
        )


def _take_out(seen: KeysOnServer, names: Collection[str]) -> KeysOnServer:
    """Take the certificates of stolen nodes out of every union; nobody is waited for."""
    record = seen.record
    if record is None:
        raise StateConflict("no control-plane node has a service-account key that counts, so there is none to take out")
    for name in sorted(set(names)):
        holder = seen.facts.holders.get(name)
        if holder is not None and not holder.locked:
            raise StateConflict(
                f"{name} can still log in, so whoever stole its keys could have another one certified: run `vaultpki "
                f"lock {name}` first"
            )
        record = beginning.stolen(record, name, seen.facts.now)
    record = replace(record, revision=max(record.revision, _highest_seen(seen) + 1))
    return seen.writing(record).reconciled()


def go_on(seen: KeysOnServer, said: KeysSaid, *, back: bool = False, steps: bool = True) -> KeyStepDone:
    """Do what `advance` does with what was read; without `steps` no step of a rotation is taken."""
    if not _hasty(seen.record):
        # What a node says does not stop an emergency.
        _refuse_set_back(seen)
    seen = seen.reconciled()
    holds = not steps or any(each.record is not None and each.record.active for each in seen.rotations.values())
    found = key_steps.next_record(seen.record, seen.facts, said, back=back, holds=holds)
    if found.record is None or found.record is seen.record:
        return standing(seen, said, notes=found.notes, back=back)
    seen = seen.writing(found.record).reconciled()
    return standing(seen, said, moved=found.moved, changed=True, notes=found.notes, back=back and not found.moved)


def standing(
    seen: KeysOnServer,
    said: KeysSaid,
    *,
    moved: bool = False,
    changed: bool = False,
    notes: tuple[str, ...] = (),
    back: bool = False,
) -> KeyStepDone:
    """Return where keys stand, with all that is waited for."""
    record, holders = seen.record, seen.facts.holders
    notes = (*notes, *(seen.tokens.unread if seen.tokens is not None else ()))
    if record is None:
        notes = notes or key_course.taken_in(None, seen.facts).notes
        waiting = [Waiting(name, _to_take_in(seen)) for name, each in sorted(holders.items()) if _offers(seen, name)]
        sharing = tuple(name for name, each in sorted(holders.items()) if each.keys is not None and each.keys.shared)
        return KeyStepDone(None, changed=changed, joining=tuple(waiting), sharing=sharing, notes=notes)
    to = key_course.next_key_state(record, back=back)
    gate = key_steps.transition_gate(record, to, seen.facts, said) if to is not None else None
    joining = []
    for name, keys in sorted(record.nodes.items()):
        if not keys.admitted:
            why = why_waits(record, name, holders)
            joining.append(Waiting(name, why or _to_take_in(seen), itself=bool(why)))
    joining += [
        Waiting(name, _to_take_in(seen)) for name in sorted(holders) if name not in record.nodes and _offers(seen, name)
    ]
    stolen = {each.node: still_accepted_by(record, holders, each.sha256) for each in record.departed if not each.pem}
    counting = tuple(
        Waiting(node, f"its stolen key still counts at {first_few(nodes)}, until kube-apiserver restarts there")
        for node, nodes in sorted(stolen.items())
        if nodes
    )
    refused = {name: refused_at(record, holders.get(name)) for name in record.nodes}
    turn = next_turn(record, holders)
    restarts = []
    # A first start is nobody's turn: it may come in days.
    if turn and to is None and not never_ran(holders[turn]):
        ready = f"may restart kube-apiserver. Give it the turn: `vaultpki ca continue{seen.cluster.file_option}`"
        has = f"has the turn to restart kube-apiserver. {to_start(holders[turn], 'vaultpki ca continue', turn)}"
        restarts.append(Waiting(turn, has if turn == record.turn else ready))
    return KeyStepDone(
        record,
        gate,
        moved,
        changed,
        tuple(joining),
        counting,
        tuple(restarts),
        tuple(Waiting(name, refuses(names)) for name, names in sorted(refused.items()) if names),
        starting(record, holders),
        to_read(record, holders),
        notes=notes,
    )


def _offers(seen: KeysOnServer, name: str) -> bool:
    keys = seen.facts.holders[name].keys
    return keys is not None and bool(keys.own) and not keys.shared


def _to_take_in(seen: KeysOnServer) -> str:
    return f"waits to start: run `vaultpki admit{seen.cluster.file_option} --wait`"


def _hasty(record: KeyRecord | None) -> bool:
    """Return whether stolen keys are being taken out."""
    if record is None:
        return False
    return record.hasty or any(each.why is Departure.STOLEN for each in record.departed)


def _highest_seen(seen: KeysOnServer) -> int:
    """Return the highest revision that a listed node says that it has read, as far as others would follow one above."""
    revision = seen.record.revision if seen.record is not None else 0
    claims = [each.keys.seen.highest for each in seen.facts.holders.values() if each.keys is not None]
    return max((claim for claim in claims if claim < revision + MOST_AHEAD), default=0)


def _refuse_set_back(seen: KeysOnServer) -> None:
    """Raise StateConflict if nodes have read a newer record than the server has."""
    revision = seen.record.revision if seen.record is not None else 0
    ahead = sorted(
        each.name for each in seen.facts.holders.values() if each.keys is not None and each.keys.seen.highest > revision
    )
    if ahead:
        raise StateConflict(
            f"{first_few(ahead)} read a newer record of {SERVICE_ACCOUNT_KEYS} than the server has: it was restored "
            "from a snapshot, or that is false. Nodes go on with the keys that they have. Restore a newer snapshot, "
            "or join those nodes anew (`vaultpki lock`, then `enroll`)"
        )
