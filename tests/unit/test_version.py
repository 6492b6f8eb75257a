"""packages/version.py: the version of a source, in clones, archives and source distributions with real commits."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from packaging.version import Version

from vaultpki import __version__

ROOT = Path(__file__).parents[2]
SCRIPT = "packages/version.py"


class Checkout:
    """A repository with one release behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "--quiet", "--initial-branch=main", folder)
        self.write("RELEASES", "")
        released = self.commit("release 0.1.0")
        (folder / "packages").mkdir()
        shutil.copy(ROOT / SCRIPT, folder / SCRIPT)
        shutil.copy(ROOT / ".gitattributes", folder)
        self.write("RELEASES", f"# Comment\n0.1.0 2026-01-01 {released}\n0.2.0 unreleased\n")
        self.commit("after it")

    def git(self, *words: str | Path) -> bytes:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
        command = ["git", "-C", self.folder.parent if words[0] == "init" else self.folder, *who, *words]
        return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def commit(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.head()

    def head(self) -> str:
        return self.git("rev-parse", "HEAD").decode().strip()

    def release(self) -> str:
        text = (self.folder / "RELEASES").read_text()
        self.write("RELEASES", text.replace("0.2.0 unreleased", "0.2.0 2026-02-02"))
        return self.commit("release 0.2.0")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


def version(folder: Path) -> str:
    command: list[str | Path] = [sys.executable, "-I", "-B", folder / SCRIPT]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    # An index, pip and hatchling write it in the same way.
    assert str(Version(text)) == text
    return text


def archive(checkout: Checkout, folder: Path) -> Path:
    with tarfile.open(fileobj=BytesIO(checkout.git("archive", "HEAD"))) as found:
        found.extractall(folder, filter="data")
    return folder


def test_a_build_before_a_release_counts_commits_and_names_its_own(checkout: Checkout) -> None:
    first = version(checkout.folder)
    assert first == f"0.2.0.dev1+g{checkout.head()[:7]}"
    checkout.write("file", "")
    assert version(checkout.folder) == f"{first}.dirty"
    checkout.commit("more")
    assert version(checkout.folder) == f"0.2.0.dev2+g{checkout.head()[:7]}"
    checkout.write("file", "another")
    changed = version(checkout.folder)
    assert changed == f"0.2.0.dev2+g{checkout.head()[:7]}.dirty"
    assert Version("0.1.0") < Version(first) < Version(changed) < Version("0.2.0")


def test_a_release_is_its_commit_alone(checkout: Checkout, tmp_path: Path) -> None:
    released = checkout.release()
    assert version(checkout.folder) == "0.2.0"
    assert version(archive(checkout, tmp_path / "archive")) == "0.2.0"
    checkout.write("file", "")
    assert version(checkout.folder) == f"0.2.0+g{released[:7]}.dirty"
    after = checkout.commit("more, before the commit of 0.2.0 is written down")
    assert version(checkout.folder) == f"0.3.0.dev1+g{after[:7]}"
    text = (checkout.folder / "RELEASES").read_text().rstrip()
    checkout.write("RELEASES", f"{text} {released}\n")
    after = checkout.commit("the commit of 0.2.0")
    assert version(checkout.folder) == f"0.3.0.dev2+g{after[:7]}"
    checkout.write("RELEASES", f"{text} {released}\n1.0.0 unreleased\n")
    after = checkout.commit("what comes next")
    assert version(checkout.folder) == f"1.0.0.dev3+g{after[:7]}"


def test_without_history_the_time_stands_for_the_count(checkout: Checkout, tmp_path: Path) -> None:
    whole = version(checkout.folder)
    shallow = tmp_path / "shallow"
    subprocess.run(
        ["git", "clone", "--quiet", "--depth", "1", checkout.folder.as_uri(), shallow], check=True, capture_output=True
    )
    said = version(shallow)
    assert re.fullmatch(rf"0\.2\.0\.dev0\+20\d{{12}}\.g{checkout.head()[:7]}", said)
    assert version(archive(checkout, tmp_path / "archive")) == said
    assert Version("0.1.0") < Version(said) < Version(whole)


def test_a_copy_without_git_says_that_nothing_is_known(checkout: Checkout, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkout.folder, copy, ignore=shutil.ignore_patterns(".git"))
    assert version(copy) == "0.2.0.dev0+unknown"
    # A repository around it is another one's.
    checkout.git("init", "--quiet", tmp_path)
    assert version(copy) == "0.2.0.dev0+unknown"


def test_a_source_distribution_keeps_its_version(checkout: Checkout) -> None:
    checkout.write("PKG-INFO", "Metadata-Version: 2.4\nName: vaultpki\nVersion: 0.2.0.dev7+gabcdef1\n\nText\n")
    assert version(checkout.folder) == "0.2.0.dev7+gabcdef1"


def test_the_program_of_this_checkout_says_it() -> None:
    assert version(ROOT) == __version__
