"""Writes and reads the records `rotation/DOMAIN`: what an operator intends with a CA, which agents and apply follow.

A record is written by check-and-set before the server is changed. Nodes trust what it names only if the pinned root
signed it: a record can delay a rotation, and cannot bring in a foreign CA.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Final

from vaultpki.certificates import ISSUING_CAS, ROOT, SERVICE_ACCOUNT
from vaultpki.procedure.envelope import Envelope
from vaultpki.procedure.phases import CA_PHASES, Side
from vaultpki.values import hosts, names
from vaultpki.values.json_object import (
    DIGEST,
    DIGEST_OR_EMPTY,
    FLAG,
    TIME,
    Integer,
    Items,
    JsonMember,
    JsonText,
    Object,
    OneOf,
    word,
)

DOMAINS: Final = (ROOT, *ISSUING_CAS)
"""The CAs of every cluster."""

EVERY_DOMAIN: Final = (*DOMAINS, SERVICE_ACCOUNT)
"""Those of a cluster with service-account keys too."""

ROTATION_FOLDER: Final = "rotation"
"""The folder of these records in the config store."""

SPREAD: Final = 3600
"""The default seconds over which nodes re-issue their leaves after a switch."""

MOST_SPREAD: Final = 30 * 86400
"""The largest number of those seconds."""

BEYOND: Final = 1 << 53
"""What every revision is below, wherever it is written or read: JSON readers keep these (RFC 8259, section 6)."""

MOST_AHEAD: Final = 1000
"""How far a record's revision may be above the highest that an agent has read.

One forged record of a high revision would else make nodes deaf to every later one. A rotation writes some ten
revisions, and an agent that was away for longer than its credential lives joins anew.
"""

MOST_NODES: Final = 5000
_ADVICE: Final = "run `vaultpki ca status`"
_WORDS: Final = "state, method or kept"
_COMPONENT: Final = re.compile(r"[a-z][a-z0-9-]{0,40}")
_ID: Final = JsonText(re.compile(r"[0-9a-f-]{0,64}").fullmatch)


class State(enum.Enum):
    """Where a CA is in its life. STEADY and DONE are at rest: the one signs as before, the other with its successor."""

    STEADY = "steady"
    PREPARED = "prepared"
    PUBLISHED = "published"
    SWITCHED = "switched"
    RETIRED = "retired"
    DONE = "done"
    RETRUSTING = "re-trusting"
    RETURNING = "returning"

    @property
    def resting(self) -> bool:
        return self in (State.STEADY, State.DONE)


CA_TABLE: Final = CA_PHASES.of(State)
"""What each state means for whom nodes trust, and whose leaves they install."""


class Kept(enum.Enum):
    """Which CA stays the default while each node keeps its leaf, after a recovery."""

    OLD = "old"
    NEW = "new"


class Method(enum.Enum):
    """How a CA is replaced: with a new key, with a new certificate for its key, or with distrust first."""

    NEW_KEY = "new-key"
    SAME_KEY = "same-key"
    EMERGENCY = "emergency"


@dataclass(frozen=True, slots=True)
class CaRef:
    """One CA of a rotation: the name of its issuer and key (`etcd-2`), their ids, and the certificate's SHA-256 in hex.

    What does not exist yet is empty.
    """

    name: str
    issuer: str = ""
    key: str = ""
    sha256: str = ""

    @property
    def title(self) -> str:
        """What sentences call it: `key 2 of the CA etcd`, since a node may be called `etcd-2`."""
        domain, _, last = self.name.rpartition("-")
        number, _, renewal = last.partition("r")
        return f"key {number} of the CA {domain}{f' (certificate {renewal})' if renewal else ''}"


@dataclass(frozen=True, slots=True)
class RotationRecord(Envelope[State]):
    """The record of one CA.

    `revision` only grows, also over a restored snapshot. `since` is when the state began. `highest` is the highest
    number that was given to a key of this CA. `also` are the SHA-256 of further CAs that were on the mount when the
    rotation began, which are trusted as long as `old` is. `spread` is in seconds. `excused` are the nodes that no
    gate waits for, `restarted` the components (`cp-1/etcd`) whose restarts a person confirmed in this state,
    `checked` the further words of a person (`pods`), and `turn` the node that may restart what reads the bundle
    only at its start. `kept` is set by a recovery, in RETRUSTING: each node keeps the leaf that it holds, drops no
    CA that it trusts, and the CA that `kept` names is the default until everybody trusts both.
    `closing` says of the root that its rollback has ended: the issuing CAs lose their certificates of the old root, and
    the state follows. `accepting` are the components (`cp-1/etcd`) whose listeners were seen accepting the old CA in
    RETIRED, and were not seen refusing it since. `let_go` says of STEADY that no process holds what a rollback deleted.
    `drops` says that `old` is a CA that nodes trust and the server does not have: it only leaves.
    """

    FORGOTTEN: ClassVar = ("restarted", "checked", "kept", "closing", "accepting", "let_go")

    domain: str
    state: State
    revision: int
    since: datetime
    old: CaRef
    new: CaRef | None = None
    method: Method = Method.NEW_KEY
    highest: int = 1
    also: tuple[str, ...] = ()
    spread: int = SPREAD
    excused: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    turn: str = ""
    kept: Kept | None = None
    closing: bool = False
    accepting: tuple[str, ...] = ()
    let_go: bool = False
    drops: bool = False
    checked: tuple[str, ...] = ()

    @property
    def leaf(self) -> CaRef:
        """The CA whose leaves are installed; with `kept` the one that the server signs with."""
        if self.kept is Kept.OLD:
            return self.old
        return self.new if CA_TABLE.phases[self.state].takes is Side.NEW and self.new is not None else self.old

    @property
    def trust(self) -> frozenset[str]:
        """The SHA-256 of the CAs that bundles hold."""
        accepts = CA_TABLE.phases[self.state].accepts
        old = {self.old.sha256, *self.also} if Side.OLD in accepts else set[str]()
        new = {self.new.sha256} - {""} if Side.NEW in accepts and self.new is not None else set[str]()
        return frozenset(old | new)

    @property
    def active(self) -> bool:
        """Whether a rotation is under way."""
        return not self.state.resting

    @property
    def lingers(self) -> bool:
        """Whether processes may hold an issuing CA that a rollback has deleted, from their start; nodes take turns."""
        deleted = self.new is not None and bool(self.new.sha256) and self.method is not Method.SAME_KEY
        return self.state is State.STEADY and deleted and self.domain != ROOT and not self.let_go


REVISION: Final = Integer(1, BEYOND - 1)

NAMED_NODE: Final = word(hosts.node_name)
"""The name of a node."""

NODES: Final = Items(NAMED_NODE, MOST_NODES)

TURN: Final = word(hosts.node_name, or_empty=True)
"""The node whose turn it is; "" for none."""


def _is_component(text: str) -> bool:
    node, _, component = text.partition("/")
    return names.fits(node, hosts.node_name) and _COMPONENT.fullmatch(component) is not None


COMPONENT_NAMES: Final = Items(JsonText(_is_component), MOST_NODES)
"""Components of nodes, such as `cp-1/etcd`."""


def _odd(record: RotationRecord) -> str:
    if record.new is None and record.state is not State.STEADY:
        return "new"
    if record.kept is not None and record.state is not State.RETRUSTING:
        return "kept"
    untold = not record.old.sha256 or (record.leaf is record.new and not record.new.sha256)
    return "sha256" if untold else ""


_CA: Final = Object(
    CaRef,
    {
        "name": JsonText(re.compile(r"[a-z-]{1,20}-[0-9]{1,6}(?:r[0-9]{1,6})?").fullmatch),
        "issuer": _ID,
        "key": _ID,
        "sha256": DIGEST_OR_EMPTY,
    },
    "a CA",
    _ADVICE,
)
_RECORD: Final = Object(
    RotationRecord,
    {
        "domain": JsonText(),
        "state": OneOf(State, _WORDS),
        "method": OneOf(Method, _WORDS),
        "revision": REVISION,
        "since": TIME,
        "old": _CA,
        "new": JsonMember(_CA, null=True),
        "highest": Integer(1, 999_999),
        "also": Items(DIGEST, MOST_NODES),
        "spread": Integer(0, MOST_SPREAD),
        "excused": NODES,
        "restarted_components": JsonMember(COMPONENT_NAMES, "restarted", left_out=True),
        "checked": JsonMember(NODES, left_out=True),
        "turn": TURN,
        "kept": JsonMember(OneOf(Kept, _WORDS), left_out=True),
        "closing": JsonMember(FLAG, left_out=True),
        "accepting": JsonMember(COMPONENT_NAMES, left_out=True),
        "let_go": JsonMember(FLAG, left_out=True),
        "drops": JsonMember(FLAG, left_out=True),
    },
    "a record of vaultpki",
    _ADVICE,
    odd=_odd,
    version=True,
)

to_json = _RECORD.write


def read(value: object, domain: str, *, where: str) -> RotationRecord:
    """Return the record of `domain`; raise SpecError with record and field if no vaultpki writes it like this."""
    record = _RECORD.read(value, where)
    if record.domain != domain:
        raise _RECORD.wrong("domain", where)
    return record
