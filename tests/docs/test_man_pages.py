"""The manual pages that the Debian package has: one for each command, with its options, and without a fault."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import reference
from helpers.pages import CHECKOUT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("man")
    command = [sys.executable, "-B", str(CHECKOUT / "packages/man.py"), str(made), "0.2.0.dev1+gabcdef1"]
    subprocess.run(command, env={**os.environ, "SOURCE_DATE_EPOCH": "1795850531"}, check=True)
    return made


def shown(page: Path) -> str:
    """What `man` shows, in one line."""
    # Each word in one piece, and nothing bold.
    words = ["groff", "-man", "-Tascii", "-P-cbou", "-rLL=300n", "-rHY=0"]
    text = subprocess.run([*words, page], stdout=subprocess.PIPE, text=True, check=True).stdout
    return re.sub(r"\s+", " ", text)


def test_every_command_has_a_page_with_all_that_its_help_says(folder: Path) -> None:
    commands = reference.commands()
    named = {f"vaultpki-{name.replace(' ', '-')}.1" for name in commands}
    groups = {f"vaultpki-{name.split()[0]}.1" for name in commands if " " in name}
    assert {path.name for path in folder.iterdir()} == named | groups | {"vaultpki.1"}
    for name, command in commands.items():
        text = shown(folder / f"vaultpki-{name.replace(' ', '-')}.1")
        context = click.Context(command, info_name=f"vaultpki {name}")
        records = [each.get_help_record(context) for each in command.params if isinstance(each, click.Option)]
        for names, meaning in filter(None, records):
            assert re.sub(r"\s+", " ", f" {names} {meaning}") in text, name
        *_, examples = (command.help or "").partition("Example:\n")
        for line in examples.split("\n"):
            assert re.sub(r"\s+", " ", line.strip()) in text, name


def test_pages_have_a_date_and_the_version(folder: Path) -> None:
    assert shown(folder / "vaultpki.1").endswith("vaultpki 0.2.0.dev1+gabcdef1 2026-11-28 VAULTPKI(1) ")


@pytest.mark.parametrize(
    "checker", [["groff", "-man", "-Tutf8", "-ww", "-z"], ["mandoc", "-T", "lint", "-W", "warning"]]
)
def test_checkers_find_nothing(folder: Path, checker: list[str]) -> None:
    command = [*checker, *map(str, sorted(folder.iterdir()))]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")
