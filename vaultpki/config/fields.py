"""Declares what cluster.yaml and agent.yaml may contain; reading them and the JSON Schema use the same declarations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vaultpki.errors import SpecError
from vaultpki.model import VERSION
from vaultpki.values import names, yaml_tree
from vaultpki.values.durations import PATTERN, parse_duration
from vaultpki.values.names import quoted
from vaultpki.values.yaml_tree import Node, Place

Schema = dict[str, object]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class FieldValue:
    """A value that was read, and its place; `given` is False if the value is a default."""

    value: Any
    place: Place
    given: bool = True

    def refuse(self, problem: str) -> SpecError:
        return self.place.refuse(problem)

    def checked(self, check: Callable[[Any], _T]) -> _T:
        """Return what `check` makes of the value; its SpecError is raised with the place of this value."""
        try:
            return check(self.value)
        except SpecError as error:
            raise self.refuse(f"{error.file}: {error.problem}" if error.file else error.problem) from None

    def has(self, key: str) -> bool:
        return key in self.value

    def __getitem__(self, key: str) -> FieldValue:
        found: FieldValue = self.value[key]
        return found

    def get(self, key: str) -> Any:
        """Return the plain value of `key`, lists as tuples; None if it is neither given nor has a default."""
        return self.value[key].plain() if key in self.value else None

    def items(self, key: str) -> list[FieldValue]:
        """Return the list at `key`, each item with its place; empty if there is none."""
        return list(self.value[key].value) if key in self.value else []

    def plain(self) -> Any:
        return tuple(item.plain() for item in self.value) if isinstance(self.value, list) else self.value


class Kind:
    """A kind of value: reads it from a YAML node and describes it in the JSON Schema."""

    expected: str

    def read(self, node: Node, place: Place) -> FieldValue:
        raise NotImplementedError

    def schema(self) -> Schema:
        raise NotImplementedError

    def scalar(self, node: Node, place: Place) -> yaml_tree.Scalar:
        if not isinstance(node, yaml_tree.Scalar):
            kind = "a list" if isinstance(node, yaml_tree.Sequence) else "a mapping"
            raise place.refuse(f"this is {kind}: write {self.expected}")
        return node


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """Text that `check` returns in its normal form or refuses; `pattern` and `examples` are for editors."""

    check: Callable[[str], object]
    expected: str = "text"
    pattern: str | None = None
    examples: tuple[str, ...] = ()

    def read(self, node: Node, place: Place) -> FieldValue:
        scalar = self.scalar(node, place)
        if scalar.read_as == "nothing":
            raise place.refuse(f"there is no value here: write {self.expected}, or leave the key out")
        whole_number = re.fullmatch(r"-?\d+", scalar.value)
        # A number without a unit gets the better message of parse_duration.
        if scalar.read_as is not None and not (whole_number and self.check is parse_duration):
            read_as = "a number" if whole_number else scalar.read_as
            raise place.refuse(
                f"{quoted(scalar.value)} without quotes is {read_as} in YAML, and {self.expected} is expected: write "
                "it in quotes if it is meant as text"
            )
        return FieldValue(FieldValue(scalar.value, place).checked(self.check), place)

    def schema(self) -> Schema:
        made: Schema = {"type": "string"}
        if self.pattern is not None:
            made["pattern"] = self.pattern
        if self.examples:
            made["examples"] = list(self.examples)
        return made


@dataclass(frozen=True, slots=True)
class Boolean(Kind):
    """The word true or false."""

    expected: str = "true or false"

    def read(self, node: Node, place: Place) -> FieldValue:
        scalar = self.scalar(node, place)
        if scalar.read_as != "yes or no" or scalar.value.lower() not in ("true", "false"):
            raise place.refuse(f"{quoted(scalar.value)} is not true or false: write one of the two, without quotes")
        return FieldValue(scalar.value.lower() == "true", place)

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Version(Kind):
    """The version of the file format."""

    expected: str = "the version number"

    def read(self, node: Node, place: Place) -> FieldValue:
        scalar = self.scalar(node, place)
        if scalar.read_as != "a number" or not re.fullmatch(r"[1-9][0-9]*|0", scalar.value):
            raise place.refuse(f"{quoted(scalar.value)} is not a version: write the number {VERSION}, without quotes")
        if len(scalar.value) > 9 or int(scalar.value) > VERSION:
            raise place.refuse(
                f"the file is for a newer vaultpki (version {quoted(scalar.value)[1:-1]}, this one reads {VERSION}): "
                "update vaultpki"
            )
        if int(scalar.value) != VERSION:
            raise place.refuse(f"version {scalar.value} does not exist: write {VERSION}")
        return FieldValue(VERSION, place)

    def schema(self) -> Schema:
        return {"type": "integer", "const": VERSION}


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """One of a few words; `make` returns the model's value, `refused` has messages for words valid elsewhere."""

    choices: tuple[str, ...]
    what: str
    make: Callable[[str], object] = str
    refused: Mapping[str, str] = field(default_factory=dict)
    expected: str = "one word"

    def read(self, node: Node, place: Place) -> FieldValue:
        word = self.scalar(node, place).value
        if word in self.refused:
            raise place.refuse(self.refused[word])
        if word not in self.choices:
            raise place.refuse(f"{quoted(word)} is not a valid {self.what}: {names.nearest(word, self.choices)}")
        return FieldValue(self.make(word), place)

    def schema(self) -> Schema:
        return {"enum": list(self.choices)}


@dataclass(frozen=True, slots=True)
class ListOf(Kind):
    """A list without duplicates; `single` allows one item instead of a list, `doubles` allows duplicates."""

    item: Kind
    least: int = 0
    most: int = 100
    single: bool = False
    doubles: bool = False
    expected: str = "a list"

    def read(self, node: Node, place: Place) -> FieldValue:
        if self.single and isinstance(node, yaml_tree.Scalar):
            return FieldValue([self.item.read(node, place)], place)
        if not isinstance(node, yaml_tree.Sequence):
            raise place.refuse(
                "a list is expected: write the items in brackets, as [a, b], or one per line after a hyphen"
            )
        if len(node.items) < self.least:
            raise place.refuse(f"the list is too short: write at least {self.least} item{'s'[: self.least != 1]}")
        if len(node.items) > self.most:
            raise place.refuse(f"the list has {len(node.items)} items: write at most {self.most}")
        found: list[FieldValue] = []
        seen: set[object] = set()
        for index, each in enumerate(node.items):
            item = self.item.read(each, place.item(index, each.line))
            if not self.doubles and isinstance(each, yaml_tree.Scalar):
                if item.value in seen:
                    raise item.refuse(f"{quoted(each.value)} is in the list twice: keep one of them")
                seen.add(item.value)
            found.append(item)
        return FieldValue(found, place)

    def schema(self) -> Schema:
        made: Schema = {"type": "array", "items": self.item.schema(), "maxItems": self.most}
        if self.least:
            made["minItems"] = self.least
        if not self.doubles and isinstance(self.item, Text | Choice):
            made["uniqueItems"] = True
        return {"anyOf": [self.item.schema(), made]} if self.single else made


@dataclass(frozen=True, slots=True)
class Field:
    """A key of a record. `default` is written as in the file; a `required` key has none."""

    kind: Kind
    doc: str
    required: bool = False
    default: object = None


@dataclass(frozen=True, slots=True)
class Record(Kind):
    """A mapping with known keys; `refused` has messages for keys that are valid elsewhere.

    `strange` are keys that only another kind of file has, and what that file is.
    """

    fields: Mapping[str, Field]
    refused: Mapping[str, str] = field(default_factory=dict)
    strange: Mapping[str, str] = field(default_factory=dict)
    expected: str = "a mapping"

    def read(self, node: Node, place: Place) -> FieldValue:
        if not isinstance(node, yaml_tree.Mapping):
            raise place.refuse(f"keys and values are expected: allowed keys are {', '.join(self.fields)}")
        for key in node.items.keys() & self.strange.keys():
            raise Place(place.file, node.items[key][0].line, "").refuse(f"this is {self.strange[key]}: check the path")
        version = node.items.get("version")
        if version is not None and "version" in self.fields:
            # Checked first, because a newer file may have keys that this version does not know.
            self.fields["version"].kind.read(version[1], place.under("version", version[0].line))
        if not place.path and node.items and not any(names.close(key, self.fields) for key in node.items):
            # Nothing of the file is shown: it may be a file of secrets that was named by mistake.
            raise place.refuse(f"none of the keys here is known: check the path; known are {', '.join(self.fields)}")
        values: dict[str, FieldValue] = {}
        for key, (at, each) in node.items.items():
            here = place.under(key, each.line if isinstance(each, yaml_tree.Scalar) else at.line)
            if key in self.refused:
                raise here.refuse(self.refused[key])
            if key not in self.fields:
                raise here.refuse(f"the key {names.quoted_key(key)} is unknown: {names.nearest(key, self.fields)}")
            values[key] = self.fields[key].kind.read(each, here)
        for key, declared in self.fields.items():
            if key in values:
                continue
            if declared.required:
                raise place.under(key).refuse(
                    f"the key {key} is missing: write {declared.doc[0].lower()}{declared.doc[1:]}"
                )
            if declared.default is not None:
                values[key] = _default(declared, place.under(key))
        return FieldValue(values, place)

    def schema(self) -> Schema:
        properties: dict[str, object] = {}
        for key, declared in self.fields.items():
            default = {} if declared.default is None else {"default": declared.default}
            properties[key] = {"description": declared.doc, **declared.kind.schema(), **default}
        made: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        required = [key for key, declared in self.fields.items() if declared.required]
        return {**made, "required": required} if required else made


@dataclass(frozen=True, slots=True)
class MapOf(Kind):
    """A mapping from names to values; names in `named` have their own kind.

    `explain_unknown` may explain an unknown name.
    """

    key: Text
    value: Kind
    named: Mapping[str, Kind] = field(default_factory=dict)
    most: int = 1000
    explain_unknown: Callable[[str, yaml_tree.Mapping], str | None] = lambda key, node: None
    expected: str = "a mapping"

    def read(self, node: Node, place: Place) -> FieldValue:
        if not isinstance(node, yaml_tree.Mapping):
            raise place.refuse("names and their values are expected: write `name: ...` lines, or leave the key out")
        if len(node.items) > self.most:
            raise place.refuse(f"there are {len(node.items)} names here: write at most {self.most}")
        values: dict[str, FieldValue] = {}
        for key, (at, each) in node.items.items():
            here = place.under(key, at.line)
            kind = self.named.get(key)
            if kind is None:
                problem = self.explain_unknown(key, each) if isinstance(each, yaml_tree.Mapping) else None
                if problem is not None:
                    raise here.refuse(problem)
                self.key.read(at, here)
                kind = self.value
            values[key] = kind.read(each, here)
        return FieldValue(values, place)

    def schema(self) -> Schema:
        pattern = self.key.pattern or "^.+$"
        if self.named:
            pattern = f"^(?!(?:{'|'.join(self.named)})$){pattern.removeprefix('^')}"
        made: Schema = {
            "type": "object",
            "patternProperties": {pattern: self.value.schema()},
            "additionalProperties": False,
            "maxProperties": self.most,
        }
        if self.named:
            made["properties"] = {name: kind.schema() for name, kind in self.named.items()}
        return made


def duration(*examples: str) -> Text:
    return Text(parse_duration, "a duration such as 30d", PATTERN, examples)


def _default(declared: Field, place: Place) -> FieldValue:
    return FieldValue(declared.kind.read(_node(declared.default, place.line), place).value, place, given=False)


def _node(value: object, line: int) -> Node:
    if isinstance(value, list):
        return yaml_tree.Sequence([_node(item, line) for item in value], line)
    if isinstance(value, dict):
        return yaml_tree.Mapping(
            {str(k): (yaml_tree.Scalar(str(k), line, None), _node(v, line)) for k, v in value.items()}, line
        )
    read_as = "yes or no" if isinstance(value, bool) else "a number" if isinstance(value, int) else None
    return yaml_tree.Scalar(str(value), line, read_as)
