"""Shows every field of a change as a diff: a line for each path that differs, in the words of the plan; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from vaultpki.provision.differences import CERTIFICATE_LABELS, as_text, differences, digest, line_changes
from vaultpki.provision.plan import Change
from vaultpki.redact import escaped

_PEM: Final = "-----BEGIN"
_NO_LABELS: Final[Mapping[str, str]] = MappingProxyType({})
_Leaves = dict[str, tuple[str, Any]]
"""Values by their paths, each with the name of its field."""


def every_field(change: Change) -> Iterator[str]:
    """Yield what an update changes, and what a new or deleted object has, sorted by paths.

    A text of several lines has each line that differs in a line of its own; of certificates the SHA-256 is shown.
    """
    for name, (old, new) in sorted(change.fields.items()):
        before, after = ({} if side is None else _leaves(escaped(name), side, name) for side in (old, new))
        found = list[str]()
        for path in sorted({*before, *after}):
            field = (after.get(path) or before[path])[0]
            sides = [leaves[path][1] if path in leaves else None for leaves in (before, after)]
            if any(_is_text(side) for side in sides):
                found += _text(path, *("" if side is None else str(side) for side in sides))
            elif path in before and path in after:
                found += differences(path, *sides, field=field)
            else:
                sign = "" if change.action != "update" else "+ " if path in after else "- "
                found.append(f"{sign}{path} {as_text(field, sides[path in after])}")
        # What only has another order for the server.
        yield from found or [f"{escaped(name)} in another order"]


def _leaves(path: str, value: Any, field: str, labels: Mapping[str, str] = _NO_LABELS) -> _Leaves:
    """Return what is in a value by its path: entries of a list by their names, if each has one of its own.

    `labels` are other words for the names in a mapping.
    """
    below = _NO_LABELS
    if isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        inside, labels, below = {str(each.get("name", "")): each for each in value}, _NO_LABELS, CERTIFICATE_LABELS
        inside = inside if len(inside) == len(value) and all(inside) else {}
    else:
        inside = {str(name): each for name, each in value.items()} if isinstance(value, Mapping) else {}
    if not inside:
        return {path: (field, value)}
    found: _Leaves = {}
    for name, each in inside.items():
        found |= _leaves(f"{path}.{labels.get(name, escaped(name))}", each, name, below)
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\n" in value


def _text(path: str, old: str, new: str) -> list[str]:
    if old == new:
        return []
    if _PEM in old + new:
        return [f"{path} {digest(old)} -> {digest(new)}"]
    return [path, *(f"  {line}" for line in line_changes(old, new))]
