"""Writes and reads the record of an adoption: where the take-over of a live kubeadm cluster stands.

There is one for a cluster, and nodes follow it as they follow the records of rotations. It is written by check-and-set
before anything is changed. It brings in no CA: a node trusts an old CA only if its SHA-256 is in agent.yaml, and a new
one only if the pinned root has signed it. No node changes a manifest because of the record alone.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final

from vaultpki.certificates import ISSUING_CAS
from vaultpki.procedure.envelope import Envelope
from vaultpki.procedure.phases import ADOPTION_PHASES, Side
from vaultpki.records.rotation import COMPONENT_NAMES, MOST_NODES, REVISION, ROTATION_FOLDER, TURN
from vaultpki.values.json_object import DIGEST, TIME, ByName, Items, JsonMember, JsonText, Object, OneOf

NAME: Final = "adoption"
"""What stands in reports and messages where a rotation has the name of its CA."""

RECORD: Final = f"{ROTATION_FOLDER}/{NAME}"
"""The path of the record in the config store: every node's policy lets it read this folder."""

WRITE_BACK: Final = f"write the right one back, by `bao` or `vault`: `bao kv rollback -mount=MOUNT -version=N {RECORD}`"
"""What a person does about a record that somebody changed: the config store keeps its earlier versions."""

OLD_CAS: Final = ("kubernetes", "etcd", "front-proxy")
"""The domains in which kubeadm makes a CA. Its kubelets serve with certificates that no CA has signed."""

_MOST_CAS: Final = 8
_LONGEST: Final = 300


class AdoptionState(enum.Enum):
    """Where an adoption stands. In PREPARED nodes enrol, and all is as kubeadm made it."""

    PREPARED = "prepared"
    PUBLISHED = "published"
    SWITCHED = "switched"
    CLOSED = "closed"
    RETIRED = "retired"
    DONE = "done"
    RETRUSTING = "re-trusting"
    RETURNING = "returning"


class ClusterShape(enum.Enum):
    """Whose restarts take the API of the whole cluster away: those of the only control plane, or of two members."""

    ONE_PLANE = "one-control-plane"
    TWO_MEMBERS = "two-etcd-members"
    OTHER = "other"


ADOPTION_TABLE: Final = ADOPTION_PHASES.of(AdoptionState)
"""What each state means for the CAs that bundles hold, and whose certificates nodes install."""


@dataclass(frozen=True, slots=True)
class AdoptionRecord(Envelope[AdoptionState]):
    """The record of the adoption of a cluster.

    `revision` grows by one with each write, and `entered` is the one with which the state began: the report of a node
    counts if its pass has read that one or a later one. `since` is when the state began.

    `old` are the SHA-256 of the old CAs in hex, by domain. `turn` is the node of the control plane, or member of etcd,
    that may restart its components now; "" for none. All others wait. Nodes that run neither need no turn.
    `restarted` are the components (`cp-1/etcd`) whose restarts a person confirmed in this state, and `confirmed`
    further words of a person for it, such as `outside`. `joins_closed` is when the last bootstrap token of before
    was seen to be gone in this state, None if that was not seen yet. `kept` says where a person keeps the keys of
    the old CAs; nodes delete theirs in DONE if it is empty, and leave them where they are if not. `imported` are
    the domains whose old CA is in Vault with its key: on the way back nodes get its certificates there. `shape` is
    what the cluster looked like when the record was written.
    """

    FORGOTTEN: ClassVar = ("restarted", "confirmed", "joins_closed")

    state: AdoptionState
    revision: int
    entered: int
    since: datetime
    old: Mapping[str, tuple[str, ...]]
    turn: str = ""
    restarted: tuple[str, ...] = ()
    confirmed: tuple[str, ...] = ()
    joins_closed: datetime | None = None
    kept: str = ""
    imported: tuple[str, ...] = ()
    shape: ClusterShape = ClusterShape.OTHER

    @property
    def active(self) -> bool:
        """Whether an adoption is under way; in DONE it has ended."""
        return self.state is not AdoptionState.DONE

    @property
    def accepts(self) -> Side:
        """The CAs that bundles hold, and with which nodes check others."""
        return ADOPTION_TABLE.phases[self.state].accepts

    @property
    def counts_from(self) -> int:
        """The revision with which the state began.

        `adopt continue` writes a turn or a person's word by itself, and takes its step with the reports of before.
        """
        return self.entered

    def moved(self, state: AdoptionState, now: datetime, **changes: Any) -> AdoptionRecord:
        """Return the next revision in another state, which begins with it."""
        return Envelope.moved(self, state, now, entered=self.revision + 1, **changes)


def _odd(record: AdoptionRecord) -> str:
    if record.entered > record.revision:
        return "entered"
    return "" if "kubernetes" in record.old else "old"


_RECORD: Final = Object(
    AdoptionRecord,
    {
        "state": OneOf(AdoptionState),
        "revision": REVISION,
        "entered": REVISION,
        "since": TIME,
        # No domain that this release does not know.
        "old": ByName(ISSUING_CAS.__contains__, Items(DIGEST, _MOST_CAS, least=1), order=ISSUING_CAS.index),
        "turn": TURN,
        "restarted_components": JsonMember(COMPONENT_NAMES, "restarted", left_out=True),
        "confirmed": Items(JsonText(re.compile(r"[a-z][a-z0-9-]{0,40}").fullmatch), MOST_NODES),
        "joins_closed": JsonMember(TIME, left_out=True, null=True),
        "kept": JsonMember(JsonText(lambda text: len(text) <= _LONGEST and text.isprintable()), left_out=True),
        "imported": JsonMember(Items(JsonText(OLD_CAS.__contains__), MOST_NODES), left_out=True, null=True),
        "shape": JsonMember(OneOf(ClusterShape), left_out=True),
    },
    "a record of vaultpki",
    "run `vaultpki adopt status`",
    odd=_odd,
    version=True,
)

to_json = _RECORD.write


def read(value: object, *, where: str) -> AdoptionRecord:
    """Return the record; raise SpecError with record and field if no vaultpki writes it like this."""
    return _RECORD.read(value, where)
