"""What is built from this source, as hatchling says it: its files, its version, its page on an index."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from hatchling.builders.sdist import SdistBuilder
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

from vaultpki import __version__

ROOT = Path(__file__).parents[2]


def metadata() -> ProjectMetadata[PluginManager]:
    return ProjectMetadata(str(ROOT), PluginManager())


def test_a_source_distribution_has_what_git_tracks() -> None:
    """With less its own `make check` and `make test` would fail; and nothing that lies about gets into it."""
    built = {each.distribution_path for each in SdistBuilder(str(ROOT)).recurse_included_files()}
    assert {"RELEASES", "LICENSE", ".ci/run", "benchmarks/__main__.py", "packages/version.py"} <= built
    if (ROOT / ".git").exists():
        words = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        known = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.split("\0")
        assert built == {name for name in known if name and (ROOT / name).exists()}


def test_the_packages_have_the_version_that_the_program_says() -> None:
    assert metadata().version == __version__


def test_the_readme_on_an_index_leads_to_the_published_pages() -> None:
    core = metadata().core
    links = re.findall(r"\]\(([^)]+)\)", core.readme)
    assert len(links) > 20
    assert all(link.startswith("https://") for link in links)
    # Each link of the README to a page is one to the same page and heading there, at the address of the project.
    pages = re.findall(r"\]\(docs/([^)#]+)\.md(#[^)]*)?\)", (ROOT / "README.md").read_text())
    there = [f"{core.urls['Documentation']}{page}.html{heading}" for page, heading in pages]
    assert [link for link in links if "vaultpki" in link] == there
