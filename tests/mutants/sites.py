"""Finds where a line of the product can be made wrong in a small way, and draws some of these places by a seed.

A mutant replaces a part of the text, at places that the syntax tree gives, so that all other lines keep their numbers.
Left alone are what decides nothing (docstrings, annotations, decorators, assertions) and text for people.
"""

from __future__ import annotations

import ast
import itertools
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOMS: Final = (
    *("pki", "procedure", "records", "rotation", "token_keys", "adopt", "takeover", "disk", "identity", "provision"),
    *("agent", "verify"),
)

_COMPARED: Final[dict[type[ast.cmpop], tuple[str, tuple[str, ...]]]] = {
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: (r"is\s+not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: (r"not\s+in", ("in",)),
}
_COMPUTED: Final[dict[type[ast.operator], tuple[str, tuple[str, ...]]]] = {
    ast.Add: ("+", ("-",)),
    ast.Sub: ("-", ("+", "|")),
    ast.Mult: ("*", ("//",)),
    ast.FloorDiv: ("//", ("*",)),
    ast.Div: ("/", ("*",)),
    ast.Mod: ("%", ("*",)),
    ast.BitOr: ("|", ("&", "-")),
    ast.BitAnd: ("&", ("|", "-")),
    ast.BitXor: ("^", ("|",)),
}
_CALLED: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}
# Calls that tell a person something.
_TELLING: Final = frozenset({"tell", "say", "log", "debug", "info", "warning", "error", "print", "echo"})
# What a declaration says to dataclasses alone.
_DECLARING: Final = frozenset({"repr", "slots", "frozen", "kw_only"})
# Whoever asks for these only asks whether there is something, as there is not in None.
_EMPTY: Final = frozenset(f"return {each}" for each in ('""', 'b""', "()", "[]", "{}", "False"))


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: the bytes from `begin` to `end` of a file become `new`.

    `line` is that of the change and `first` the one where its statement begins. Without `inside` a function, the line
    is run when the module is imported.
    """

    file: str
    line: int
    first: int
    inside: bool
    begin: int
    end: int
    old: str
    new: str

    @property
    def key(self) -> str:
        return f"{self.file}:{self.line}+{self.begin}: {self.old!r} -> {self.new!r}"

    @property
    def room(self) -> str:
        return self.file.split("/")[1]

    def applied(self, source: bytes) -> bytes:
        """Return the text of the file with this change; it has as many lines as before."""
        lines = source[self.begin : self.end].count(b"\n") - self.new.count("\n")
        # Where a bracket keeps the statement open, lines may be added to any expression.
        new = f"({self.new}{chr(10) * lines})" if lines and self.new in ("True", "False") else self.new + "\n" * lines
        return source[: self.begin] + new.encode() + source[self.end :]


def draw(root: Path, seed: int, count: int, rooms: Sequence[str] = ROOMS) -> list[Mutant]:
    """Return at most `count` mutants of these rooms of a checkout, one a line, the same for the same seed and files."""
    lines: list[list[Mutant]] = []
    for file in sorted(path for room in rooms for path in (root / "vaultpki" / room).rglob("*.py")):
        by_line = defaultdict(list)
        for one in mutants(file.read_bytes(), str(file.relative_to(root))):
            by_line[one.line].append(one)
        lines += [by_line[line] for line in sorted(by_line)]
    chance = random.Random(seed)  # noqa: S311 - a draw, no secret
    drawn = (chance.choice(line) for line in chance.sample(lines, len(lines)))
    taken = itertools.islice((one for one in drawn if one.old not in _EMPTY and _compiles(root, one)), count)
    return sorted(taken, key=lambda one: (one.file, one.line))


def mutants(source: bytes, file: str) -> Iterator[Mutant]:
    """Yield all mutants of a file; a few of them are no Python."""
    yield from _Walk(source, file).module()


def _compiles(root: Path, one: Mutant) -> bool:
    try:
        compile(one.applied((root / one.file).read_bytes()), one.file, "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


class _Walk:
    def __init__(self, source: bytes, file: str) -> None:
        self.source, self.file = source, file
        self.begins = [0, *(match.end() for match in re.finditer(rb"\n", source))]
        self.first, self.inside = 0, False

    def module(self) -> Iterator[Mutant]:
        yield from self._body(ast.parse(self.source))

    def _body(self, node: ast.AST) -> Iterator[Mutant]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                self.first = child.lineno
            yield from self._node(child)

    def _node(self, node: ast.AST) -> Iterator[Mutant]:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from self._function(node)
                return
            case ast.ClassDef():
                for each in node.body:
                    self.first = each.lineno
                    yield from self._node(each)
                return
            case ast.AnnAssign():
                yield from self._node(node.value) if node.value else ()
                return
            case ast.If(test=ast.Name(id="TYPE_CHECKING")) | ast.Assert() | ast.JoinedStr() | ast.Import():
                return
            case ast.keyword(arg=str(name)) if name in _DECLARING:
                return
            case ast.Expr(value=ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name))) if name in _TELLING:
                return
        for begin, end, new in self._changes(node):
            line = self.source.count(b"\n", 0, begin) + 1
            old = self.source[begin:end].decode()
            yield Mutant(self.file, line, self.first, self.inside, begin, end, old, new)
        if isinstance(node, ast.Raise):
            return
        yield from self._body(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Mutant]:
        if node.name in ("__repr__", "__str__"):
            return
        for default in (*node.args.defaults, *node.args.kw_defaults):
            self.first = node.lineno
            yield from self._node(default) if default else ()
        before, self.inside = self.inside, True
        for each in node.body:
            self.first = each.lineno
            yield from self._node(each)
        self.inside = before

    def _changes(self, node: ast.AST) -> Iterator[tuple[int, int, str]]:  # noqa: C901 - one case for each kind of node
        """Yield what can be done to a node itself: from which byte to which another text stands."""
        match node:
            case ast.Compare():
                sides = [node.left, *node.comparators]
                for index, sort in enumerate(node.ops):
                    text, others = _COMPARED[type(sort)]
                    yield from self._between(sides[index], sides[index + 1], text, others)
            case ast.BoolOp():
                was, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
                for left, right in zip(node.values, node.values[1:], strict=False):
                    yield from self._between(left, right, was, (other,))
            case ast.UnaryOp(op=ast.Not()):
                begin, _ = self._place(node)
                yield begin, begin + 3, ""
            case ast.BinOp(left=left, right=right) if type(node.op) in _COMPUTED and not (_text(left) or _text(right)):
                if not (isinstance(node.op, ast.BitOr) and (_type(left) or _type(right))):
                    text, others = _COMPUTED[type(node.op)]
                    yield from self._between(left, right, re.escape(text), others)
            case ast.AugAssign(target=target, value=value) if type(node.op) in _COMPUTED and not _text(value):
                text, others = _COMPUTED[type(node.op)]
                yield from self._between(target, value, re.escape(text), others)
            case ast.Constant(value=bool(value)):
                yield (*self._place(node), str(not value))
            case ast.Constant(value=int(value) | float(value)):
                yield (*self._place(node), str(value + 1))
                yield (*self._place(node), str(value - 1) if value >= 1 else f"({value - 1})")
            case ast.Call(func=ast.Name(id=name) as called) if name in _CALLED:
                yield (*self._place(called), _CALLED[name])
            case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
                yield (*self._place(node), "return None")
            case ast.Raise() | ast.Expr(value=ast.Call()):
                yield (*self._place(node), "pass")
            case ast.Break():
                yield (*self._place(node), "continue")
            case ast.Continue():
                yield (*self._place(node), "break")
        yield from self._conditions(node)

    def _conditions(self, node: ast.AST) -> Iterator[tuple[int, int, str]]:
        match node:
            case ast.If() | ast.IfExp():
                tests = [node.test]
            case ast.comprehension():
                tests = node.ifs
            case _:
                return
        for each in tests:
            for new in ("True", "False"):
                yield (*self._place(each), new)

    def _place(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return (
            self.begins[node.lineno - 1] + node.col_offset,
            self.begins[node.end_lineno - 1] + node.end_col_offset,
        )

    def _between(
        self, left: ast.expr, right: ast.expr, text: str, others: Sequence[str]
    ) -> Iterator[tuple[int, int, str]]:
        begin, end = self._place(left)[1], self._place(right)[0]
        gap = self.source[begin:end].decode()
        # A comment there may have the operator in it.
        if "#" not in gap and (found := re.search(text, gap)):
            for other in others:
                yield begin + len(gap[: found.start()].encode()), begin + len(gap[: found.end()].encode()), other


def _text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _type(node: ast.expr) -> bool:
    """Whether it looks like a type: a builtin one, None, or a class."""
    while isinstance(node, ast.Subscript | ast.BinOp):
        node = node.value if isinstance(node, ast.Subscript) else node.right
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    builtin = name in {"str", "int", "float", "bool", "bytes", "dict", "list", "tuple", "set", "frozenset"}
    return builtin or bool(re.match(r"_?[A-Z].*[a-z]", name)) or (isinstance(node, ast.Constant) and node.value is None)
