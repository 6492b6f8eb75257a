"""Reads YAML into a tree in which every value keeps its line; refuses the YAML features that our files do not need."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vaultpki.errors import SpecError, StoreError
from vaultpki.values import input_file, permissions
from vaultpki.values.names import quoted, quoted_key

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 250_000

# The characters that YAML 1.1 section 4.1.1 forbids, and also NEL and the surrogates. Listing the allowed characters
# instead would need ranges beyond 16 bits, which Python compiles ten times slower.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_UNREADABLE: Final[dict[type[Exception], str]] = {
    IsADirectoryError: "this is a folder: name the file in it",
    PermissionError: "this user may not read the file: run as root or as its owner",
    input_file.NotRegular: "this is a FIFO, a socket or a device: name a file",
}
_CLOSING = re.compile(r"did not find expected ',' or '[]}]'")
_MISSING = "check the path"
_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_READ_AS = {"int": "a number", "float": "a number", "bool": "yes or no", "null": "nothing", "timestamp": "a date"}


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a value: file name, line (from 1) and dotted path."""

    file: str
    line: int
    path: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.path}"

    def refuse(self, problem: str) -> SpecError:
        return SpecError(problem, file=self.file, line=self.line, field=self.path)

    def under(self, key: str, line: int | None = None) -> Place:
        part = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f"[{quoted_key(key)}]"
        dotted = f"{self.path}.{part}" if self.path and not part.startswith("[") else f"{self.path}{part}"
        return Place(self.file, self.line if line is None else line, dotted)

    def item(self, index: int, line: int) -> Place:
        return Place(self.file, line, f"{self.path}[{index}]")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar; `read_as` names the type that YAML 1.1 gives it, and is None for text."""

    value: str
    line: int
    read_as: str | None


@dataclass(frozen=True, slots=True)
class Sequence:
    items: list[Node]
    line: int


@dataclass(frozen=True, slots=True)
class Mapping:
    items: dict[str, tuple[Scalar, Node]]
    line: int


Node = Scalar | Sequence | Mapping


def read_text(path: Path, limit: int = MAX_BYTES, *, below: Path | None = None, missing: str = _MISSING) -> str:
    """Return the text of a UTF-8 file of at most `limit` bytes; `below`, `missing` and errors as in `read_bytes`."""
    data = read_bytes(path, limit, below=below, missing=missing)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError("the file is not UTF-8 text: save it as UTF-8", file=shown(path), line=line) from None


def read_bytes(path: Path, limit: int, *, below: Path | None = None, missing: str = _MISSING) -> bytes:
    """Return the content of a file of at most `limit` bytes; `missing` is the remedy for one that is not there.

    Raises SpecError if it cannot be read, or if other users could change or replace it (`permissions`). With `below`,
    the file must be in that folder after all links are resolved.
    """
    name = shown(path)
    try:
        fd = permissions.open_file(str(path))
        try:
            if below is not None:
                _refuse_elsewhere(fd, below, name)
        except BaseException:
            os.close(fd)
            raise
        return input_file.content(fd, limit)
    except StoreError as error:
        # The message already names the file or the folder.
        raise SpecError(str(error)) from None
    except input_file.TooLarge:
        problem = f"the file is larger than {limit // 1024} KiB: check the path, or make it smaller"
        raise SpecError(problem, file=name) from None
    except FileNotFoundError:
        raise SpecError(f"there is no such file: {missing}", file=name) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "the path is not usable"
        unknown = f"the file cannot be read ({reason}): check the path"
        raise SpecError(_UNREADABLE.get(type(error), unknown), file=name) from None


def _refuse_elsewhere(fd: int, folder: Path, name: str) -> None:
    """Raise SpecError unless the open `fd` is a regular file below `folder`."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise SpecError("this is not a regular file: name one", file=name)
    at = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # The real paths of the open descriptors (proc(5)), so that changing a link in the meantime has no effect.
        real, root = os.readlink(f"/proc/self/fd/{fd}"), os.readlink(f"/proc/self/fd/{at}")
    finally:
        os.close(at)
    if not real.startswith(f"{root.rstrip('/')}/"):
        raise SpecError(f"the file is outside {shown(folder)}: copy it into that folder", file=name)


def shown(path: Path) -> str:
    """Return the path for messages, escaped if it contains unprintable characters."""
    return str(path) if str(path).isprintable() else quoted(str(path))


def parse(text: str, file: str, *, start: str) -> Mapping:
    """Return the top-level mapping of the document; raise SpecError for bad YAML and for features that are refused.

    `start` is the remedy for an empty file.
    """
    import yaml

    bad = _UNPRINTABLE.search(text)
    if bad is not None:
        line = text.count("\n", 0, bad.start()) + 1
        raise SpecError(f"the file contains the control character {bad[0]!a}: remove it", file=file, line=line)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        events = yaml.parse(text, Loader=loader)
        root = _Builder(file, yaml.SafeLoader.yaml_implicit_resolvers, events).document()
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error, text, file) from None
    except (yaml.YAMLError, ValueError, OverflowError):
        # PyYAML's own scanner raises the errors of chr() and int() for escapes and directives out of range.
        raise SpecError("this is not YAML: check escapes, quotes and directives", file=file, line=1) from None
    if root is None or (isinstance(root, Scalar) and root.read_as == "nothing"):
        raise SpecError(f"the file is empty: {start}", file=file, line=1)
    if not isinstance(root, Mapping):
        raise SpecError(
            "the file does not contain keys and values: write `key: value` lines", file=file, line=root.line
        )
    return root


def _not_yaml(error: Any, text: str, file: str) -> SpecError:
    """Return what a MarkedYAMLError says of a text, and where what it concerns begins."""
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    indentation = re.match(r"\s*", text.splitlines()[line - 1] if line <= len(text.splitlines()) else "")
    if indentation is not None and "\t" in indentation[0]:
        return SpecError("the line begins with a tab: indent it with spaces", file=file, line=line)
    said = "".join(c for c in error.problem or "bad syntax" if c.isprintable())
    if not _CLOSING.fullmatch(said):
        # Without libyaml, PyYAML's own parser quotes the text that it found, which may be a secret.
        said = re.sub(r"(['\"]).{3,}\1", "something else", said)[:200]
    begun = error.context_mark.line + 1 if error.context_mark else line
    since = f", in what begins in line {begun}" if begun < line else ""
    return SpecError(f"this is not YAML ({said}{since}): check indentation, colons and quotes", file=file, line=line)


def plain_mapping(text: str, file: str) -> dict[str, Any]:
    """Return the mapping of a document by other programs as dicts, lists and text; empty if it is anything else.

    Scalars of every kind stay text.
    """
    try:
        found = _plain(parse(text, file, start="another program writes it"))
    except SpecError:
        return {}
    return found if isinstance(found, dict) else {}


def typed_mapping(text: str, file: str) -> dict[str, Any]:
    """Return the mapping of a document by other programs as dicts, lists, text, numbers, True, False and None.

    Scalars of other types, such as dates, stay text. Raises SpecError if it is not YAML, or no mapping.
    """
    found = _typed(parse(text, file, start="another program writes it"))
    return found if isinstance(found, dict) else {}


def _typed(node: Node) -> object:
    if isinstance(node, Mapping):
        return {key: _typed(value) for key, (_, value) in node.items.items()}
    if isinstance(node, Sequence):
        return [_typed(each) for each in node.items]
    if node.read_as is None:
        return node.value
    import yaml

    # One plain scalar: nothing in it can grow.
    found = yaml.safe_load(node.value)
    return found if found is None or isinstance(found, bool | int | float) else node.value


def _plain(node: Node) -> object:
    if isinstance(node, Mapping):
        return {key: _plain(value) for key, (_, value) in node.items.items()}
    if isinstance(node, Sequence):
        return [_plain(each) for each in node.items]
    return node.value


class _Builder:
    """Builds the tree from parser events, and refuses deep nesting before it could exhaust Python's stack."""

    def __init__(self, file: str, resolvers: Any, events: Iterator[Any]) -> None:
        self.file, self.resolvers, self.events = file, resolvers, events
        self.values = 0

    def document(self) -> Node | None:
        import yaml

        root: Node | None = None
        documents = 0
        for event in self.events:
            place = Place(self.file, event.start_mark.line + 1, "")
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise place.refuse("the file contains a second document: keep one, without --- in between")
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event, place, 0)
        return root

    def _node(self, event: Any, place: Place, depth: int) -> Node:
        """Return the node that begins with `event`, whose place has the event's line."""
        import yaml

        if isinstance(event, yaml.AliasEvent):
            raise place.refuse(f"the alias {quoted_key(str(event.anchor))} is not allowed: repeat the value")
        if event.anchor is not None:
            raise place.refuse(f"the anchor {quoted_key(event.anchor)} is not allowed: repeat the value")
        if event.tag is not None:
            raise place.refuse(f"the tag {quoted_key(event.tag)} is not allowed: write the plain value, text in quotes")
        self.values += 1
        if self.values > MAX_VALUES:
            raise place.refuse(f"the file contains more than {MAX_VALUES} values: make it smaller")
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(event.value, place.line, self._read_as(event, place))
        if depth >= MAX_DEPTH:
            raise place.refuse(f"the file is nested deeper than {MAX_DEPTH} levels: make it flatter")
        if isinstance(event, yaml.MappingStartEvent):
            return Mapping(self._pairs(place, depth + 1), place.line)
        items: list[Node] = []
        while not isinstance(each := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(each, place.item(len(items), each.start_mark.line + 1), depth + 1))
        return Sequence(items, place.line)

    def _pairs(self, place: Place, depth: int) -> dict[str, tuple[Scalar, Node]]:
        import yaml

        pairs: dict[str, tuple[Scalar, Node]] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            at = Place(place.file, event.start_mark.line + 1, place.path)
            key = self._node(event, at, depth)
            if not isinstance(key, Scalar):
                raise at.refuse("this key is a list or mapping: write a plain word before the colon")
            here = place.under(key.value, key.line)
            if key.value in pairs:
                first = pairs[key.value][0].line
                raise here.refuse(
                    f"the key {quoted_key(key.value)} is given twice, first in line {first}: keep one of them"
                )
            event = next(self.events)
            pairs[key.value] = key, self._node(event, place.under(key.value, event.start_mark.line + 1), depth)
        return pairs

    def _read_as(self, event: Any, place: Place) -> str | None:
        if not event.implicit[0]:
            return None
        for tag, pattern in self.resolvers.get(event.value[:1], []):
            if pattern.match(event.value):
                if tag == _MERGE:
                    raise place.refuse("the merge key << is not allowed: repeat the keys")
                return None if tag == _TEXT else _READ_AS.get(tag.rpartition(":")[2], "not text")
        return None
