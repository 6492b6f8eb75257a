"""Reads YAML into a tree in which every value keeps its line; refuses the YAML features that our files do not need."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
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
    FileNotFoundError: "there is no such file: check the path",
    PermissionError: "this user may not read the file: change its mode or owner",
    input_file.NotRegular: "this is a FIFO, a socket or a device: name a file",
}
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


def read_text(path: Path, limit: int = MAX_BYTES, *, below: Path | None = None) -> str:
    """Return the text of a UTF-8 file of at most `limit` bytes.

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
        data = input_file.content(fd, limit)
    except StoreError as error:
        # The message already names the file or the folder.
        raise SpecError(str(error)) from None
    except input_file.TooLarge:
        problem = f"the file is larger than {limit // 1024} KiB: check the path, or make it smaller"
        raise SpecError(problem, file=name) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "the path is not usable"
        unknown = f"the file cannot be read ({reason}): check the path"
        raise SpecError(_UNREADABLE.get(type(error), unknown), file=name) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError("the file is not UTF-8 text: save it as UTF-8", file=name, line=line) from None


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
        root = _Builder(file, yaml.SafeLoader.yaml_implicit_resolvers).document(yaml.parse(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # Without libyaml, PyYAML's own parser quotes the text that it found, which may be a secret.
        said = "".join(c for c in error.problem or "bad syntax" if c.isprintable())
        said = re.sub(r"(['\"]).{3,}\1", "something else", said)[:200]
        line = mark.line + 1 if mark else 1
        raise SpecError(
            f"this is not YAML ({said}): check indentation, colons and quotes", file=file, line=line
        ) from None
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


class _Builder:
    """Builds the tree from parser events with its own stack, so that deep nesting cannot exhaust Python's stack."""

    def __init__(self, file: str, resolvers: Any) -> None:
        self.file = file
        self.resolvers = resolvers
        self.stack: list[_Open] = []
        self.root: Node | None = None
        self.values = 0

    def document(self, events: Iterator[Any]) -> Node | None:
        import yaml

        documents = 0
        for event in events:
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._refuse(line, "the file contains a second document: keep one, without --- in between")
            elif isinstance(event, yaml.NodeEvent):
                self._node(event, line)
            elif isinstance(event, yaml.CollectionEndEvent):
                done = self.stack.pop()
                self._place(Mapping(done.pairs, done.line) if done.mapping else Sequence(done.items, done.line))
        return self.root

    def _node(self, event: Any, line: int) -> None:
        import yaml

        if isinstance(event, yaml.AliasEvent):
            raise self._refuse(line, f"the alias {quoted_key(str(event.anchor))} is not allowed: repeat the value")
        if event.anchor is not None:
            raise self._refuse(line, f"the anchor {quoted_key(event.anchor)} is not allowed: repeat the value")
        if event.tag is not None:
            raise self._refuse(
                line, f"the tag {quoted_key(event.tag)} is not allowed: write the plain value, text in quotes"
            )
        self.values += 1
        if self.values > MAX_VALUES:
            raise self._refuse(line, f"the file contains more than {MAX_VALUES} values: make it smaller")
        if isinstance(event, yaml.ScalarEvent):
            self._place(Scalar(event.value, line, self._read_as(event, line)))
            return
        if len(self.stack) >= MAX_DEPTH:
            raise self._refuse(line, f"the file is nested deeper than {MAX_DEPTH} levels: make it flatter")
        mapping = isinstance(event, yaml.MappingStartEvent)
        if self.stack and self.stack[-1].mapping and self.stack[-1].key is None:
            raise self._refuse(line, "this key is a list or mapping: write a plain word before the colon")
        self.stack.append(_Open(mapping, line))

    def _read_as(self, event: Any, line: int) -> str | None:
        if not event.implicit[0]:
            return None
        for tag, pattern in self.resolvers.get(event.value[:1], []):
            if pattern.match(event.value):
                if tag == _MERGE:
                    raise self._refuse(line, "the merge key << is not allowed: repeat the keys")
                return None if tag == _TEXT else _READ_AS.get(tag.rpartition(":")[2], "not text")
        return None

    def _place(self, node: Node) -> None:
        if not self.stack:
            self.root = node
            return
        top = self.stack[-1]
        if not top.mapping:
            top.items.append(node)
        elif top.key is None and isinstance(node, Scalar):
            if node.value in top.pairs:
                first = top.pairs[node.value][0].line
                raise self._refuse(
                    node.line,
                    f"the key {quoted_key(node.value)} is given twice, first in line {first}: keep one of them",
                    node.value,
                )
            top.key = node
        elif top.key is not None:
            top.pairs[top.key.value] = (top.key, node)
            top.key = None

    def _refuse(self, line: int, problem: str, last: str | None = None) -> SpecError:
        place = Place(self.file, line, "")
        for opened in self.stack:
            if opened.mapping and opened.key is not None:
                place = place.under(opened.key.value)
            elif not opened.mapping:
                place = place.item(len(opened.items), line)
        return (place.under(last) if last is not None else place).refuse(problem)


@dataclass(slots=True)
class _Open:
    """A mapping or sequence whose end event has not been read yet."""

    mapping: bool
    line: int
    items: list[Node] = field(default_factory=list)
    pairs: dict[str, tuple[Scalar, Node]] = field(default_factory=dict)
    key: Scalar | None = None
