"""The one command that comes next, as a sentence names it: it must run as it is written."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from vaultpki.cli import vaultpki
from vaultpki.findings.finding import named_command


def commands(command: click.Command, words: str = "vaultpki") -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield words, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, f"{words} {name}")


# Nobody is sent to these: they are for who begins.
@pytest.mark.parametrize(
    ("words", "command"),
    [each for each in commands(vaultpki) if each[0].split()[1] not in ("completion", "demo", "init", "schema")],
    ids=str,
)
def test_a_command_gets_a_cluster_yaml_if_it_takes_one(words: str, command: click.Command) -> None:
    takes = any("-f" in each.opts for each in command.params)
    said = named_command(f"wait for its hook, or run `{words}` there", "prod.yaml")
    assert said == (f"{words} -f prod.yaml" if takes else words)
