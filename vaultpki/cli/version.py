"""`vaultpki version`."""

from __future__ import annotations

import click

from vaultpki import __version__
from vaultpki.cli.common import json_option, print_json


def text() -> str:
    """Return the line that `version` and `--version` print."""
    return f"vaultpki, version {__version__}"


@click.command("version")
@json_option
def version_command(as_json: bool) -> None:
    """Print the version of vaultpki, as `vaultpki -V` does.

    \b
    Example:
      vaultpki version
      vaultpki version --json
    """
    if as_json:
        print_json({"version": __version__})
    else:
        click.echo(text())
