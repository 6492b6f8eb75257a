"""Releases that RELEASES names, each from its own commit, installed by itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.vault.applied_cluster import ROOT, Ran, environment


@dataclass(frozen=True, slots=True)
class Release:
    """A release's `vaultpki`: its version, and the program."""

    version: str
    program: Path

    def run(self, *arguments: str | Path, env: Mapping[str, str] | None = None, expect: int = 0) -> Ran:
        """A command of the release as a whole process, to its end."""
        command = list(map(str, (self.program, *arguments)))
        ran = subprocess.run(
            command,
            env={**environment(env), "PYTHONPATH": ""},
            cwd=self.program.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert ran.returncode == expect, f"{command}: exit {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        return ran


def releases() -> dict[str, str]:
    """The commit of each release by its version, oldest first; the version in work has none yet."""
    lines = [line.split() for line in (ROOT / "RELEASES").read_text().splitlines() if line and line[0] != "#"]
    return {line[0]: line[2] for line in lines if len(line) == 3}


def neighbour() -> str:
    """The version of the newest release: it works beside the one in work, and a cluster can go back to it."""
    return list(releases())[-1]


def installed(version: str, folder: Path) -> Release:
    """The release as pip installs it."""
    source, place = folder / "source", folder / "venv"
    extract(releases()[version], source)
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    quiet = ("--quiet", "--disable-pip-version-check")
    subprocess.run([place / "bin" / "pip", "install", *quiet, source], check=True)
    return Release(version, place / "bin" / "vaultpki")


def extract(commit: str, folder: Path) -> None:
    """Put the files of a commit into a new folder."""
    if _git("rev-parse", "--is-shallow-repository").strip() == b"true":
        _git("fetch", "--quiet", "--unshallow")
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", folder], input=_git("archive", commit), check=True)


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, check=True).stdout
