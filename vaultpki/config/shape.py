"""The declarations cluster.yaml and agent.yaml are read by; the JSON Schema comes from the same ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from vaultpki import words
from vaultpki.config import tree
from vaultpki.config.durations import PATTERN, parse_duration
from vaultpki.config.tree import Node, Place
from vaultpki.errors import SpecError
from vaultpki.model import VERSION
from vaultpki.values import dataclass
from vaultpki.words import quoted

Schema = dict[str, object]


@dataclass(frozen=True, slots=True)
class Found:
    """A value that was read, and where; `given` is False where a default stands in for what the file leaves out."""

    value: Any
    place: Place
    given: bool = True

    def refuse(self, problem: str) -> SpecError:
        return self.place.refuse(problem)

    def has(self, key: str) -> bool:
        return key in self.value

    def __getitem__(self, key: str) -> Found:
        found: Found = self.value[key]
        return found

    def get(self, key: str) -> Any:
        """The plain value below `key`, lists as tuples; None where the file and the defaults are silent."""
        return self.value[key].plain() if key in self.value else None

    def items(self, key: str) -> list[Found]:
        """The list below `key`, each item with its place; empty where there is none."""
        return list(self.value[key].value) if key in self.value else []

    def plain(self) -> Any:
        return tuple(item.plain() for item in self.value) if isinstance(self.value, list) else self.value


class Kind:
    """What a value may be."""

    expected: str

    def read(self, node: Node, place: Place) -> Found:
        raise NotImplementedError

    def schema(self) -> Schema:
        raise NotImplementedError

    def scalar(self, node: Node, place: Place) -> tree.Scalar:
        if not isinstance(node, tree.Scalar):
            kind = "a list" if isinstance(node, tree.Sequence) else "a mapping"
            raise place.refuse(f"{kind} stands where {self.expected} belongs: write {self.expected}")
        return node


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """Text that `check` brings to its normal form or refuses; `pattern` is what an editor can check of it."""

    check: Callable[[str], object]
    expected: str = "text"
    pattern: str | None = None
    examples: tuple[str, ...] = ()

    def read(self, node: Node, place: Place) -> Found:
        scalar = self.scalar(node, place)
        if scalar.read_as == "nothing":
            raise place.refuse(f"there is no value here: write {self.expected}, or leave the key out")
        if scalar.read_as is not None and not re.fullmatch(r"-?\d+", scalar.value):
            raise place.refuse(
                f"{quoted(scalar.value)} without quotes is {scalar.read_as} in YAML, and {self.expected} belongs here: "
                "write it in quotes if it is meant as text"
            )
        if scalar.read_as is not None and self.check is not parse_duration:
            raise place.refuse(
                f"{quoted(scalar.value)} without quotes is a number in YAML, and {self.expected} belongs here: write "
                "it in quotes if it is meant as text"
            )
        try:
            return Found(self.check(scalar.value), place)
        except SpecError as error:
            raise place.refuse(error.problem) from None

    def schema(self) -> Schema:
        made: Schema = {"type": "string"}
        if self.pattern is not None:
            made["pattern"] = self.pattern
        if self.examples:
            made["examples"] = list(self.examples)
        return made


@dataclass(frozen=True, slots=True)
class Flag(Kind):
    """true or false."""

    expected: str = "true or false"

    def read(self, node: Node, place: Place) -> Found:
        scalar = self.scalar(node, place)
        if scalar.read_as != "yes or no" or scalar.value.lower() not in ("true", "false"):
            raise place.refuse(f"{quoted(scalar.value)} is neither true nor false: write true or false, without quotes")
        return Found(scalar.value.lower() == "true", place)

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Version(Kind):
    """The version of the file's form."""

    expected: str = "the version number"

    def read(self, node: Node, place: Place) -> Found:
        scalar = self.scalar(node, place)
        if scalar.read_as != "a number" or not re.fullmatch(r"[1-9][0-9]*|0", scalar.value):
            raise place.refuse(f"{quoted(scalar.value)} is no version: write the number {VERSION}, without quotes")
        if len(scalar.value) > 9 or int(scalar.value) > VERSION:
            raise place.refuse(
                f"the file was written for a newer vaultpki (version {quoted(scalar.value)[1:-1]}, this one reads "
                f"version {VERSION}): update vaultpki"
            )
        if int(scalar.value) != VERSION:
            raise place.refuse(f"there was never a version {scalar.value}: write {VERSION}")
        return Found(VERSION, place)

    def schema(self) -> Schema:
        return {"type": "integer", "const": VERSION}


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """One word of a few; `make` gives the model's value, `refused` tells why a word known elsewhere is none of them."""

    choices: tuple[str, ...]
    what: str
    make: Callable[[str], object] = str
    refused: Mapping[str, str] = field(default_factory=dict)
    expected: str = "one word"

    def read(self, node: Node, place: Place) -> Found:
        word = self.scalar(node, place).value
        if word in self.refused:
            raise place.refuse(self.refused[word])
        if word not in self.choices:
            raise place.refuse(f"{quoted(word)} is no {self.what}: {words.nearest(word, self.choices)}")
        return Found(self.make(word), place)

    def schema(self) -> Schema:
        return {"enum": list(self.choices)}


@dataclass(frozen=True, slots=True)
class ListOf(Kind):
    """A list without doubles; with `single`, one item may stand without the list."""

    item: Kind
    least: int = 0
    most: int = 100
    single: bool = False
    doubles: bool = False
    expected: str = "a list"

    def read(self, node: Node, place: Place) -> Found:
        if self.single and isinstance(node, tree.Scalar):
            return Found([self.item.read(node, place)], place)
        if not isinstance(node, tree.Sequence):
            example = "write the items in brackets, as [a, b], or one a line behind a hyphen"
            raise place.refuse(f"a list belongs here: {example}")
        if len(node.items) < self.least:
            raise place.refuse(f"the list is too short: write at least {self.least} item{'s'[: self.least != 1]}")
        if len(node.items) > self.most:
            raise place.refuse(f"the list has {len(node.items)} items: write at most {self.most}")
        found: list[Found] = []
        seen: set[object] = set()
        for index, each in enumerate(node.items):
            item = self.item.read(each, place.item(index, each.line))
            if not self.doubles and isinstance(each, tree.Scalar):
                if item.value in seen:
                    raise item.refuse(f"{quoted(each.value)} stands in the list twice: keep one of them")
                seen.add(item.value)
            found.append(item)
        return Found(found, place)

    def schema(self) -> Schema:
        made: Schema = {"type": "array", "items": self.item.schema(), "maxItems": self.most}
        if self.least:
            made["minItems"] = self.least
        if not self.doubles and isinstance(self.item, Text | Choice):
            made["uniqueItems"] = True
        return {"anyOf": [self.item.schema(), made]} if self.single else made


@dataclass(frozen=True, slots=True)
class Field:
    """A key of a record. `default` is what the file would say; `required` keys have none."""

    kind: Kind
    doc: str
    required: bool = False
    default: object = None


@dataclass(frozen=True, slots=True)
class Record(Kind):
    """A mapping with known keys; `refused` tells for a key that is known elsewhere why it has no place here."""

    fields: Mapping[str, Field]
    refused: Mapping[str, str] = field(default_factory=dict)
    expected: str = "a mapping"

    def read(self, node: Node, place: Place) -> Found:
        if not isinstance(node, tree.Mapping):
            raise place.refuse(f"keys and values belong here: allowed keys are {', '.join(self.fields)}")
        version = node.items.get("version")
        if version is not None and "version" in self.fields:
            # First, since a newer file may well have keys that this program does not know.
            self.fields["version"].kind.read(version[1], place.under("version", version[0].line))
        if not place.path and node.items and not any(words.close(key, self.fields) for key in node.items):
            # Perhaps a file with secrets that was named by mistake, so nothing of it is shown.
            raise place.refuse(f"none of the keys here is known: check the path; known are {', '.join(self.fields)}")
        values: dict[str, Found] = {}
        for key, (at, each) in node.items.items():
            here = place.under(key, each.line if isinstance(each, tree.Scalar) else at.line)
            if key in self.refused:
                raise here.refuse(self.refused[key])
            if key not in self.fields:
                raise here.refuse(f"the key {words.quoted_key(key)} is unknown: {words.nearest(key, self.fields)}")
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
        return Found(values, place)

    def schema(self) -> Schema:
        properties: dict[str, object] = {}
        for key, declared in self.fields.items():
            properties[key] = {"description": declared.doc, **declared.kind.schema()}
            if declared.default is not None:
                properties[key] = {**declared.kind.schema(), "description": declared.doc, "default": declared.default}
        made: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        required = [key for key, declared in self.fields.items() if declared.required]
        return {**made, "required": required} if required else made


@dataclass(frozen=True, slots=True)
class MapOf(Kind):
    """A mapping from names to values; a name in `named` has a kind of its own."""

    key: Text
    value: Kind
    named: Mapping[str, Kind] = field(default_factory=dict)
    most: int = 1000
    stranger: Callable[[str, tree.Mapping], str | None] = lambda key, node: None
    expected: str = "a mapping"

    def read(self, node: Node, place: Place) -> Found:
        if not isinstance(node, tree.Mapping):
            raise place.refuse("names and their values belong here: write `name: ...` lines, or leave the key out")
        if len(node.items) > self.most:
            raise place.refuse(f"there are {len(node.items)} names here: write at most {self.most}")
        values: dict[str, Found] = {}
        for key, (at, each) in node.items.items():
            here = place.under(key, at.line)
            kind = self.named.get(key)
            if kind is None:
                problem = self.stranger(key, each) if isinstance(each, tree.Mapping) else None
                if problem is not None:
                    raise here.refuse(problem)
                self.key.read(at, here)
                kind = self.value
            values[key] = kind.read(each, here)
        return Found(values, place)

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


def _default(declared: Field, place: Place) -> Found:
    return Found(declared.kind.read(_node(declared.default, place.line), place).value, place, given=False)


def _node(value: object, line: int) -> Node:
    if isinstance(value, list):
        return tree.Sequence([_node(item, line) for item in value], line)
    if isinstance(value, dict):
        return tree.Mapping({str(k): (tree.Scalar(str(k), line, None), _node(v, line)) for k, v in value.items()}, line)
    read_as = "yes or no" if isinstance(value, bool) else "a number" if isinstance(value, int) else None
    return tree.Scalar(str(value), line, read_as)
