"""`vaultpki completion`."""

from __future__ import annotations

import click

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
def completion_command(shell: str) -> None:
    """Print the script that completes commands and options of vaultpki in SHELL: bash, zsh or fish.

    \b
    Example:
      vaultpki completion bash > /etc/bash_completion.d/vaultpki
      vaultpki completion zsh > /usr/local/share/zsh/site-functions/_vaultpki
      vaultpki completion fish > /etc/fish/completions/vaultpki.fish
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 - for mypy: click knows all three
    completer = made(click.Command("vaultpki"), {}, "vaultpki", "_VAULTPKI_COMPLETE")
    # Not `completer.source()`, which runs a Bash on this machine to ask its version.
    click.echo(completer.source_template % completer.source_vars())
