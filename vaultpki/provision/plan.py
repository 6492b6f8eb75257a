"""Compares what is desired with what is observed: the changes, field by field, in the order of a run; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from vaultpki.certificates import all_cas
from vaultpki.errors import SpecError
from vaultpki.model import Cluster
from vaultpki.pki import ca_life
from vaultpki.pki.ca_life import CaExpiry
from vaultpki.provision.desired import CHAIN, ENGINE_CONFIG
from vaultpki.records.changes import CHANGES, Changes
from vaultpki.records.changes import to_json as changes_to_json
from vaultpki.records.followed import is_followed
from vaultpki.records.rotation import RotationRecord
from vaultpki.records.server_facts import UNKNOWN, Fields, Key
from vaultpki.redact import stamp
from vaultpki.values.durations import parse_duration

Action = Literal["create", "update", "delete"]
Colour = Literal["green", "yellow", "red"]

# The stages of a run, in which changes are made: nothing is written before what it needs, and what takes rights away is
# last but for the record that agents poll. The root's mount is alone: a server without the PKI engine refuses it, and
# then nothing else was made. A node's record names its role id, by which its entity is found, so it is deleted after
# the AppRole, in `cleanup`.
STAGES: Final = (
    "root mount",
    "mounts",
    "root CA",
    "engines",
    "issuing CAs",
    "rules",
    "nodes",
    "removals",
    "cleanup",
    "notice",
)

SECRET_ID: Final = "secret-id"  # noqa: S105 -- a kind of object
"""The kind of a change that no plan shows: apply destroyed a secret id that its node never received."""

# Set once, when the CA is made. To change them later needs a rotation.
_AT_CREATION: Final = frozenset({"common_name", "key", "ttl"})

# Fields that the server keeps as the text it was sent; one duration has many: 72h, 259200s, 3d.
_DURATIONS: Final = frozenset({"expiry", "auto_rebuild_grace_period", "delete_version_after"})


@dataclass(frozen=True, slots=True)
class Danger:
    """Something on the server that is not ours and that a person must look at: the object, and why, in one sentence.

    Both may contain text from the server.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Observed:
    """What the server holds of a cluster, in the normal form of `desired`.

    `objects` has only fields that we manage. `applied` names what earlier runs made, so that a run may delete it.
    """

    objects: Mapping[Key, Fields] = field(default_factory=dict)
    applied: frozenset[Key] = frozenset()
    dangers: tuple[Danger, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One object to create, update or delete. `fields` maps a field to what it is and what it becomes."""

    action: Action
    kind: str
    name: str
    fields: Mapping[str, tuple[Any, Any]]

    @property
    def key(self) -> Key:
        return self.kind, self.name


@dataclass(frozen=True, slots=True)
class Rotation:
    """A CA that differs from cluster.yaml, which no apply changes. `fields` are as in Change, TTLs in seconds.

    `refused` are the certificates whose TTL is longer than the CA's: until the rotation they end with it.
    """

    ca: str
    fields: Mapping[str, tuple[Any, Any]]
    not_after: datetime
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Impact:
    """What changes mean for nodes that take part already: one node, `nodes` nodes of a pool, or `nodes` of all.

    `effect` is one word for programs, `detail` a sentence for people.
    """

    effect: str
    detail: str
    node: str | None = None
    pool: str | None = None
    certificate: str | None = None
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class Live:
    """Who takes part: the nodes that have reported, and those with an AppRole of a pool."""

    reported: frozenset[str] = frozenset()
    pooled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes in the order they are carried out, and the objects of others on our mounts.

    `dangers` are those of the latter that a person must look at, since no apply changes them. `rotations` and `impact`
    are shown with the changes and change nothing; so are `active`, the records of CAs that are being rotated, and
    `expires`, the ends of all CAs that exist. `waiting` are the issuing CAs for which the signer of a root from outside
    has sent nothing yet. `live` are those for whom `impact` was computed. `root_sha256` is set by an apply that is
    done.
    """

    changes: tuple[Change, ...]
    unmanaged: tuple[Key, ...] = ()
    dangers: tuple[Danger, ...] = ()
    rotations: tuple[Rotation, ...] = ()
    impact: tuple[Impact, ...] = ()
    root_sha256: str = ""
    expires: tuple[CaExpiry, ...] = ()
    active: tuple[RotationRecord, ...] = ()
    waiting: tuple[str, ...] = ()
    live: Live = Live()

    @property
    def attention(self) -> bool:
        """Return whether something needs a person, since no apply changes it."""
        return bool(self.rotations or self.dangers or self.waiting) or any(end.level.attention for end in self.expires)


def plan(desired: Mapping[Key, Fields], observed: Observed) -> Plan:
    """Return the changes that turn `observed` into `desired`."""
    changes = []
    for key, wanted in desired.items():
        fields = _difference(key, wanted, observed.objects.get(key))
        if fields:
            action: Action = "update" if key in observed.objects else "create"
            changes.append(Change(action, *key, fields))
    surplus = [key for key in observed.objects if key not in desired]
    # An auth mount is deleted with everything on it.
    going = tuple(f"auth/{name}/" for kind, name in surplus if kind == "auth")
    surplus = [(kind, name) for kind, name in surplus if not (going and _auth_path(kind, name).startswith(going))]
    changes += [
        Change("delete", *key, {name: (value, None) for name, value in observed.objects[key].items()})
        for key in surplus
        if key in observed.applied
    ]
    changes.sort(key=lambda change: STAGES.index(stage(change)))
    unmanaged = tuple(sorted(key for key in surplus if key not in observed.applied))
    return Plan(tuple(changes), unmanaged, observed.dangers)


def _auth_path(kind: str, name: str) -> str:
    return f"auth/{name}" if kind == "approle" else name


def stage(change: Change) -> str:
    """Return the stage of a run, one of STAGES, in which a change is made."""
    if is_notice(change):
        return "notice"
    if change.action == "delete":
        return "cleanup" if change.kind in ("config", "policy") else "removals"
    if change.kind in ("mount", "auth"):
        return "root mount" if change.name.endswith("/root") else "mounts"
    if change.kind in ("issuer", "key"):
        return "root CA" if change.name.endswith("/root") else "issuing CAs"
    folder, _, last = change.name.rpartition("/")
    if change.kind == "config" and folder.endswith("/config") and last in ENGINE_CONFIG:
        return "engines"
    return "nodes" if change.kind == "approle" else "rules"


def is_notice(change: Change) -> bool:
    """Return whether a change is that of the record which agents poll; `apply` makes it after all others."""
    return change.kind == "config" and change.name.endswith(f"/config/{CHANGES}")


def without_notice(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Return the changes of all other objects."""
    return tuple(change for change in changes if not is_notice(change))


def followed(cluster: Cluster, change: Change) -> bool:
    """Return whether nodes follow what is changed: records of cluster, nodes and pools, and which issuers CAs show.

    Of an issuer that exists they follow whether it is the default, and none of its settings.
    """
    if change.kind == "mount":
        return change.action != "update" and change.name in {*map(cluster.mount, all_cas(cluster))}
    if change.kind == "issuer":
        return change.action != "update" or bool({"default", CHAIN} & change.fields.keys())
    return is_followed(cluster, change.key)


def notice_change(cluster: Cluster, found: Changes | None, digests: Mapping[str, str]) -> Change | None:
    """Return the change of the record that agents poll, which is `found`; None if its digests are these."""
    right = Changes(settled=True, digests=digests)
    if found == right:
        return None
    name, now = f"{cluster.mount('config')}/{CHANGES}", changes_to_json(right)
    if found is None:
        return Change("create", "config", name, {field: (None, value) for field, value in now.items()})
    before = changes_to_json(found)
    fields = {field: (before[field], value) for field, value in now.items() if before[field] != value}
    return Change("update", "config", name, fields)


def to_json(plan: Plan, *, reads: int, writes: int) -> dict[str, Any]:
    """Return a plan as programs read it (`plan --json`, `apply --json`)."""
    rotations = [
        {
            "domain": record.domain,
            "state": record.state.value,
            "since": stamp(record.since),
            "old": record.old.name,
            "new": record.new.name if record.new is not None else "",
        }
        for record in plan.active
    ]
    return {
        "changes": [
            {"action": change.action, "kind": change.kind, "name": change.name, "fields": _sides(change.fields)}
            for change in plan.changes
        ],
        "impact": [asdict(impact) for impact in plan.impact],
        "rotation_needed": [
            {
                "ca": rotation.ca,
                "fields": _sides(rotation.fields),
                "not_after": stamp(rotation.not_after),
                "refused": list(rotation.refused),
            }
            for rotation in plan.rotations
        ],
        "expires": [ca_life.to_json(end) for end in plan.expires],
        "unmanaged": [f"{kind} {name}" for kind, name in plan.unmanaged],
        "dangers": [asdict(danger) for danger in plan.dangers],
        "requests": {"reads": reads, "writes": writes},
        **({"rotations": rotations} if rotations else {}),
        **({"waiting": list(plan.waiting)} if plan.waiting else {}),
    }


def _sides(fields: Mapping[str, tuple[Any, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {"from": old, "to": new} for name, (old, new) in fields.items()}


def _difference(key: Key, wanted: Fields, found: Fields | None) -> dict[str, tuple[Any, Any]]:
    if found is None:
        return {name: (None, value) for name, value in wanted.items()}
    names = dict.fromkeys([*wanted, *(found if key[0] in ("policy", "config") else ())])
    if key[0] in ("issuer", "key"):
        names = dict.fromkeys(name for name in names if name not in _AT_CREATION)
    pairs = {name: (found.get(name), wanted.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if not _same(name, *pair)}


def _same(name: str, found: Any, wanted: Any) -> bool:
    if wanted == UNKNOWN:
        return found is not None
    if name in _DURATIONS and (seconds := _seconds(found)) is not None:
        return seconds == _seconds(wanted)
    # The order of our lists does not matter, and Vault sorts some of them.
    if isinstance(found, list) and isinstance(wanted, list) and all(isinstance(v, str) for v in found + wanted):
        return sorted(found) == sorted(wanted)
    return bool(found == wanted)


def _seconds(duration: object) -> int | None:
    """Return the seconds of a duration that a server shows; None for one that vaultpki would not write."""
    text = str(duration)
    try:
        return parse_duration(f"{text}s" if text.isdecimal() else text)
    except SpecError:
        return None
