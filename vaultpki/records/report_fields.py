"""The kinds of values in reports: a node may write anything there, and what is not of its kind counts as missing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from vaultpki.redact import printable
from vaultpki.values.json_object import JsonKind, Object, Time, WrongValue

_T = TypeVar("_T")

LONGEST_TEXT: Final = 300
"""The characters that are read of a text."""

MOMENT: Final = Time(range(1000, 10000))


@dataclass(frozen=True, slots=True)
class Printed(JsonKind[str]):
    """Text for people, as far as it is read; with `cut` no more is written."""

    least: int = 0
    cut: bool = False

    def read(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or len(value) < self.least:
            raise WrongValue
        return printable(value[:LONGEST_TEXT])

    def write(self, value: Any) -> Any:
        return printable(value)[:LONGEST_TEXT] if self.cut else value


class _Bool(JsonKind[bool]):
    def read(self, value: Any, where: str) -> bool:
        if not isinstance(value, bool):
            raise WrongValue
        return value


BOOL: Final = _Bool()


@dataclass(frozen=True, slots=True)
class Or(JsonKind[Any]):
    """A value of a kind; `otherwise` in place of any other one, and of one that is missing."""

    kind: JsonKind[Any]
    otherwise: Any

    def read(self, value: Any, where: str) -> Any:
        try:
            return self.kind.read(value, where)
        except WrongValue:
            return self.otherwise

    def write(self, value: Any) -> Any:
        return self.kind.write(value)


@dataclass(frozen=True, slots=True)
class Some(JsonKind[Any]):
    """Those of the first `most` items of a list that are of a kind, and at least `least`; `cut` as for Printed."""

    item: JsonKind[Any]
    most: int
    make: Callable[[list[Any]], Collection[Any]] = tuple
    least: int = 0
    cut: bool = False

    def read(self, value: Any, where: str) -> Any:
        if not isinstance(value, list):
            raise WrongValue
        found = []
        for each in value[: self.most]:
            try:
                found.append(self.item.read(each, where))
            except WrongValue:
                continue
        if len(found) < self.least:
            raise WrongValue
        return self.make(found)

    def write(self, value: Any) -> Any:
        found = sorted(value) if isinstance(value, frozenset) else value[: self.most] if self.cut else value
        return [self.item.write(each) for each in found]


@dataclass(frozen=True, slots=True)
class SomeByName(JsonKind[dict[Any, Any]]):
    """Those of the first `most` values of an object that are of a kind, by names for which `fits` returns something."""

    fits: Callable[[str], object]
    value: JsonKind[Any]
    most: int | None = None
    make: Callable[[str], Any] = str

    def read(self, value: Any, where: str) -> dict[Any, Any]:
        if not isinstance(value, Mapping):
            raise WrongValue
        found = {}
        for name, one in itertools.islice(value.items(), self.most):
            try:
                if self.fits(name):
                    found[self.make(name)] = self.value.read(one, where)
            except WrongValue:
                continue
        return found

    def write(self, value: Any) -> Any:
        return {str(key): self.value.write(one) for key, one in value.items()}


class ReportPart(Object[_T]):
    """An object of a report: a member that is not of its kind has the default of its attribute.

    The whole is wrong if that has none, or if the attribute `must` be right. `also` returns what counts, of what was
    read and what it was read from; None if nothing does.
    """

    def __init__(
        self,
        make: type[_T],
        members: Any,
        *,
        must: Collection[str] = (),
        also: Callable[[_T, Mapping[str, Any]], _T | None] = lambda made, value: made,
        version: bool = False,
    ) -> None:
        super().__init__(make, members, version=version)
        self._also, self._must = also, {*must, *self._needed}

    def read(self, value: Any, where: str = "") -> _T:
        """Return the value in the form of `make`; raise WrongValue if it does not count."""
        if not isinstance(value, Mapping):
            raise WrongValue
        found: dict[str, Any] = dict.fromkeys(self._nulls)
        for name, member in self._given(value):
            try:
                found |= member.attributes(member.kind.read(value.get(name), where))
            except WrongValue:
                if member.attribute in self._must:
                    raise
        made = self._also(self._make(**found), value)
        if made is None:
            raise WrongValue
        return made

    def found(self, value: object) -> _T | None:
        """Return the value in the form of `make`; None if it does not count."""
        try:
            return self.read(value)
        except WrongValue:
            return None
