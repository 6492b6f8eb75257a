"""README.md as data: its table, its fenced blocks, its commands.

Run as a program it writes the table into README.md anew: `.venv/bin/python tests/readme.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vaultpki.certificates import API_ADDRESSES, API_NAMES, NODE_ADDRESSES, SERVICE_IPS, TABLE, pair_files
from vaultpki.model import NodeRole, Row

CHECKOUT = Path(__file__).resolve().parents[1]
README = CHECKOUT / "README.md"
DIRECTORY = "/etc/kubernetes/pki"

BEGIN, END = "<!-- table: written by tests/readme.py -->", "<!-- end of table -->"
_HEAD = ("Certificate", "From", "To", "Use", "CN", "O", "Names and addresses", "CA", "Files", "On")
_WORDS = {
    "{node}": "NODE",
    "{domain}": "DOMAIN",
    API_NAMES: "extra names",
    API_ADDRESSES: "extra addresses",
    NODE_ADDRESSES: "node addresses",
    SERVICE_IPS: "first service address",
}
# A node's own machine is told from the operator's by the prompt: `cp-1# `.
_PROMPT = re.compile(r"(?:\$|(?P<node>[a-z0-9-]+)#) (?P<command>.+)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a console block, the machine it is for (None: the operator's), and the output shown below it."""

    text: str
    node: str | None
    shown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language and what stands in it."""

    language: str
    text: str

    def commands(self) -> tuple[Command, ...]:
        """The commands of a console block, in order."""
        found: list[Command] = []
        for line in self.text.splitlines():
            if match := _PROMPT.fullmatch(line):
                found.append(Command(match["command"], match["node"], ()))
            else:
                assert found, f"README.md: a console block begins with a prompt, not with {line!r}"
                last = found[-1]
                found[-1] = Command(last.text, last.node, (*last.shown, line))
        return tuple(found)


def text() -> str:
    return README.read_text(encoding="utf-8")


def blocks(part: str | None = None) -> tuple[Block, ...]:
    """Every fenced block, of a part of it where that is given, in order."""
    return tuple(Block(match[1], match[2]) for match in _FENCE.finditer(text() if part is None else part))


def flags(component: str, directory: str | Path) -> tuple[str, ...]:
    """The flags of "Point your components at the files" for a component, with files in `directory`."""
    found = [lines[1:] for lines in _listings() if lines[0] == component]
    assert len(found) == 1, f"README.md has {len(found)} lists of flags for {component}"
    return tuple(line.strip().replace(DIRECTORY, str(directory)) for line in found[0])


def components() -> tuple[str, ...]:
    """The programs that the same page has flags for."""
    return tuple(lines[0] for lines in _listings())


def configuration(component: str, directory: str | Path) -> dict[str, Any]:
    """What the same page puts into a component's `--config`, with files in `directory`."""
    head = f"# {component}'s --config\n"
    found = [block.text for block in blocks() if block.language == "yaml" and block.text.startswith(head)]
    assert len(found) == 1, f"README.md has {len(found)} configurations for {component}"
    loaded: dict[str, Any] = yaml.safe_load(found[0].replace(DIRECTORY, str(directory)))
    return loaded


def _listings() -> list[list[str]]:
    """The text blocks that are a program's name and below it, indented, its flags."""
    texts = [block.text.splitlines() for block in blocks() if block.language == "text"]
    return [lines for lines in texts if len(lines) > 1 and all(line.startswith("  --") for line in lines[1:])]


def code_spans() -> tuple[str, ...]:
    """What stands between single backticks in the prose."""
    return tuple(re.findall(r"`([^`\n]+)`", _FENCE.sub("", text())))


def table() -> str:
    """The certificates of `vaultpki.certificates.TABLE` as Markdown."""
    lines = [_HEAD, tuple("---" for _ in _HEAD), *(_cells(row) for row in TABLE)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_table(readme: str) -> str:
    """The README with the table between its two marks written anew."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _cells(row: Row) -> tuple[str, ...]:
    crt, key, _ = pair_files(row.stem)
    files = f"{crt} {key}" + (f" {row.kubeconfig}" if row.kubeconfig else "")
    # In the order the words are declared, since a set has none.
    roles = [role.value for role in NodeRole if role in row.node_roles]
    return (
        row.name,
        row.source,
        row.target,
        {"both": "server and client"}.get(row.usage.value, row.usage.value),
        _named(row.common_name),
        ", ".join(row.organization) or "-",
        "; ".join(", ".join(map(_named, names)) for names in (row.dns, row.ips) if names) or "-",
        row.ca,
        files,
        ", ".join(roles) or "operator",
    )


def _named(value: str) -> str:
    for placeholder, word in _WORDS.items():
        value = value.replace(placeholder, word)
    return value


if __name__ == "__main__":
    README.write_text(with_table(text()), encoding="utf-8")
