"""RELEASES names the commit of each release, since tags do not travel with a clone."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"(?P<version>\d+\.\d+\.\d+) (?P<day>\d{4}-\d{2}-\d{2}) (?P<commit>[0-9a-f]{40})")


def releases() -> list[dict[str, str]]:
    lines = (ROOT / "RELEASES").read_text().splitlines()
    matches = [LINE.fullmatch(line) for line in lines if line and not line.startswith("#")]
    assert matches and all(matches), lines
    return [match.groupdict() for match in matches if match]


def git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True).stdout


def test_the_changelog_has_the_same_releases() -> None:
    told = re.findall(r"^## \[(\d.*)\] - (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert told == [(release["version"], release["day"]) for release in reversed(releases())]


@pytest.mark.parametrize("release", releases(), ids=lambda release: str(release["version"]))
def test_the_commit_is_that_release(release: dict[str, str]) -> None:
    if git("rev-parse", "--is-shallow-repository").strip() == "true":
        git("fetch", "--quiet", "--unshallow")
    commit = release["commit"]
    git("merge-base", "--is-ancestor", commit, "HEAD")
    project = tomllib.loads(git("show", f"{commit}:pyproject.toml"))["project"]
    assert project["version"] == release["version"]
    assert f"## [{release['version']}] - {release['day']}\n" in git("show", f"{commit}:CHANGELOG.md")
