"""The one command that comes next, as a sentence names it: it must run as it is written."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from vaultpki.cli import vaultpki
from vaultpki.findings.catalogue import CATALOGUE, FindingKind
from vaultpki.findings.finding import found, named_command


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
    [
        each
        for each in commands(vaultpki)
        if each[0].split()[1] not in ("completion", "demo", "init", "schema", "version")
    ],
    ids=str,
)
def test_a_command_gets_a_cluster_yaml_if_it_takes_one(words: str, command: click.Command) -> None:
    takes = any("-f" in each.opts for each in command.params)
    said = named_command(f"wait for its hook, or run `{words}` there", "prod.yaml")
    assert said == (f"{words} -f prod.yaml" if takes else words)


@pytest.mark.parametrize("kind", CATALOGUE, ids=lambda kind: kind.name)
def test_where_a_command_runs_is_seen_by_the_command(kind: FindingKind) -> None:
    assert found(kind.name, "something").where == kind.where


def test_what_mends_the_cause_comes_before_the_command_that_ends_the_finding() -> None:
    cause = "failed: kubelet: the role is gone; run `vaultpki apply` where the cluster is applied"
    assert found("failed", cause).advice("cp-1") == f"{cause}; after that run `vaultpki agent --once` on cp-1"
    assert found("failed", "failed: kubelet").advice("cp-1") == "failed: kubelet: run `vaultpki agent --once` on cp-1"
