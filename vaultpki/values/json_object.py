"""Declares the JSON objects that only vaultpki writes; reading and writing them use the same declarations.

They are the records of the config store, reports of nodes, join files and files in the state folder.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from vaultpki.errors import SpecError
from vaultpki.model import VERSION
from vaultpki.places import Layout
from vaultpki.redact import moment, stamp
from vaultpki.values import names

_T = TypeVar("_T")

_YEARS: Final = range(1970, 9001)
LAST_SECOND: Final = 253402300799
"""Unix time of the end of the year 9999, the last that `datetime` supports."""


def parse(raw: bytes) -> dict[str, Any] | None:
    """Return the JSON object in these bytes; None if they are anything else."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class JsonObject:
    """One JSON object. Every method returns a field's value, or raises SpecError.

    The error consists of `file`, the name of the field and `problem`.
    """

    def __init__(self, value: Mapping[str, Any], file: str, problem: str) -> None:
        self.value, self._file, self._problem = value, file, problem

    def wrong(self, key: str) -> SpecError:
        return SpecError(self._problem, file=self._file, field=key)

    def refuse_other_version(self, newest: int = VERSION) -> None:
        """Raise SpecError for another version than ours, of which `newest` is the last; a newer one needs an update."""
        version = self.value.get("version")
        if isinstance(version, bool) or not isinstance(version, int) or version < VERSION:
            raise self.wrong("version")
        if version > newest:
            raise SpecError(
                f"has version {version} and this vaultpki speaks {newest}; install the newer vaultpki here",
                file=self._file,
                field="version",
            )

    def layout(self) -> Layout:
        """Return the layout that the object is for; raise SpecError if its version is not the one of that layout."""
        try:
            layout = Layout(self.value.get("layout", Layout.DOCUMENT.value))
        except ValueError:
            self.refuse_other_version(max(layout.version for layout in Layout))
            raise self.wrong("layout") from None
        self.refuse_other_version(layout.version)
        if self.value["version"] != layout.version:
            raise self.wrong("layout")
        return layout

    def text(self, key: str, pattern: re.Pattern[str] | None = None) -> str:
        value = self.value.get(key)
        if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
            raise self.wrong(key)
        return value

    def word(self, key: str, check: Callable[[str], str]) -> str:
        """Return text in the normal form that `check` returns."""
        value = self.value.get(key)
        if not names.fits(value, check):
            raise self.wrong(key)
        return value

    def optional(self, key: str, check: Callable[[str], str]) -> str | None:
        """Return the same as `word`, or None if the field is null or missing."""
        return None if self.value.get(key) is None else self.word(key, check)

    def time(self, key: str) -> datetime:
        """Return a time as `redact.stamp` writes it; one so far off that sums overflow is wrong."""
        found = moment(self.value.get(key))
        if found is None or found.year not in _YEARS:
            raise self.wrong(key)
        return found

    def texts(self, key: str) -> list[str]:
        """Return a list of different texts."""
        value = self.value.get(key)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value) or len(set(value)) != len(value):
            raise self.wrong(key)
        return value

    def integer(self, key: str, least: int = 0, most: int = LAST_SECOND) -> int:
        value = self.value.get(key)
        # In Python, bool is a subclass of int.
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(key)
        return value


class Wrong(Exception):
    """A value is not of its kind; `args` may have a name for the member that messages use."""


class Kind:
    """A kind of value. `read` returns it from JSON, or raises Wrong; `where` is its place for messages."""

    def read(self, value: Any, where: str) -> Any:
        return value

    def write(self, value: Any) -> Any:
        return value


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """Text for which `fits` returns something true; `or_empty` allows "" too."""

    fits: Callable[[str], object] = lambda text: True
    or_empty: bool = False

    def read(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or not (self.fits(value) or (self.or_empty and not value)):
            raise Wrong
        return value


def word(check: Callable[[str], str], *, or_empty: bool = False) -> Text:
    """Return the kind of text that is in the normal form of `check`."""
    return Text(lambda text: names.fits(text, check), or_empty)


@dataclass(frozen=True, slots=True)
class OneOf(Kind):
    """The value of an enum's member; `called` is the name that messages use for a text that is none of them."""

    words: type[enum.Enum]
    called: str = ""

    def read(self, value: Any, where: str) -> enum.Enum:
        try:
            return self.words(value)
        except ValueError:
            raise Wrong(self.called if isinstance(value, str) else "") from None

    def write(self, value: Any) -> Any:
        return value.value


@dataclass(frozen=True, slots=True)
class Integer(Kind):
    """A whole number within limits."""

    least: int = 0
    most: int = LAST_SECOND

    def read(self, value: Any, where: str) -> int:
        # In Python, bool is a subclass of int.
        if type(value) is not int or not self.least <= value <= self.most:
            raise Wrong
        return value


@dataclass(frozen=True, slots=True)
class Time(Kind):
    """A time as `redact.stamp` writes it; one so far off that sums overflow is wrong."""

    years: range = _YEARS

    def read(self, value: Any, where: str) -> datetime:
        found = moment(value)
        if found is None or found.year not in self.years:
            raise Wrong
        return found

    def write(self, value: Any) -> Any:
        return stamp(value)


TIME: Final = Time()


class _Flag(Kind):
    def read(self, value: Any, where: str) -> bool:
        return value is True


FLAG: Final = _Flag()
"""True; anything else counts as False."""

SHA256: Final = Text(re.compile(r"[0-9a-f]{64}").fullmatch)
"""A SHA-256 in lower-case hex."""

SHA256_OR_EMPTY: Final = Text(SHA256.fits, or_empty=True)


@dataclass(frozen=True, slots=True)
class Items(Kind):
    """A list of at most so many different values; `doubles` allows equal ones."""

    item: Kind
    most: int
    least: int = 0
    doubles: bool = False

    def read(self, value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            raise Wrong
        found = tuple(self.item.read(each, where) for each in value)
        if not self.doubles and len(set(found)) != len(found):
            raise Wrong
        return found

    def write(self, value: Any) -> Any:
        return [self.item.write(each) for each in value]


@dataclass(frozen=True, slots=True)
class ByName(Kind):
    """An object of at most so many values of one kind, by names for which `fits` returns something true.

    They are read and written in this `order`. `make` makes a key of a name.
    """

    fits: Callable[[str], object]
    value: Kind
    most: int = 1000
    order: Callable[[Any], Any] = str
    make: Callable[[str], Any] = str

    def read(self, value: Any, where: str) -> dict[Any, Any]:
        if not isinstance(value, Mapping) or len(value) > self.most or not all(map(self.fits, value)):
            raise Wrong
        found = {self.make(name): self.value.read(one, f"{where}: {name}") for name, one in value.items()}
        return {key: found[key] for key in sorted(found, key=self.order)}

    def write(self, value: Any) -> Any:
        return {str(key): self.value.write(value[key]) for key in sorted(value, key=self.order)}


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object: its kind, and its `attribute` if that has another name.

    One that is `left_out` is not written while it has the default of its attribute, and gets it if it is missing; one
    that may be `null` gets it from null too.
    """

    kind: Kind
    attribute: str = ""
    left_out: bool = False
    null: bool = False


class Object(Kind, Generic[_T]):
    """An object that `make`, a dataclass, has as a value; its members in the order in which they are written.

    What else it has is ignored, so that a later release may add to it. Messages have what it is `called`, and `advice`;
    `problem` stands in place of the usual one for a member. `odd` returns the name of a member that does not fit the
    others; "" if all do. A `version` is written and read first.
    """

    def __init__(
        self,
        make: type[_T],
        members: Mapping[str, Kind | Member],
        called: str = "",
        advice: str = "",
        *,
        problem: str = "",
        odd: Callable[[_T], str] = lambda made: "",
        version: bool = False,
    ) -> None:
        self._make, self._odd, self._version = make, odd, version
        self._other = f"is not {called}; {advice}"
        self._problem = problem or f"contains a value that vaultpki does not write; {advice}"
        self._members = {name: one if isinstance(one, Member) else Member(one) for name, one in members.items()}
        self._defaults: dict[str, Any] = {}
        for each in fields(make):  # type: ignore[arg-type]
            if each.default is not MISSING or each.default_factory is not MISSING:
                factory = each.default_factory
                self._defaults[each.name] = each.default if factory is MISSING else factory()

    def read(self, value: Any, where: str) -> _T:
        """Return the value in the form of `make`; raise SpecError with `where` and the member that is wrong."""
        if not isinstance(value, Mapping):
            raise SpecError(self._other, file=where)
        if self._version:
            JsonObject(value, where, self._problem).refuse_other_version()
        found = {}
        for name, member in self._members.items():
            one = value.get(name)
            if one is None and (member.null or (member.left_out and name not in value)):
                continue
            try:
                found[member.attribute or name] = member.kind.read(one, f"{where}: {name}")
            except Wrong as error:
                raise self.wrong("".join(error.args) or name, where) from None
        made = self._make(**found)
        if odd := self._odd(made):
            raise self.wrong(odd, where)
        return made

    def wrong(self, name: str, where: str) -> SpecError:
        """Return the error for a member of this name."""
        return SpecError(self._problem, file=where, field=name)

    def write(self, value: _T) -> dict[str, Any]:
        """Return the value as JSON."""
        made: dict[str, Any] = {"version": VERSION} if self._version else {}
        for name, member in self._members.items():
            attribute = member.attribute or name
            one = getattr(value, attribute)
            if not (member.left_out and one == self._defaults[attribute]):
                made[name] = None if one is None else member.kind.write(one)
        return made
