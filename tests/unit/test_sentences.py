"""Every sentence that the program can print has at most 25 words; what is longer stands below, with its reason."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import vaultpki
from helpers.word_count import FILLED, MOST, sentences, words

PACKAGE = Path(vaultpki.__file__).parent
# Sentences that may be longer: how each begins, and why.
LONGER: Final[dict[str, str]] = {
    "advertise-address allow-privileged": "a list of flags, which is never printed as a whole",
    "Sign ◇.csr as a subordinate CA: ": "what a signer outside must grant, which a person sends on in one piece",
    "◇ by ◇ itself, not by a CA below it: ": "the same for the cross certificate of a root",
    "[ca] default_ca = own": "the configuration of openssl, which no person reads",
}


def test_no_sentence_of_the_program_is_longer_than_25_words() -> None:
    """A sentence is what ends with a full stop, a colon before a capital, an empty line or an indented line."""
    long = [
        f"{place}: {len(words(sentence))} words: {sentence}"
        for place, sentence in longer()
        if not any(sentence.startswith(begin) for begin in LONGER)
    ]
    assert not long, f"{len(long)} sentences are too long:\n" + "\n".join(long)


def test_what_a_long_sentence_is_told_from() -> None:
    """Filled in places and quoted commands are one word, and a colon before a small letter ends no sentence."""
    one, two = sentences("Run `vaultpki ca continue --wait etcd`: ◇ waits. Then start it.")
    assert [len(words(one)), len(words(two))] == [4, 3]
    tree = ast.parse('"""Not printed."""\nsay(f"{a} b {c!r} " "d")\n')
    assert [text for _, text in texts(tree)] == ["◇ b ◇ d"]


def test_each_exception_is_still_needed() -> None:
    """A sentence that is gone, or short by now, has no row."""
    assert {begin for _, sentence in longer() for begin in LONGER if sentence.startswith(begin)} == set(LONGER)


@cache
def longer() -> tuple[tuple[str, str], ...]:
    """File and line, and the sentence, of each that has too many words."""
    return tuple(
        (f"{path.relative_to(PACKAGE)}:{line}", sentence)
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in texts(ast.parse(path.read_text()))
        for sentence in sentences(text)
        if len(words(sentence)) > MOST
    )


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each string that may be printed: no docstring but those of commands, which are their help."""
    unprinted = {id(part) for node in ast.walk(tree) for part in _docstring(node)}
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - {
        id(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
    }
    for node in ast.walk(tree):
        if id(node) in unprinted or id(node) in inner:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (str(p.value) if isinstance(p, ast.Constant) else FILLED for p in node.values)
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def _docstring(node: ast.AST) -> Iterator[ast.Constant]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and not _is_command(node):
            yield first.value


def _is_command(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and any(
        re.search(r"\.(command|group)\(", ast.unparse(decorator)) for decorator in node.decorator_list
    )
