"""YAML text to a tree in which every value keeps its line, with all of YAML refused that a spec does not need."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from vaultpki import guard, regular
from vaultpki.errors import SpecError, StoreError
from vaultpki.values import dataclass
from vaultpki.words import quoted, quoted_key

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 250_000

# All but what YAML 1.1 section 4.1.1 allows in a stream; the C1 control NEL and the surrogates are in it on purpose.
# Said the other way round, with ranges beyond 16 bits, Python takes ten times as long to compile it.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_READ_AS = {"int": "a number", "float": "a number", "bool": "yes or no", "null": "nothing", "timestamp": "a date"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: the file's name, the line counted from 1, the dotted path."""

    file: str
    line: int
    path: str

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
    """`read_as` says what YAML 1.1 takes a plain scalar for; it is None for text."""

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
    """The file's text; SpecError where it cannot be read, is larger than `limit` bytes or is no UTF-8.

    SpecError, too, where others could change or exchange it (`guard`). With `below` it must lie in that folder,
    whatever links lead to it.
    """
    name = shown(path)
    try:
        fd = guard.open_file(str(path))
        try:
            if below is not None:
                _refuse_elsewhere(fd, below, name)
        except BaseException:
            os.close(fd)
            raise
        data = regular.content(fd, limit)
    except StoreError as error:
        # It names the file itself, or the folder on its way.
        raise SpecError(str(error)) from None
    except IsADirectoryError:
        raise SpecError("this is a folder: name the file in it", file=name) from None
    except FileNotFoundError:
        raise SpecError("there is no such file: check the path", file=name) from None
    except PermissionError:
        raise SpecError("the file may not be read by this user: change its mode or owner", file=name) from None
    except regular.NotRegular:
        raise SpecError("this is a FIFO, a socket or a device: name a file", file=name) from None
    except regular.TooLarge:
        raise SpecError(
            f"the file is larger than {limit // 1024} KiB: no file of this kind needs more", file=name
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "the path is not usable"
        raise SpecError(f"the file cannot be read ({reason}): check the path", file=name) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError("the file is not UTF-8 text: save it as UTF-8", file=name, line=line) from None


def _refuse_elsewhere(fd: int, folder: Path, name: str) -> None:
    """SpecError unless what is open as `fd` is a regular file below `folder`."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise SpecError("this is no regular file: name one", file=name)
    at = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Where both really are (proc(5)), so that a link which somebody changes meanwhile changes nothing.
        real, root = os.readlink(f"/proc/self/fd/{fd}"), os.readlink(f"/proc/self/fd/{at}")
    finally:
        os.close(at)
    if not real.startswith(f"{root.rstrip('/')}/"):
        raise SpecError(f"it lies outside {shown(folder)}: copy it into that folder", file=name)


def shown(path: Path) -> str:
    """The path as messages show it: escaped where it holds something unprintable."""
    return str(path) if str(path).isprintable() else quoted(str(path))


def parse(text: str, file: str, *, start: str) -> Mapping:
    """The document's top-level mapping; SpecError for bad YAML and for what only YAML's further features could say.

    `start` says how a person comes by such a file, where this one is empty.
    """
    import yaml

    bad = _UNPRINTABLE.search(text)
    if bad is not None:
        line = text.count("\n", 0, bad.start()) + 1
        raise SpecError(f"the file holds the control character {bad[0]!a}: remove it", file=file, line=line)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        root = _Builder(file, yaml.SafeLoader.yaml_implicit_resolvers).document(yaml.parse(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # Without libyaml, PyYAML's own parser quotes what it met.
        said = "".join(c for c in error.problem or "bad syntax" if c.isprintable())
        said = re.sub(r"(['\"]).{3,}\1", "something else", said)[:200]
        line = mark.line + 1 if mark else 1
        raise SpecError(
            f"this is not YAML ({said}): check indentation, colons and quotes", file=file, line=line
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError):
        # PyYAML's own scanner lets the errors of chr() and int() through for escapes and directives out of range.
        raise SpecError("this is not YAML: check escapes, quotes and directives", file=file, line=1) from None
    if root is None or (isinstance(root, Scalar) and root.read_as == "nothing"):
        raise SpecError(f"the file is empty: {start}", file=file, line=1)
    if not isinstance(root, Mapping):
        raise SpecError("the file does not hold keys and values: write `key: value` lines", file=file, line=root.line)
    return root


class _Builder:
    """Builds the tree from parser events with a stack of its own, so that no nesting can exhaust Python's."""

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
                    raise self._refuse(line, "the file holds a second document: write one, without a --- between")
            elif isinstance(event, yaml.NodeEvent):
                self._node(event, line)
            elif isinstance(event, yaml.CollectionEndEvent):
                done = self.stack.pop()
                self._place(Mapping(done.pairs, done.line) if done.mapping else Sequence(done.items, done.line))
        return self.root

    def _node(self, event: Any, line: int) -> None:
        import yaml

        if isinstance(event, yaml.AliasEvent):
            raise self._refuse(
                line, f"the alias {quoted_key(str(event.anchor))} is not allowed: write the value out again"
            )
        if event.anchor is not None:
            raise self._refuse(line, f"the anchor {quoted_key(event.anchor)} is not allowed: write each value out")
        if event.tag is not None:
            raise self._refuse(
                line, f"the tag {quoted_key(event.tag)} is not allowed: write the plain value, text in quotes"
            )
        self.values += 1
        if self.values > MAX_VALUES:
            raise self._refuse(line, f"the file holds more than {MAX_VALUES} values: no file of this kind needs more")
        if isinstance(event, yaml.ScalarEvent):
            self._place(Scalar(event.value, line, self._read_as(event, line)))
            return
        if len(self.stack) >= MAX_DEPTH:
            raise self._refuse(line, f"the file nests deeper than {MAX_DEPTH} levels: no file of this kind needs more")
        mapping = isinstance(event, yaml.MappingStartEvent)
        if self.stack and self.stack[-1].mapping and self.stack[-1].key is None:
            raise self._refuse(line, "a key is a list or mapping here: write a plain word before the colon")
        self.stack.append(_Open(mapping, line))

    def _read_as(self, event: Any, line: int) -> str | None:
        if not event.implicit[0]:
            return None
        for tag, pattern in self.resolvers.get(event.value[:1], []):
            if pattern.match(event.value):
                if tag == _MERGE:
                    raise self._refuse(line, "the merge key << is not allowed: write the keys out again")
                return None if tag == _TEXT else _READ_AS.get(tag.rpartition(":")[2], "something else than text")
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
                    f"the key {quoted_key(node.value)} stands here twice, first in line {first}: keep one of them",
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


class _Open:
    """A mapping or sequence whose end has not come yet."""

    __slots__ = ("items", "key", "line", "mapping", "pairs")

    def __init__(self, mapping: bool, line: int) -> None:
        self.mapping, self.line = mapping, line
        self.items: list[Node] = []
        self.pairs: dict[str, tuple[Scalar, Node]] = {}
        self.key: Scalar | None = None
