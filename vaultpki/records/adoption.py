"""Writes and reads the record of an adoption: where the take-over of a live kubeadm cluster stands.

There is one for a cluster, and nodes follow it as they follow the records of rotations. It is written by check-and-set
before anything is changed. It brings in no CA: a node trusts an old CA only if its SHA-256 is in agent.yaml, and a new
one only if the pinned root has signed it. No node changes a manifest because of the record alone.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from vaultpki.certificates import ISSUING_CAS
from vaultpki.errors import SpecError
from vaultpki.records.rotation import BEYOND, ROTATION_FOLDER, components
from vaultpki.redact import stamp
from vaultpki.values import hosts, names
from vaultpki.values.json_object import JsonObject

NAME: Final = "adoption"
"""What stands in reports and messages where a rotation has the name of its CA."""

RECORD: Final = f"{ROTATION_FOLDER}/{NAME}"
"""The path of the record in the config store: every node's policy lets it read this folder."""

WRITE_BACK: Final = f"write the right one back (`bao kv rollback -mount=MOUNT -version=N {RECORD}`)"
"""What a person does about a record that somebody changed: the config store keeps its earlier versions."""

OLD_CAS: Final = ("kubernetes", "etcd", "front-proxy")
"""The domains in which kubeadm makes a CA. Its kubelets serve with certificates that no CA has signed."""

_MOST_NODES: Final = 5000
_MOST_CAS: Final = 8
_LONGEST: Final = 300
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[a-z][a-z0-9-]{0,40}")


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


@dataclass(frozen=True, slots=True)
class AdoptionRecord:
    """The record of the adoption of a cluster.

    `revision` grows by one with each write, and `entered` is the one with which the state began: the report of a node
    counts if its pass has read that one or a later one. `since` is when the state began.

    `old` are the SHA-256 of the old CAs in hex, by domain. `turn` is the node of the control plane, or member of etcd,
    that may restart its components now; "" for none. All others wait. Nodes that run neither need no turn.
    `restarted` are the components (`cp-1/etcd`) whose restarts a person confirmed in this state, and `confirmed`
    further words of a person for it, such as `outside`. `joins_closed` is when the last bootstrap token of before
    was seen to be gone in this state, None if that was not seen yet. `kept` says where a person keeps the keys of
    the old CAs; nodes delete theirs in DONE if it is empty, and leave them where they are if not. `imported` are
    the domains whose old CA is in Vault with its key: on the way back nodes get its certificates there.
    """

    state: AdoptionState
    revision: int
    entered: int
    since: datetime
    old: Mapping[str, tuple[str, ...]]
    turn: str = ""
    restarted: tuple[str, ...] = ()
    confirmed: tuple[str, ...] = field(default=())
    joins_closed: datetime | None = None
    kept: str = ""
    imported: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        """Whether an adoption is under way; in DONE it has ended."""
        return self.state is not AdoptionState.DONE

    def moved(self, state: AdoptionState, now: datetime, **changes: Any) -> AdoptionRecord:
        """Return the next revision in another state; what people confirmed and whose turn it is, is forgotten."""
        fresh: dict[str, Any] = {"turn": "", "restarted": (), "confirmed": (), "joins_closed": None}
        after = self.revision + 1
        return replace(self, state=state, revision=after, entered=after, since=now, **(fresh | changes))

    def changed(self, **changes: Any) -> AdoptionRecord:
        """Return the next revision in the same state."""
        return replace(self, revision=self.revision + 1, **changes)


def to_json(record: AdoptionRecord) -> dict[str, Any]:
    """Return the record as it is stored."""
    return {
        "version": 1,
        "state": record.state.value,
        "revision": record.revision,
        "entered": record.entered,
        "since": stamp(record.since),
        "old": {ca: list(record.old[ca]) for ca in ISSUING_CAS if ca in record.old},
        "turn": record.turn,
        **({"restarted_components": list(record.restarted)} if record.restarted else {}),
        "confirmed": list(record.confirmed),
        **({"joins_closed": stamp(record.joins_closed)} if record.joins_closed is not None else {}),
        **({"kept": record.kept} if record.kept else {}),
        **({"imported": list(record.imported)} if record.imported else {}),
    }


def read(value: object, *, where: str) -> AdoptionRecord:
    """Return the record; raise SpecError with record and field if no vaultpki writes it like this."""
    if not isinstance(value, Mapping):
        raise SpecError("is not a record of vaultpki; run `vaultpki adopt status`", file=where)
    read = JsonObject(value, where, "contains a value that vaultpki does not write; run `vaultpki adopt status`")
    read.refuse_other_version()
    try:
        state = AdoptionState(read.text("state"))
    except ValueError:
        raise read.wrong("state") from None
    revision = read.integer("revision", 1, BEYOND - 1)
    turn, kept = read.text("turn"), value.get("kept", "")
    if turn and not _is_node(turn):
        raise read.wrong("turn")
    if not isinstance(kept, str) or len(kept) > _LONGEST or not kept.isprintable():
        raise read.wrong("kept")
    return AdoptionRecord(
        state=state,
        revision=revision,
        entered=read.integer("entered", 1, revision),
        since=read.time("since"),
        old=_old(read, value.get("old")),
        turn=turn,
        restarted=components(read, "restarted_components"),
        confirmed=_list(read, "confirmed", lambda word: _WORD.fullmatch(word) is not None),
        joins_closed=read.time("joins_closed") if value.get("joins_closed") is not None else None,
        kept=kept,
        imported=_list(read, "imported", lambda ca: ca in OLD_CAS) if value.get("imported") is not None else (),
    )


def _old(read: JsonObject, value: object) -> dict[str, tuple[str, ...]]:
    """Return the old CAs: of what no adoption is without, and of no domain that this release does not know."""
    if not isinstance(value, Mapping) or not value.keys() <= set(ISSUING_CAS) or "kubernetes" not in value:
        raise read.wrong("old")
    found = {ca: value[ca] for ca in ISSUING_CAS if ca in value}
    for hashes in found.values():
        fits = isinstance(hashes, list) and 0 < len(hashes) <= _MOST_CAS and len(set(map(str, hashes))) == len(hashes)
        if not fits or not all(isinstance(each, str) and _SHA256.fullmatch(each) for each in hashes):
            raise read.wrong("old")
    return {ca: tuple(hashes) for ca, hashes in found.items()}


def _list(read: JsonObject, key: str, fits: Callable[[str], bool]) -> tuple[str, ...]:
    found = tuple(read.texts(key))
    if len(found) > _MOST_NODES or not all(map(fits, found)):
        raise read.wrong(key)
    return found


def _is_node(text: str) -> bool:
    return names.fits(text, hosts.node_name)
