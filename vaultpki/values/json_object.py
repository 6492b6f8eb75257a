"""Declares the JSON objects that only vaultpki writes; reading and writing them use the same declarations.

They are the records of the config store, reports of nodes, join files and files in the state folder.
"""

from __future__ import annotations

import enum
import functools
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeVar, get_args, get_origin, get_type_hints

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
    """One JSON object. What is wrong in it raises SpecError, of `file`, the name of the field and `problem`."""

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

    def part(self, key: str) -> JsonObject:
        """Return a member that is an object."""
        value = self.value.get(key)
        if not isinstance(value, Mapping):
            raise self.wrong(key)
        return JsonObject(value, f"{self._file}: {key}", self._problem)

    def get(self, key: str, kind: JsonKind[_T]) -> _T:
        """Return a member of this kind."""
        try:
            return kind.read(self.value.get(key), f"{self._file}: {key}")
        except WrongValue as error:
            raise self.wrong("".join(error.args) or key) from None


class WrongValue(Exception):
    """A value is not of its kind; `args` may have a name for the member that messages use."""


class JsonKind(Generic[_T]):
    """A kind of value. `read` returns it from JSON, or raises WrongValue; `where` is its place for messages."""

    def read(self, value: Any, where: str) -> _T:
        raise NotImplementedError

    def write(self, value: Any) -> Any:
        return value


@dataclass(frozen=True, slots=True)
class JsonText(JsonKind[str]):
    """Text for which `fits` returns something true; `or_empty` allows "" too."""

    fits: Callable[[str], object] = lambda text: True
    or_empty: bool = False

    def read(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or not (self.fits(value) or (self.or_empty and not value)):
            raise WrongValue
        return value


def word(check: Callable[[str], str], *, or_empty: bool = False) -> JsonText:
    """Return the kind of text that is in the normal form of `check`."""
    return JsonText(lambda text: names.fits(text, check), or_empty)


@dataclass(frozen=True, slots=True)
class OneOf(JsonKind[Any]):
    """The value of an enum's member; `called` is the name that messages use for a text that is none of them.

    With `or_empty` "" stands for None.
    """

    words: type[enum.Enum]
    called: str = ""
    or_empty: bool = False

    def read(self, value: Any, where: str) -> Any:
        if self.or_empty and value == "":
            return None
        try:
            return self.words(value)
        except ValueError:
            raise WrongValue(self.called if isinstance(value, str) else "") from None

    def write(self, value: Any) -> Any:
        return "" if value is None else value.value


@dataclass(frozen=True, slots=True)
class Integer(JsonKind[int]):
    """A whole number within limits."""

    least: int = 0
    most: int = LAST_SECOND

    def read(self, value: Any, where: str) -> int:
        # In Python, bool is a subclass of int.
        if type(value) is not int or not self.least <= value <= self.most:
            raise WrongValue
        return value


@dataclass(frozen=True, slots=True)
class Time(JsonKind[datetime]):
    """A time as `redact.stamp` writes it; one so far off that sums overflow is wrong."""

    years: range = _YEARS

    def read(self, value: Any, where: str) -> datetime:
        found = moment(value)
        if found is None or found.year not in self.years:
            raise WrongValue
        return found

    def write(self, value: Any) -> Any:
        return stamp(value)


TIME: Final = Time()


class _IsTrue(JsonKind[bool]):
    def read(self, value: Any, where: str) -> bool:
        return value is True


FLAG: Final = _IsTrue()
"""True; anything else counts as False."""

DIGEST: Final = JsonText(re.compile(r"[0-9a-f]{64}").fullmatch)
"""A SHA-256 in lower-case hex."""

DIGEST_OR_EMPTY: Final = JsonText(DIGEST.fits, or_empty=True)


@dataclass(frozen=True, slots=True)
class Items(JsonKind[Any]):
    """A list of at most so many different values; `doubles` allows equal ones."""

    item: JsonKind[Any]
    most: int = sys.maxsize
    least: int = 0
    doubles: bool = False

    def read(self, value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            raise WrongValue
        found = tuple(self.item.read(each, where) for each in value)
        if not self.doubles and len(set(found)) != len(found):
            raise WrongValue
        return found

    def write(self, value: Any) -> Any:
        return [self.item.write(each) for each in value]


@dataclass(frozen=True, slots=True)
class ByName(JsonKind[Any]):
    """An object of at most so many values of one kind, by names for which `fits` returns something true.

    They are read and written in this `order`; as they are without one. `make` makes a key of a name.
    """

    fits: Callable[[str], object]
    value: JsonKind[Any]
    most: int = sys.maxsize
    order: Callable[[Any], Any] | None = None
    make: Callable[[str], Any] = str

    def read(self, value: Any, where: str) -> dict[Any, Any]:
        if not isinstance(value, Mapping) or len(value) > self.most or not all(map(self.fits, value)):
            raise WrongValue
        found = {self.make(name): self.value.read(one, f"{where}: {name}") for name, one in value.items()}
        return {key: found[key] for key in self._ordered(found)}

    def write(self, value: Any) -> Any:
        return {str(key): self.value.write(value[key]) for key in self._ordered(value)}

    def _ordered(self, value: Iterable[Any]) -> Iterable[Any]:
        return value if self.order is None else sorted(value, key=self.order)


@dataclass(frozen=True, slots=True)
class JsonMember:
    """A member of an object: its kind, and its `attribute` if that has another name.

    One that is `left_out` is not written while it has the default of its attribute, and gets it if it is missing; one
    that may be `null` gets it from null too, or None if there is none. `spread` is for an Object of a dict: the members
    of that one are attributes here.
    """

    kind: JsonKind[Any]
    attribute: str = ""
    left_out: bool = False
    null: bool = False
    spread: bool = False

    def attributes(self, found: Any) -> dict[str, Any]:
        """Return the attributes that a value of this kind gives."""
        return found if self.spread else {self.attribute: found}


class Object(JsonKind[_T]):
    """An object that `make`, a dataclass, has as a value; its members in the order in which they are written.

    What else it has is ignored, so that a later release may add to it. Messages have what it is `called`, and `advice`;
    one without that is called by its name in the object that it is a part of. `problem` stands in place of the usual
    one for a member. `odd` returns the name of a member that does not fit the
    others; "" if all do. A `version` is written and read first.
    """

    def __init__(
        self,
        make: type[_T],
        members: Mapping[str, JsonKind[Any] | JsonMember],
        called: str = "",
        advice: str = "",
        *,
        problem: str = "",
        odd: Callable[[_T], str] = lambda made: "",
        version: bool = False,
    ) -> None:
        self._make, self._odd, self._version = make, odd, version
        self._other = f"is not {called}; {advice}" if called else ""
        self._problem = problem or f"contains a value that vaultpki does not write; {advice}"
        given = {name: one if isinstance(one, JsonMember) else JsonMember(one) for name, one in members.items()}
        self._members = {name: replace(one, attribute=one.attribute or name) for name, one in given.items()}
        declared = fields(make) if is_dataclass(make) else ()
        self._defaults = {each.name: each.default for each in declared if each.default is not MISSING}
        self._defaults |= {each.name: each.default_factory() for each in declared if callable(each.default_factory)}
        self._needed = {each.name for each in declared} - self._defaults.keys()
        self._nulls = {one.attribute for one in self._members.values() if one.null and one.attribute in self._needed}

    def read(self, value: Any, where: str) -> _T:
        """Return the value in the form of `make`; raise SpecError with `where` and the member that is wrong."""
        if not isinstance(value, Mapping):
            raise SpecError(self._other, file=where) if self._other else WrongValue
        read = JsonObject(value, where, self._problem)
        if self._version:
            read.refuse_other_version()
        found: dict[str, Any] = dict.fromkeys(self._nulls)
        for name, member in self._given(value):
            found |= member.attributes(read.get(name, member.kind))
        made = self._make(**found)
        if odd := self._odd(made):
            raise read.wrong(odd)
        return made

    def wrong(self, name: str, where: str) -> SpecError:
        """Return the error for the member of this name."""
        return SpecError(self._problem, file=where, field=name)

    def _given(self, value: Mapping[str, Any]) -> Iterator[tuple[str, JsonMember]]:
        for name, member in self._members.items():
            if value.get(name) is not None or not (member.null or (member.left_out and name not in value)):
                yield name, member

    def write(self, value: _T) -> dict[str, Any]:
        """Return the value as JSON."""
        made: dict[str, Any] = {"version": VERSION} if self._version else {}
        for name, member in self._members.items():
            one = value if member.spread else getattr(value, member.attribute)
            if not (member.left_out and one == self._defaults[member.attribute]):
                made[name] = None if one is None and member.null else member.kind.write(one)
        return made


_hints = functools.cache(functools.partial(get_type_hints, include_extras=True))


def from_asdict(kind: Any, value: Any, by_type: Mapping[Any, Callable[[Any], Any]]) -> Any:
    """Return a value of the type `kind` from the JSON of its `dataclasses.asdict`, of which only one program knows.

    `by_type` reads what is of these types, and the function in an Annotated type what is of that; all else is
    converted. Fields that are keyword-only may be missing, no others. What does not fit raises KeyError, ValueError,
    TypeError, AttributeError or OverflowError.
    """
    origin, args = get_origin(kind), get_args(kind)
    declared = fields(kind) if is_dataclass(kind) else ()
    if kind in by_type:
        return by_type[kind](value)
    if declared:
        known = [each for each in declared if not each.kw_only or each.name in value]
        return kind(**{each.name: from_asdict(_hints(kind)[each.name], value[each.name], by_type) for each in known})
    if origin is Annotated:
        return args[1](value)
    if type(None) in args:
        return None if value is None else from_asdict(args[0], value, by_type)
    if origin is Mapping:
        return {name: from_asdict(args[1], each, by_type) for name, each in value.items()}
    if origin is tuple:
        several = zip(args, value, strict=True) if ... not in args else ((args[0], each) for each in value)
        return tuple(from_asdict(one, each, by_type) for one, each in several)
    return kind(value)
