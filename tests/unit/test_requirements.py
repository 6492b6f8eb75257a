"""The versions that packages pin are those that pyproject.toml asks for, each with hashes."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from helpers.pages import CHECKOUT

PINNED = dict(
    re.findall(
        r"^([\w.-]+)==([^ ;]+).*?\\\n    --hash=sha256:[0-9a-f]{64}",
        (CHECKOUT / "packages/requirements.txt").read_text(),
        re.MULTILINE,
    )
)
ASKED = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]


@pytest.mark.parametrize("asked", ASKED)
def test_a_dependency_is_pinned_to_a_version_that_is_asked_for(asked: str) -> None:
    wanted = Requirement(asked)
    assert wanted.specifier.contains(PINNED[wanted.name.lower()]), "run `make lock`"
