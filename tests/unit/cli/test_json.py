"""What programs read of commands that need no server."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vaultpki.assets import starter
from vaultpki.cli import vaultpki as program
from vaultpki.config.cluster import load_cluster


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "cluster.yaml"
    path.write_text(starter())
    return str(path)


def test_a_policy_is_a_text_in_a_document(file: str) -> None:
    words = ["policy", "-f", file, "viewer"]
    printed = CliRunner().invoke(program, words).output
    document = json.loads(CliRunner().invoke(program, [*words, "--json"]).output)
    assert (document["cluster"], document["who"]) == (load_cluster(Path(file)).name, "viewer")
    assert json.loads(document["policy"]) == json.loads(printed)


def test_a_picture_says_where_it_is(file: str, tmp_path: Path) -> None:
    output = str(tmp_path / "a.mmd")
    ran = CliRunner().invoke(program, ["graph", "-f", file, "-o", output, "--json"])
    assert json.loads(ran.output) == {"output": output, "format": "mermaid", "ok": True, "notices": []}
    printed = CliRunner().invoke(program, ["graph", "-f", file, "--json"], standalone_mode=False)
    assert isinstance(printed.exception, click.UsageError) and printed.stdout == ""


@pytest.mark.parametrize("name", ["issue", "renew", "policy", "graph", "report", "revoke", "version"])
def test_commands_of_pipelines_take_json(name: str) -> None:
    command = program.get_command(click.Context(program), name)
    assert command is not None and any("--json" in option.opts for option in command.params)
