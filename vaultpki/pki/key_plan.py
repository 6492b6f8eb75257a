"""Decides which service-account keys a control-plane node makes, uses and deletes, by the record; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.pki.service_account import key_name, token_keys, why_no_key
from vaultpki.records.service_account import KeyRecord
from vaultpki.redact import first_few


@dataclass(frozen=True, slots=True)
class KeysHeld:
    """What a node has: its own certificates with their keys by number, and the two files that kube-apiserver reads.

    `signing` is the number of the key in `sa.key`, None if it is none of them; `other` says whether there is such a
    key. `union` are the certificates in `sa.pub`, and `left` the SHA-256 of those that the last pass left there, empty
    if nobody knows. `lowest` is, by node, the lowest number that was accepted here.
    """

    own: Mapping[int, Facts] = field(default_factory=dict)
    signing: int | None = None
    union: tuple[Facts, ...] = ()
    lowest: Mapping[str, int] = field(default_factory=dict)
    other: bool = False
    left: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """What a node should have.

    `make` are the numbers of keys that are to be made, and `delete` those of keys whose private keys are deleted.
    `signing` is the number of the key for `sa.key`, None as long as it is not to be written, and `union` the content of
    `sa.pub`.
    `refused` are certificates of the record that do not count, each with the rest of a sentence. `lowest` is as in
    KeysHeld, from now on. `admitted` is whether the record lets kube-apiserver of this node start with that key.
    """

    make: tuple[int, ...]
    delete: tuple[int, ...]
    signing: int | None
    union: tuple[Facts, ...]
    refused: tuple[tuple[Facts, str], ...]
    lowest: Mapping[str, int]
    admitted: bool


def plan(
    record: KeyRecord | None,
    node: str,
    held: KeysHeld,
    issuing: Sequence[Facts],
    roots: Sequence[Facts],
    *,
    frozen: bool,
    between: Sequence[Facts] = (),
) -> KeyPlan:
    """Return what the node should have by the record, as it was read; None if there is none.

    A node that has no `sa.key` gets it only once the record admits its key: so kube-apiserver cannot start before, and
    starts with the certificates of all nodes that the record has.
    With `frozen` the record is not the newest: it adds to the union, and nothing is dropped, replaced or deleted.
    `issuing`, `roots` and `between` are as in `service_account.token_keys`.
    """
    entry = record.nodes.get(node) if record is not None else None
    wanted = record.numbers(node) if record is not None else (1,)
    said = record.lowest if record is not None and not frozen else {}
    accepted = set(entry.accepted(record.state)) if record is not None and entry is not None else set(held.own)
    signing = _signing(record, node, held, wanted, frozen=frozen)
    mine = [facts for number, facts in held.own.items() if number in accepted or number == signing]
    nodes = {node, *(record.key_nodes if record is not None else ())}
    offered = tuple(_offered(record))
    counting = token_keys([*offered, *mine], issuing, roots, nodes, held.lowest, said, held.union, between=between)
    union = set(counting.certificates)
    # What counted once leaves only because the record says so, not because its CA cannot be read now.
    union.update(facts for facts in held.union if facts in offered and not _retired(facts, counting.lowest))
    if signing is not None:
        # Without it kube-apiserver would refuse the tokens that it signs itself.
        union.add(held.own[signing])
    if frozen or record is None:
        # But what somebody else has put there since.
        union.update(
            facts
            for facts in held.union
            if not held.left or facts.fingerprint in held.left or not why_no_key(facts, issuing, roots, between)
        )
    deletes = record is not None and entry is not None and not frozen
    accepted_by_all = signing is not None and (
        _known(record, node, held, signing) or _of_all(record, held.own[signing])
    )
    admitted = entry is not None and entry.admitted and accepted_by_all
    # By a record that is not the newest nobody knows whether it was admitted before. Another key there is replaced at
    # once: it is a copy of another machine's, or one that was retired.
    waits = held.signing is None and not held.other and not admitted and not frozen
    return KeyPlan(
        make=() if frozen and held.own else tuple(number for number in wanted if number not in held.own),
        delete=tuple(number for number in held.own if number not in wanted and number != signing) if deletes else (),
        signing=None if waits else signing,
        union=tuple(sorted(union, key=_order)),
        refused=tuple(each for each in counting.refused if each[0] not in union and each[0] in offered),
        lowest=counting.lowest,
        admitted=admitted,
    )


def refused_nodes(record: KeyRecord, union: Collection[str]) -> tuple[str, ...]:
    """Return the nodes whose keys count by the record, and whose certificates a union does not have all.

    `union` are SHA-256 in hex. An agent that has read this very record takes such a key for retired. Nodes that are
    gone do not count: a node that joined after them may not know the CA of their certificates.
    """
    found = []
    for name, keys in sorted(record.nodes.items()):
        pems = (keys.certificates.get(number, "") for number in keys.accepted(record.state))
        if any(facts.fingerprint not in union for pem in pems for facts in x509.readable(pem)[:1]):
            found.append(name)
    return tuple(found)


def refuses(names: Sequence[str]) -> str:
    """Return what it means that a node's union lacks the keys of these nodes, as the rest of a sentence."""
    return (
        f"its sa.pub has no certificate of {first_few(names)}, though the record has it. Its agent takes that key for "
        "retired, and its kube-apiserver refuses tokens of it from its next start. If nobody has stolen that key, give "
        f"{names[0]} a new one; the other nodes keep theirs: `vaultpki ca continue --replaced {names[0]}`"
    )


def _order(facts: Facts) -> tuple[str, int, str]:
    node, _, number = facts.subject.common_name.rpartition(":")
    return node, int(number) if number.isdecimal() else 0, facts.fingerprint


def _retired(facts: Facts, lowest: Mapping[str, int]) -> bool:
    name = key_name(facts.subject.common_name)
    return name is None or name.number < lowest.get(name.node, 1)


def _offered(record: KeyRecord | None) -> Iterable[Facts]:
    for pem in record.offered if record is not None else ():
        yield from x509.readable(pem)


def _signing(record: KeyRecord | None, node: str, held: KeysHeld, wanted: Sequence[int], *, frozen: bool) -> int | None:
    """Return the number of the key for `sa.key`.

    A key that is in use is replaced only by one whose certificate the record has: the others know that one. One that
    was retired here is not used again: it may have been stolen.
    """
    current = held.signing if held.signing in held.own else None
    lowest = held.lowest.get(node, 1)
    entry = record.nodes.get(node) if record is not None else None
    if record is not None and entry is None and not frozen:
        lowest = max(lowest, record.lowest.get(node, 1))
    counting = [number for number in held.own if number >= lowest]
    best = min(counting, key=lambda number: (number not in wanted, number), default=None)
    if frozen or record is None or entry is None:
        return current if current is not None and (current >= lowest or best is None) else best
    number = entry.signs_with(record.state)
    if number in held.own and number >= lowest and (current is None or _known(record, node, held, number)):
        return number
    return current if current is not None else best


def _of_all(record: KeyRecord | None, facts: Facts) -> bool:
    """Return whether it is the key that all nodes shared before, whose tokens all accept."""
    return record is not None and record.shared == sha256(facts.public_key).hexdigest()


def _known(record: KeyRecord | None, node: str, held: KeysHeld, number: int) -> bool:
    """Return whether the record has the very certificate of this node's key with that number."""
    entry = record.nodes.get(node) if record is not None else None
    pem = entry.certificates.get(number) if entry is not None else None
    return pem is not None and held.own[number] in x509.readable(pem)
