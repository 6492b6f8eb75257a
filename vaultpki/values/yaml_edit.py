"""Changes single places of a YAML or JSON text and keeps every other byte: comments, order, quotes and line ends.

Each function returns replacements of parts of the text; `apply` puts them in, and proves that the values are then what
they should be. A place whose form is not certain is refused, and nothing is changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import yaml

# Parsing takes long, and a machine has some twenty such files.
_REMEMBERED: Final = 64
_PLAIN: Final = re.compile(r"[A-Za-z0-9/_-][A-Za-z0-9/_.,=@*+-]*(?::[A-Za-z0-9/_.,=@*+-]+)*")


class UnsafePlace(Exception):
    """The form of a text leaves it uncertain what a change would do."""


@dataclass(frozen=True, slots=True)
class TextChange:
    """What takes the place of the text from `start` to `stop`, as indices."""

    start: int
    stop: int
    text: str


class YamlText:
    """A text with the tree of its nodes. Raises UnsafePlace if it is not one YAML document of plain values."""

    def __init__(self, data: bytes) -> None:
        self.text, self.root, self.value = _parsed(data)
        self._end = "\r\n" if "\r\n" in self.text else "\n"

    # -- finding -----------------------------------------------------------------------------------------------------

    def at(self, *path: str | int) -> Any:
        """Return the node at a path of keys and positions; None if it is not there."""
        node = self.root
        for step in path:
            if node is None:
                return None
            if isinstance(step, int):
                found = node.value if node.id == "sequence" else []
                node = found[step] if step < len(found) else None
            else:
                node = child(node, step)
        return node

    # -- changing ----------------------------------------------------------------------------------------------------

    def replaced(self, scalar: Any, value: str | bool) -> TextChange:
        """Give a scalar another value."""
        if scalar.id != "scalar" or scalar.style in ("|", ">"):
            raise UnsafePlace("a value is written over several lines")
        start, stop = scalar.start_mark.index, scalar.end_mark.index
        return TextChange(start, stop, f"{' ' if start == stop else ''}{written(value, quoted=bool(scalar.style))}")

    def appended(self, sequence: Any, value: str) -> TextChange:
        """Add a scalar at the end of a sequence whose last item is one."""
        last = sequence.value[-1]
        if last.id != "scalar" or last.style in ("|", ">"):
            raise UnsafePlace("the last item of a list is written over several lines")
        at = last.end_mark.index
        if sequence.flow_style:
            return TextChange(at, at, f", {json.dumps(value)}")
        # After a comment in the line of the last item.
        line = self.text.find("\n", at)
        at = len(self.text) if line < 0 else line - (self._end == "\r\n")
        return TextChange(at, at, f"{self._end}{self._indent(sequence.start_mark.index)}- {written(value)}")

    def removed(self, sequence: Any, index: int) -> TextChange:
        """Take an item out of a sequence that has others."""
        items = sequence.value
        if len(items) < 2:
            raise UnsafePlace("a list would be empty")
        if sequence.flow_style:
            if index:
                return TextChange(items[index - 1].end_mark.index, items[index].end_mark.index, "")
            return TextChange(items[0].start_mark.index, items[1].start_mark.index, "")
        start = self._line(items[index].start_mark.index)
        if index + 1 < len(items):
            stop = self._line(items[index + 1].start_mark.index)
        elif items[index].id == "scalar":
            stop = self.text.find("\n", items[index].end_mark.index) + 1 or len(self.text)
        else:
            raise UnsafePlace("the last item of a list is written over several lines")
        return TextChange(start, stop, "")

    def first_item(self, sequence: Any, value: Mapping[str, Any]) -> TextChange:
        """Add a mapping of plain values as the first item of a sequence."""
        at = sequence.start_mark.index
        if sequence.flow_style:
            return TextChange(at + 1, at + 1, f"{json.dumps(value)}{', ' if sequence.value else ''}")
        indent = self._indent(at)
        return TextChange(at, at, f"{self._lines(value, indent)}{self._end}{indent}")

    def entry(self, mapping: Any, key: str, value: Any) -> TextChange:
        """Add a first entry to a mapping: a scalar, or a list of one mapping of plain values."""
        at = mapping.start_mark.index
        if mapping.flow_style:
            return TextChange(at + 1, at + 1, f"{json.dumps(key)}: {json.dumps(value)}{', ' if mapping.value else ''}")
        at = mapping.value[0][0].start_mark.index
        indent = self._indent(at)
        if isinstance(value, Mapping):
            inner = "".join(f"{self._end}{indent}  {written(name)}: {written(each)}" for name, each in value.items())
            text = f"{written(key)}:{inner}"
        elif isinstance(value, list):
            text = f"{written(key)}:{self._end}{indent}{self._lines(value[0], indent)}"
        else:
            text = f"{written(key)}: {written(value)}"
        return TextChange(at, at, f"{text}{self._end}{indent}")

    def without_entry(self, mapping: Any, key: str) -> TextChange:
        """Take an entry out of a mapping that has others; its value is a scalar, or is followed by another entry."""
        pairs = mapping.value
        index = next(number for number, (name, _) in enumerate(pairs) if name.value == key)
        if len(pairs) < 2:
            raise UnsafePlace("a mapping would be empty")
        name, value = pairs[index]
        if mapping.flow_style:
            if index:
                return TextChange(pairs[index - 1][1].end_mark.index, value.end_mark.index, "")
            return TextChange(name.start_mark.index, pairs[1][0].start_mark.index, "")
        start = self._line(name.start_mark.index)
        if index + 1 < len(pairs):
            return TextChange(start, self._line(pairs[index + 1][0].start_mark.index), "")
        if value.id != "scalar":
            raise UnsafePlace("the last entry of a mapping is written over several lines")
        return TextChange(start, self.text.find("\n", value.end_mark.index) + 1 or len(self.text), "")

    def _lines(self, value: Mapping[str, Any], indent: str) -> str:
        """Return an item of a block sequence."""
        lines = []
        for key, each in value.items():
            if isinstance(each, Mapping):
                lines.append(f"{key}:")
                lines += [f"  {name}: {written(inner)}" for name, inner in each.items()]
            else:
                lines.append(f"{key}: {written(each)}")
        return "- " + f"{self._end}{indent}  ".join(lines)

    def _indent(self, at: int) -> str:
        """Return the white space before a place, which must be the first of its line, or follow one dash."""
        start = self._line(at)
        before = self.text[start:at]
        if before.strip(" "):
            raise UnsafePlace("something stands before a list in the same line")
        return before

    def _line(self, at: int) -> int:
        return self.text.rfind("\n", 0, at) + 1

    def apply(self, replacements: Iterable[TextChange], wanted: Any) -> bytes:
        """Return the text with the replacements; UnsafePlace if it would not say exactly `wanted`."""
        text = self.text
        # At the same place in their own order: the last one is put in first.
        ordered = sorted(enumerate(replacements), key=lambda entry: (entry[1].start, entry[1].stop, entry[0]))
        for _, each in reversed(ordered):
            text = f"{text[: each.start]}{each.text}{text[each.stop :]}"
        try:
            same = YamlText(text.encode()).value == wanted
        except UnsafePlace:
            same = False
        if not same:
            raise UnsafePlace("its form cannot be changed safely")
        return text.encode()


@lru_cache(maxsize=_REMEMBERED)
def _parsed(data: bytes) -> tuple[str, Any, Any]:
    """Return a text, the tree of its nodes, and its value, which nobody may change."""
    try:
        text = data.decode()
        # PyYAML does not accept tabs in JSON, as Go's readers do; the positions stay the same.
        readable = text.replace("\t", " ") if text.lstrip().startswith("{") else text
        aliases = "&" in readable and any(isinstance(each, yaml.AliasToken) for each in yaml.scan(readable))
        loader = yaml.SafeLoader(readable)
        try:
            root: Any = loader.get_single_node()
            value = loader.construct_document(root) if root is not None else None
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        raise UnsafePlace("it is not YAML or JSON of one document") from None
    if aliases:
        raise UnsafePlace("it has YAML aliases")
    return text, root, value


def child(mapping: Any, key: str) -> Any:
    """Return the node below `key` of a mapping node, or None."""
    if mapping is None or mapping.id != "mapping":
        return None
    return next((value for name, value in mapping.value if name.value == key), None)


def written(value: str | bool, *, quoted: bool = False) -> str:
    """Return a scalar as YAML: plain if no version of YAML takes it for something else, else in double quotes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    plain = not quoted and _PLAIN.fullmatch(value) and not re.fullmatch(r"[-+.0-9_,:eEx]*", value)
    if plain and value.lower() not in ("true", "false", "yes", "no", "on", "off", "null", "y", "n", "-"):
        return value
    return json.dumps(value)
