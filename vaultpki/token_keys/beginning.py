"""Decides how a rotation of service-account keys begins, and what leaves all unions after a theft; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime

from vaultpki.errors import StateConflict
from vaultpki.records.service_account import (
    MOST_DEPARTED,
    NO_KEYS_YET,
    DepartedKey,
    Departure,
    KeyMethod,
    KeyRecord,
    KeyState,
    NodeKeys,
)
from vaultpki.redact import first_few
from vaultpki.token_keys.course import KeyScene, only, taken_in, with_key
from vaultpki.token_keys.holders import key_sha256, sha256_of


def begun(stored: KeyRecord | None, scene: KeyScene, method: KeyMethod = KeyMethod.ROTATION) -> KeyRecord:
    """Return the record with which a rotation begins: each node gets the number of its next key.

    Without a record it begins with the key that all nodes share; an emergency, for which the record may be lost, with
    those that nodes report. An emergency may begin in the middle of a rotation: the next keys of that may be stolen
    too. It takes out the keys of nodes that have left as well. Raises StateConflict if there are no keys to begin with.
    """
    hasty = method is KeyMethod.EMERGENCY
    before = stored or (_of_reports(scene) if hasty else None) or _of_shared(scene)
    if not before.nodes:
        raise StateConflict(NO_KEYS_YET)
    highest, nodes = dict(before.highest), {}
    for name, keys in before.nodes.items():
        highest[name] = max(highest.get(name, 0), keys.new, scene.highest_given(name)) + 1
        nodes[name] = replace(only(keys, keys.signs_with(before.state)), new=highest[name])
    to = KeyState.RETIRED if hasty else KeyState.PUBLISHED
    after = before.moved(to, scene.now, nodes=nodes, highest=highest, method=method)
    if hasty:
        # At once, while nodes hold the certificates that end: there is no rollback to them.
        lowest = {name: number + (name not in nodes) for name, number in highest.items()}
        departed = tuple(_all_taken_out(before, nodes, scene.now))[:MOST_DEPARTED]
        after = replace(after, departed=departed, lowest={**before.lowest, **lowest})
    # A new record is the first one.
    return after if stored is not None else replace(after, revision=1)


def stolen(record: KeyRecord, name: str, now: datetime) -> KeyRecord:
    """Return the record without a node whose keys were stolen: its certificates leave every union at once."""
    keys = record.nodes.get(name)
    mine = [each for each in record.departed if each.node == name]
    held = {sha256_of(pem) for pem in keys.certificates.values()} if keys is not None else set[str]()
    held |= {each.sha256 for each in mine}
    if keys is None and not mine:
        raise StateConflict(f"{name} has no service-account key that counts, so there is none to take out")
    gone = tuple(DepartedKey(name, sha256, Departure.STOLEN, now) for sha256 in sorted(held - {""}))
    highest = max(record.highest.get(name, 0), keys.new if keys is not None else 0)
    others = [each for each in record.departed if each.node != name]
    return record.changed(
        nodes={node: each for node, each in record.nodes.items() if node != name},
        # They only say where the key still counts, and there may be no room for all.
        departed=(*others, *gone[: MOST_DEPARTED - len(others)]),
        highest={**record.highest, name: highest},
        lowest={**record.lowest, name: highest + 1},
    )


def counts_elsewhere(record: KeyRecord, name: str) -> str:
    """Return that other nodes have a key of this one too, as a sentence; "" if none has.

    Then tokens of it are accepted however often this node's own certificate is taken out.
    """
    keys = record.nodes.get(name)
    own = [*(keys.certificates.values() if keys is not None else ())]
    own += [each.pem for each in record.departed if each.node == name]
    sharing = sorted({node for pem in own for node in with_key(record, key_sha256(pem)) if node != name})
    if not sharing:
        return ""
    return (
        f"{first_few(sharing)} has the same key as {name}, so its tokens are accepted all the same. Replace the keys "
        "of all nodes at once (`vaultpki ca rotate service-account-keys --emergency` without `--stolen`)"
    )


def _of_reports(scene: KeyScene) -> KeyRecord | None:
    """Return the record of nodes that run with own keys, by what Vault has certified; None if none reports such a key.

    Whoever writes records can delete that of the keys, and must not keep a stolen key in use by it.
    """
    found = taken_in(None, scene).record
    if found is None:
        return None
    return replace(found, nodes={name: replace(keys, admitted=True) for name, keys in found.nodes.items()})


def _of_shared(scene: KeyScene) -> KeyRecord:
    """Return the record of nodes that all sign with one key, which each has had from the beginning."""
    sharing = {name: holder.keys.shared for name, holder in scene.holders.items() if holder.keys is not None}
    found = {shared for shared in sharing.values() if shared}
    silent = sorted(name for name in scene.holders if name not in sharing)
    if not found:
        raise StateConflict(NO_KEYS_YET)
    if len(found) > 1:
        raise StateConflict(
            "the control-plane nodes have different sa.key of which Vault has certified none, so their tokens are "
            "not accepted everywhere. Give all of them the same one first"
        )
    if silent:
        raise StateConflict(f"{first_few(silent)} did not report the shared sa.key yet; start the agent there first")
    nodes = {name: NodeKeys(1, 1, admitted=True) for name, shared in sharing.items() if shared}
    numbers = dict.fromkeys(nodes, 1)
    return KeyRecord(KeyState.STEADY, 1, scene.now, nodes, highest=numbers, lowest=dict(numbers), shared=min(found))


def _all_taken_out(before: KeyRecord, nodes: Mapping[str, NodeKeys], now: datetime) -> Iterator[DepartedKey]:
    """Yield the keys that an emergency takes out and that none of `nodes` has any more, so that they are watched."""
    for name, keys in sorted(before.nodes.items()):
        for number, pem in sorted(keys.certificates.items()):
            if number not in nodes[name].certificates:
                yield DepartedKey(name, sha256_of(pem), Departure.STOLEN, now)
    for each in before.departed:
        yield replace(each, why=Departure.STOLEN, since=now, pem="", until=None)
