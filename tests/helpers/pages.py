"""README.md and the pages in docs/ as data: their fenced blocks, commands, tables and flags."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = CHECKOUT / "docs"
README = "README"
DIRECTORY = "/etc/kubernetes/pki"

# A node's own machine is told from the operator's by the prompt: `cp-1# `.
_PROMPT = re.compile(r"(?:\$|(?P<node>[a-z0-9-]+)#) (?P<command>.+)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w-]+(?:\.[\w-]+)+)\n")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a console block, the node it is for (None: the operator's machine), and the output shown."""

    text: str
    node: str | None
    shown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language and what is in it."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The name of the file that the block shows whole: its first line says `# NAME`."""
        match = _FILE.match(self.text) if self.language in ("yaml", "text") else None
        return match[1] if match else None

    def commands(self) -> tuple[Command, ...]:
        """Return the commands in order; empty where this is no console block."""
        found: list[Command] = []
        for line in self.text.splitlines() if self.language == "console" else ():
            if match := _PROMPT.fullmatch(line):
                found.append(Command(match["command"], match["node"], ()))
            else:
                assert found, f"a console block begins with a prompt, not with {line!r}"
                last = found[-1]
                found[-1] = Command(last.text, last.node, (*last.shown, line))
        return tuple(found)


def names() -> tuple[str, ...]:
    """Return the pages in the order of the menu, without README."""

    def under(entry: Any) -> list[str]:
        if isinstance(entry, dict):
            return [name for value in entry.values() for name in under(value)]
        return [name for each in entry for name in under(each)] if isinstance(entry, list) else [entry]

    nav = tomllib.loads((CHECKOUT / "zensical.toml").read_text())["project"]["nav"]
    return tuple(name.removesuffix(".md") for name in under(nav))


def text(page: str) -> str:
    """Return the source of a page; README is one of them."""
    return ((CHECKOUT if page == README else DOCS) / f"{page}.md").read_text(encoding="utf-8")


def part(page: str, heading: str) -> str:
    """Return what is below a second-level heading of a page."""
    _, found, rest = text(page).partition(f"\n## {heading}\n")
    assert found, f"{page} has no part {heading}"
    return rest.partition("\n## ")[0]


def blocks(source: str) -> tuple[Block, ...]:
    """Return every fenced block of a page's source, in order."""
    return tuple(Block(match[1], match[2]) for match in _FENCE.finditer(source))


def file(page: str, name: str) -> str:
    """Return the file of that name that a page shows."""
    (found,) = (block.text for block in blocks(text(page)) if block.file == name)
    return found


def code_spans(source: str) -> tuple[str, ...]:
    """Return what is between single backticks in the prose and the tables."""
    return tuple(span.replace("\\|", "|") for span in re.findall(r"`([^`\n]+)`", _FENCE.sub("", source)))


def tables(source: str) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Return every table: its head and its rows, each as the cells without the blanks around them."""
    found: list[list[tuple[str, ...]]] = []
    before = ""
    for line in _FENCE.sub("", source).splitlines():
        if line.startswith("| "):
            if not before.startswith("|"):
                found.append([])
            found[-1].append(tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]))
        before = line
    return tuple(tuple(row for row in table if set(row[0]) != {"-"}) for table in found)


def rows(source: str) -> tuple[tuple[str, ...], ...]:
    """Return the rows of every table, without the heads."""
    return tuple(row for table in tables(source) for row in table[1:])


def flags(component: str, directory: str | Path) -> tuple[str, ...]:
    """Return the flags of the page "Components" for a component, with files in `directory`."""
    found = [lines[1:] for lines in _listings() if lines[0] == component]
    assert len(found) == 1, f"components.md has {len(found)} lists of flags for {component}"
    return tuple(line.strip().replace(DIRECTORY, str(directory)) for line in found[0])


def components() -> tuple[str, ...]:
    """Return the programs that the same page has flags for."""
    return tuple(lines[0] for lines in _listings())


def configuration(component: str, directory: str | Path) -> dict[str, Any]:
    """Return what the same page puts into a component's `--config`, with files in `directory`."""
    head = f"# {component}'s --config\n"
    found = [block.text for block in blocks(text("components")) if block.text.startswith(head)]
    assert len(found) == 1, f"components.md has {len(found)} configurations for {component}"
    loaded: dict[str, Any] = yaml.safe_load(found[0].replace(DIRECTORY, str(directory)))
    return loaded


def _listings() -> list[list[str]]:
    """The text blocks that are a program's name and below it, indented, its flags."""
    texts = [block.text.splitlines() for block in blocks(text("components")) if block.language == "text"]
    return [lines for lines in texts if len(lines) > 1 and all(line.startswith("  --") for line in lines[1:])]
