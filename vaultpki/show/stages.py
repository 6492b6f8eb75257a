"""Shows how far an apply is: one line for each stage, and what was made when it stops; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from vaultpki.model import Cluster
from vaultpki.provision.plan import STAGES, Change, stage
from vaultpki.show.line import WIDTH, Line, wrapped

StageKind = tuple[str, str]
"""What the changes of a stage are called: the stage, and the kind of object or the folder of a record."""

_LABELS: Final[Mapping[str, str]] = {
    "root mount": "mount of the root CA",
    "engines": "settings of the mounts",
    "rules": "roles, policies and records",
    "nodes": "AppRoles of nodes",
    "cleanup": "records and policies of what was removed",
    "notice": "record that agents poll",
}
_VERBS: Final[Mapping[str, str]] = {
    "root CA": "made",
    "issuing CAs": "made",
    "removals": "removed",
    "cleanup": "removed",
}
# The stages with several kinds of objects.
_MIXED: Final = frozenset({"mounts", "rules", "removals", "cleanup"})
_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "auth": ("auth mount", "auth mounts"),
    "policy": ("policy", "policies"),
    "issuer": ("CA", "CAs"),
    "key": ("key", "keys"),
    "approle": ("AppRole", "AppRoles"),
    "config": ("setting", "settings"),
    "nodes": ("record of a node", "records of nodes"),
    "pools": ("record of a pool", "records of pools"),
}


def kind_of(cluster: Cluster, change: Change) -> StageKind:
    """Return the stage in which a change is made, and the kind of what is changed, for `stage_line`."""
    for folder in ("nodes", "pools"):
        if change.kind == "config" and change.name.startswith(f"{cluster.mount('config')}/{folder}/"):
            return stage(change), folder
    return stage(change), change.kind


def stage_line(name: str, made: Mapping[StageKind, int], planned: Mapping[StageKind, int]) -> str:
    """Return how much of a stage is made, with the numbers of each kind if it has several."""
    totals = {kind: total for kind, total in planned.items() if kind[0] == name}
    done = sum(made.get(kind, 0) for kind in totals)
    label, verb = _LABELS.get(name, name), _VERBS.get(name, "written")
    if name in _MIXED and len(totals) == 1:
        ((_, kind),) = totals
        label = _count(kind, 2).partition(" ")[2]
    line = f"{label}: {done} of {sum(totals.values())} {verb}"
    if len(totals) == 1:
        return line
    parts = (_count(kind[1], total, made.get(kind, 0)) for kind, total in totals.items())
    return f"{line} ({', '.join(parts)})"


def _count(kind: str, total: int, made: int | None = None) -> str:
    part = "" if made in (None, total) else f"{made} of "
    return f"{part}{total} {_WORDS.get(kind, (kind, f'{kind}s'))[total != 1]}"


def stopped_lines(
    made: Counter[StageKind], planned: Counter[StageKind], before: int, *, saved: bool = False
) -> list[Line]:
    """Return what an apply that stops has made and has not; `before` are the changes of earlier rounds.

    `saved` says that it was the apply of a saved plan, which is refused once a part of it is made.
    """
    total = sum(planned.values())
    open_stages = [name for name in STAGES if any(made[kind] < planned[kind] for kind in planned if kind[0] == name)]
    shown = [Line(f"Stopped: {before + sum(made.values())} of {before + total} changes were made. Not all is done of:")]
    for name in open_stages:
        shown += wrapped(f"  {stage_line(name, made, planned)}", "yellow", WIDTH)
    again = "Run the same apply again: it looks at what is there and goes on with the rest."
    return [*shown, Line("Save a new plan, which has the rest: this one is refused from now on." if saved else again)]
