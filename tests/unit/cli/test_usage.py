"""What a person reads who does not know the commands: the help in groups, hints, and one sentence for a wrong word."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from vaultpki import __version__
from vaultpki.cli import _COMMANDS, _GROUPS, usage
from vaultpki.cli import vaultpki as program


def said(*words: str) -> str:
    """The sentence for these words, which must be a usage error."""
    ran = CliRunner().invoke(program, words, standalone_mode=False)
    assert isinstance(ran.exception, click.UsageError), ran.output
    assert ran.exception.exit_code == 2
    return usage.sentence(ran.exception)


@pytest.mark.parametrize("words", [(), ("ca",), ("adopt",), ("kubeadm",)])
def test_no_summary_is_cut_or_broken(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(program, [*words, "--help"], terminal_width=80, max_content_width=80).output
    group: click.Command | None = program
    context = click.Context(program)
    for word in words:
        assert isinstance(group, click.Group)
        group = group.get_command(context, word)
    assert isinstance(group, click.Group)
    names = group.list_commands(context)
    lines = [line for line in shown.splitlines() if line.startswith("  ") and line.split()[0] in names]
    assert [line.split()[0] for line in lines[-len(names) :]] == names
    assert shown.rstrip().endswith("\n".join(lines[-1:]))
    assert all(line.endswith(".") and "..." not in line for line in lines[-len(names) :])


def test_help_has_every_command_once_in_its_group() -> None:
    assert sum(map(len, _GROUPS.values())) == len(_COMMANDS)
    shown = CliRunner().invoke(program, ["--help"]).output
    assert re.findall(r"^([A-Z][\w ]+):$", shown, re.MULTILINE) == ["Options", *_GROUPS]


def test_the_version_as_a_command() -> None:
    run = CliRunner().invoke
    assert (
        run(program, ["version"]).output == run(program, ["--version"]).output == f"vaultpki, version {__version__}\n"
    )
    assert json.loads(run(program, ["version", "--json"]).output) == {"version": __version__}


@pytest.mark.parametrize("word", sorted(usage.HINTS))
def test_each_hint_is_for_a_word_that_is_no_command_and_names_one(word: str) -> None:
    assert word not in _COMMANDS
    assert said(word) == f"vaultpki: there is no command {word!r}; {usage.HINTS[word]}"


@pytest.mark.parametrize("hint", sorted({*usage.HINTS.values(), *usage.BARE.values(), *usage.NO_WORD.values()}))
def test_commands_that_hints_name_exist(hint: str) -> None:
    named = re.findall(r"`vaultpki ([^`]+)`", hint)
    assert named
    for words in map(str.split, named):
        if words[0].startswith("-"):
            continue
        command = program.get_command(click.Context(program), words[0])
        assert command is not None
        if isinstance(command, click.Group):
            assert words[1] in command.list_commands(click.Context(command))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("plan", "--fiel", "x"), "there is no option '--fiel'; did you mean --file?"),
        (("plan", "--zz"), "there is no option '--zz'; `vaultpki plan --help` lists the options"),
        (("plan", "a", "b"), "this is too much: a b; `vaultpki plan --help` has an example"),
        (("plan", "prod.yaml"), "this is too much: prod.yaml; write -f prod.yaml"),
        (("status", "agent.yaml"), "this is too much: agent.yaml; write -c agent.yaml"),
        (
            ("ca", "abort", "etcd"),
            "this is too much: etcd; only one is rotated at a time, so write no name; `vaultpki ca status` shows which",
        ),
        (("plan", "-f"), "-f needs a value; write -f VALUE"),
        (("demo", "--serve=1"), "--serve takes no value; write it alone"),
        (("demo", "--port", "x"), "--port: 'x' is not a valid integer range; `vaultpki demo --help` has an example"),
        (
            ("completion", "csh"),
            "SHELL: 'csh' is not one of 'bash', 'zsh', 'fish'; `vaultpki completion --help` has an example",
        ),
        (("completion",), "SHELL is missing; write one of bash, zsh, fish"),
        (("lock",), "NODE is missing; `vaultpki lock --help` has an example"),
        (("report",), "--output is missing; `vaultpki report --help` has an example"),
        (("issue",), f"admin or super-admin is missing; {usage.BARE['issue']}"),
        (("ca", "rotate"), "DOMAIN is missing; `vaultpki ca status` lists the CAs"),
        (("ca", "rotat"), "there is no command 'rotat'; did you mean rotate?"),
        (("ca", "xyzzy"), "there is no command 'xyzzy'; `vaultpki ca --help` lists them"),
        (("renew",), "name the certificates to renew, or pass --all to renew all of this node"),
        (("\x1b[31m",), "there is no command '\\x1b[31m'; `vaultpki --help` lists them"),
        (("plan", "--\x1b[31m"), "there is no option '--\\x1b[31m'; `vaultpki plan --help` lists the options"),
    ],
)
def test_a_wrong_word_is_one_sentence_with_a_hint(words: tuple[str, ...], sentence: str) -> None:
    assert said(*words) == f"vaultpki: {sentence}"


def test_a_token_that_was_pasted_as_a_word_is_not_shown() -> None:
    token = "hvs." + "A" * 24
    for words in ((token,), ("plan", token, "x"), ("plan", f"--{token}"), ("completion", token)):
        assert token not in said(*words)


# What each says in every command that has it, since it means the same there.
MEANINGS = {
    "--dir": "folder of certificate files",
    "--yes": "do not ask; needed where there is no terminal.",
    "--force": "overwrite an existing file.",
    "--confirm": "The cluster's name",
    "--join": "For `kubeadm join`",
    "--checked": "You have seen to this yourself",
}


def every_command(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            assert below is not None
            yield from every_command(below, f"{name} {word}".strip())


@pytest.mark.parametrize(("option", "meaning"), MEANINGS.items())
def test_an_option_has_one_meaning(option: str, meaning: str) -> None:
    helps = {
        name: each.help or ""
        for name, command in every_command(program)
        for each in command.params
        if isinstance(each, click.Option) and option in each.opts and not each.hidden
    }
    assert helps and {name: text for name, text in helps.items() if meaning.lower() not in text.lower()} == {}


@pytest.mark.parametrize(
    ("command", "words", "new"),
    [
        ("renew", ("--force", "-c", "gone.yaml"), "vaultpki renew --all"),
        ("renew", ("--force", "kubelet", "-c", "gone.yaml"), "vaultpki renew NAME"),
        ("doctor", ("--join", "gone.json", "-c", "gone.yaml"), "vaultpki doctor gone.json"),
        ("adopt continue", ("--confirm", "outside", "--kubeconfig", "a", "-f", "gone.yaml"), "--checked outside"),
    ],
)
def test_an_old_spelling_works_and_names_the_new_one(command: str, words: tuple[str, ...], new: str) -> None:
    ran = CliRunner().invoke(program, [*command.split(), *words], standalone_mode=False)
    assert not isinstance(ran.exception, click.UsageError)
    assert "is an old spelling" in ran.output and f"use `{new}`" in ran.output
    assert words[0] not in CliRunner().invoke(program, [*command.split(), "--help"]).output
