"""Writes and reads the record of a move: a cluster leaves one server for another one, and where that stands.

Both servers have the same record. Its revision is written by check-and-set on the old server, and then copied to the
new one, so there is one order, and a node follows the higher revision that it finds. The records of the CAs' rotations
are written along with it, on each server, and follow from it (`of_domain`).
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar, Final

from vaultpki.certificates import ISSUING_CAS, SERVICE_ACCOUNT
from vaultpki.procedure.envelope import Envelope
from vaultpki.procedure.phases import Side
from vaultpki.records.rotation import (
    CA_TABLE,
    COMPONENT_NAMES,
    MOST_SPREAD,
    NODES,
    REVISION,
    ROTATION_FOLDER,
    SPREAD,
    TURN,
    CaRef,
    Kept,
    RotationRecord,
    State,
)
from vaultpki.values import hosts, names, pem
from vaultpki.values.json_object import (
    DIGEST,
    DIGEST_OR_EMPTY,
    TIME,
    ByName,
    Integer,
    Items,
    JsonMember,
    JsonText,
    Object,
    OneOf,
    word,
)

MOVE: Final = "move"
"""What stands in reports and messages where a rotation has the name of its CA."""

MOVE_RECORD: Final = f"{ROTATION_FOLDER}/{MOVE}"
"""The path of the record in the config store: every node's policy lets it read this folder."""

CREDENTIALS: Final = "move"
"""The folder in the old server's config store of what lets each node log in at the new one: `move/listed/NODE`."""

DOMAINS_MOVED: Final = frozenset({*ISSUING_CAS, SERVICE_ACCOUNT})
"""The CAs that a move may replace."""

HAND_OVER_ROLE: Final = "hand-over"
"""The PKI role on the old server's CA kubernetes that signs hand-overs as long as a move is under way."""

_ADVICE: Final = "run `vaultpki move status`"
_WORDS: Final = "state, kept or lost"
_MOST_ADDRESSES: Final = 16
_LONGEST_PEM: Final = 1 << 16


class LostServer(enum.Enum):
    """Which server a person has called lost."""

    OLD = "old"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """A server as nodes reach it. `ca_pem` is "" if the system's CAs verify it, and `namespace` if it is the root's."""

    addresses: tuple[str, ...]
    prefix: str
    namespace: str = ""
    ca_pem: str = ""


@dataclass(frozen=True, slots=True)
class MovedCa:
    """One issuing CA of a move: the names of both (`etcd-1`, `etcd-2`), and the SHA-256 of their certificates in hex.

    The new one has no SHA-256 until it is signed. `revision` is that of the last record of its rotation before the
    move, 0 if there was none; `highest` the highest number of a key of it before the move, and `also` the SHA-256 of
    further CAs that were trusted then.
    """

    old: str
    old_sha256: str
    new: str
    new_sha256: str
    revision: int = 0
    highest: int = 1
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MoveRecord(Envelope[State]):
    """The record of a move; its states are those of the rotation of a CA.

    `revision` only grows, over both servers. `since` is when the state began. `number` is that of the hand-over, which
    grows from one move of the cluster to the next. `cas` are the issuing CAs by domain, and `root` and `new_root` the
    SHA-256 of both roots. `hand_over` is a certificate in PEM of the old server's CA kubernetes, which binds the text
    `handed_over`; "" as long as none was signed. `excused`, `restarted`, `checked`, `turn`, `spread` and
    `kept` are as in the records of rotations. `lost` is the server that a person has called lost, None if none is.
    """

    FORGOTTEN: ClassVar = ("restarted", "checked", "kept")

    state: State
    revision: int
    since: datetime
    number: int
    old: ServerPlace
    new: ServerPlace
    cas: Mapping[str, MovedCa]
    root: str
    new_root: str
    hand_over: str = ""
    spread: int = SPREAD
    excused: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    turn: str = ""
    kept: Kept | None = None
    checked: tuple[str, ...] = ()
    lost: LostServer | None = None

    @property
    def active(self) -> bool:
        """Whether a move is under way."""
        return not self.state.resting

    @property
    def at_new(self) -> bool:
        """Whether nodes get their certificates at the new server."""
        return CA_TABLE.phases[self.state].takes is Side.NEW

    @property
    def handed_over(self) -> str:
        """The text that the hand-over binds: what names the new server to a node, in one form for all who read it."""
        value = {
            "number": self.number,
            "server": PLACE.write(self.new),
            "cas": {domain: ca.new_sha256 for domain, ca in self.cas.items()},
            "root": self.new_root,
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":"))

    @property
    def uri(self) -> str:
        """The URI in the certificate of the hand-over."""
        return f"vaultpki:hand-over:{hashlib.sha256(self.handed_over.encode()).hexdigest()}"


def of_domain(record: MoveRecord, domain: str, old: CaRef, new: CaRef) -> RotationRecord:
    """Return the record of a CA's rotation that is written along; `old` and `new` have the ids of one server.

    Nodes follow it as that of any rotation. What differs from server to server are the ids of issuers and keys alone.
    """
    ca = record.cas[domain]
    return RotationRecord(
        domain=domain,
        state=record.state,
        revision=ca.revision + record.revision,
        since=record.since,
        old=CaRef(ca.old, old.issuer, old.key, ca.old_sha256),
        new=CaRef(ca.new, new.issuer, new.key, ca.new_sha256),
        highest=ca.highest + 1,
        also=ca.also,
        spread=record.spread,
        excused=record.excused,
        restarted=record.restarted,
        turn=record.turn,
        kept=record.kept,
        checked=record.checked,
        let_go=record.state is State.STEADY,
    )


def is_new(rotation: RotationRecord) -> bool:
    """Return whether the server with this record, which was written along with a move, is the new one.

    Only the new one has the key of the new CA, and only the old one that of the old CA.
    """
    return rotation.new is not None and bool(rotation.new.key) and not rotation.old.key


def is_old(rotation: RotationRecord, move: MoveRecord) -> bool:
    """Return whether the server with such a record is the old one.

    A rotation that has just begun has no key of its new CA yet either, and no certificate of it.
    """
    ca, new = move.cas.get(rotation.domain), rotation.new
    return (
        ca is not None and new is not None and (new.sha256, new.key) == (ca.new_sha256, "") and rotation.old.key != ""
    )


def seen_locally(rotation: RotationRecord, move: MoveRecord | None) -> RotationRecord:
    """Return the record of a CA's rotation as its server has it: in a move each one signs by its own CA all the time.

    Whose certificates nodes have says the record itself.
    """
    if move is None or move.state is State.STEADY or rotation.domain not in move.cas or rotation.new is None:
        return rotation
    if is_new(rotation):
        return replace(rotation, state=State.SWITCHED, kept=None) if move.active else rotation
    return replace(rotation, state=State.PUBLISHED, kept=None) if is_old(rotation, move) else rotation


PLACE: Final = Object(
    ServerPlace,
    {
        "addresses": Items(word(hosts.vault_address), _MOST_ADDRESSES, least=1),
        "prefix": word(names.prefix),
        "namespace": word(names.vault_namespace, or_empty=True),
        "ca_pem": word(pem.pem_certificates, or_empty=True),
    },
    "a record of a move",
    _ADVICE,
)
"""How a record has the place of a server."""

_NAME: Final = JsonText(re.compile(r"[a-z-]{1,20}-[0-9]{1,6}(?:r[0-9]{1,6})?").fullmatch)
_CA: Final = Object(
    MovedCa,
    {
        "old": _NAME,
        "old_sha256": DIGEST,
        "new": _NAME,
        "new_sha256": DIGEST_OR_EMPTY,
        "revision": Integer(0, REVISION.most),
        "highest": Integer(1, 999_999),
        "also": JsonMember(Items(DIGEST, 5000), left_out=True),
    },
    "a record of a move",
    _ADVICE,
)
_RECORD: Final = Object(
    MoveRecord,
    {
        "state": OneOf(State, _WORDS),
        "revision": REVISION,
        "since": TIME,
        "number": Integer(1, 999_999),
        "old": PLACE,
        "new": PLACE,
        "cas": ByName(DOMAINS_MOVED.__contains__, _CA),
        "root": DIGEST,
        "new_root": DIGEST_OR_EMPTY,
        "hand_over": JsonText(lambda text: len(text) <= _LONGEST_PEM),
        "spread": Integer(0, MOST_SPREAD),
        "excused": NODES,
        "restarted": COMPONENT_NAMES,
        "turn": TURN,
        "checked": JsonMember(NODES, left_out=True),
        "kept": JsonMember(OneOf(Kept, _WORDS), left_out=True),
        "lost": JsonMember(OneOf(LostServer, _WORDS), left_out=True),
    },
    "a record of vaultpki",
    _ADVICE,
    version=True,
)

move_json = _RECORD.write


def read_move(value: object, *, where: str) -> MoveRecord:
    """Return the record; raise SpecError with record and field if no vaultpki writes it like this."""
    return _RECORD.read(value, where)
