"""Writes and reads the record `rotation/service-account-keys`: whose keys count for tokens, and how they are rotated.

An operator's command writes it by check-and-set, and every node may read it. It cannot bring in a key: a node takes a
certificate from it only if `pki.service_account` says that it counts. Without a record no key of a node is admitted.

Each node has one key at rest, whose number is `old` and `new`. A rotation gives it a second one. A node holds the
private keys of exactly these two numbers, and deletes others. Number 1 may be kubeadm's `sa.key`, which several nodes
share: each of them has it certified under its own name.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Final

from vaultpki.procedure.envelope import Envelope
from vaultpki.procedure.phases import KEY_PHASES, Side
from vaultpki.records.rotation import NAMED_NODE, REVISION, ROTATION_FOLDER, TURN
from vaultpki.values.json_object import (
    DIGEST,
    DIGEST_OR_EMPTY,
    FLAG,
    TIME,
    ByName,
    Integer,
    Items,
    JsonMember,
    JsonText,
    Object,
    OneOf,
)

SERVICE_ACCOUNT_KEYS: Final = "service-account-keys"
"""What `ca rotate` takes, the key in the `seen` of reports, and the domain in what is owed or waits for a turn."""

KEYS_RECORD: Final = f"{ROTATION_FOLDER}/{SERVICE_ACCOUNT_KEYS}"
"""The path of the record in the config store."""

LARGEST_KEY_NUMBER: Final = 99_999_999
"""The largest number of a key: its name leaves room for so many digits (`consistency.longest_node`)."""

MOST_KEY_NODES: Final = 64
"""The largest number of nodes with keys."""

MOST_DEPARTED: Final = 128
"""The largest number of departed keys."""

MOST_IN_UNION: Final = 2 * MOST_KEY_NODES + MOST_DEPARTED
"""The largest number of certificates that a union has by a record."""

NO_KEYS_YET: Final = "no control-plane node has a service-account key yet; `vaultpki admit` takes them in"
"""Why nothing can be done with a record that has no keys, or is not there."""

_MOST_KNOWN: Final = 1024
_LONGEST_PEM: Final = 8192
_LONGEST_LIFE: Final = 200 * 365 * 86400
_ADVICE: Final = "run `vaultpki ca status`"


class KeyState(enum.Enum):
    """Where a rotation of service-account keys stands. STEADY and DONE are at rest."""

    STEADY = "steady"
    PUBLISHED = "published"
    SWITCHED = "switched"
    RETIRED = "retired"
    DONE = "done"
    RETRUSTING = "re-trusting"
    RETURNING = "returning"

    @property
    def resting(self) -> bool:
        return self in (KeyState.STEADY, KeyState.DONE)


KEY_TABLE: Final = KEY_PHASES.of(KeyState)
"""What each state means for the keys of all nodes: the unions hold the accepted ones, and nodes make just these."""


class KeyMethod(enum.Enum):
    """How keys are replaced: with the old ones trusted as long as their tokens live, or with distrust first."""

    ROTATION = "rotation"
    EMERGENCY = "emergency"


class Departure(enum.Enum):
    """Why a key is none of a node's keys any more, though tokens of it may live."""

    REMOVED = "removed"
    REPLACED = "replaced"
    STOLEN = "stolen"


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """The keys of one control-plane node: the numbers, and the certificates as PEM that Vault made for them, by number.

    `old` and `new` are one number where the node has one key. A number without a certificate here is one that the node
    is to make, or that no command has copied from its report yet. `admitted` says that kube-apiserver may start there.
    """

    old: int
    new: int
    admitted: bool = False
    certificates: Mapping[int, str] = field(default_factory=dict)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers that the node may have certified, in order."""
        return tuple(sorted({self.old, self.new}))

    def accepted(self, state: KeyState) -> tuple[int, ...]:
        """Return the numbers of the keys whose tokens are accepted in a state."""
        accepts = KEY_TABLE.phases[state].accepts
        return tuple(
            sorted({number for side, number in ((Side.OLD, self.old), (Side.NEW, self.new)) if side in accepts})
        )

    def signs_with(self, state: KeyState) -> int:
        """Return the number of the key with which the node signs in a state."""
        return self.new if KEY_TABLE.phases[state].takes is Side.NEW else self.old


@dataclass(frozen=True, slots=True)
class DepartedKey:
    """A key that no node has any more: its node, its certificate's SHA-256, and why and since when.

    `pem` is its certificate, which stays in the unions; empty once it has left them, as that of a STOLEN key does at
    once. `until` is when the longest life of its tokens has passed; None while that is not known, and for a STOLEN one.
    """

    node: str
    sha256: str
    why: Departure
    since: datetime
    pem: str = ""
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord(Envelope[KeyState]):
    """The record of all keys.

    `revision` only grows. `since` is when the state began. `nodes` are the control-plane nodes that take part, by name.
    `highest` is, by node, the highest number that was ever given, also of nodes that are gone: no number is used twice.
    `lowest` is, by node, the lowest number that counts (`pki.service_account.token_keys`). `departed` are keys whose
    tokens may live. `shared` is the SHA-256, in hex, of the public key (its SubjectPublicKeyInfo in DER) that several
    nodes shared when the rotation began; "" if each had its own. `turn` is the node whose kube-apiserver may restart,
    and `restarted` are those whose restart a person has confirmed in this state; `checked` are further words of a
    person. `signing_since` is since when every
    kube-apiserver signs as the next step wants it, None as long as one does not. `life` is the longest life of tokens
    in seconds that counts from then, and `stated` whether a person has said it; 0 if it is not known.
    """

    FORGOTTEN: ClassVar = ("restarted", "checked", "signing_since", "life", "stated")

    state: KeyState
    revision: int
    since: datetime
    nodes: Mapping[str, NodeKeys] = field(default_factory=dict)
    method: KeyMethod = KeyMethod.ROTATION
    highest: Mapping[str, int] = field(default_factory=dict)
    lowest: Mapping[str, int] = field(default_factory=dict)
    departed: tuple[DepartedKey, ...] = ()
    shared: str = ""
    turn: str = ""
    restarted: tuple[str, ...] = ()
    signing_since: datetime | None = None
    life: int = 0
    stated: bool = False
    checked: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        """Whether a rotation is under way."""
        return not self.state.resting

    @property
    def hasty(self) -> bool:
        """Whether old keys were stolen, so that every kube-apiserver restarts at once and none waits for its turn."""
        return self.active and self.method is KeyMethod.EMERGENCY

    @property
    def waits_for_tokens(self) -> bool:
        """Whether nothing but time keeps the rotation from its next step: every kube-apiserver signs as it should."""
        return KEY_TABLE.phases[self.state].uses is Side.BOTH and self.signing_since is not None

    @property
    def offered(self) -> tuple[str, ...]:
        """The certificates, as PEM, that the unions of all nodes are to hold, if they count."""
        return tuple(dict.fromkeys(self._offered()))

    @property
    def key_nodes(self) -> frozenset[str]:
        """The names of all nodes whose certificates may be in a union: control-plane nodes, and those that were."""
        return frozenset(self.nodes) | {each.node for each in self.departed if each.pem}

    def numbers(self, node: str) -> tuple[int, ...]:
        """Return the numbers that a node may have certified, also one that is not in the record."""
        known = self.nodes.get(node)
        return known.numbers if known is not None else (self.highest.get(node, 0) + 1,)

    def _offered(self) -> Iterator[str]:
        for _, keys in sorted(self.nodes.items()):
            for number in keys.accepted(self.state):
                if number in keys.certificates:
                    yield keys.certificates[number]
        yield from (each.pem for each in self.departed if each.pem)


def _odd_keys(keys: NodeKeys) -> str:
    return "" if keys.certificates.keys() <= set(keys.numbers) else "certificates"


def _odd_departed(key: DepartedKey) -> str:
    return "pem" if key.pem and key.why is Departure.STOLEN else ""


def _odd(record: KeyRecord) -> str:
    for name, keys in record.nodes.items():
        if record.state.resting and keys.old != keys.new:
            return "nodes"
        if record.highest.get(name, 0) < keys.new or keys.old > keys.new:
            return "highest"
    return ""


_PEM: Final = JsonText(lambda pem: 0 < len(pem) <= _LONGEST_PEM)
_NODES: Final = Items(NAMED_NODE, MOST_KEY_NODES)
_NUMBER: Final = Integer(1, LARGEST_KEY_NUMBER)
_NUMBERS: Final = ByName(NAMED_NODE.fits, _NUMBER, _MOST_KNOWN, order=str)

_KEYS: Final = Object(
    NodeKeys,
    {
        "old": _NUMBER,
        "new": _NUMBER,
        "admitted": FLAG,
        "certificates": ByName(re.compile(r"[1-9][0-9]{0,7}").fullmatch, _PEM, order=int, make=int),
    },
    "a node's keys",
    _ADVICE,
    odd=_odd_keys,
)
_DEPARTED: Final = Object(
    DepartedKey,
    {
        "node": NAMED_NODE,
        "sha256": DIGEST,
        "why": OneOf(Departure),
        "since": TIME,
        "pem": JsonText(_PEM.fits, or_empty=True),
        "until": JsonMember(TIME, null=True),
    },
    "a key",
    _ADVICE,
    odd=_odd_departed,
)
_RECORD: Final = Object(
    KeyRecord,
    {
        "state": OneOf(KeyState),
        "method": OneOf(KeyMethod),
        "revision": REVISION,
        "since": TIME,
        "nodes": ByName(NAMED_NODE.fits, _KEYS, MOST_KEY_NODES, order=str),
        "highest": _NUMBERS,
        "lowest": _NUMBERS,
        "departed": Items(_DEPARTED, MOST_DEPARTED, doubles=True),
        "shared": DIGEST_OR_EMPTY,
        "turn": TURN,
        "restarted": _NODES,
        "checked": JsonMember(_NODES, left_out=True),
        "signing_since": JsonMember(TIME, null=True),
        "life": Integer(0, _LONGEST_LIFE),
        "stated": FLAG,
    },
    "a record of vaultpki",
    _ADVICE,
    odd=_odd,
    version=True,
)

to_json = _RECORD.write


def read(value: object, *, where: str) -> KeyRecord:
    """Return the record; raise SpecError with record and field if no vaultpki writes it like this.

    The certificates are texts: whether they count is not checked here.
    """
    return _RECORD.read(value, where)
