"""Decides how the record of service-account keys goes on: what it takes from reports, who may start, what ends; pure.

Every function returns the next record. What a node reports brings in no key but one that Vault has certified for that
node, with the number that the record gives it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from vaultpki.certificates import SKEW
from vaultpki.pki import service_account, x509
from vaultpki.pki.facts import Facts
from vaultpki.records.service_account import (
    KEY_TABLE,
    DepartedKey,
    Departure,
    KeyMethod,
    KeyRecord,
    KeyState,
    NodeKeys,
)
from vaultpki.redact import first_few
from vaultpki.token_keys.gates import all_sign, guests, last_start
from vaultpki.token_keys.holders import Holders, KeyHolder, key_sha256, refused_at, same_key, sha256_of
from vaultpki.token_keys.issuer import PublishedKeys
from vaultpki.token_keys.life import TokenLife
from vaultpki.token_keys.states import KEYS_HOMEWARD, KEYS_ONWARD, STEPS_BY_SIGNING
from vaultpki.token_keys.turns import next_turn, not_loaded_by, still_accepted_by


@dataclass(frozen=True, slots=True)
class KeyScene:
    """What decides how the record goes on, at the server's time `now`.

    `holders` are the control-plane nodes of cluster.yaml that can log in or have reported. `issuing` are the CAs of
    these keys, `roots` the roots above them and `between` the CAs of a PKI outside that stand between, by which
    certificates are checked. `life` is the longest life of tokens. `given` are the numbers that the policy of each node
    allows, as the server has it. `published` are the key sets outside of the cluster by which others check tokens.
    """

    holders: Holders
    issuing: Sequence[Facts]
    roots: Sequence[Facts]
    now: datetime
    life: TokenLife = field(default_factory=lambda: TokenLife(None))
    given: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    between: Sequence[Facts] = ()
    published: tuple[PublishedKeys, ...] = ()

    def highest_given(self, node: str) -> int:
        """Return the highest number that a node's policy allows; 0 if that is not known."""
        return max(self.given.get(node, ()), default=0)


@dataclass(frozen=True, slots=True)
class TakenIn:
    """The record after what nodes report, None if there is none and no key to begin with, and sentences on it."""

    record: KeyRecord | None
    notes: tuple[str, ...] = ()


def taken_in(stored: KeyRecord | None, scene: KeyScene, replaced: Collection[str] = ()) -> TakenIn:
    """Return the record with what reports add, nodes that leave, and those that may start; the same if nothing is new.

    `replaced` are nodes of which a person says that they were installed anew, so that their old keys are lost, or that
    they need another key, since others take theirs for retired.
    """
    record, notes = stored, list[str]()
    for name, holder in sorted(scene.holders.items()):
        if holder.keys is None or holder.locked:
            continue
        if record is None or name not in record.nodes:
            record, note = _joined(record, holder, scene)
        else:
            record, note = _certified(record, holder, scene, replaced=name in replaced)
        notes += [note] if note else []
    if record is None:
        return TakenIn(None, tuple(notes))
    record = _left(record, scene)
    record = _ended(record, scene)
    if stored is not None:
        record = _admitted(record, stored, scene)
    record = _first_admitted(record, scene)
    return TakenIn(record, tuple(notes))


def timed(record: KeyRecord, scene: KeyScene, stated: int | None = None) -> KeyRecord:
    """Return the record with since when every kube-apiserver signs as the next step wants it, and how long tokens live.

    `stated` is what a person says of their life, in seconds.
    """
    if stated is not None:
        record = replace(record, life=stated, stated=True)
    elif not record.stated and scene.life.seconds is not None and scene.life.seconds > record.life:
        # A shorter one at a later look: tokens of before live as long as they did.
        record = replace(record, life=scene.life.seconds) if _signing_step(record) else record
    step = _signing_step(record)
    if step is None:
        return record
    signs = all_sign(record, step, scene.holders)
    if signs is False:
        return replace(record, signing_since=None)
    if signs and record.signing_since is None:
        # A person says that it was restarted, and not when: it may have signed with the other key until now.
        confirmed = bool(record.restarted)
        return replace(record, signing_since=scene.now if confirmed else last_start(record, scene.holders))
    return record


def with_turn(record: KeyRecord, scene: KeyScene) -> KeyRecord:
    """Return the record with the node whose kube-apiserver may restart."""
    return replace(record, turn=next_turn(record, scene.holders))


def stepped(record: KeyRecord, to: KeyState, now: datetime) -> KeyRecord:
    """Return the record in the next state: at rest each node has one key, and after DONE no earlier one counts."""
    if KEY_TABLE.phases[to].destroys:
        nodes = {name: only(keys, keys.new) for name, keys in record.nodes.items()}
        lowest = {**record.lowest, **{name: keys.new for name, keys in nodes.items()}}
        return record.moved(to, now, nodes=nodes, lowest=lowest, shared="", method=KeyMethod.ROTATION)
    if to is KeyState.STEADY:
        nodes = {name: only(keys, keys.old) for name, keys in record.nodes.items()}
        return record.moved(to, now, nodes=nodes)
    return record.moved(to, now)


def with_key(record: KeyRecord, sha256: str) -> Iterator[str]:
    """Yield the nodes of which a key counts whose public key has this SHA-256."""
    pems = [(name, pem) for name, keys in record.nodes.items() for pem in held_by(record, keys)]
    pems += [(each.node, each.pem) for each in record.departed if each.pem]
    yield from (name for name, pem in pems if sha256 and key_sha256(pem) == sha256)


def next_key_state(record: KeyRecord | None, *, back: bool = False) -> KeyState | None:
    """Return the state that `continue`, or with `back` `abort`, leads to; None if there is none, or at rest.

    A rollback goes on with `continue` too, unless it is barred: then that leads onward again.
    """
    if record is None or not record.active:
        return None
    if back and record.method is KeyMethod.EMERGENCY:
        return None
    if back or (record.state is KeyState.RETURNING and not guests(record)):
        return KEYS_HOMEWARD.get(record.state)
    return KEYS_ONWARD.get(record.state)


def _signing_step(record: KeyRecord) -> KeyState | None:
    return next((to for state, to in STEPS_BY_SIGNING if state is record.state), None)


def first_number(record: KeyRecord | None, name: str, scene: KeyScene) -> int:
    """Return the number of the key with which a node that is not in the record joins."""
    return max(record.numbers(name)[0] if record is not None else 1, scene.highest_given(name))


def _joined(record: KeyRecord | None, holder: KeyHolder, scene: KeyScene) -> tuple[KeyRecord | None, str]:
    """Take in the key of a node that is not in the record: it waits to start until everybody accepts its tokens."""
    number = first_number(record, holder.name, scene)
    pem = holder.keys.own.get(number, "") if holder.keys is not None else ""
    if not pem:
        return record, ""
    why = _refused(pem, holder.name, number, scene, record)
    if why:
        return record, f"{holder.name} reports a key that does not count: {why}"
    if record is None:
        silent = [name for name, each in scene.holders.items() if each.report is not None and each.keys is None]
        if silent:
            return None, (
                f"{holder.name} waits: {first_few(sorted(silent))} may run with an sa.key that nobody has reported; "
                "upgrade the agent there"
            )
        if any(each.keys is not None and each.keys.shared for each in scene.holders.values()):
            return (
                None,
                f"{holder.name} waits: the other nodes share one sa.key, so begin a rotation of these keys first",
            )
    if record is not None and record.shared and record.state is KeyState.STEADY:
        return record, f"{holder.name} waits: the other nodes share one sa.key, so begin a rotation of these keys first"
    entry = NodeKeys(number, number, certificates={number: pem})
    if record is None:
        numbers = {holder.name: number}
        return KeyRecord(KeyState.STEADY, 1, scene.now, {holder.name: entry}, highest=numbers, lowest=numbers), ""
    return _having(record, holder.name, entry), ""


def _having(record: KeyRecord, name: str, entry: NodeKeys) -> KeyRecord:
    return replace(
        record,
        nodes={**record.nodes, name: entry},
        highest={**record.highest, name: max(record.highest.get(name, 0), entry.new)},
        lowest={**record.lowest, name: max(record.lowest.get(name, 1), 1)},
    )


def _certified(record: KeyRecord, holder: KeyHolder, scene: KeyScene, *, replaced: bool) -> tuple[KeyRecord, str]:
    """Take in certificates of a node's own keys that the record lacks, and later ones of the same keys."""
    name, keys = holder.name, record.nodes[holder.name]
    reported = holder.keys.own if holder.keys is not None else {}
    certificates, others = dict(keys.certificates), list[int]()
    for number in keys.numbers:
        pem = reported.get(number, "")
        known = certificates.get(number, "")
        if not pem or pem == known:
            continue
        why = _refused(pem, name, number, scene, record)
        if why:
            return record, f"{name} reports a key that does not count: {why}"
        if known and not same_key(pem, known):
            others.append(number)
        elif not known or _later(pem, known):
            certificates[number] = pem
    if others and replaced:
        return _anew(record, holder, others[-1], scene), ""
    if replaced and any(name in refused_at(record, each) for each in scene.holders.values()):
        return _next_number(record, name, scene), ""
    if certificates != keys.certificates:
        record = _having(record, name, replace(keys, certificates=certificates))
    if others:
        return record, (
            f"{name} reports another key {others[0]} than the record has: if it was installed anew, run `vaultpki ca "
            f"continue --replaced {name}`, and if not, its credential was stolen: lock it"
        )
    return record, ""


def _anew(record: KeyRecord, holder: KeyHolder, number: int, scene: KeyScene) -> KeyRecord:
    """Take in the key of a node that was installed anew: it starts as one that joins, and its old keys linger."""
    keys, pem = record.nodes[holder.name], holder.keys.own[number] if holder.keys is not None else ""
    gone = tuple(_departed(holder.name, keys.certificates.values(), Departure.REPLACED, scene))
    record = replace(record, departed=(*record.departed, *gone))
    return _having(record, holder.name, NodeKeys(number, number, certificates={number: pem}))


def _next_number(record: KeyRecord, name: str, scene: KeyScene) -> KeyRecord:
    """Give a node whose key others take for retired the next number, which none of them has retired.

    It makes that key at its next pass, and its kube-apiserver has its turn once all others have loaded it.
    """
    number = max(record.highest.get(name, 0), scene.highest_given(name)) + 1
    gone = tuple(_departed(name, held_by(record, record.nodes[name]), Departure.REPLACED, scene))
    return _having(replace(record, departed=(*record.departed, *gone)), name, NodeKeys(number, number))


def _left(record: KeyRecord, scene: KeyScene) -> KeyRecord:
    """Let the certificates of nodes linger that are no control-plane nodes any more."""
    gone = sorted(set(record.nodes) - set(scene.holders))
    if not gone:
        return record
    found = tuple(
        each for name in gone for each in _departed(name, held_by(record, record.nodes[name]), Departure.REMOVED, scene)
    )
    nodes = {name: keys for name, keys in record.nodes.items() if name not in gone}
    return replace(record, nodes=nodes, departed=(*record.departed, *found))


def held_by(record: KeyRecord, keys: NodeKeys) -> Iterator[str]:
    """Yield the certificates of a node whose tokens are accepted."""
    accepted = keys.accepted(record.state)
    yield from (pem for number, pem in sorted(keys.certificates.items()) if number in accepted)


def _departed(node: str, pems: Iterable[str], why: Departure, scene: KeyScene) -> Iterator[DepartedKey]:
    until = scene.now + timedelta(seconds=scene.life.seconds + SKEW) if scene.life.seconds is not None else None
    for pem in dict.fromkeys(pems):
        yield DepartedKey(node, sha256_of(pem), why, scene.now, pem, until)


def _ended(record: KeyRecord, scene: KeyScene) -> KeyRecord:
    """Drop the certificates whose tokens have expired, and forget stolen keys that nobody accepts any more."""
    kept = []
    for each in record.departed:
        if each.why is Departure.STOLEN:
            if still_accepted_by(record, scene.holders, each.sha256):
                kept.append(each)
            continue
        until, life = each.until, scene.life.seconds
        if until is None and life is not None:
            until = each.since + timedelta(seconds=life + SKEW)
        if until is None or until > scene.now:
            kept.append(replace(each, until=until))
    return replace(record, departed=tuple(kept), lowest={**record.lowest, **_lowest_left(record, kept)})


def _lowest_left(record: KeyRecord, kept: Sequence[DepartedKey]) -> dict[str, int]:
    """Return the lowest number that counts, of the nodes some of whose departed keys are not `kept`.

    So nodes remember that these have ended, and take back none of them. A node that was installed anew has its number
    again, so its lost key is remembered only once that number is retired.
    """
    found = {}
    for name in {each.node for each in record.departed} - {each.node for each in kept}:
        keys = record.nodes.get(name)
        left = record.highest.get(name, 0) + 1 if keys is None else min(keys.numbers)
        found[name] = max(record.lowest.get(name, 1), left)
    return found


def _admitted(record: KeyRecord, stored: KeyRecord, scene: KeyScene) -> KeyRecord:
    """Let those start whose keys every kube-apiserver has loaded, by the record as nodes have read it."""
    nodes = dict(record.nodes)
    for name, keys in stored.nodes.items():
        entry = nodes.get(name)
        if entry is None or keys.admitted or entry.certificates != keys.certificates or not _complete(keys, stored):
            continue
        if not_loaded_by(stored, name, scene.holders) == ():
            nodes[name] = replace(entry, admitted=True)
    return replace(record, nodes=nodes)


def _complete(keys: NodeKeys, record: KeyRecord) -> bool:
    return all(number in keys.certificates for number in keys.accepted(record.state))


def _first_admitted(record: KeyRecord, scene: KeyScene) -> KeyRecord:
    """Let the first nodes of a cluster start: there is none that could refuse their tokens.

    An agent writes `sa.key` only once it has read that its node is admitted, and the certificates of this record with
    it. So as long as no node has that file, all may start at once. Else the first one by name begins.
    """
    if record.departed or any(keys.admitted for keys in record.nodes.values()):
        return record
    names = [name for name, keys in sorted(record.nodes.items()) if _complete(keys, record)]
    if any(each.keys is not None and each.keys.signing for each in scene.holders.values()):
        names = names[:1]
    started = {name: replace(record.nodes[name], admitted=True) for name in names}
    return replace(record, nodes={**record.nodes, **started})


def only(keys: NodeKeys, number: int) -> NodeKeys:
    """Return the keys of a node that has this one alone."""
    kept: Mapping[int, str] = {each: pem for each, pem in keys.certificates.items() if each == number}
    return replace(keys, old=number, new=number, certificates=kept)


def _later(pem: str, known: str) -> bool:
    """Return whether a certificate that a node reports takes the place of the known one: not if it is of before it.

    Of two that were made in the same second the node has the later one.
    """
    one, other = x509.readable(pem), x509.readable(known)
    return bool(one) and (not other or one[0].not_before >= other[0].not_before)


def _refused(pem: str, node: str, number: int, scene: KeyScene, record: KeyRecord | None) -> str:
    """Return why a certificate is not that of a node's key with this number, as the rest of a sentence; "" if it is."""
    found = x509.readable(pem)
    if len(found) != 1:
        return "it is not one certificate"
    if found[0].pem.strip() != pem.strip():
        return "it is not written as vaultpki writes a certificate"
    why = service_account.why_no_key(found[0], scene.issuing, scene.roots, scene.between)
    if why is not None:
        return why
    if service_account.key_name(found[0].subject.common_name) != service_account.KeyName(node, number):
        return f"it is that of {found[0].subject.common_name}"
    own = key_sha256(pem)
    others = sorted(set(with_key(record, own)) - {node}) if record is not None and own != record.shared else ()
    return f"{first_few(others)} has the same private key, which no two machines may have" if others else ""
