"""The pages as they are built: each link, anchor and picture leads somewhere, and nothing else is in the folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import site_links
from helpers import pages
from helpers.pages import CHECKOUT, DOCS


def build(source: Path) -> subprocess.CompletedProcess[str]:
    """Build the pages of a folder as `make docs` does."""
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of what the pages are built from."""
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(CHECKOUT / "zensical.toml", tmp_path)
    return tmp_path


def test_every_link_leads_somewhere_in_the_folder(source: Path) -> None:
    # What Python leaves beside a module that ran, as docs/reference.py does.
    (source / "docs/__pycache__").mkdir(exist_ok=True)
    (source / "docs/__pycache__/reference.cpython-311.pyc").write_bytes(b"")
    done = build(source)
    assert done.returncode == 0, done.stdout + done.stderr
    site = source / "site"
    assert list(site_links.faults(site)) == []
    assert {f"{name}.html" for name in pages.names()} <= {path.name for path in site.iterdir()}


def test_a_broken_link_ends_the_build(source: Path) -> None:
    with (source / "docs/report.md").open("a") as page:
        page.write("\n[x](nowhere.md)\n[x](graph.md#nowhere)\n[x](#nowhere)\n[x](/graph.md)\n")
    done = build(source)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert said.count("report.md:") == 4 and "4 issues found" in said


def test_what_zensical_accepts_is_found(source: Path) -> None:
    (source / "docs/graph.md").rename(source / "docs/picture.md")
    (source / "docs/reference.pyc").write_bytes(b"")
    for path in (source / "docs").glob("*.md"):
        path.write_text(path.read_text().replace("(graph.md", "(picture.md"))
    with (source / "docs/report.md").open("a") as page:
        page.write(
            """
![x](nowhere.svg)
<a href="nowhere.html">x</a>
<a href="picture.html#nowhere">x</a>
<a href="../zensical.toml">x</a>
<a href="/picture.html">x</a>
<img alt="x" src="https://example.com/x.png">
"""
        )
    done = build(source)
    assert done.returncode == 0, done.stdout + done.stderr
    found = set(site_links.faults(source / "site"))
    assert {fault for fault in found if not fault.endswith("graph.md leads to no file")} == {
        "picture.html: the menu lacks this page",
        "reference.pyc: does not belong here",
        "report.html: nowhere.svg leads to no file",
        "report.html: nowhere.html leads to no file",
        "report.html: picture.html#nowhere leads to no anchor",
        "report.html: ../zensical.toml leads to no file",
        "report.html: /picture.html is absolute: it leads nowhere in a folder",
        "report.html: https://example.com/x.png is loaded from another machine",
    }
    # The menu has it on each page.
    assert len(found) > 20
