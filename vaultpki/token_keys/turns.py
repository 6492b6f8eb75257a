"""Decides whose kube-apiserver may restart or start for service-account keys, one at a time; pure."""

from __future__ import annotations

from vaultpki.procedure.gate import InLine, whose_turn
from vaultpki.records.service_account import KeyRecord
from vaultpki.redact import first_few
from vaultpki.token_keys.holders import (
    Holders,
    KeyHolder,
    certificates_of,
    final_on_disk,
    fresh,
    holds_nothing,
    loaded,
    never_ran,
    owes_start,
    unwanted,
)


def next_turn(record: KeyRecord, holders: Holders) -> str:
    """Return the node whose kube-apiserver may restart; "" if none has to.

    One at a time: the one that has the turn keeps it until it was seen, healthy, with the files on its disk. While one
    is down or not healthy, no other has it.
    """
    line = []
    for name, keys in record.nodes.items():
        # Before its first start there is nothing to keep alive.
        if keys.admitted and name in holders:
            holder = holders[name]
            done = fresh(record, holder) and not owes_start(record, holder)
            down = _down(record, holder)
            line.append(InLine(name, done, final_on_disk(record, holder), down, away=down))
    return whose_turn(record.turn, line)


def still_accepted_by(record: KeyRecord, holders: Holders, sha256: str) -> tuple[str, ...]:
    """Return the nodes whose kube-apiserver may still accept tokens of a certificate that has left the unions."""
    nodes = []
    for name, keys in sorted(record.nodes.items()):
        holder = holders.get(name)
        if keys.admitted and (holder is None or not fresh(record, holder) or sha256 in may_hold(record, holder)):
            nodes.append(name)
    return tuple(nodes)


def not_loaded_by(record: KeyRecord, name: str, holders: Holders) -> tuple[str, ...]:
    """Return the admitted nodes that have not reported yet that they accept tokens of a node that waits to start."""
    entry = record.nodes[name]
    wanted = certificates_of(entry, entry.accepted(record.state))
    lacking = []
    for other, keys in sorted(record.nodes.items()):
        if other == name or not keys.admitted:
            continue
        holder = holders.get(other)
        if holder is None or not fresh(record, holder) or not wanted <= loaded(record, holder).union:
            lacking.append(other)
    return tuple(lacking)


def why_waits(record: KeyRecord, name: str, holders: Holders) -> str:
    """Return why a node must not start yet, as the rest of a sentence; "" if it may."""
    lacking = not_loaded_by(record, name, holders)
    if not lacking:
        return ""
    said = f"waits to start until every kube-apiserver has loaded its key; not yet: {first_few(lacking)}"
    idle = [each for each in lacking if each in holders and never_ran(holders[each])]
    if not idle:
        return f"{said}. Have them restart one by one: `vaultpki admit --wait`"
    word = f"`vaultpki ca continue --restarted {idle[0]}/kube-apiserver`"
    return f"{said}. Start kube-apiserver of {first_few(idle)} first. Or if only the agent does not see it, run {word}"


def to_read(record: KeyRecord, holders: Holders) -> tuple[str, ...]:
    """Return the nodes that the record lets start for the first time, and whose agents have not read that yet."""
    admitted = [holders[name] for name, keys in sorted(record.nodes.items()) if keys.admitted and name in holders]
    return tuple(each.name for each in admitted if never_ran(each) and each.keys is not None and not each.keys.admitted)


def starting(record: KeyRecord, holders: Holders) -> tuple[str, ...]:
    """Return the nodes that have read that their kube-apiserver may start, and where nobody has seen one yet."""
    admitted = [holders[name] for name, keys in sorted(record.nodes.items()) if keys.admitted and name in holders]
    return tuple(each.name for each in admitted if never_ran(each) and each.keys is not None and each.keys.admitted)


def may_hold(record: KeyRecord, holder: KeyHolder) -> frozenset[str]:
    """Return the SHA-256 of the certificates of which a node's file or kube-apiserver may have the key."""
    found = loaded(record, holder)
    keys = holder.keys
    # What a process holds that nobody can see is taken to be all that it ever held.
    return (
        found.either
        if keys is not None and (keys.reader.sound or holder.name in record.restarted or holds_nothing(record, holder))
        else unwanted(record)
    )


def _down(record: KeyRecord, holder: KeyHolder) -> bool:
    keys = holder.keys
    answered = holder.name in record.restarted or holds_nothing(record, holder)
    return keys is not None and not answered and not keys.reader.sound
