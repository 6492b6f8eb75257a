"""Decides whether a rotation of service-account keys may take its next step: which nodes it waits for, and why; pure.

A gate counts every control-plane node that can log in or has reported, also one that has not started yet. None can be
left out: its kube-apiserver may sign tokens all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from vaultpki.certificates import SKEW
from vaultpki.kube.token_flags import LegacyToken
from vaultpki.pki.key_plan import refuses
from vaultpki.procedure import words
from vaultpki.procedure.gate import Gate, GateCheck, Waiting, first_found
from vaultpki.procedure.phases import Side
from vaultpki.procedure.words import AGENT_DOES
from vaultpki.records.service_account import Departure, KeyRecord, KeyState, NodeKeys
from vaultpki.redact import first_few, stamp
from vaultpki.rotation.reasons import SETTLE
from vaultpki.token_keys.holders import (
    Holders,
    KeyHolder,
    certificates_of,
    expected_union,
    final_on_disk,
    fresh,
    key_sha256,
    loaded,
    refused_at,
    signs_with,
    wanted_union,
)
from vaultpki.token_keys.issuer import JWKS, PUBLISH, PublishedKeys
from vaultpki.token_keys.life import TokenLife
from vaultpki.token_keys.starts import to_start
from vaultpki.token_keys.states import (
    FREE_KEY_STEPS,
    STEPS_BY_SIGNING,
    STEPS_BY_UNION,
    STEPS_HOME,
    STEPS_OF_KEY_SETS,
)
from vaultpki.token_keys.turns import may_hold, next_turn, why_waits

LEGACY: Final = "legacy-tokens"
"""The word for Secrets whose tokens never expire, where gates name nodes and in `--without`."""

LIFE: Final = "token-life"
"""The word for the longest life of tokens where gates name nodes."""

_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class KeyTransition:
    """A step that is wanted: from the state of the record to `to`, at the server's time `now`.

    `life` is the longest life of tokens as far as it is known. `legacy` are the Secrets with tokens that never expire,
    None if nobody has looked; `without_legacy` says that a person gives their tokens up. `published` are the key sets
    outside of the cluster by which others check tokens. `turn` is the node that restarts, once its gate knows.
    """

    record: KeyRecord
    to: KeyState
    holders: Holders
    now: datetime
    life: TokenLife = field(default_factory=lambda: TokenLife(None))
    legacy: tuple[LegacyToken, ...] | None = None
    without_legacy: bool = False
    published: tuple[PublishedKeys, ...] = ()
    turn: str = ""

    @property
    def path(self) -> tuple[KeyState, KeyState]:
        return self.record.state, self.to

    @property
    def command(self) -> str:
        """The command that leads there: from re-trusting, `continue` leads to another state."""
        return f"vaultpki ca {'abort' if self.to in (KeyState.STEADY, KeyState.RETURNING) else 'continue'}"


def key_gate(step: KeyTransition) -> Gate:
    """Return the gate before a step, by the reports of nodes."""
    record = step.record
    if step.path in FREE_KEY_STEPS:
        return Gate(tuple(_home(step)), opens=record.since, turn=record.turn)
    step = replace(step, turn=next_turn(record, step.holders))
    waiting = tuple(found for check in KEY_CHECKS for found in check(step))
    opens = _all_started(step)
    if step.path in STEPS_BY_SIGNING:
        opens = (record.signing_since or opens) + timedelta(seconds=(_life(step) or 0) + SKEW)
    return Gate(waiting, opens=opens, turn=step.turn)


def all_sign(record: KeyRecord, to: KeyState, holders: Holders) -> bool | None:
    """Return whether every kube-apiserver was started to sign as a step wants it; None if reports do not say yet.

    A node with one key signs with that in every state.
    """
    side = STEPS_BY_SIGNING.get((record.state, to))
    if side is None:
        return None
    answers: list[bool | None] = []
    for name, entry in record.nodes.items():
        if entry.old == entry.new:
            continue
        holder = holders.get(name)
        if holder is None or not fresh(record, holder):
            answers.append(None)
        else:
            answers.append(signs_with(record, holder, entry.new if side is Side.NEW else entry.old))
    if False in answers:
        return False
    return None if None in answers else True


def last_start(record: KeyRecord, holders: Holders) -> datetime:
    """Return when the last kube-apiserver was started, as nodes report it; not before the state began.

    Those that a person has restarted are left out: nobody knows when that was. One that is stopped may have signed
    until then.
    """
    started = [
        holder.keys.reader.started or holder.keys.reader.stopped
        for name, holder in holders.items()
        if name in record.nodes and holder.keys is not None and name not in record.restarted
    ]
    return max([record.since, *(each for each in started if each is not None)])


def _published(step: KeyTransition) -> Iterator[Waiting]:
    """Find key sets outside by which others check tokens, as long as nobody says that they have every key."""
    if step.path in STEPS_OF_KEY_SETS and step.published and JWKS not in step.record.checked:
        where = " and ".join(each.sentence for each in step.published)
        then = f"Wait for as long as others keep a copy, and run `{step.command} --checked {JWKS}`"
        reason = f"tokens are checked by {where} too. Once nothing else is waited for, {PUBLISH}. {then}"
        yield Waiting(JWKS, reason)


def guests(record: KeyRecord) -> tuple[str, ...]:
    """Return the nodes that have joined with a key of their own while the old key of the others is a shared one."""
    if not record.shared or not record.active:
        return ()
    return tuple(name for name, keys in sorted(record.nodes.items()) if keys.old == keys.new)


def _home(step: KeyTransition) -> Iterator[Waiting]:
    """Find nodes that have no part in a key that all the others share, and cannot go back to it."""
    record = step.record
    if step.path not in STEPS_HOME or not record.shared:
        return
    for name in guests(record):
        yield Waiting(
            name,
            "has joined with a key of its own and not with the shared one. Remove it from the cluster and from "
            "cluster.yaml, and wait until its tokens have expired. Or go on: `vaultpki ca continue`",
        )
    for each in record.departed:
        if each.pem and key_sha256(each.pem) != record.shared:
            until = f"until {stamp(each.until)}" if each.until is not None else "until their life is known"
            reason = f"is gone, and its tokens live {until}. Wait, or go on: `vaultpki ca continue`"
            yield Waiting(each.node, reason)


def _nodes(step: KeyTransition) -> Iterator[Waiting]:
    """Find what is waited for on each node."""
    names = {*step.record.nodes, *(name for name, each in step.holders.items() if not each.locked)}
    return (found for name in sorted(names) if (found := _waits_for(step, name)).reason)


def _waits_for(step: KeyTransition, name: str) -> Waiting:
    """Return what a step waits for on a node; without a reason for nothing."""
    holder, entry = step.holders.get(name), step.record.nodes.get(name)
    if holder is None:
        return Waiting(name, "is not in cluster.yaml any more. Run `vaultpki apply`, then `vaultpki ca continue`")
    if holder.locked:
        gone = "Remove it from the cluster and from cluster.yaml"
        return Waiting(name, f"{words.IS_LOCKED}. {gone}. Or enrol it and join it again: `vaultpki enroll {name}`")
    return first_found(name, KEY_GATE_CHECKS, step, holder, entry)


def _unreported(step: KeyTransition, holder: KeyHolder, entry: NodeKeys | None) -> str:
    return words.never_reported(holder.name, holder.join_until) if holder.report is None else ""


def _no_keys(step: KeyTransition, holder: KeyHolder, entry: NodeKeys | None) -> str:
    if holder.keys is not None:
        return ""
    return f"reports no service-account keys. {AGENT_DOES}"


def _behind(step: KeyTransition, holder: KeyHolder, entry: NodeKeys | None) -> str:
    keys = holder.keys
    if keys is None or keys.seen.highest <= step.record.revision:
        return ""
    return (
        f"says that it has read revision {keys.seen.highest} of the keys' record, and the server has "
        f"{step.record.revision}. The server was restored from a snapshot, or that is false. Join it anew: `vaultpki "
        f"enroll {holder.name} --replace`"
    )


def _joins(step: KeyTransition, holder: KeyHolder, entry: NodeKeys | None) -> str:
    if entry is not None:
        return ""
    return "joins, and its key is in no union yet. Run `vaultpki admit --wait`"


def _echo(step: KeyTransition, holder: KeyHolder, entry: NodeKeys | None) -> str:
    if fresh(step.record, holder) or holder.report is None:
        return ""
    return words.not_read(holder.report.time)


def _waits(step: KeyTransition, holder: KeyHolder, entry: NodeKeys | None) -> str:
    if entry is None or entry.admitted:
        return ""
    return why_waits(step.record, holder.name, step.holders) or "may start. Let it: `vaultpki admit`"


def _made(step: KeyTransition, holder: KeyHolder, entry: NodeKeys | None) -> str:
    keys = holder.keys
    if entry is None or keys is None or step.path not in STEPS_BY_UNION:
        return ""
    lacking = [number for number in entry.accepted(step.record.state) if number not in entry.certificates]
    if not lacking:
        return ""
    if lacking[0] in keys.own:
        return f"has made key {lacking[0]}. To take its certificate in, run `vaultpki ca continue`"
    return f"has not made key {lacking[0]} yet. {AGENT_DOES}"


def _refused(step: KeyTransition, holder: KeyHolder, entry: NodeKeys | None) -> str:
    names = refused_at(step.record, holder) if entry is not None and step.path in STEPS_BY_UNION else ()
    return refuses(names) if names else ""


def _files(step: KeyTransition, holder: KeyHolder, entry: NodeKeys | None) -> str:
    keys = holder.keys
    if entry is None or keys is None:
        return ""
    if step.path in STEPS_BY_UNION:
        if lacking := expected_union(step.record, holder) - keys.union:
            return f"its sa.pub lacks the certificate of {_whose(step.record, lacking)}. {AGENT_DOES}"
        if step.path[1] is KeyState.DONE and _olds(step.record) & keys.union:
            whose = _whose(step.record, _olds(step.record) & keys.union)
            return f"its sa.pub still has the old certificate of {whose}. {AGENT_DOES}"
    elif entry.old != entry.new and not final_on_disk(step.record, holder):
        return f"its sa.key is not the key of this state yet. {AGENT_DOES}"
    return ""


def _started(step: KeyTransition, holder: KeyHolder, entry: NodeKeys | None) -> str:
    """Return what kube-apiserver of a node has not been started with."""
    record, keys = step.record, holder.keys
    if entry is None or keys is None:
        return ""
    found = loaded(record, holder)
    if step.path in STEPS_BY_UNION:
        lacks = bool(expected_union(record, holder) - found.union)
        holds = step.to is KeyState.DONE and bool(_olds(record) & may_hold(record, holder))
        if not lacks and not holds:
            return ""
        what = "does not accept tokens of every key yet" if lacks else "still accepts tokens of an old key"
    elif entry.old != entry.new and not signs_with(record, holder, entry.signs_with(record.state)):
        what = "does not sign with the key of this state yet"
    else:
        return ""
    return f"its kube-apiserver {what}. {to_start(holder, step.command, step.turn)}"


def _in_turn(step: KeyTransition, holder: KeyHolder, entry: NodeKeys | None) -> bool:
    own = step.turn == holder.name and holder.keys is not None and holder.keys.reader.sound
    return own or step.turn not in ("", holder.name)


KEY_GATE_CHECKS: Final[tuple[GateCheck[KeyTransition, KeyHolder, NodeKeys | None], ...]] = (
    GateCheck(_unreported),
    GateCheck(_no_keys),
    GateCheck(_behind),
    GateCheck(_joins),
    GateCheck(_echo, lambda step, holder, entry: True),
    GateCheck(_waits),
    GateCheck(_made),
    GateCheck(_refused),
    GateCheck(_files, lambda step, holder, entry: True),
    GateCheck(_started, _in_turn),
)
"""What a gate asks of a node, in this order. A test runs the command of each sentence.

Agents make passes and files, and restart in their turn; people admit and mend.
"""


def _olds(record: KeyRecord) -> frozenset[str]:
    """Return the SHA-256 of the certificates whose keys are given up in RETIRED."""
    found = [certificates_of(keys, {keys.old}) for keys in record.nodes.values() if keys.old != keys.new]
    gone = {each.sha256 for each in record.departed if not each.pem and each.why is Departure.STOLEN}
    return frozenset().union(*found, gone) - wanted_union(record)


def _whose(record: KeyRecord, hashes: frozenset[str]) -> str:
    names = {name for name, keys in record.nodes.items() if hashes & certificates_of(keys, keys.numbers)}
    names |= {each.node for each in record.departed if each.sha256 in hashes}
    return first_few(sorted(names))


def _all_started(step: KeyTransition) -> datetime:
    """Return from when on every kube-apiserver counts that was started in this state."""
    late = timedelta(seconds=SETTLE if step.holders else 0)
    return last_start(step.record, step.holders) + late


def _life(step: KeyTransition) -> int | None:
    """Return the life of tokens that counts: what a person has stated, else the longest that flags have said."""
    record, known = step.record, step.life.seconds
    if record.stated:
        return record.life
    if known is None:
        return record.life or None
    return max(record.life, known)


def _life_unknown(step: KeyTransition) -> Iterator[Waiting]:
    """Find that nobody knows how long tokens of the keys live that the next state refuses."""
    if step.path in STEPS_BY_SIGNING and _life(step) is None:
        of = f" of {first_few(step.life.unknown, _NAMED)}" if step.life.unknown else ""
        yield Waiting(
            LIFE,
            f"is not known, since nobody has seen the flags of kube-apiserver{of}. Pass `--kubeconfig admin.conf`. Or "
            "say how long tokens live at most: `--token-life 1y`",
        )


def _legacy(step: KeyTransition) -> Iterator[Waiting]:
    """Find Secrets whose tokens never expire, and which the next state refuses."""
    if step.path not in STEPS_BY_SIGNING or step.without_legacy:
        return
    if step.legacy is None:
        yield Waiting(
            LEGACY,
            "have not been looked for. Secrets of type kubernetes.io/service-account-token never expire, and the "
            "next step refuses those that an old key has signed. Pass `--kubeconfig admin.conf`. Or go on without "
            f"them: `--without {LEGACY}`",
        )
        return
    began = step.record.signing_since or _all_started(step)
    older = sorted(each.name for each in step.legacy if each.created is None or each.created <= began)
    count = f"{len(older)} Secrets have tokens that never expire"
    if older:
        yield Waiting(
            LEGACY,
            f"{count if older[1:] else 'a Secret has a token that never expires'} and may be of an old key "
            f"({first_few(older, _NAMED)}). Once every kube-controller-manager was restarted, delete each and make it "
            f"again. Or go on without them: `--without {LEGACY}`",
        )


KEY_CHECKS: Final = (_home, _nodes, _published, _legacy, _life_unknown)
"""What a gate asks of the whole cluster, in this order."""
