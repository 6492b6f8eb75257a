"""Desired beside observed gives the changes, field by field, in an order that can be carried out; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from typing import Any, Final, Literal

from vaultpki.desired import ENGINE_CONFIG
from vaultpki.known import UNKNOWN, Fields, Key
from vaultpki.plain import stamp
from vaultpki.values import dataclass

Action = Literal["create", "update", "delete"]
Colour = Literal["green", "yellow", "red"]

# Where an object of each kind stands in a run: nothing is written before what it needs, and what takes rights away or
# leaves nothing to point at comes last.
STAGES: Final = ("first", "mounts", "root", "engines", "issuers", "rules", "nodes", "removals", "farewells")

UNCHANGED: Final = "Nothing to change."
"""What a person is told last where there is nothing to do."""

# Said once, when the CA is made; a later change of them is a rotation, not an edit.
_AT_BIRTH: Final = frozenset({"common_name", "key", "ttl"})

# Fields that the server keeps as the text it was sent, of which there are many for one duration: 72h, 259200s, 3d.
_DURATIONS: Final = frozenset({"expiry", "auto_rebuild_grace_period", "delete_version_after"})
_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(d|h|ms|m|s)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")


@dataclass(frozen=True, slots=True)
class Danger:
    """Something on the server that is not ours and that a person must look at: the object, and why, in one sentence.

    Both may hold what the server says of itself.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Observed:
    """What the server holds of ours, in the normal form of `desired`.

    `objects` has only fields that we manage. `applied` names what earlier runs made and may therefore remove.
    """

    objects: Mapping[Key, Fields] = field(default_factory=dict)
    applied: frozenset[Key] = frozenset()
    dangers: tuple[Danger, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One object that is to be made, mended or removed. `fields` maps a field to what it is and what it becomes."""

    action: Action
    kind: str
    name: str
    fields: Mapping[str, tuple[Any, Any]]

    @property
    def key(self) -> Key:
        return self.kind, self.name


@dataclass(frozen=True, slots=True)
class Rotation:
    """A CA that is otherwise than cluster.yaml asks, which no apply changes: `fields` as in Change, TTLs in seconds.

    `refused` are certificates that ask for more life than the CA as it is has: until the rotation nobody gets them.
    """

    ca: str
    fields: Mapping[str, tuple[Any, Any]]
    not_after: datetime
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Impact:
    """What changes mean for nodes that take part already.

    It is about one listed node, or about `nodes` nodes of a pool, or about all (`nodes`, and neither name). `effect` is
    one word for programs, `detail` a sentence for people.
    """

    effect: str
    detail: str
    node: str | None = None
    pool: str | None = None
    certificate: str | None = None
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes in the order they are carried out, and what lies on our mounts that we did not make.

    `dangers` are those among the latter that no apply mends and nobody may overlook. `rotations` and `impact` change
    nothing: they are told beside the changes. `root_sha256` is that of the root CA once an apply is through; empty
    before.
    """

    changes: tuple[Change, ...]
    unmanaged: tuple[Key, ...] = ()
    dangers: tuple[Danger, ...] = ()
    rotations: tuple[Rotation, ...] = ()
    impact: tuple[Impact, ...] = ()
    root_sha256: str = ""

    @property
    def attention(self) -> bool:
        """Whether something needs a person that no apply changes."""
        return bool(self.rotations or self.dangers)


def plan(desired: Mapping[Key, Fields], observed: Observed) -> Plan:
    """What would turn `observed` into `desired`."""
    changes = []
    for key, wanted in desired.items():
        fields = _difference(key, wanted, observed.objects.get(key))
        if fields:
            action: Action = "update" if key in observed.objects else "create"
            changes.append(Change(action, *key, fields))
    surplus = [key for key in observed.objects if key not in desired]
    # An auth mount takes with it what lies on it.
    going = tuple(f"auth/{name}/" for kind, name in surplus if kind == "auth")
    surplus = [(kind, name) for kind, name in surplus if not (going and name.startswith(going))]
    changes += [
        Change("delete", *key, {name: (value, None) for name, value in observed.objects[key].items()})
        for key in surplus
        if key in observed.applied
    ]
    changes.sort(key=lambda change: STAGES.index(stage(change)))
    unmanaged = tuple(sorted(key for key in surplus if key not in observed.applied))
    return Plan(tuple(changes), unmanaged, observed.dangers)


def stage(change: Change) -> str:
    """The part of a run, one of STAGES, in which a change is carried out."""
    if change.action == "delete":
        # A node's record names its role id, by which its entity is found: it goes after the AppRole, so that a run cut
        # off in between still knows whose tokens must end.
        return "farewells" if change.kind in ("config", "policy") else "removals"
    if change.kind in ("mount", "auth"):
        # Alone: a server without the PKI engine refuses it, and then nothing else was made.
        return "first" if change.name.endswith("/root") else "mounts"
    if change.kind == "issuer":
        return "root" if change.name.endswith("/root") else "issuers"
    if change.kind == "config" and change.name.rpartition("/")[0].endswith("/config") and _engine(change.name):
        return "engines"
    if change.kind == "approle":
        return "nodes"
    return "rules"


def _engine(name: str) -> bool:
    return name.rpartition("/")[2] in ENGINE_CONFIG


def to_json(plan: Plan, *, reads: int, writes: int) -> dict[str, Any]:
    """The form in which programs read a plan (`plan --json`, `apply --json`)."""
    return {
        "changes": [
            {"action": change.action, "kind": change.kind, "name": change.name, "fields": _sides(change.fields)}
            for change in plan.changes
        ],
        "impact": [
            {
                "node": impact.node,
                "pool": impact.pool,
                "nodes": impact.nodes,
                "certificate": impact.certificate,
                "effect": impact.effect,
                "detail": impact.detail,
            }
            for impact in plan.impact
        ],
        "rotation_needed": [
            {
                "ca": rotation.ca,
                "fields": _sides(rotation.fields),
                "not_after": stamp(rotation.not_after),
                "refused": list(rotation.refused),
            }
            for rotation in plan.rotations
        ],
        "unmanaged": [f"{kind} {name}" for kind, name in plan.unmanaged],
        "dangers": [{"name": danger.name, "reason": danger.reason} for danger in plan.dangers],
        "requests": {"reads": reads, "writes": writes},
    }


def _sides(fields: Mapping[str, tuple[Any, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {"from": old, "to": new} for name, (old, new) in fields.items()}


def _difference(key: Key, wanted: Fields, found: Fields | None) -> dict[str, tuple[Any, Any]]:
    if found is None:
        return {name: (None, value) for name, value in wanted.items()}
    names = dict.fromkeys([*wanted, *(found if key[0] in ("policy", "config") else ())])
    if key[0] == "issuer":
        names = dict.fromkeys(name for name in names if name not in _AT_BIRTH)
    pairs = {name: (found.get(name), wanted.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if not _same(name, *pair)}


def _same(name: str, found: Any, wanted: Any) -> bool:
    if wanted == UNKNOWN:
        return found is not None
    if name in _DURATIONS and (seconds := _seconds(found)) is not None:
        return seconds == _seconds(wanted)
    # None of our lists has an order that matters, and Vault sorts some of them.
    if isinstance(found, list) and isinstance(wanted, list) and all(isinstance(v, str) for v in found + wanted):
        return sorted(found) == sorted(wanted)
    return bool(found == wanted)


def _seconds(duration: object) -> float | None:
    """The seconds of a duration as Vault takes it; None where it is none."""
    text = str(duration)
    if re.fullmatch("[0-9]+", text):
        return float(text)
    # Only then looked through part by part: a server could send a million digits.
    if not _DURATION.fullmatch(text):
        return None
    parts = _PART.findall(text)
    return float(sum(float(number) * _UNITS[unit] for number, unit in parts))
