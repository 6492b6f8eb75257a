"""man.py FOLDER VERSION: writes the manual pages of vaultpki and of each of its commands, from what `--help` says.

click-man was weighed: it writes a page only for commands that a group has loaded, and ours loads one when it is asked
for; and it takes examples for running text. The date is SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from vaultpki.cli import vaultpki

SECTION: Final = "1"


def pages(version: str, day: str) -> Iterator[tuple[str, str]]:
    """Yield each page: the name of its file, and its text for man(7)."""
    for words, command, inside in _commands(("vaultpki",), vaultpki):
        name = "-".join(words)
        yield f"{name}.{SECTION}", "\n".join(_page(words, command, inside, _head(name, version, day))) + "\n"


def _commands(
    words: tuple[str, ...], command: click.Command
) -> Iterator[tuple[tuple[str, ...], click.Command, dict[str, click.Command]]]:
    inside: dict[str, click.Command] = {}
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=words[-1])
        for name in command.list_commands(context):
            if (found := command.get_command(context, name)) is not None:
                inside[name] = found
    yield words, command, inside
    for name, below in inside.items():
        yield from _commands((*words, name), below)


def _head(name: str, version: str, day: str) -> str:
    return f'.TH "{_text(name.upper())}" "{SECTION}" "{day}" "vaultpki {_text(version)}" "vaultpki"'


def _page(words: tuple[str, ...], command: click.Command, inside: dict[str, click.Command], head: str) -> Iterator[str]:
    context = click.Context(command, info_name=" ".join(words))
    yield head
    yield ".SH NAME"
    yield rf"{_text('-'.join(words))} \- {_text(_short(command))}"
    yield ".SH SYNOPSIS"
    yield f".B {_text(' '.join(words))}"
    yield _text(" ".join(command.collect_usage_pieces(context)))
    yield ".SH DESCRIPTION"
    said, _, examples = inspect.cleandoc(command.help or "").partition("\b\nExample:\n")
    yield from _paragraphs(said)
    yield ".SH OPTIONS"
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            names, meaning = record
            yield ".TP"
            yield re.sub(r"(--?[A-Za-z][\w-]*)", lambda found: rf"\fB{_text(found[1])}\fR", names)
            yield from _filled(meaning)
    if inside:
        yield ".SH COMMANDS"
        for name, below in inside.items():
            yield ".TP"
            yield rf"\fB{_text('-'.join((*words, name)))}\fR({SECTION})"
            yield from _filled(_short(below))
    if examples:
        yield ".SH EXAMPLES"
        yield from _literal(line.removeprefix("  ") for line in examples.rstrip().splitlines())
    yield ".SH SEE ALSO"
    above = ["-".join(words[:length]) for length in range(1, len(words))]
    others = above or ["-".join((*words, name)) for name in inside]
    yield ",\n".join(rf"\fB{_text(name)}\fR({SECTION})" for name in others)


def _short(command: click.Command) -> str:
    return command.get_short_help_str(limit=200).removesuffix(".")


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        if number:
            yield ".PP"
        # click's mark of a paragraph that is not to be filled.
        if paragraph.startswith("\b\n"):
            yield from _literal(paragraph.splitlines()[1:])
        else:
            yield from _filled(paragraph)


def _filled(text: str) -> Iterator[str]:
    yield from map(_text, textwrap.wrap(text, 70, break_long_words=False, break_on_hyphens=False))


def _literal(lines: Iterable[str]) -> Iterator[str]:
    yield ".nf"
    yield from map(_text, lines)
    yield ".fi"


def _text(text: str) -> str:
    """Return the text as man(7) shows it unchanged: a hyphen can be copied, and no line is a request."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("`", r"\(ga").replace("'", r"\(aq")
    escaped = escaped.replace("^", r"\(ha").replace("~", r"\(ti")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


def main() -> None:
    """Write the pages."""
    folder, version = sys.argv[1:]
    day = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC).strftime("%Y-%m-%d")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, text in pages(version, day):
        (Path(folder) / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
