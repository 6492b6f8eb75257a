"""A file that a command made before is replaced whole, whatever its size and the umask."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vaultpki.cli import own_file
from vaultpki.disk.files import LARGEST_FILE


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o644)])
def test_the_mode_follows_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        own_file.replace_own(tmp_path / "a", "mark\n", marks={"mark"}, what="page")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_a_large_page_in_a_folder_of_a_group(tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)
    for text in ("mark\n", "mark\n" + LARGEST_FILE * "x"):
        own_file.replace_own(tmp_path / "a", text, marks={"mark"}, what="page")
        assert (tmp_path / "a").read_text() == text
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
