"""Which sentences of functions were said while something ran: a sentence is a `return` or a `yield` with a value.

So a test can ask that every reason of a list of checks was met, also of those that are added later.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any, TypeVar

import click

from helpers.word_count import MOST, sentences, words
from vaultpki.cli import main as _main  # noqa: F401 - the commands are there once this is imported
from vaultpki.cli.admit import admit_command
from vaultpki.cli.adopt import adopt_command
from vaultpki.cli.agent import agent_command
from vaultpki.cli.apply import apply_command
from vaultpki.cli.ca import ca_command
from vaultpki.cli.enroll import enroll_command, lock_command, unenroll_command
from vaultpki.cli.issue import issue_command
from vaultpki.cli.join import join_command
from vaultpki.cli.status import renew_command
from vaultpki.procedure.gate import GateCheck

COMMANDS = {
    "admit": admit_command,
    "adopt": adopt_command,
    "agent": agent_command,
    "apply": apply_command,
    "ca": ca_command,
    "enroll": enroll_command,
    "issue": issue_command,
    "join": join_command,
    "lock": lock_command,
    "renew": renew_command,
    "unenroll": unenroll_command,
}

OTHERS = ("kubectl", "kubeadm", "systemctl", "crictl", "etcdctl", "bao")
"""Programs of others that a person runs."""

Way = Sequence[tuple[str, Mapping[str, Any]]]
"""Commands in their order, as `commands` returns them."""

_W = TypeVar("_W")
# Reasons that follow each other until a wait ends.
_MOST = 8
_ENDS_WITH_COMMAND = re.compile(r"`[)]?[.]?$")
# What nobody does there: another node is first.
_OF_OTHERS = re.compile(r"whose turn it is$|(kube-apiserver|controller manager) writes it once ")
_QUOTED = re.compile(r"`([^`]+)`")
_OR = re.compile(r"\b[Oo]r\b(?=(?:[^`]*`[^`]*`)*[^`]*$)")


def _said(function: Callable[..., Any]) -> set[tuple[str, int, int]]:
    """Return the sentences that a function can say: its name, and the first and the last line of each."""
    lines, first = inspect.getsourcelines(function)
    found = set()
    (tree,) = ast.parse(textwrap.dedent("".join(lines))).body
    inner = {
        each for one in ast.walk(tree) if one is not tree and isinstance(one, ast.FunctionDef) for each in ast.walk(one)
    }
    for node in (each for each in ast.walk(tree) if each not in inner):
        if isinstance(node, ast.Return | ast.Yield) and node.value is not None:
            nothing = (isinstance(node.value, ast.Constant) and not node.value.value) or ast.unparse(node.value) == "[]"
            if not nothing:
                found.add((function.__qualname__, node.lineno + first - 1, (node.end_lineno or 0) + first - 1))
    return found


@contextmanager
def every_sentence(functions: Iterable[Callable[..., Any] | GateCheck[...]]) -> Iterator[None]:
    """Fail unless each of these functions, or of a check that which finds something, says each of its sentences."""
    wanted, codes = set(), {}
    for each in (one.finds if isinstance(one, GateCheck) else one for one in functions):
        wanted |= _said(each)
        codes[each.__code__] = each.__qualname__
    met: set[tuple[str, int]] = set()

    def profile(frame: FrameType, event: str, value: Any) -> None:
        if event == "return" and frame.f_code in codes and value:
            met.add((codes[frame.f_code], frame.f_lineno))

    # A trace function would take the place of coverage's, and `make mutants` would not know what these tests run.
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)
    missed = {
        (name, first) for name, first, last in wanted if not any((name, line) in met for line in range(first, last + 1))
    }
    assert not missed, f"nothing meets these sentences: {sorted(missed)}"


def saying(module: ModuleType) -> tuple[Callable[..., Any], ...]:
    """Return the functions of a module that say what is waited for, by what they return."""
    mine = (each for each in vars(module).values() if inspect.isfunction(each) and each.__module__ == module.__name__)
    return tuple(each for each in mine if "Waiting" in str(inspect.signature(each).return_annotation))


def commands(reason: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the commands in a sentence, each as its name with the options that the command line reads from it.

    `--without NODE` and such alone are options of `vaultpki ca continue`. A name is such as `ca continue`, or of
    another program its first three words that are no options, such as `kubectl delete node`.
    """
    known = ("vaultpki ", "--", *(f"{each} " for each in OTHERS))
    return [_parsed(each) for each in _QUOTED.findall(reason) if each.startswith(known)]


def ways(reason: str) -> list[Way]:
    """Return the commands of each thing that a sentence lets a person do, in their order: "or" stands between them."""
    return [found for part in _OR.split(reason) if (found := commands(part))]


def unreadable(reason: str) -> list[str]:
    """Return the sentences of a reason, as `--wait` shows it, that are too long, or go on behind a command.

    The reason ends with a command, too, unless it is another one's turn.
    """
    shown = sentences(f"etcd is published, waits for cp-1: {reason}")
    odd = [each for each in shown if len(words(each)) > MOST]
    odd += [each for each in shown if commands(each) and not _ENDS_WITH_COMMAND.search(each)]
    if not commands(shown[-1]) and not _OF_OTHERS.search(reason):
        odd.append(shown[-1])
    return odd


def walked(world: _W, waits: Callable[[_W], Sequence[str]], after: Callable[[_W, Way], _W]) -> set[str]:
    """Go each way that each reason names, and on until nothing is waited for; return the reasons that were met.

    A reason is gone once its commands were run. It may lead to another one, and none comes back. Each is readable.
    """
    met = set[str]()
    for told in waits(world):
        assert (odd := unreadable(told)) == [], odd
        assert ways(told), told
        for way in ways(told):
            then, before = after(world, way), [told]
            assert told not in waits(then), (told, way)
            while left := waits(then):
                assert left[0] not in before and len(before) < _MOST and ways(left[0]), (left[0], before)
                before.append(left[0])
                then = after(then, ways(left[0])[0])
            met |= {*before}
    return met


@functools.cache
def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    words = text.split()
    if words[0] in OTHERS:
        named = [each for each, before in zip(words, ["", *words], strict=False) if "-" not in (each[0], before[:1])]
        return " ".join(each for each in named[:3] if not each.isupper()), {"words": tuple(words)}
    words = words[1:] if words[0] == "vaultpki" else ["ca", "continue", *words]
    words = [{"FILE": "admin.conf", "DIR": "there", "FILE...": "ca.crt"}.get(word, word) for word in words]
    name, command = words[0], COMMANDS[words[0]]
    context = click.Context(command, info_name=name)
    if isinstance(command, click.Group):
        name, found, words = f"{name} {words[1]}", command.get_command(context, words[1]), words[1:]
        assert found is not None, text
        command = found
    return name, dict(command.make_context(name, words[1:], resilient_parsing=False).params)
