"""Describes item by item how two values of a field differ, as people write such values; pure."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import unified_diff
from hashlib import sha256
from typing import Any, Final

from vaultpki.redact import escaped
from vaultpki.values.durations import format_duration

# Fields whose numbers are seconds.
_SECONDS: Final = re.compile(r"(?:[a-z_]+_)?(?:ttl|period|duration|buffer)|reload")
# Lists that a policy has as one text.
_JOINED: Final = frozenset({"alt_names", "ip_sans"})
CERTIFICATE_LABELS: Final = {
    "dns": "names",
    "ips": "addresses",
    "common_name": "common name",
    "organization": "organizations",
}
"""The fields of a certificate in a record for which people have another word."""

NOTHING: Final = "nothing"


def differences(label: str, old: Any, new: Any, *, field: str = "") -> list[str]:
    """Describe how two values differ; empty if they are equal.

    Lists are compared as sets. `label` is what a person calls the field, `field` its own name if that is another.
    """
    field = field or label
    if isinstance(old, Mapping) and new is None:
        new = {}
    elif old is None and isinstance(new, Mapping):
        old = {}
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = dict.fromkeys((*old, *new))
        labels = {name: f"{label}.{escaped(str(name))}" for name in names}
        return [each for name in names for each in differences(labels[name], old.get(name), new.get(name), field=name)]
    if field in _JOINED and _is_one_text(old) and _is_one_text(new):
        parts = differences(label, old[0].split(","), new[0].split(","), field="")
        if parts:
            return parts
    if isinstance(old, list) and isinstance(new, list):
        items = _items(label, old, new, field)
        # Lists of anything but texts have an order. A text joined in a policy may differ by its order alone.
        if items or old == new or all(isinstance(item, str) for item in old):
            return items
    if isinstance(old, str) and isinstance(new, str) and old != new and ("\n" in old or "\n" in new):
        return _texts(label, old, new)
    return [] if old == new else [f"{label} {as_text(field, old)} -> {as_text(field, new)}"]


def certificate_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Describe how two descriptions of one certificate in a record differ."""
    return [
        difference
        for name in dict.fromkeys((*old, *new))
        for difference in differences(
            CERTIFICATE_LABELS.get(name, escaped(str(name))), old.get(name), new.get(name), field=name
        )
    ]


def as_text(field: str, value: Any) -> str:
    """Return one value as a person writes it; nothing in it can steer a terminal."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "true" if value else "false"
    if _SECONDS.fullmatch(field) and str(value).isdecimal() and int(value) > 0:
        # In a policy, digits are texts.
        return format_duration(int(value))
    if isinstance(value, str) and value and " " not in value:
        return escaped(value)
    if isinstance(value, list) and value and all(isinstance(item, str) and item and " " not in item for item in value):
        return ", ".join(map(escaped, value))
    # Sorted: a server returns the keys of an object in another order than it was sent.
    return json.dumps(_shortened(value), default=str, sort_keys=True)


def _shortened(value: Any) -> Any:
    """Return the value with a count in place of each text of several lines, such as a whole template."""
    if isinstance(value, Mapping):
        return {name: _shortened(each) for name, each in value.items()}
    if isinstance(value, str) and "\n" in value.rstrip("\n"):
        return f"({value.rstrip(chr(10)).count(chr(10)) + 1} lines)"
    return value


def _items(label: str, old: Sequence[Any], new: Sequence[Any], field: str) -> list[str]:
    """Describe the items added and removed; empty if there are none."""
    # By their texts, since items of some types cannot be counted.
    before, after = (Counter(as_text(field, item) for item in items) for items in (old, new))
    signed = (("+", (after - before).elements()), ("-", (before - after).elements()))
    parts = [f"{sign} {joined}" for sign, items in signed if (joined := ", ".join(items))]
    return [" ".join((label, *parts))] if parts else []


def _is_one_text(value: object) -> bool:
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)


def _texts(label: str, old: str, new: str) -> list[str]:
    """Describe the lines added and removed; of certificates, which nobody reads, the SHA-256."""
    if "-----BEGIN" not in old + new:
        lines = _items(label, old.splitlines(), new.splitlines(), "")
        if lines:
            return lines
    return [f"{label} {digest(old)} -> {digest(new)}"]


def line_changes(old: str, new: str) -> list[str]:
    """Return the lines that a text loses and gains, as `diff` shows them."""
    # The first two are the headers; a line of the text may begin as they do.
    compared = list(unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm=""))[2:]
    return [f"{line[0]} {escaped(line[1:])}" for line in compared if not line.startswith("@@")]


def digest(text: str) -> str:
    """Return what is shown in place of a text that nobody reads."""
    return f"(text with SHA-256 {sha256(text.encode()).hexdigest()})" if text else NOTHING
