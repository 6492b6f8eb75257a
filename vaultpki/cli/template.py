"""`vaultpki template`."""

from __future__ import annotations

from pathlib import Path

import click

from vaultpki.cli import offered
from vaultpki.cli.common import allow_http_option, config_option


@click.command("template")
@click.argument("name", required=False, shell_complete=offered.templates)
@config_option
@click.option("--docs", metavar="URL", help="The address of these pages, to which the alerts lead.")
@allow_http_option
def template_command(name: str | None, file: Path, docs: str | None, allow_http: bool) -> int:
    """Print a systemd unit, a recipe, the alerts or the dashboard; without NAME, list the names.

    A unit is printed for the node's agent.yaml if there is one, else for the default paths.

    \b
    Example:
      vaultpki template
      vaultpki template vaultpki-agent.service
      vaultpki template alerts.yaml --docs https://docs.example.com/vaultpki/
    """
    from vaultpki.host import systemd

    if name is None:
        if docs is not None:
            raise click.UsageError("--docs goes with the name of a template")
        click.echo("\n".join(systemd.TEMPLATES))
    else:
        print_template(name, file, docs, allow_http=allow_http)
    return 0


def print_template(name: str, file: Path, docs: str | None, *, allow_http: bool) -> None:
    """Print one template, for the agent.yaml `file` if that is there."""
    from vaultpki.config.agent import load_agent
    from vaultpki.host import systemd

    known = load_agent(file, allow_http=allow_http, signer=None) if file.exists() else None
    click.echo(systemd.recipe(name, known, docs=docs), nl=False)
