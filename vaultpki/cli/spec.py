"""`vaultpki init` and `vaultpki schema`."""

from __future__ import annotations

from pathlib import Path

import click

from vaultpki.cli import new_file
from vaultpki.cli.common import print_json


@click.command("init")
@click.option("-o", "--output", default="cluster.yaml", show_default=True, help="The file to write; - prints it.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def init_command(output: str, force: bool) -> None:
    """Write a commented starter cluster.yaml.

    \b
    Example:
      vaultpki init -o cluster.yaml
    """
    from vaultpki.assets import starter

    if output == "-":
        click.echo(starter(), nl=False)
        return
    new_file.write_new(output, starter(), force=force)
    click.echo(f"Wrote {Path(output)}: edit it for your cluster, then run `vaultpki plan -f {Path(output)}`.")


@click.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of cluster.yaml, for editors.

    \b
    Example:
      vaultpki schema > cluster.schema.json
    """
    from vaultpki.config.cluster_schema import schema

    print_json(schema())
