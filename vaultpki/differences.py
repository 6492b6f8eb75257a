"""Says item by item in what two values of a field differ, in the words in which people write them; pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from vaultpki.config.durations import format_duration
from vaultpki.plain import escaped
from vaultpki.values import dataclass

# Fields whose numbers are seconds.
_SECONDS: Final = frozenset(
    {
        "ttl",
        "max_ttl",
        "default_ttl",
        "secret_id_ttl",
        "token_ttl",
        "token_max_ttl",
        "token_explicit_max_ttl",
        "token_period",
        "interval_duration",
        "safety_buffer",
        "not_before_duration",
        "reload",
    }
)
# Lists that a policy holds as one text.
_JOINED: Final = frozenset({"alt_names", "ip_sans"})
# A certificate's fields of the records, where people have another word for them.
_WORDS: Final = {"dns": "names", "ips": "addresses", "common_name": "common name", "organization": "organizations"}

NOTHING: Final = "nothing"


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that differs: as items that come and go, or as what it is and becomes; all of it is words for people.

    `what` is the field, and the way to it where it lies deeper.
    """

    what: str
    old: str = ""
    new: str = ""
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.added and not self.removed:
            return f"{self.what} {self.old} -> {self.new}"
        signed = (f"{sign} {', '.join(items)}" for sign, items in (("+", self.added), ("-", self.removed)) if items)
        return f"{self.what} {' '.join(signed)}"


def differences(what: str, old: Any, new: Any, *, field: str = "") -> list[Difference]:
    """What differs between two values; empty where they say the same. `field` is the field's own name."""
    field = field or what
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            difference
            for name in dict.fromkeys((*old, *new))
            for difference in differences(f"{what}.{escaped(str(name))}", old.get(name), new.get(name), field=name)
        ]
    if field in _JOINED and _one_text(old) and _one_text(new):
        parted = differences(what, str(old[0]).split(","), str(new[0]).split(","), field="")
        if parted:
            return parted
    if isinstance(old, list) and isinstance(new, list):
        added, removed = _items(old, new, field)
        # Of lists without an order, only that of texts joined in a policy can differ by order alone.
        if added or removed or old == new or _unordered(old):
            return [Difference(what, added=added, removed=removed)] if added or removed else []
    if isinstance(old, str) and isinstance(new, str) and ("\n" in old or "\n" in new):
        return _texts(what, old, new)
    return [] if old == new else [Difference(what, word(field, old), word(field, new))]


def certificate_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """What differs between two descriptions of one certificate in a node's or a pool's record."""
    return [
        difference
        for name in dict.fromkeys((*old, *new))
        for difference in differences(_WORDS.get(name, escaped(str(name))), old.get(name), new.get(name), field=name)
    ]


def by_name(entries: object) -> dict[str, Mapping[str, Any]]:
    """The certificates of a record by their names; what is no certificate in it is left out."""
    some = entries if isinstance(entries, list) else []
    return {str(entry["name"]): entry for entry in some if isinstance(entry, Mapping) and "name" in entry}


def word(field: str, value: Any) -> str:
    """One value as a person writes it."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "true" if value else "false"
    if field in _SECONDS and str(value).isdecimal() and int(value) > 0:
        # Texts of digits in a policy, too.
        return format_duration(int(value))
    if isinstance(value, str) and value and " " not in value:
        return escaped(value)
    if isinstance(value, list) and value and all(isinstance(item, str) and " " not in item for item in value):
        return ", ".join(map(escaped, value))
    return json.dumps(_without_texts(value), default=str)


def _without_texts(value: Any) -> Any:
    """The value with the number of lines in place of each text of several: a whole file is not what a person reads."""
    if isinstance(value, Mapping):
        return {name: _without_texts(each) for name, each in value.items()}
    if isinstance(value, str) and "\n" in value.rstrip("\n"):
        return f"({value.rstrip(chr(10)).count(chr(10)) + 1} lines)"
    return value


def _items(old: Sequence[Any], new: Sequence[Any], field: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    # By their text: items may be of any kind, and some cannot be counted.
    before, after = (Counter(word(field, item) for item in some) for some in (old, new))
    return tuple((after - before).elements()), tuple((before - after).elements())


def _unordered(items: Sequence[Any]) -> bool:
    return all(isinstance(item, str) for item in items)


def _one_text(value: object) -> bool:
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)


def _texts(what: str, old: str, new: str) -> list[Difference]:
    """Two texts of many lines: the lines that come and go, and of certificates, which nobody reads, the SHA-256."""
    if old == new:
        return []
    if "-----BEGIN" not in old + new:
        added, removed = _items(old.splitlines(), new.splitlines(), "")
        if added or removed:
            return [Difference(what, added=added, removed=removed)]
    return [Difference(what, _digest(old), _digest(new))]


def _digest(text: str) -> str:
    return f"(text with SHA-256 {sha256(text.encode()).hexdigest()})" if text else NOTHING
