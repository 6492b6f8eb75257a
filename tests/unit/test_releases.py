"""RELEASES names the commit of each release, since tags do not travel with a clone, and the version in work."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"(?P<version>\d+\.\d+\.\d+) (?P<day>\d{4}-\d{2}-\d{2})(?: (?P<commit>[0-9a-f]{40}))?")
UNRELEASED = re.compile(r"\d+\.\d+\.\d+ unreleased")


def releases(text: str) -> list[dict[str, str]]:
    """Each line of a release; `commit` is empty at the commit that releases."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    matches = [LINE.fullmatch(line) for line in lines if not UNRELEASED.fullmatch(line)]
    assert matches and all(matches), lines
    return [match.groupdict(default="") for match in matches if match]


def told(changelog: str) -> list[tuple[str, str]]:
    return re.findall(r"^## \[(\d.*)\] - (.*)$", changelog, re.MULTILINE)


def git(*arguments: str, folder: Path = ROOT) -> str:
    return subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True).stdout


def test_the_changelog_has_the_same_releases() -> None:
    found = [(each["version"], each["day"]) for each in releases((ROOT / "RELEASES").read_text())]
    assert told((ROOT / "CHANGELOG.md").read_text()) == found[::-1]


def test_the_commit_is_that_release() -> None:
    # A source distribution has no commit to look at.
    if not (ROOT / ".git").exists():
        return
    if git("rev-parse", "--is-shallow-repository").strip() == "true":
        git("fetch", "--quiet", "--unshallow")
    for release in releases((ROOT / "RELEASES").read_text()):
        version, day = release["version"], release["day"]
        commit = release["commit"] or git("log", "-1", "--format=%H", "--", "RELEASES").strip()
        git("merge-base", "--is-ancestor", commit, "HEAD")
        project = tomllib.loads(git("show", f"{commit}:pyproject.toml"))["project"]
        there = [project["version"]] if "version" in project else []
        there = there or [releases(git("show", f"{commit}:RELEASES"))[-1]["version"]]
        assert there == [version]
        assert f"## [{version}] - {day}\n" in git("show", f"{commit}:CHANGELOG.md")


def test_every_release_but_one_that_is_just_made_has_its_commit() -> None:
    lines = (ROOT / "RELEASES").read_text().splitlines()
    assert UNRELEASED.fullmatch(lines[-1]) or releases(lines[-1])
    assert all(each["commit"] for each in releases("\n".join(lines[:-1])))
    if not UNRELEASED.fullmatch(lines[-1]) and (ROOT / ".git").exists():
        # An archive of a later commit would take itself for the release.
        assert git("log", "-1", "--format=%H", "--", "RELEASES") == git("rev-parse", "HEAD")


def test_one_command_releases(tmp_path: Path) -> None:
    for name in ("RELEASES", "CHANGELOG.md", "packages/release", "packages/version.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "RELEASES").write_text(f"# Comment\n0.1.0 2026-11-25 {'0' * 40}\n0.2.0 unreleased\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n- News\n\n## [0.1.0] - 2026-11-25\n")
    git("init", "--quiet", "--initial-branch=main", folder=tmp_path)
    git("config", "user.name", "a", folder=tmp_path)
    git("config", "user.email", "a@example.com", folder=tmp_path)
    git("add", "--all", folder=tmp_path)
    git("commit", "--quiet", "--message", "before", folder=tmp_path)

    (tmp_path / "untracked").touch()
    refused = subprocess.run([tmp_path / "packages/release"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and refused.stderr.startswith("Nothing was done: files differ")
    (tmp_path / "untracked").unlink()
    said = subprocess.run([tmp_path / "packages/release"], capture_output=True, text=True, check=True).stdout

    commit = git("rev-parse", "HEAD~1", folder=tmp_path).strip()
    assert said == f"Released 0.2.0. To make its packages: git checkout {commit} && make dist\n"
    assert (tmp_path / "RELEASES").read_text().endswith(f"{commit}\n0.3.0 unreleased\n")
    assert [version for version, _ in told((tmp_path / "CHANGELOG.md").read_text())] == ["0.2.0", "0.1.0"]
    git("checkout", "--quiet", commit, folder=tmp_path)
    program: list[str | Path] = [sys.executable, "-B", tmp_path / "packages/version.py"]
    assert subprocess.run(program, capture_output=True, text=True, check=True).stdout == "0.2.0\n"
